"""What is said: one file for the face that is chosen, or parts for several faces of one video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import file_hash
from synctalklip.data.tracking import LARGEST
from synctalklip.errors import SyncTalklipError

SPEAKING = "speaking"
KEYS = ("face", "audio", "from", "to")


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
        raise SyncTalklipError(f"audio={audio}: give a file, or a list of parts with {', '.join(KEYS)}")
    return tuple(part if isinstance(part, Part) else _part(part, folder) for part in audio)


def _part(entry: Any, folder: Path) -> Part:
    if not isinstance(entry, Mapping) or not {"face", "audio"} <= set(entry) <= set(KEYS):
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
