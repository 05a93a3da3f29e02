"""Decode the sound of any file to mono int16, aligned with its video.

N sound samples.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from synctalklip.data.containers import LONGEST_GAP, audio_track, decoded, opened, video_track
from synctalklip.data.encode import SAMPLE_RATE, MediaError

# Sound time stamps are rounded to the container's clock; smaller holes are that rounding.
SMALLEST_SOUND_GAP = Fraction(1, 10)


def read_audio(path: str | Path, sample_rate: int | None = SAMPLE_RATE, audio_index: int | None = None) -> np.ndarray:
    """Sound of a file, mixed down to mono and resampled.

    Args:
        path: any container or sound file. Beside video, sample 0 is the time of the first video frame.
        sample_rate: output rate in Hz, None for the file's own (see `probe`).
        audio_index: which of several sound tracks, from 0; None for the one marked as default, else the first.

    Returns:
        (N,) int16. Float sound beyond full scale is clipped, holes in the time stamps are silence.

    Raises:
        MediaError: missing, empty, cut short, without sound, or sound with NaN or infinite samples.
    """
    path = Path(path)
    with opened(path) as container:
        stream = audio_track(container, path, audio_index)
        if stream is None:
            raise MediaError(f"{path}: has no audio track; give a file with sound")
        video = video_track(container)
        origin = None
        if video is not None and video.start_time is not None:
            origin = video.start_time * video.time_base
        sample_rate = sample_rate or stream.sample_rate
        pieces = list(_sound_pieces(decoded(container, stream, path), origin, sample_rate, path))
        total = max(start + len(piece) for start, piece in pieces)
        total = _without_padding(total, container, stream, origin, sample_rate)
    if total <= 0:
        raise MediaError(f"{path}: holds no sound from the first video frame on; record or mux the file again")
    sound = np.zeros(total, np.int16)
    for start, piece in pieces:
        piece = piece[max(0, -start) :][: max(0, total - max(0, start))]
        sound[max(0, start) : max(0, start) + len(piece)] = piece
    return sound


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
    start = (stream.start_time or 0) * stream.time_base
    end = start + stream.duration * stream.time_base - (start if origin is None else origin)
    excess = total - round(end * sample_rate)
    # AAC blocks hold at most 2048 samples; a larger difference is no padding.
    return total - excess if 0 < excess < 2 * 2048 * sample_rate / stream.sample_rate else total


def _sound_pieces(
    frames: Iterable[av.AudioFrame], origin: Fraction | None, sample_rate: int, path: Path
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of unbroken sound as (first sample, (n,) int16); a hole or a change of format ends a run."""
    resampler: Any = None
    collected, start, kind, expected = bytearray(), Fraction(0), None, Fraction(0)

    def collect(frame: av.AudioFrame | None) -> None:
        # Bytes, because many small arrays would hold an hour of sound twice.
        for part in resampler.resample(frame):
            collected.extend(part.to_ndarray().tobytes())

    def piece() -> tuple[int, np.ndarray]:
        collect(None)
        return round(start * sample_rate), np.frombuffer(collected, np.int16)

    for frame in frames:
        stamp = frame.pts * frame.time_base if frame.pts is not None else None
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
            resampler, collected, kind = av.AudioResampler("s16", "mono", sample_rate), bytearray(), _kind(frame)
            expected = start
        # Only lengths are counted from here on: stamps of compressed sound are rounded.
        expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None
        collect(frame)
    yield piece()


def _kind(frame: av.AudioFrame) -> tuple:
    return frame.sample_rate, frame.layout.name, frame.format.name
