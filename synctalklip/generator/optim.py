"""Optimisers and learning rates of stage 2; the rate is a function of the step, so a resumed run needs no state."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from synctalklip.errors import SyncTalklipError


def adam(groups: Iterable[dict[str, Any] | nn.Parameter], options: Mapping[str, Any]) -> Optimizer:
    """AdamW over parameters, or groups of them with a `scale` on the learning rate.

    Args:
        groups: parameters, or dicts of `params` and `scale`.
        options: `lr`, `betas`, `weight_decay`.
    """
    groups = list(groups)
    settings = {"lr": options["lr"], "betas": tuple(options["betas"]), "weight_decay": options["weight_decay"]}
    optimizer = AdamW(groups, fused=True, **settings)
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
