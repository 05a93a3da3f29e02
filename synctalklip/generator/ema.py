"""The moving average of the generator's weights, which paints better than any single step's."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.errors import SyncTalklipError

KIND = "ema"


class MovingAverage:
    """A copy of a model whose weights are an exponential mean over the updates.

    The running means and variances of batch normalisation are averaged too: they describe what the averaged layers
    see better than those of the last step do. Counters are copied. Weights that never learn are never touched.

    Args:
        model: what learns, on its device; copied before it is wrapped or compiled.
        decay: share of the average that an update keeps, below 1.
        start: updates before the mean begins; until then the copy equals the model.

    Attributes:
        model: the copy, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float, start: int):
        if not 0 < decay < 1 or start < 0:
            raise SyncTalklipError(f"trainer.ema: decay is {decay}, start {start}; give 0 < decay < 1 and start >= 0")
        self.decay, self.start = decay, start
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
        pairs = [(own[name], value) for name, value in (learning | dict(model.named_buffers())).items()]
        self._averaged = [pair for pair in pairs if pair[1].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[1].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step`, counted from 1."""
        if step <= self.start:
            self.begin()
            return
        values: list[Tensor] = [value.detach() for _, value in self._averaged]
        torch._foreach_lerp_([own for own, _ in self._averaged], values, 1 - self.decay)
        for own, value in self._copied:
            own.copy_(value)

    @torch.no_grad()
    def begin(self) -> None:
        """Make the copy equal to the model."""
        for own, value in self._averaged + self._copied:
            own.copy_(value)

    def write(self, folder: Path) -> None:
        """Add the average to the folder of a state."""
        checkpoint.save(folder / "ema.pt", {"kind": KIND, "model": self.model.state_dict()})

    def read(self, folder: Path) -> bool:
        """Take the average from a state; False where it was saved without one."""
        path = folder / "ema.pt"
        if not path.is_file():
            return False
        checkpoint.load_weights(self.model, checkpoint.load(path, kind=KIND)["model"], path)
        return True
