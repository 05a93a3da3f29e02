"""When each painted frame is shown and what the speech says then.

Letters: N painted frames, T rows of speech at 25 Hz, D embedding.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from synctalklip.data.features import audio_features

SAMPLE_RATE = 16_000
SPEECH_RATE = 25
SAMPLES_PER_ROW = SAMPLE_RATE // SPEECH_RATE


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
