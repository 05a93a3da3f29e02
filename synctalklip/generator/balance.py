"""Weights of eq. 13 by one rule for every variant: a share of the reconstruction's gradient at the painted pixels.

Terms of different forms have values of different size; what they do to the pixels can be compared. Published weights are
numbers that belong to one form of a term, its data and its model.

Legend: N painted frames.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from synctalklip.errors import SyncTalklipError
from synctalklip.generator.objective import PREFIX, Objective, Painted

log = logging.getLogger(__name__)

RECONSTRUCTIONS = ("rec", "rec_lower", "rec_mouth")


def gradient_norms(objective: Objective, painted: Painted, names: Iterable[str]) -> dict[str, float]:
    """Length of the gradient of each term at the painted pixels, (N,3,96,96); `rec` is the weighted sum of eq. 7.

    Args:
        objective: its terms and the weights of the reconstructions.
        painted: one batch whose pixels need gradients.
        names: terms that are measured beside it.
    """
    weights = {name: weight for name, weight in objective.weights.items() if name in RECONSTRUCTIONS}
    if not weights:
        raise SyncTalklipError("loss.shares are of the reconstruction's gradient, and no lambda_rec is above 0")
    terms = objective.terms(painted, [*weights, *names])
    sums = {"rec": sum(weight * terms[name] for name, weight in weights.items())}
    sums |= {name: terms[name] for name in names}
    return {name: _norm(term, painted.generated) for name, term in sums.items()}


def _norm(term: Tensor, pixels: Tensor) -> float:
    (gradient,) = torch.autograd.grad(term, pixels, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else float(gradient.float().norm())


def measured_weights(
    shares: Mapping[str, float], norms: Iterable[Mapping[str, float]]
) -> dict[str, float]:
    """Weights that give each term its share, from the `gradient_norms` of some batches.

    Args:
        shares: term -> length of its weighted gradient over that of the reconstruction.
        norms: of each batch; their means count.

    Raises:
        SyncTalklipError: a term has no gradient at the painted pixels.
    """
    norms = list(norms)
    mean = {name: sum(one[name] for one in norms) / len(norms) for name in norms[0]}
    for name in shares:
        if not mean[name] > 0:
            raise SyncTalklipError(f"loss.shares.{name}: the term has no gradient at the painted pixels; set it to null")
    return {name: share * mean["rec"] / mean[name] for name, share in shares.items()}


def record_weights(weights: Mapping[str, float], shares: Mapping[str, float], step: int, run: str | Path) -> None:
    """Say the measured weights once, and put them into the run's saved configuration, `config.yaml`."""
    for name, weight in weights.items():
        log.info(
            "loss.%s%s is %.4g: %g of the reconstruction's gradient at step %d", PREFIX, name, weight, shares[name], step
        )
    file = Path(run) / "config.yaml"
    if file.is_file():
        saved = OmegaConf.load(file)
        assert isinstance(saved, DictConfig)
        for name, weight in weights.items():
            OmegaConf.update(saved, f"loss.{PREFIX}{name}", weight)
        OmegaConf.save(saved, file)


def shares_of(loss: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """The shares of terms that count, from `loss.shares`; a term whose lambda is 0 stays off whatever its share.

    Raises:
        SyncTalklipError: a share that is not above 0, or of no term.
    """
    shares = {name: share for name, share in loss["shares"].items() if share is not None}
    wrong = [name for name, share in shares.items() if not share > 0]
    if wrong:
        raise SyncTalklipError(f"loss.shares.{wrong[0]} is {shares[wrong[0]]}; give a share above 0, or null")
    return {name: float(share) for name, share in shares.items() if name in weights}
