"""Where the time of a run goes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import numpy as np

from synctalklip.data.detectors import FaceDetector

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


class WatchedFaces:
    """A face detector whose searches are the phase "detect" of a stopwatch, its landmarks "landmarks"."""

    def __init__(self, detector: FaceDetector, watch: Stopwatch):
        self.every, self._detector, self._watch = detector.every, detector, watch

    @property
    def finder(self) -> str:
        """See `FaceDetector`."""
        return self._detector.finder

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """See `FaceDetector.detect`."""
        with self._watch.phase("detect"):
            return self._detector.detect(frame)

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """See `FaceDetector.landmarks`."""
        with self._watch.phase("landmarks"):
            return self._detector.landmarks(frame, box)
