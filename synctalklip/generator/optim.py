"""Optimisers of stage 2, the check before an update, and what changes during a run: learning rates, the weights of the
losses, and when the audio encoder begins to learn.

The learning rate and the weights are functions of the step, so a resumed run needs no state of them. The encoder may
also wait for the validation loss to stall; what it has seen of it is part of the state of a run.
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


class LossSchedule:
    """Shares of the loss weights over the steps.

    Args:
        schedule: [start, full] by term: 0 before step `start`, a straight rise, 1 from step `full` on. A term that
            is not named counts in full from the first step.
        terms: all terms there are.

    Raises:
        SyncTalklipError: an entry names no term or is no such pair.
    """

    def __init__(self, schedule: Mapping[str, Sequence[int]], terms: Sequence[str]):
        unknown = sorted(set(schedule) - set(terms))
        if unknown:
            raise SyncTalklipError(f"loss.schedule.{unknown[0]} belongs to no term; there are {', '.join(terms)}")
        for name, pair in schedule.items():
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise SyncTalklipError(
                    f"loss.schedule.{name} is {list(pair)}; give [start, full], two steps with 0 <= start <= full"
                )
        self._schedule = {name: (start, full) for name, (start, full) in schedule.items()}

    def share(self, term: str, step: int) -> float:
        """Share of the weight of a term at a step, 0 to 1."""
        start, full = self._schedule.get(term, (0, 0))
        if step >= full:
            return 1.0
        return (step - start) / (full - start) if step > start else 0.0

    def at(self, weights: Mapping[str, float], step: int) -> dict[str, float]:
        """The weights that hold at a step; terms that do not count yet are left out."""
        shares = {name: self.share(name, step) for name in weights}
        return {name: weight * shares[name] for name, weight in weights.items() if shares[name] > 0}


class EncoderSwitch:
    """When the audio encoder begins to learn: at a step, or once the validation loss has stopped falling.

    Args:
        step: from this step on; None leaves it to the plateau.
        patience: so many validations in a row without a new lowest value; None leaves it to the step.
        monitor: the value of the validation that is watched; lower is better.

    Attributes:
        learning: the encoder learns from the next step on.
    """

    def __init__(self, step: int | None, patience: int | None, monitor: str):
        if step is None and patience is None:
            raise SyncTalklipError(
                "audio_encoder.unfreeze: give step or patience; audio_encoder.trainable=none is for an encoder that "
                "never learns"
            )
        self.step, self.patience, self.monitor = step, patience, monitor
        self.learning = False
        self._best: float | None = None
        self._stalled = 0

    def reach(self, step: int) -> bool:
        """Whether the encoder learns in the update that makes step `step` + 1."""
        self.learning = self.learning or (self.step is not None and step >= self.step)
        return self.learning

    def observe(self, values: Mapping[str, float]) -> None:
        """Take note of a validation.

        Raises:
            SyncTalklipError: it has no value of the name that is watched.
        """
        if self.learning or self.patience is None:
            return
        if self.monitor not in values:
            raise SyncTalklipError(
                f"audio_encoder.unfreeze.monitor is '{self.monitor}'; the validation has {', '.join(values)}"
            )
        value = values[self.monitor]
        if self._best is None or value < self._best:
            self._best, self._stalled = value, 0
        else:
            self._stalled += 1
        self.learning = self._stalled >= self.patience

    def state(self) -> dict[str, Any]:
        """Plain values for `restore`."""
        return {"learning": self.learning, "best": self._best, "stalled": self._stalled}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.learning, self._best, self._stalled = state["learning"], state["best"], state["stalled"]
