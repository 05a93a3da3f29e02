"""Who says what and when: one speech for one face, or several.

N sound samples at 16 kHz.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from synctalklip.data import media
from synctalklip.inference.options import Options
from synctalklip.inference.parts import Part, Speech
from synctalklip.inference.rest import rest


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


def read_voices(speech: Speech, options: Options) -> list[Voice]:
    """Read the sound of every part and let the lips rest where it holds no speech.

    Raises:
        MediaError: a file that cannot be read or holds no sound.
    """
    if isinstance(speech, Path):
        return [Voice(options.face, rest(media.read_audio(speech, audio_index=options.audio_track), options.vad))]
    voices = []
    for part in speech:
        wave = rest(media.read_audio(part.audio, audio_index=options.audio_track), options.vad)
        voices.append(Voice(part.face, fitted(wave, part, media.SAMPLE_RATE), Fraction(str(part.start))))
    return voices


def fitted(wave: np.ndarray, part: Part, rate: int) -> np.ndarray:
    """A speech cut, or filled with silence, to its part."""
    if part.stop is None:
        return wave
    length = round((part.stop - part.start) * rate)
    wave = wave[:length]
    return np.pad(wave, (0, length - len(wave)))
