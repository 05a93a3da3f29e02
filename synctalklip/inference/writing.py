"""Write the frames of the output beside the speech."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from synctalklip.data import media
from synctalklip.data.containers import audio_track, in_seconds, opened
from synctalklip.inference.options import Options
from synctalklip.inference.speech import Part, Speech, fitted
from synctalklip.progress import Stopwatch

# Codecs that players of mp4 files know.
COPIED = ("aac", "mp3", "ac3", "eac3")
MP4 = (".mp4", ".mov")
# Seconds before time zero that a player skips without a word; more would have to be cut.
MOST_EARLY = Fraction(1, 10)
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Layouts that AAC names, and those it has under another name with the same order of channels.
AAC_LAYOUTS = {name: name for name in ("mono", "stereo", "2.1", "3.0", "quad", "4.0", "5.0", "5.1", "6.1", "7.1")}
AAC_LAYOUTS |= {"downmix": "stereo", "quad(side)": "quad", "5.0(side)": "5.0", "5.1(side)": "5.1"}


def write(
    output: str | Path,
    frames: Iterable[media.Picture],
    fps: Fraction,
    speech: Speech,
    shown: media.MediaInfo,
    length: int | None,
    options: Options,
    statement: Mapping[str, Any],
    watch: Stopwatch,
) -> tuple[int, int]:
    """Encode the frames with the sound of a speech in step.

    Args:
        output: video file.
        frames: stored as those of the source.
        fps: their rate.
        speech: what is heard.
        shown: the source.
        length: frames after which the sound is cut; None keeps all of it.
        options: see `Options`.
        statement: of the origin.
        watch: told of the phase "encode".

    Returns:
        (width, height) of the video.
    """
    frames = iter(frames)
    first = next(frames)
    comment = {"comment": json.dumps(statement)}
    with ExitStack() as stack:
        sound = stack.enter_context(sound_of(speech, output, options.audio_track))
        writer = media.VideoWriter(
            output,
            fps,
            first.size,
            crf=options.quality,
            codec=options.codec,
            # At quality 17 as good and as small as "fast" at 18, in less than half of the time.
            preset="veryfast",
            metadata=comment,
            threads=0,
            pixel_aspect=shown.pixel_aspect,
            colour=first.colour,
            **sound.format,
        )
        stack.enter_context(writer)
        for count, frame in enumerate(chain([first], frames), 1):
            with watch.phase("encode"):
                writer.write_stored(frame.frame())
                sound.feed(writer, count / fps)
        with watch.phase("encode"):
            sound.feed(writer, None if length is None else length / fps)
            # The encoder holds frames back until it is closed.
            stack.close()
    return first.size


class EncodedSound:
    """Samples that are encoded in step with the frames."""

    def __init__(self, sound: media.Sound):
        self._sound, self._written = sound, 0
        self.format: dict[str, Any] = {"sample_rate": sound.rate, "layout": sound.layout}

    def feed(self, writer: media.VideoWriter, until: Fraction | None) -> None:
        """Write the sound before `until` seconds, all that is left for None."""
        stop = len(self._sound.samples) if until is None else int(until * self._sound.rate)
        writer.write_audio(self._sound.samples[self._written : stop])
        self._written = stop


class CopiedSound:
    """Packets of a track, as they are, in step with the frames.

    Args:
        packets: in their order.
        stream: their track.
        origin: seconds in its clock that are time zero of the output.
    """

    def __init__(self, packets: Iterator[av.Packet], stream: av.AudioStream, origin: Fraction):
        self._packets = (packet for packet in packets if packet.pts is not None)
        self._stream, self._shift = stream, round(origin / in_seconds(1, stream))
        self._next: av.Packet | None = next(self._packets, None)
        self.format: dict[str, Any] = {"sound_like": stream}

    def feed(self, writer: media.VideoWriter, until: Fraction | None) -> None:
        """See `EncodedSound.feed`."""
        while (packet := self._next) is not None:
            shown = cast(int, packet.pts) - self._shift
            if until is not None and in_seconds(shown, self._stream) >= until:
                return
            packet.dts = shown if packet.dts is None else packet.dts - self._shift
            packet.pts = shown
            writer.copy_audio(packet)
            self._next = next(self._packets, None)


@contextmanager
def sound_of(speech: Speech, output: str | Path, track: int | None) -> Iterator[EncodedSound | CopiedSound]:
    """The sound of the output: copied where mp4 players know its codec and no sample has to go, else encoded."""
    if not isinstance(speech, Path):
        yield EncodedSound(mix(speech, track))
        return
    path = speech
    with opened(path) as container:
        stream = audio_track(container, path, track)
        origin = media.first_picture(container)
        if stream is None or Path(output).suffix not in MP4 or not _can_be_copied(stream, origin):
            yield EncodedSound(written_sound(path, track))
        else:
            start = in_seconds(stream.start_time or 0, stream) if origin is None else origin
            yield CopiedSound(container.demux(stream), stream, start)


def _can_be_copied(stream: av.AudioStream, origin: Fraction | None) -> bool:
    if stream.codec.canonical_name not in COPIED or stream.start_time is None:
        return False
    return origin is None or origin - in_seconds(stream.start_time, stream) <= MOST_EARLY


def written_rate(audio: str | Path, track: int | None) -> int:
    """The rate of a file's sound, 48 kHz where AAC has no such rate."""
    rate = media.probe(audio, track).sample_rate
    return rate if rate in AAC_RATES else 48_000


def written_sound(audio: str | Path, track: int | None) -> media.Sound:
    """The speech with its own channels and rate; 48 kHz where AAC has no such rate, mono where no such layout."""
    sound = media.read_sound(audio, written_rate(audio, track), track)
    layout = AAC_LAYOUTS.get(sound.layout)
    if layout is None:
        mono = media.mix_down(sound.samples, sound.channels, sound.rate)[:, None]
        return media.Sound(mono, sound.rate, "mono", ("FC",))
    return replace(sound, layout=layout)


def mix(parts: Sequence[Part], track: int | None) -> media.Sound:
    """The sounds of several parts at their places, in mono, at the highest of their rates; clipped where too loud."""
    rate = max(written_rate(part.audio, track) for part in parts)
    placed = [
        (round(part.start * rate), fitted(media.read_audio(part.audio, rate, track), part, rate)) for part in parts
    ]
    total = np.zeros(max(start + len(wave) for start, wave in placed), np.int32)
    for start, wave in placed:
        total[start : start + len(wave)] += wave
    return media.Sound(total.clip(-32768, 32767).astype(np.int16)[:, None], rate, "mono", ("FC",))
