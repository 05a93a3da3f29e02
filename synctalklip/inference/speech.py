"""Who says what and when, and where the lips rest: one speech for one face, or parts for several faces of one video.

N sound samples at 16 kHz.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.checkpoint import file_hash
from synctalklip.data import media
from synctalklip.data.tracking import LARGEST
from synctalklip.errors import SyncTalklipError

SPEAKING = "speaking"
PART_KEYS = ("face", "audio", "from", "to")
METHODS = ("auto", "silero", "energy", "none")
HOP = media.SAMPLE_RATE // 100
# A speech's quietest consonants lie less than this below its loudest 10 ms.
QUIET_DB = 35.0
# The closure of a plosive is silent too, for a tenth of a second.
SHORTEST_PAUSE, MARGIN = 0.3, 0.1


@dataclass(frozen=True)
class Part:
    """One face's speech in a video where several speak.

    Attributes:
        face: see `Options.face`.
        audio: anything with a sound track.
        start: seconds into the output at which it begins.
        stop: seconds into the output until which the face is painted: a longer speech is cut there, after a shorter one
            the lips rest. None is the end of the speech.
    """

    face: str | int
    audio: Path
    start: float = 0.0
    stop: float | None = None


Speech = Path | tuple[Part, ...]
"""The file that the chosen face speaks, or the parts of several faces."""


def read_speech(audio: Any, folder: Path = Path()) -> Speech:
    """What a caller gave as `audio`: a path, or a list of mappings with face, audio and, where wanted, from and to.

    Args:
        audio: see above.
        folder: where relative paths start.

    Raises:
        SyncTalklipError: a part with a missing, unknown or impossible entry.
    """
    if isinstance(audio, str | Path):
        return folder / audio
    if not isinstance(audio, Sequence) or not audio:
        raise SyncTalklipError(f"audio={audio}: give a file, or a list of parts with {', '.join(PART_KEYS)}")
    return tuple(part if isinstance(part, Part) else _part(part, folder) for part in audio)


def _part(entry: Any, folder: Path) -> Part:
    if not isinstance(entry, Mapping) or not {"face", "audio"} <= set(entry) <= set(PART_KEYS):
        raise SyncTalklipError(f"audio: {entry} is no part; give face, audio and, where wanted, from and to")
    assert_face(entry["face"])
    start, stop = entry.get("from") or 0.0, entry.get("to")
    times = [start] if stop is None else [start, stop]
    if any(isinstance(time, bool) or not isinstance(time, int | float) for time in times) or not (
        0 <= start < (start + 1 if stop is None else stop)
    ):
        raise SyncTalklipError(f"audio: from={start}, to={stop} of {entry['audio']}: seconds with 0 <= from < to")
    return Part(entry["face"], folder / entry["audio"], start, stop)


def files_of(speech: Speech) -> list[Path]:
    """The sound files of a speech."""
    return [speech] if isinstance(speech, Path) else [part.audio for part in speech]


def state_speech(speech: Speech | str) -> dict[str, Any]:
    """What the statement of origin says about a speech."""
    if isinstance(speech, str | Path):
        return {"audio": Path(speech).name, "audio_sha256": file_hash(speech)}
    return {
        "audio": [
            {**state_speech(part.audio), "face": part.face, "from": part.start, "to": part.stop} for part in speech
        ]
    }


def assert_face(face: Any) -> None:
    """Refuse what is no choice of a face, see `Options.face`.

    Raises:
        SyncTalklipError: see above.
    """
    if face not in (LARGEST, SPEAKING) and not (type(face) is int and face >= 0):
        raise SyncTalklipError(f"face={face}: choose {LARGEST}, {SPEAKING}, or 0, 1, ... counted from the left")


@dataclass(frozen=True)
class Voice:
    """A speech that was read.

    Attributes:
        face: see `Options.face`.
        wave: (N,) int16, what the lips are painted from.
        start: seconds into the output at which it begins.
    """

    face: str | int
    wave: np.ndarray
    start: Fraction = Fraction(0)

    @property
    def stop(self) -> Fraction:
        """Seconds into the output at which it ends."""
        return self.start + Fraction(len(self.wave), media.SAMPLE_RATE)

    def covers(self, time: Fraction | None) -> bool:
        """Whether the face is painted at a time of the output; None is a frame after all speech."""
        return time is not None and self.start <= time < self.stop


def read_voices(speech: Speech, face: str | int, track: int | None, vad: str) -> list[Voice]:
    """Read the sound of every part and let the lips rest where it holds no speech.

    Args:
        speech: see `Speech`.
        face: that speaks where the speech is one file.
        track: see `Options.audio_track`.
        vad: see `rest`.

    Raises:
        MediaError: a file that cannot be read or holds no sound.
        SyncTalklipError: one face says two things at once.
    """
    if isinstance(speech, Path):
        return [Voice(face, rest(media.read_audio(speech, audio_index=track), vad))]
    voices = []
    for part in speech:
        wave = rest(media.read_audio(part.audio, audio_index=track), vad)
        voices.append(Voice(part.face, fitted(wave, part, media.SAMPLE_RATE), Fraction(str(part.start))))
    for first, second in combinations(voices, 2):
        start, stop = max(first.start, second.start), min(first.stop, second.stop)
        if first.face == second.face and start < stop:
            raise SyncTalklipError(
                f"audio: face {first.face} has two parts from {float(start):.2f} to {float(stop):.2f} s; set their "
                "from and to so that one follows the other"
            )
    return voices


def fitted(wave: np.ndarray, part: Part, rate: int) -> np.ndarray:
    """A speech cut, or filled with silence, to its part."""
    if part.stop is None:
        return wave
    length = round((part.stop - part.start) * rate)
    wave = wave[:length]
    return np.pad(wave, (0, length - len(wave)))


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
        if after - before >= SHORTEST_PAUSE * media.SAMPLE_RATE or not spans[1:-1]:
            first = before + round(MARGIN * media.SAMPLE_RATE) * (before > 0)
            last = after - round(MARGIN * media.SAMPLE_RATE) * (after < len(wave))
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
    import torch
    from silero_vad import get_speech_timestamps

    sound = torch.from_numpy(wave.astype(np.float32) / 32768)
    spans = get_speech_timestamps(sound, _silero_model(), sampling_rate=media.SAMPLE_RATE)
    return [(span["start"], span["end"]) for span in spans]


@cache
def _silero_model() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()
