"""Where the time of a run goes, how far it is, and how it is stopped."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

from synctalklip.errors import SyncTalklipError

T = TypeVar("T")

OTHER = "other"


class Stopwatch:
    """Wall time by the name of a phase; what no phase claims is `OTHER`. Phases do not lie within each other."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew; what is being watched goes on being watched."""
        self._started = perf_counter()
        self._phases: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block is part of phase `name`."""
        started = perf_counter()
        try:
            yield
        finally:
            self._phases[name] += perf_counter() - started

    def watch(self, items: Iterable[T], name: str) -> Iterator[T]:
        """`items`; making each of them is part of phase `name`, what is done with it is not."""
        items = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def total(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def seconds(self) -> dict[str, float]:
        """Seconds by phase up to now, in the order of first use, then `OTHER`; their sum is `total`."""
        rest = self.total() - sum(self._phases.values())
        return {**self._phases, OTHER: max(0.0, rest)}


Progress = Callable[[int, int, float], None]
"""Takes frames done, frames in all and seconds left. A frame that is looked at and painted counts twice."""


class Cancelled(SyncTalklipError):
    """The caller asked to stop; nothing was written."""


class Meter:
    """Counts the frames of both passes, reports them, and stops the work when the caller asks for it.

    Args:
        report: called after every frame.
        cancelled: asked before every frame; True ends the work with `Cancelled`.
    """

    def __init__(self, report: Progress | None = None, cancelled: Callable[[], bool] | None = None):
        self._report, self._cancelled = report, cancelled
        self._started, self._done = perf_counter(), 0
        self.total = 0

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, each of them counted once it is used."""
        for item in items:
            if self._cancelled is not None and self._cancelled():
                raise Cancelled("stopped as asked; nothing was written")
            yield item
            self._done += 1
            if self._report is not None:
                self.total = max(self.total, self._done)
                each = (perf_counter() - self._started) / self._done
                self._report(self._done, self.total, each * (self.total - self._done))

    def expect(self, more: int) -> None:
        """From here on, `more` frames are to come."""
        self.total = self._done + more


class Bar:
    """A progress bar on the terminal; takes what `Progress` takes."""

    def __init__(self) -> None:
        self._bar = tqdm(unit="frame", leave=False)

    def __call__(self, done: int, total: int, seconds_left: float) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
