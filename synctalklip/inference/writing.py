"""Write the frames of the output beside the speech."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.data import media
from synctalklip.generator.stopwatch import Stopwatch
from synctalklip.inference.options import Options

AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Layouts that AAC names, and those it has under another name with the same order of channels.
AAC_LAYOUTS = {name: name for name in ("mono", "stereo", "2.1", "3.0", "quad", "4.0", "5.0", "5.1", "6.1", "7.1")}
AAC_LAYOUTS |= {"downmix": "stereo", "quad(side)": "quad", "5.0(side)": "5.0", "5.1(side)": "5.1"}


def write(
    output: str | Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    audio: str | Path,
    shown: media.MediaInfo,
    options: Options,
    statement: Mapping[str, Any],
    watch: Stopwatch,
) -> tuple[int, int]:
    """Encode the frames, stored as those of the source `shown`, with the sound of `audio` in step; (width, height)."""
    sound = written_sound(audio, options.audio_track)
    frames = iter(frames)
    first = next(frames)
    size = first.shape[1], first.shape[0]
    comment = {"comment": json.dumps(statement)}
    with ExitStack() as stack:
        writer = media.VideoWriter(
            output,
            fps,
            size,
            sound.rate,
            options.crf,
            metadata=comment,
            threads=0,
            layout=sound.layout,
            pixel_aspect=shown.pixel_aspect,
            colour=shown.colour or media.Colour(),
        )
        stack.enter_context(writer)
        written = 0
        for count, frame in enumerate(chain([first], frames), 1):
            until = int(count / fps * sound.rate)
            with watch.phase("encode"):
                writer.write(frame)
                writer.write_audio(sound.samples[written:until])
            written = until
        with watch.phase("encode"):
            writer.write_audio(sound.samples[written:])
            # The encoder holds frames back until it is closed.
            stack.close()
    return size


def written_sound(audio: str | Path, track: int | None) -> media.Sound:
    """The speech with its own channels and rate; 48 kHz where AAC has no such rate, mono where no such layout."""
    rate = media.probe(audio, track).sample_rate
    sound = media.read_sound(audio, rate if rate in AAC_RATES else 48_000, track)
    layout = AAC_LAYOUTS.get(sound.layout)
    if layout is None:
        mono = media.mix_down(sound.samples, sound.channels, sound.rate)[:, None]
        return media.Sound(mono, sound.rate, "mono", ("FC",))
    return replace(sound, layout=layout)
