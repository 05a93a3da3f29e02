"""Optimisers, learning rates and the check before an update of stage 2.

The learning rate is a function of the step, so a resumed run needs no state of it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from synctalklip.errors import SyncTalklipError


def adam(groups: Iterable[dict[str, Any]] | Iterable[nn.Parameter], options: Mapping[str, Any]) -> Optimizer:
    """AdamW over parameters, or groups of them with a `scale` on the learning rate.

    Args:
        groups: parameters, or dicts of `params` and `scale`.
        options: `lr`, `betas`, `weight_decay`.
    """
    settings = {"lr": options["lr"], "betas": tuple(options["betas"]), "weight_decay": options["weight_decay"]}
    parameters: Any = list(groups)
    optimizer = AdamW(parameters, fused=True, **settings)
    for group in optimizer.param_groups:
        group["base_lr"] = options["lr"] * group.get("scale", 1.0)
    return optimizer


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Learning rates of all groups: their own, times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the configuration says of each group: everything but its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def set_settings(optimizer: Optimizer, settings: Sequence[Mapping[str, Any]]) -> None:
    """Put the configured settings back after a state was loaded, which brings those of the run that wrote it.

    A learning rate that was lowered after a divergence counts; only the moments come from the file.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def learning_rate_factor(step: int, steps: int, warmup: int, decay: str, floor: float) -> float:
    """Factor on the learning rates at a step: a linear rise over `warmup`, then the decay down to `floor`.

    Args:
        step: updates done.
        steps: updates of the whole run.
        warmup: updates of the rise.
        decay: "none", "linear" or "cosine".
        floor: factor at the end of the decay.
    """
    done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    shapes = {"none": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    if decay not in shapes:
        raise SyncTalklipError(f"optim.schedule.decay is '{decay}'; use one of {', '.join(shapes)}")
    return min(1.0, (step + 1) / (warmup + 1)) * (floor + (1 - floor) * shapes[decay])


class FiniteGuard:
    """Refuses updates whose loss or gradient is not finite.

    On a CPU it raises at once. On a GPU, where looking at a value stops the queue of work, the optimiser itself is
    told on the device to leave the weights as they are, and `settle` raises when the values are looked at anyway.

    Args:
        at_once: look at every value when it comes (CPU).
        advice: how the sentence of the error ends.
    """

    def __init__(self, at_once: bool, advice: str):
        self.at_once, self.advice = at_once, advice
        self._waiting: list[tuple[int, Tensor, dict[str, Tensor]]] = []

    def admit(self, optimizer: Any, step: int, loss: Tensor, norm: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Look at a loss and at the norm of its gradient before the update.

        Args:
            optimizer: a fused optimiser; its next step does nothing if they are not finite.
            step: updates so far.
            loss: scalar.
            norm: length of the gradient, scalar.
            terms: what the loss is made of, for the message.

        Raises:
            SyncTalklipError: names the values (only `at_once`).
        """
        refused = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        values = {name: value.detach() for name, value in terms.items()} | {"gradient": norm}
        self._waiting.append((step, refused, values))
        if self.at_once:
            self.settle()
        else:
            optimizer.found_inf = refused.float()

    def settle(self) -> None:
        """Look at everything since the last call.

        Raises:
            SyncTalklipError: names the step and the values of the first that was not finite.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting or not torch.stack([refused for _, refused, _ in waiting]).any():
            return
        step, _, values = next(entry for entry in waiting if entry[1])
        shown = ", ".join(f"{name} {value.item():g}" for name, value in values.items())
        raise SyncTalklipError(f"step {step}: the loss is not finite ({shown}); the update was not made. {self.advice}")
