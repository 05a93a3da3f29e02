"""Decode the sound of any file to int16, aligned with its video, with its own channels or mixed to mono.

N sound samples, C channels, B blocks of one second.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from synctalklip.data.containers import LONGEST_GAP, audio_track, decoded, in_seconds, opened, video_track
from synctalklip.data.encode import SAMPLE_RATE, MediaError

# Sound time stamps are rounded to the container's clock; smaller holes are that rounding.
SMALLEST_SOUND_GAP = Fraction(1, 10)
# A mix that keeps less than this share of the energy that its channels bring has lost what they say.
CANCELLED = 0.5
# What sound without names for its channels is, as a wav file of several.
USUAL_LAYOUTS = {
    "1 channels": "mono",
    "2 channels": "stereo",
    "3 channels": "3.0",
    "4 channels": "quad",
    "5 channels": "5.0",
    "6 channels": "5.1",
    "7 channels": "6.1",
    "8 channels": "7.1",
}
# Level of a channel in the mix, as in ITU-R BS.775; speech lies in the front, effects in the low one.
SIDE_LEVELS = {"FL": 0.5**0.5, "FR": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
SURROUND = frozenset({"BL", "BR", "BC", "SL", "SR", "TBL", "TBR", "TFL", "TFR", "TBC", "TC"})


@dataclass(frozen=True)
class Sound:
    """Sound with its own channels.

    Attributes:
        samples: (N,C) int16.
        rate: Hz.
        layout: name of the channel layout in FFmpeg's terms, "stereo" or "5.1"; what is usual for C channels where the
            file does not say.
        channels: names of the channels, "FL" or "FC"; "NONE" where there is no usual layout.
    """

    samples: np.ndarray
    rate: int
    layout: str
    channels: tuple[str, ...]


def read_audio(path: str | Path, sample_rate: int | None = SAMPLE_RATE, audio_index: int | None = None) -> np.ndarray:
    """Sound of a file, mixed down to mono and resampled; see `read_sound` and `mix_down`.

    Returns:
        (N,) int16.
    """
    sound = read_sound(path, sample_rate, audio_index)
    return mix_down(sound.samples, sound.channels, sound.rate)


def read_sound(path: str | Path, sample_rate: int | None = None, audio_index: int | None = None) -> Sound:
    """Sound of a file with its own channels.

    Args:
        path: any container or sound file. Beside video, sample 0 is the time of the first video frame.
        sample_rate: output rate in Hz, None for the file's own.
        audio_index: which of several sound tracks, from 0; None for the one marked as default, else the first.

    Returns:
        Float sound beyond full scale is clipped, holes in the time stamps are silence.

    Raises:
        MediaError: missing, empty, cut short, without sound, or sound with NaN or infinite samples.
    """
    path = Path(path)
    with opened(path) as container:
        stream = audio_track(container, path, audio_index)
        if stream is None:
            raise MediaError(f"{path}: has no audio track; give a file with sound")
        origin = first_picture(container)
        sample_rate = sample_rate or stream.sample_rate
        layout = stream.layout
        frames = decoded(container, stream, path)
        pieces = list(_sound_pieces(frames, origin, sample_rate, layout, path))
        total = max(start + len(piece) for start, piece in pieces)
        total = _without_padding(total, container, stream, origin, sample_rate)
    if total <= 0:
        raise MediaError(f"{path}: holds no sound from the first video frame on; record or mux the file again")
    sound = np.zeros((total, layout.nb_channels), np.int16)
    for start, piece in pieces:
        piece = piece[max(0, -start) :][: max(0, total - max(0, start))]
        sound[max(0, start) : max(0, start) + len(piece)] = piece
    named = av.AudioLayout(USUAL_LAYOUTS.get(layout.name, layout.name))
    return Sound(sound, sample_rate, named.name, tuple(channel.name for channel in named.channels))


def first_picture(container: av.container.InputContainer) -> Fraction | None:
    """Seconds at which the video starts, which is time zero of the file; None where there is none."""
    video = video_track(container)
    return None if video is None or video.start_time is None else in_seconds(video.start_time, video)


def mix_down(samples: np.ndarray, channels: Sequence[str], rate: int) -> np.ndarray:
    """One channel that is as loud as the loudest of several and holds what each of them says.

    Where channels cancel each other, as a voice in opposite phase does, the loudest one stands for them.

    Args:
        samples: (N,C) int16.
        channels: their names, see `Sound`.
        rate: Hz.

    Returns:
        (N,) int16.
    """
    if samples.shape[1] == 1:
        return samples[:, 0]
    starts = range(0, len(samples), rate)
    blocks = (samples[start : start + rate].astype(np.float64) for start in starts)
    weights = _mixing_weights(np.stack([block.T @ block for block in blocks]), channels)
    centres = np.array(starts) + rate / 2
    mixed = np.empty(len(samples), np.int16)
    for start in starts:
        block = samples[start : start + rate]
        places = np.arange(start, start + len(block))
        # A jump of the weights would click.
        shares = np.stack([np.interp(places, centres, column) for column in weights.T], axis=1)
        mixed[start : start + rate] = np.clip(np.rint((block * shares).sum(1)), -32768, 32767)
    return mixed


def _mixing_weights(products: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Weights of the channels in each block, (B,C), from the products between channels in it, (B,C,C)."""
    levels = np.array([SIDE_LEVELS.get(name, 0.5 if name in SURROUND else 1.0) for name in channels])
    energies = np.einsum("bcc->bc", products)
    mixed = np.einsum("c,bcd,d->b", levels, products, levels)
    cancelled = mixed < CANCELLED * (energies @ levels**2)
    # Low frequencies alone are no cancelled speech, but all there is to hear.
    cancelled |= (mixed == 0) & (energies.sum(1) > 0)
    loudest = energies[~cancelled].sum(0).max(initial=0)
    gain = np.sqrt(loudest / max(mixed[~cancelled].sum(), 1))
    weights = np.tile(gain * levels, (len(products), 1))
    weights[cancelled] = np.eye(len(levels))[energies[cancelled].sum(0).argmax()]
    return weights


