"""Weights of eq. 13 by one rule for every variant: a share of the reconstruction's gradient at the painted pixels.

Values of terms of different forms cannot be compared, what they do to the pixels can. The paper gives no weights; those
that are published belong to one form of a term, its data and its models.

Legend: N painted frames.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from synctalklip import losses
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.objective import PREFIX, Objective, Painted

log = logging.getLogger(__name__)

RECONSTRUCTIONS = ("rec", "rec_lower", "rec_mouth")
BATCHES = 8
"""So many batches are measured, and the lengths of their gradients averaged."""


def gradient_norms(objective: Objective, painted: Painted, names: Iterable[str]) -> dict[str, Tensor]:
    """Length of each term's gradient at the painted pixels, the lower half of (N,3,96,96).

    Args:
        objective: its terms and the weights of the reconstructions.
        painted: one batch whose pixels need gradients.
        names: terms that are measured.

    Returns:
        Term -> scalar; of the reconstructions `rec`, of their weighted sum.
    """
    names = list(names)
    weights = {name: weight for name, weight in objective.weights.items() if name in RECONSTRUCTIONS}
    terms = objective.terms(painted, [*weights, *names])
    reconstruction = losses.weighted_sum({name: terms[name] for name in weights}, weights)
    sums = {"rec": reconstruction} | {name: terms[name] for name in names}
    return {name: _length(term, painted.generated) for name, term in sums.items()}


def _length(term: Tensor, pixels: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(term, pixels, retain_graph=True)
    return losses.cut(gradient, "lower").float().norm()


class Balance:
    """The weights that `loss.shares` sets, each measured at the step at which its term begins to count.

    Args:
        loss: the loss config.
        objective: takes the weights.
        run: the run's folder, whose saved configuration takes them too.

    Raises:
        SyncTalklipError: a share of no term or of a reconstruction, or one that is not above 0.
    """

    def __init__(self, loss: Mapping[str, Any], objective: Objective, run: Path):
        shares = {name: share for name, share in loss["shares"].items() if share is not None}
        for name, share in shares.items():
            if name in RECONSTRUCTIONS or f"{PREFIX}{name}" not in loss or not share > 0:
                raise SyncTalklipError(
                    f"loss.shares.{name} is {share}; give a term that is no reconstruction a share above 0, or null"
                )
        self.objective, self.run = objective, run
        # A term whose lambda is 0 stays off whatever its share: so variants do without a term.
        self.shares = {name: float(share) for name, share in shares.items() if name in objective.weights}
        if self.shares and not any(name in objective.weights for name in RECONSTRUCTIONS):
            raise SyncTalklipError("loss.shares are of the reconstruction's gradient: give one of its terms a lambda")
        self._measured: dict[str, dict[str, float]] = {}

    def due(self, step: int) -> list[str]:
        """Terms that count at a step and whose weights are not measured yet."""
        return [name for name in self.objective.weights_at(step) if name in self.shares and name not in self._measured]

    def measure(self, step: int, norms: Iterable[Mapping[str, Tensor]], reduce: Callable[[Tensor], Tensor]) -> None:
        """Set the weights from the `gradient_norms` of some batches.

        Args:
            step: at which they were taken.
            norms: of each batch.
            reduce: mean over processes.

        Raises:
            SyncTalklipError: a term has no gradient at the painted pixels.
        """
        rows = list(norms)
        means = {name: float(reduce(torch.stack([row[name] for row in rows]).mean())) for name in rows[0]}
        for name in (name for name in means if name != "rec"):
            if not means[name] > 0:
                raise SyncTalklipError(f"loss.shares.{name}: the term does not reach the painted pixels; give null")
            weight = self.shares[name] * means["rec"] / means[name]
            self._measured[name] = {"share": self.shares[name], "weight": weight, "step": step}
        self._apply()

    def state(self) -> dict[str, dict[str, float]]:
        """What was measured."""
        return dict(self._measured)

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Keep what was measured; what has another share now is measured anew."""
        self._measured = {name: dict(entry) for name, entry in state.items() if self.shares.get(name) == entry["share"]}
        self._apply()

    def _apply(self) -> None:
        for name, entry in self._measured.items():
            self.objective.weights[name] = entry["weight"]
            log.info(
                "loss.%s%s is %.4g: %g of the reconstruction's gradient at the painted pixels at step %d",
                *(PREFIX, name, entry["weight"], entry["share"], entry["step"]),
            )
        file = self.run / "config.yaml"
        if self._measured and file.is_file():
            saved = OmegaConf.load(file)
            assert isinstance(saved, DictConfig)
            for name, entry in self._measured.items():
                OmegaConf.update(saved, f"loss.{PREFIX}{name}", entry["weight"])
            OmegaConf.save(saved, file)
