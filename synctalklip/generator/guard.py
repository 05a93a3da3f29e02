"""No update from a loss that is not finite, without making a GPU wait in every step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from synctalklip.errors import SyncTalklipError


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
