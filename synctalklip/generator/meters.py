"""Means of scalars between two looks at them, kept on the device until then."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Meters:
    """Sums of scalars and how often each came.

    Args:
        device: where the scalars are.
        join: means over the processes of a vector, so that all of them decide alike.
    """

    def __init__(self, device: torch.device, join: Callable[[Tensor], Tensor] = lambda values: values):
        self.device, self._join = device, join
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Take in the scalars of a step; not every step has them all."""
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last `clear`; the one point where the device is waited for."""
        if not self._sums:
            return {}
        values = self._join(torch.stack(list(self._sums.values()))).tolist()
        return {name: value / self._counts[name] for name, value in zip(self._sums, values)}

    def clear(self) -> None:
        """Start anew."""
        self._sums, self._counts = {}, {}

    def state(self) -> dict[str, tuple[float, int]]:
        """Plain values for `restore`, exact."""
        return {name: (float(value), self._counts[name]) for name, value in self._sums.items()}

    def restore(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Go on from what `state` gave."""
        self._sums = {name: torch.tensor(value, device=self.device) for name, (value, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}
