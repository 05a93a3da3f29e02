"""Sampling of stage 2: where windows lie in a clip (frames to paint, identity frames, silence), which clips batch.

Legend: T video frames at 25 Hz, S sound samples at 16 kHz.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from synctalklip.data.augment import FaceAugmentation
from synctalklip.errors import SyncTalklipError

IDENTITY_MODES = ("window", "frame")
SAMPLES = 640
"""Sound samples of a video frame."""


@dataclass(frozen=True)
class SilenceConfig:
    """Windows in which nobody speaks, so that the generator learns a mouth at rest (mouths that move in silence).

    Attributes:
        probability: that a window of training is moved to a place of its clip where the person is silent, and its
            sound replaced by digital silence; a window stays as it is where the clip has no such place. The terms
            that look at what is said (lip reading, contrastive, sync) leave such windows out.
        threshold_db: a place is silent if its sound is this far below the loudest window of the clip (negative).
    """

    probability: float
    threshold_db: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or self.threshold_db >= 0:
            raise SyncTalklipError("windows.silence: probability lies in 0..1, threshold_db is below 0")


@dataclass(frozen=True)
class WindowConfig:
    """How the frames to paint and their identity frames are drawn.

    Attributes:
        frames: length of a window of consecutive frames.
        fraction: windows per frame of the clip (0.08 of 75 frames are 6 windows).
        min_windows: at least so many windows a clip, as far as they fit.
        max_windows: at most so many, null for no limit.
        identity: "window", as many consecutive frames paired one to one, or "frame", one frame for the window.
        min_gap: frames between a window and its identity frames, as far as the clip is long enough.
        silence: windows without speech; None for none.
        augment: changes of the pictures; None for none.
    """

    frames: int
    fraction: float
    min_windows: int
    max_windows: int | None
    identity: str
    min_gap: int
    silence: SilenceConfig | None = None
    augment: FaceAugmentation | None = None

    def __post_init__(self) -> None:
        if self.identity not in IDENTITY_MODES:
            raise SyncTalklipError(f"windows.identity is '{self.identity}'; use one of {', '.join(IDENTITY_MODES)}")
        if self.frames < 1 or self.min_windows < 1 or self.min_gap < 0 or not 0 <= self.fraction <= 1:
            raise SyncTalklipError(
                "windows: frames and min_windows start at 1, min_gap at 0, and fraction lies in 0..1"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WindowConfig":
        """The node `windows` of the config of scripts/train_generator.py."""
        silence, augment = SilenceConfig(**config["silence"]), FaceAugmentation(**config["augment"])
        drawn = {
            "silence": silence if silence.probability else None,
            "augment": augment if augment.probability else None,
        }
        return cls(**{**config, **drawn})

    def count(self, length: int) -> int:
        """Number of windows of a clip of `length` frames."""
        wanted = max(int(self.fraction * length), self.min_windows)
        wanted = min(wanted, self.max_windows or wanted)
        return max(1, min(wanted, length // self.frames))

    def images(self, length: int) -> int:
        """Number of frames to paint of a clip of `length` frames."""
        return self.count(length) * min(self.frames, length)


def window_starts(length: int, count: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """First frames of `count` disjoint windows, sorted, all arrangements equally likely.

    Args:
        length: T of the clip.
        count: number of windows; `count * frames <= length`, or 1.
        frames: length of a window.
        rng: source of chance; None spreads the windows evenly (validation).
    """
    frames = min(frames, length)
    free = length - count * frames
    # Shrink every window to one frame: drawing disjoint windows becomes drawing distinct places.
    if rng is None:
        places = np.round((np.arange(count) + 0.5) * free / count).astype(np.int64)
        return places + np.arange(count) * frames
    places = np.sort(rng.choice(free + count, size=count, replace=False))
    return places + np.arange(count) * (frames - 1)


def identity_start(start: int, length: int, frames: int, min_gap: int, rng: np.random.Generator) -> int:
    """First frame of the identity window of the window at `start`.

    The two are at least `min_gap` frames apart. A clip that is too short for that gives the farthest window it has.
    """
    frames = min(frames, length)
    starts = np.arange(length - frames + 1)
    gap = np.abs(starts - start) - frames
    allowed = starts[gap >= min_gap]
    if len(allowed) == 0:
        allowed = starts[gap == gap.max()]
    return int(rng.choice(allowed))


def quiet_starts(wave: np.ndarray, length: int, frames: int, threshold_db: float) -> np.ndarray:
    """First frames of all windows whose sound is far below that of the loudest window of the clip.

    Args:
        wave: (S,) int16 at 16 kHz; what lacks at the end is silent.
        length: T of the clip.
        frames: length of a window, at most T.
        threshold_db: how far below, in decibels of the mean power, negative.
    """
    power = np.zeros(length * SAMPLES)
    power[: len(wave)] = np.asarray(wave[: len(power)], np.float64) ** 2
    sums = np.concatenate([[0.0], np.cumsum(power.reshape(length, SAMPLES).sum(axis=1))])
    windows = sums[frames:] - sums[:-frames]
    return np.flatnonzero(windows <= windows.max() * 10 ** (threshold_db / 10))


@dataclass(frozen=True)
class Plan:
    """What is painted of a clip.

    Attributes:
        starts: (w,) int64, first frame of each window, ascending.
        sources: (w,) int64, first frame of the identity window of each.
        silent: (w,) bool, windows whose sound is replaced by digital silence.
    """

    starts: np.ndarray
    sources: np.ndarray
    silent: np.ndarray


class ImageBudget(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, clip index) of about equal numbers of frames to paint.

    Clips of like length share a batch, which keeps padding small. The order of clips and of batches is drawn
    anew every epoch from (seed, epoch).

    Args:
        images: number of frames to paint of each clip.
        lengths: T of each clip.
        budget: most frames to paint in a batch; a clip that alone has more is a batch of its own.
        seed: seed of the order.
        shuffle: False keeps the order of the manifest and gives one epoch (validation).
        skip: number of batches to leave out at the start (a resumed run).
        rank: number of this process.
        processes: number of processes; each takes its share of the batches.
    """

    def __init__(
        self,
        images: Sequence[int],
        lengths: Sequence[int],
        budget: int,
        seed: int,
        shuffle: bool,
        skip: int = 0,
        rank: int = 0,
        processes: int = 1,
    ):
        if budget < 1:
            raise SyncTalklipError(f"images per batch is {budget}; at least 1 is needed")
        self.images, self.lengths = np.asarray(images), np.asarray(lengths)
        self.budget, self.seed, self.shuffle = budget, seed, shuffle
        self.skip, self.rank, self.processes = skip, rank, processes

    def epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """All batches of an epoch; every clip is in exactly one."""
        rng = np.random.default_rng((self.seed, epoch))
        order = np.arange(len(self.images))
        if self.shuffle:
            order = rng.permutation(order)
            # Rounded lengths make like clips meet while chance still decides which.
            order = order[np.argsort(self.lengths[order] // 10, kind="stable")]
        batches: list[list[tuple[int, int]]] = []
        filled = 0
        for index in order.tolist():
            if not batches or filled + self.images[index] > self.budget:
                batches.append([])
                filled = 0
            batches[-1].append((epoch, index))
            filled += self.images[index]
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Endless over the epochs when shuffled, one epoch otherwise."""
        if not self.shuffle:
            yield from self.epoch(0)[self.rank :: self.processes]
            return
        epoch, skip = 0, self.skip
        while True:
            batches = self.epoch(epoch)
            # Every process takes part in every step: what does not divide starts the epoch's shares anew.
            share = -(-len(batches) // self.processes)
            mine = [batches[(self.rank + i * self.processes) % len(batches)] for i in range(share)]
            yield from mine[skip:] if skip < share else []
            skip = max(0, skip - share)
            epoch += 1
