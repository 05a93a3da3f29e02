"""Open media files with PyAV and decode one track, with errors that name the file."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast, overload

import av
from av.stream import Disposition

from synctalklip.data.encode import FPS, MediaError

# A hole this long between two frames is a broken clock, not a slow picture.
LONGEST_GAP = 60
# Containers round durations; a file that ends earlier than this was cut off.
MISSING_TAIL = Fraction(1, 2)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file for reading.

    Raises:
        MediaError: missing, empty, or no media file.
    """
    if not path.is_file():
        raise MediaError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes); copy or record it again")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path}: cannot be read as video or sound ({error.strerror}): it is cut short or another kind of file; "
            "copy or convert it again"
        ) from None
    with container:
        if container.format.name == "wav":
            _check_wav_length(path)
        yield container


def _check_wav_length(path: Path) -> None:
    """The decoder plays a cut wav file without a word, so its own header is asked."""
    with open(path, "rb") as file:
        promised = int.from_bytes(file.read(8)[4:], "little") + 8
    # Recorders that cannot go back to the header leave 0 or the largest number there.
    if 8 < promised < 2**32 - 1 and path.stat().st_size < promised:
        raise MediaError(
            f"{path}: holds {path.stat().st_size} of {promised} bytes: the file is cut short; copy it again"
        )


def first_video(container: av.container.InputContainer) -> av.VideoStream | None:
    """First moving picture; the cover image of a music file does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


@overload
def decoded(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.VideoFrame]: ...
@overload
def decoded(container: av.container.InputContainer, stream: av.AudioStream, path: Path) -> Iterator[av.AudioFrame]: ...
def decoded(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, path: Path
) -> Iterator[Any]:
    """Frames of one track.

    Raises:
        MediaError: a frame that cannot be decoded, no frame at all, or an end before the promised one.
    """
    count, end = 0, None
    frames: Iterator[Any] = container.decode(stream)
    try:
        for frame in frames:
            count += 1
            if frame.pts is not None:
                end = in_seconds(frame.pts, frame) + frame_length(frame, stream)
            yield frame
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path}: broken after {count} {stream.type} frames ({error.strerror}); copy or convert the file again"
        ) from None
    if count == 0:
        raise MediaError(f"{path}: the {stream.type} track holds nothing; record or convert the file again")
    if stream.duration and end is not None:
        promised = in_seconds((stream.start_time or 0) + stream.duration, stream)
        if promised - end > MISSING_TAIL:
            raise MediaError(
                f"{path}: the {stream.type} ends at {float(end):.2f} s of {float(promised):.2f} s: the file is cut "
                "short; copy it again"
            )


def in_seconds(stamp: int, clock: av.frame.Frame | av.stream.Stream) -> Fraction:
    """A time stamp, or a span of time, in the units of a frame or a track."""
    # PyAV's type has None too, for frames and tracks that are still to be encoded.
    return stamp * cast(Fraction, clock.time_base)


def frame_length(frame: av.VideoFrame | av.AudioFrame, stream: av.stream.Stream) -> Fraction:
    """Seconds that a frame lasts."""
    if isinstance(frame, av.AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration:
        return in_seconds(frame.duration, frame)
    return 1 / Fraction(stream.average_rate or FPS)
