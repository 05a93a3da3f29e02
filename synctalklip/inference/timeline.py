"""When each frame of the source is shown, in bounded memory, and what the speech says then.

Letters: N painted frames, T rows of speech at 25 Hz, D embedding.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from synctalklip.data import media
from synctalklip.data.containers import in_seconds
from synctalklip.data.encode import SAMPLE_RATE
from synctalklip.data.features import audio_features

SPEECH_RATE = 25
SAMPLES_PER_ROW = SAMPLE_RATE // SPEECH_RATE
# Seeking lands on a key frame; one that lies this much earlier has clean frames by the time they are needed.
SEEK_MARGIN = Fraction(1)


class PlannedFrame(NamedTuple):
    """One frame of the output."""

    source: int
    """Index of the source frame that is shown."""
    time: Fraction | None
    """When it is shown, in seconds; None: after all speech, the source frame stays as it is."""


def ping_pong(index: int, frames: int) -> int:
    """Fold `index` into 0..frames-1 by playing forwards and backwards, without showing an end twice."""
    if frames == 1:
        return 0
    index %= 2 * (frames - 1)
    return min(index, 2 * (frames - 1) - index)


def output_frames(samples: int, fps: Fraction) -> int:
    """Frames that cover a speech of `samples` at 16 kHz; a last frame that is begun counts."""
    return max(1, math.ceil(Fraction(samples, SAMPLE_RATE) * fps))


ORDERS: dict[str, Callable[[int, int], int]] = {
    "bounce": ping_pong,
    "loop": lambda index, frames: index % frames,
    "freeze": lambda index, frames: min(index, frames - 1),
    "cut": lambda index, frames: index,
}
"""Which of the source's frames is shown at an index of the output, by `Options.longer`."""


def frame_plan(
    frames: int, spoken: int, fps: Fraction, longer: str = "bounce", shorter: str = "cut"
) -> Iterator[PlannedFrame]:
    """The output, frame by frame, at the source's own rate.

    Args:
        frames: length of the source video.
        spoken: frames that the speech covers, see `output_frames`.
        fps: frames a second of source and output.
        longer: what is shown when the speech is longer than the video, see `Options.longer`.
        shorter: what follows when the speech ends before the video: "cut" ends the output there, "keep" shows
            the rest of the video as it is.

    Yields:
        One entry for each frame of the output.
    """
    for index in range(min(spoken, frames) if longer == "cut" else spoken):
        yield PlannedFrame(ORDERS[longer](index, frames), index / fps)
    if shorter == "keep":
        for index in range(spoken, frames):
            yield PlannedFrame(index, None)


def fill_short_gaps(detected: np.ndarray, longest: int) -> np.ndarray:
    """Frames to paint: those with a face, and those in gaps of at most `longest` frames between two of them.

    Args:
        detected: (T,) bool.
        longest: frames; the landmarks of longer gaps are a guess, so such frames stay as they are.
    """
    painted = np.array(detected, dtype=bool)
    seen = np.flatnonzero(painted)
    for before, after in pairwise(seen):
        if after - before - 1 <= longest:
            painted[before:after] = True
    return painted


class SourceReader:
    """A source of known length, played in the order of `ORDERS` for as long as it is asked.

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

    def read(self) -> Iterator[media.Picture]:
        """Frames 0, 1, ... T-1, then those that `longer` asks for: without an end, but where it is "cut".

        The reader may write into what it gets.
        """
        kept: list[media.Picture] = []
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

    def _again(self, kept: list[media.Picture], block: int) -> Iterator[media.Picture]:
        """One turn after the first, from the frames that were kept or from the file."""
        if kept:
            back = range(self.frames - 2, 0, -1) if self.longer == "bounce" else ()
            yield from (kept[index].copy() for index in (*back, *range(self.frames)))
            return
        if self.longer == "bounce":
            yield from self._backwards(block)
        yield from self._forwards()

    def _forwards(self) -> Iterator[media.Picture]:
        return islice(media.read_pictures(self.path, self.fps), self.frames)

    def _backwards(self, block: int) -> Iterator[media.Picture]:
        """Frames T-2 down to 1."""
        for stop in range(self.frames - 1, 1, -block):
            start = max(1, stop - block)
            frames = self._seek(start, stop)
            if frames is None:
                # The container cannot be searched: the slow way from the front.
                frames = list(islice(media.read_pictures(self.path, self.fps), start, stop))
            while frames:
                yield frames.pop()

    def _seek(self, start: int, stop: int) -> list[media.Picture] | None:
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
    ) -> list[media.Picture] | None:
        """The frame nearest in time to each tick start..stop-1, the rule of `media.read_frames`."""
        frames: list[media.Picture] = []
        convert = media.FramePictures(stream)
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


class SpeechEmbeddings:
    """Embeddings of a speech at any time, encoded piece by piece so that memory does not grow with length.

    The rows of a piece come from `features`, as in training: row t belongs to the frame shown at
    t / 25 s. Each piece is encoded with `context` rows on both sides that are then dropped.

    Args:
        encode: (audio (1,F,T), padding_mask (1,T)) -> (1,T,D), a generator's `encode_speech`.
        wave: (N,) int16 at 16 kHz.
        chunk: rows in a piece; a speech that fits into one is encoded as a whole.
        context: rows of context on each side of a piece, at least one.
        sampling: "linear" blends the two rows around a time, "nearest" takes the closer one.
        device: where the encoder lives.
        features: (wave, T) -> (T,F), see `fused.speech_features_of`.
    """

    def __init__(
        self,
        encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        wave: np.ndarray,
        chunk: int,
        context: int,
        sampling: str,
        device: torch.device | str = "cpu",
        features: Callable[[np.ndarray, int], torch.Tensor] = audio_features,
    ):
        self._features = features
        self.rows = max(1, math.ceil(len(wave) / SAMPLES_PER_ROW))
        self._encode, self._wave, self._device = encode, wave, device
        self._chunk, self._context, self._sampling = chunk, context, sampling
        self._pieces: OrderedDict[int, torch.Tensor] = OrderedDict()

    def _piece(self, number: int) -> torch.Tensor:
        """Rows `number * chunk` and on, (T,D); the last two pieces are kept."""
        if number not in self._pieces:
            start, stop = number * self._chunk, min((number + 1) * self._chunk, self.rows)
            first, last = max(0, start - self._context), min(stop + self._context, self.rows)
            wave = self._wave[first * SAMPLES_PER_ROW : last * SAMPLES_PER_ROW]
            audio = self._features(wave, last - first).T[None].to(self._device)
            mask = torch.zeros(1, last - first, dtype=torch.bool, device=self._device)
            self._pieces[number] = self._encode(audio, mask)[0, start - first : stop - first].clone()
            while len(self._pieces) > 2:
                self._pieces.popitem(last=False)
        return self._pieces[number]

    def _row(self, index: int) -> torch.Tensor:
        return self._piece(index // self._chunk)[index % self._chunk]

    @torch.inference_mode()
    def __call__(self, times: list[Fraction]) -> torch.Tensor:
        """Embeddings at `times` (seconds; held at both ends of the speech), (N,D)."""
        rows = []
        for time in times:
            place = min(max(time * SPEECH_RATE, Fraction(0)), Fraction(self.rows - 1))
            if self._sampling == "nearest":
                place = Fraction(math.floor(place + Fraction(1, 2)))
            below = math.floor(place)
            row, weight = self._row(below), float(place - below)
            if weight:
                row = torch.lerp(row, self._row(below + 1), weight)
            rows.append(row)
        return torch.stack(rows)
