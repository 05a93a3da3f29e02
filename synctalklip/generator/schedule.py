"""What changes during a run of stage 2: the weights of the losses, and when the audio encoder begins to learn.

Weights are a function of the step. The encoder may also wait for the validation loss to stall; what it has seen of
it is part of the state of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from synctalklip.errors import SyncTalklipError


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