def _without_padding(
    total: int,
    container: av.container.InputContainer,
    stream: av.AudioStream,
    origin: Fraction | None,
    sample_rate: int,
) -> int:
    """Samples without the silence that AAC appends to fill its last block; mp4 stores the true length."""
    if not container.format.name.startswith("mov") or not stream.duration:
        return total
    start = in_seconds(stream.start_time or 0, stream)
    end = start + in_seconds(stream.duration, stream) - (start if origin is None else origin)
    excess = total - round(end * sample_rate)
    # AAC blocks hold at most 2048 samples; a larger difference is no padding.
    return total - excess if 0 < excess < 2 * 2048 * sample_rate / stream.sample_rate else total


def _sound_pieces(
    frames: Iterable[av.AudioFrame], origin: Fraction | None, sample_rate: int, layout: av.AudioLayout, path: Path
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of unbroken sound as (first sample, (n,C) int16); a hole or a change of format ends a run."""
    resampler: Any = None
    collected, start, kind, expected = bytearray(), Fraction(0), None, Fraction(0)

    def collect(frame: av.AudioFrame | None) -> None:
        # Bytes, because many small arrays would hold an hour of sound twice.
        for part in resampler.resample(frame):
            collected.extend(part.to_ndarray().tobytes())

    def piece() -> tuple[int, np.ndarray]:
        collect(None)
        return round(start * sample_rate), np.frombuffer(collected, np.int16).reshape(-1, layout.nb_channels)

    for frame in frames:
        stamp = in_seconds(frame.pts, frame) if frame.pts is not None else None
        if origin is None:
            origin = stamp if stamp is not None else Fraction(0)
        time = stamp - origin if stamp is not None else expected
        if frame.format.name.startswith(("flt", "dbl")) and not np.isfinite(frame.to_ndarray()).all():
            raise MediaError(
                f"{path}: the sound holds NaN or infinite samples near {float(time):.2f} s; export it again"
            )
        gap = time - expected
        if resampler is not None and gap > LONGEST_GAP:
            raise MediaError(f"{path}: a hole of {float(gap):.0f} s in the sound: its time stamps are broken")
        if resampler is None or gap > SMALLEST_SOUND_GAP or kind != _kind(frame):
            if resampler is not None:
                yield piece()
                start = max(time, expected)
            else:
                start = time
            resampler, collected, kind = av.AudioResampler("s16", layout, sample_rate), bytearray(), _kind(frame)
            expected = start
        # Only lengths are counted from here on: stamps of compressed sound are rounded.
        expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None
        collect(frame)
    yield piece()


def _kind(frame: av.AudioFrame) -> tuple:
    return frame.sample_rate, frame.layout.name, frame.format.name
