"""Write the frames of the output beside the speech."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.data import media
from synctalklip.generator.stopwatch import Stopwatch
from synctalklip.inference.options import Options

AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def write(
    output: str | Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    audio: str | Path,
    options: Options,
    statement: Mapping[str, Any],
    watch: Stopwatch,
) -> tuple[int, int]:
    """Encode the frames with the sound of `audio` in step; (width, height) of the video."""
    rate = sound_rate(media.probe(audio, options.audio_track).sample_rate)
    sound = media.read_audio(audio, rate, options.audio_track)
    frames = iter(frames)
    first = next(frames)
    size = first.shape[1], first.shape[0]
    comment = {"comment": json.dumps(statement)}
    with ExitStack() as stack:
        writer = media.VideoWriter(output, fps, size, rate, options.crf, metadata=comment, threads=0)
        stack.enter_context(writer)
        written = 0
        for count, frame in enumerate(chain([first], frames), 1):
            until = int(count / fps * rate)
            with watch.phase("encode"):
                writer.write(frame)
                writer.write_audio(sound[written:until])
            written = until
        with watch.phase("encode"):
            writer.write_audio(sound[written:])
            # The encoder holds frames back until it is closed.
            stack.close()
    return size


def sound_rate(rate: int | None) -> int:
    """The rate of the written sound: the speech's own, or 48 kHz where AAC has no such rate."""
    return rate if rate is not None and rate in AAC_RATES else 48_000
