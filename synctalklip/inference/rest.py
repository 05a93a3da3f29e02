"""Where a speech is silent, so that the lips rest there.

N sound samples at 16 kHz.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from synctalklip.data.encode import SAMPLE_RATE
from synctalklip.errors import SyncTalklipError

METHODS = ("auto", "silero", "energy", "none")
HOP = SAMPLE_RATE // 100
# A speech's quietest consonants lie less than this below its loudest 10 ms.
QUIET_DB = 35.0
# The closure of a plosive is silent too, for a tenth of a second.
SHORTEST_PAUSE, MARGIN = 0.3, 0.1


def choose_method(method: str) -> str:
    """What `auto` stands for here: silero where its package is installed, else energy.

    Raises:
        SyncTalklipError: silero is asked for and not installed.
    """
    installed = importlib.util.find_spec("silero_vad") is not None
    if method == "auto":
        return "silero" if installed else "energy"
    if method == "silero" and not installed:
        raise SyncTalklipError("vad=silero: the package is not installed; pip install silero-vad, or choose energy")
    return method


def rest(wave: np.ndarray, method: str = "auto") -> np.ndarray:
    """A speech with digital silence in its pauses: from that the generator paints lips at rest.

    A pause is at least `SHORTEST_PAUSE` seconds without speech; `MARGIN` seconds beside the speech are kept.

    Args:
        wave: (N,) int16.
        method: one of `METHODS`; "none" gives the speech as it is.
    """
    method = choose_method(method)
    if method == "none":
        return wave
    find: Callable[[np.ndarray], list[tuple[int, int]]] = {"silero": _silero, "energy": _energy}[method]
    quiet = wave.copy()
    spans = [(0, 0), *find(wave), (len(wave), len(wave))]
    for (_, before), (after, _) in pairwise(spans):
        if after - before >= SHORTEST_PAUSE * SAMPLE_RATE or not spans[1:-1]:
            first = before + round(MARGIN * SAMPLE_RATE) * (before > 0)
            last = after - round(MARGIN * SAMPLE_RATE) * (after < len(wave))
            quiet[first:last] = 0
    return quiet


def _energy(wave: np.ndarray) -> list[tuple[int, int]]:
    """First and last sample of each run of sound that is less than `QUIET_DB` below the loudest."""
    padded = np.pad(wave, (0, -len(wave) % HOP)).astype(np.float64).reshape(-1, HOP)
    level = np.sqrt((padded**2).mean(axis=1))
    loud = level > level.max(initial=0.0) * 10 ** (-QUIET_DB / 20)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    return [(int(start) * HOP, min(int(stop) * HOP, len(wave))) for start, stop in edges.reshape(-1, 2)]


def _silero(wave: np.ndarray) -> list[tuple[int, int]]:
    from silero_vad import get_speech_timestamps

    sound = torch.from_numpy(wave.astype(np.float32) / 32768)
    spans = get_speech_timestamps(sound, _silero_model(), sampling_rate=SAMPLE_RATE)
    return [(span["start"], span["end"]) for span in spans]


@cache
def _silero_model() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()
