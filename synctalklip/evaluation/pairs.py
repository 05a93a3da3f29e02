"""Pairs of a face and a sound that an evaluation scores: the clip's own sound, that of another clip, or silence.

A generator that only repeats what it saw in training, or copies the mouth of its pose image, does well on its own
sound; the other two show it (KeySync 2025).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import Clip, write_jsonl
from synctalklip.errors import MetricError

PAIRINGS = ("reconstruction", "cross", "silent")


@dataclass(frozen=True)
class Pair:
    """A face and the sound that it is made to say.

    Attributes:
        clip: whose face.
        sound: whose sound; None is silence.
    """

    clip: Clip
    sound: Clip | None

    @property
    def text(self) -> str:
        """What is said, "" when that is not known or nothing."""
        return self.sound.text if self.sound else ""

    def reader(self) -> ClipReader:
        """The clip with its new sound; every array is read once."""
        return ClipReader([self.clip], cache=True) if self.sound == self.clip else DubbedReader(self)


class DubbedReader(ClipReader):
    """One clip that is heard with another sound, cut or filled with silence to the length of its video."""

    def __init__(self, pair: Pair) -> None:
        super().__init__([pair.clip], cache=True)
        self.samples = pair.clip.frames * media.SAMPLE_RATE // media.FPS
        self.sound = ClipReader([pair.sound], cache=True) if pair.sound else None

    def wave(self, index: int) -> np.ndarray:
        """See `ClipReader.wave`."""
        wave = np.zeros(self.samples, np.int16)
        if self.sound:
            spoken = self.sound.wave(index)[: self.samples]
            wave[: len(spoken)] = spoken
        return wave


def pair_clips(clips: Sequence[Clip], setting: str) -> list[Pair]:
    """What each clip is made to say.

    Crossed clips change their sounds in twos: by length, each with the next one whose sentence differs, so that little
    is cut and every sound is heard. One that is left over takes the sound nearest in length.

    Args:
        clips: of the whole split, so that the pairs stay the same when fewer are evaluated.
        setting: one of `PAIRINGS`.

    Returns:
        In the order of `clips`; the same for the same clips in any order.

    Raises:
        MetricError: unknown setting, or a clip without another one that says something else.
    """
    if setting not in PAIRINGS:
        raise MetricError(f"setting={setting}: choose {', '.join(PAIRINGS)}")
    if setting != "cross":
        return [Pair(clip, clip if setting == "reconstruction" else None) for clip in clips]
    waiting = sorted(clips, key=lambda clip: (clip.samples, clip.id))
    sounds: dict[str, Clip] = {}
    while waiting:
        clip = waiting.pop(0)
        place = next((i for i, other in enumerate(waiting) if _differs(clip, other)), None)
        if place is None:
            sounds[clip.id] = _nearest(clip, clips)
        else:
            other = waiting.pop(place)
            sounds[clip.id], sounds[other.id] = other, clip
    return [Pair(clip, sounds[clip.id]) for clip in clips]


def _differs(clip: Clip, other: Clip) -> bool:
    """Whether the other clip says something else; without transcripts every other clip does."""
    return clip.id != other.id and (clip.text != other.text or not clip.text)


def _nearest(clip: Clip, clips: Sequence[Clip]) -> Clip:
    others = [other for other in clips if _differs(clip, other)]
    if not others:
        raise MetricError(
            f"setting=cross: no other clip of the split says something else than {clip.id}; take a larger split"
        )
    return min(others, key=lambda other: (abs(other.samples - clip.samples), other.id))


def write_jobs(path: Path, pairs: Sequence[Pair]) -> None:
    """A list for `scripts/generate.py jobs=`, with which a method that makes videos says the same.

    Args:
        path: jsonl file; the silence that it may need is written beside it.
        pairs: of one setting other than reconstruction.
    """
    silence = path.with_name("silence.wav")
    if any(pair.sound is None for pair in pairs):
        longest = max(pair.clip.frames for pair in pairs)
        media.write_wav(silence, np.zeros(longest * media.SAMPLE_RATE // media.FPS, np.int16))
    jobs = (
        {
            "video": str(Path(pair.clip.source).absolute()),
            "audio": str((pair.sound.wav if pair.sound else silence).absolute()),
            "output": f"videos/{pair.clip.id}.mp4",
            "tail": "keep",
        }
        for pair in pairs
    )
    write_jsonl(path, jobs)
