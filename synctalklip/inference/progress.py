"""How far a video is, and how its making is stopped."""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

from synctalklip.errors import SyncTalklipError

T = TypeVar("T")

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
