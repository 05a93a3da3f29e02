"""The frames of a source for as long as a speech lasts, in bounded memory."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from synctalklip.data import media
from synctalklip.data.containers import in_seconds

# Seeking lands on a key frame; one that lies this much earlier has clean frames by the time they are needed.
SEEK_MARGIN = Fraction(1)


class SourceReader:
    """A source of known length, played in the order of `timeline.ORDERS` for as long as it is asked.

    Pixels are as stored. A source that fits into `budget` bytes is decoded once and kept. A longer one is decoded again
    on every turn; backwards in blocks that fit into `budget`.

    Args:
        path: the video or picture.
        fps: its own constant rate, at which it is decoded.
        frames: its length at that rate.
        budget: bytes of decoded frames that may be held.
        longer: what follows its last frame, see `Options.longer`.
    """

    def __init__(self, path: str | Path, fps: Fraction, frames: int, budget: int, longer: str = "bounce"):
        self.path, self.fps, self.frames, self.budget, self.longer = Path(path), fps, frames, budget, longer

    def read(self) -> Iterator[np.ndarray]:
        """Frames 0, 1, ... T-1, then those that `longer` asks for: without an end, but where it is "cut".

        The reader may write into what it gets.
        """
        kept: list[np.ndarray] = []
        block, last = 1, None
        for frame in self._forwards():
            block = max(1, self.budget // frame.nbytes)
            if self.frames <= block and self.longer in ("bounce", "loop"):
                kept.append(frame.copy())
            last = frame.copy() if self.longer == "freeze" else None
            yield frame
        while last is not None:
            yield last.copy()
        while self.longer != "cut":
            yield from self._again(kept, block)

    def _again(self, kept: list[np.ndarray], block: int) -> Iterator[np.ndarray]:
        """One turn after the first, from the frames that were kept or from the file."""
        if kept:
            back = range(self.frames - 2, 0, -1) if self.longer == "bounce" else ()
            yield from (kept[index].copy() for index in (*back, *range(self.frames)))
            return
        if self.longer == "bounce":
            yield from self._backwards(block)
        yield from self._forwards()

    def _forwards(self) -> Iterator[np.ndarray]:
        return islice(media.read_frames(self.path, self.fps, square=False), self.frames)

    def _backwards(self, block: int) -> Iterator[np.ndarray]:
        """Frames T-2 down to 1."""
        for stop in range(self.frames - 1, 1, -block):
            start = max(1, stop - block)
            frames = self._seek(start, stop)
            if frames is None:
                # The container cannot be searched: the slow way from the front.
                frames = list(islice(media.read_frames(self.path, self.fps, square=False), start, stop))
            while frames:
                yield frames.pop()

    def _seek(self, start: int, stop: int) -> list[np.ndarray] | None:
        """Frames start..stop-1 by a jump to a key frame before them; None where that cannot be trusted."""
        with av.open(str(self.path)) as container:
            # What the frames of these carry is not when they are shown.
            if container.format.name in ("avi", "mpeg"):
                return None
            stream: Any = media.video_track(container)
            origin = next(container.decode(stream)).pts
            if origin is None:
                return None
            goal = max(Fraction(0), start / self.fps - SEEK_MARGIN)
            try:
                container.seek(origin + math.floor(goal / stream.time_base), stream=stream)
                return self._nearest(stream, container.decode(stream), origin * stream.time_base, start, stop)
            except av.error.FFmpegError:
                return None

    def _nearest(
        self, stream: av.VideoStream, decoded: Iterator[av.VideoFrame], origin: Fraction, start: int, stop: int
    ) -> list[np.ndarray] | None:
        """The frame nearest in time to each tick start..stop-1, the rule of `media.read_frames`."""
        frames: list[np.ndarray] = []
        convert = media.FramePixels(stream, "bgr24", square=False)
        last, last_time = None, Fraction(0)
        for frame in decoded:
            if frame.pts is None:
                return None
            time = in_seconds(frame.pts, frame) - origin
            if last is None and time > start / self.fps:
                return None
            while last is not None and len(frames) < stop - start:
                tick = (start + len(frames)) / self.fps
                if tick >= (last_time + time) / 2:
                    break
                frames.append(convert(last))
            if len(frames) == stop - start:
                return frames
            last, last_time = frame, time
        # The stream ended: its last frame stands for the ticks that remain.
        while last is not None and len(frames) < stop - start:
            frames.append(convert(last))
        return frames or None
