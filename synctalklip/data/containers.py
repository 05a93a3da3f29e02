"""Open media files with PyAV and decode one track, with errors that name the file."""

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import av
from av.stream import Disposition

from synctalklip.data.encode import FPS, MediaError

T = TypeVar("T", bound=av.stream.Stream)

# A hole this long between two frames is a broken clock, not a slow picture.
LONGEST_GAP = 60
# Containers round durations; a file that ends earlier than this was cut off.
MISSING_TAIL = Fraction(1, 2)
# Bytes of sound that a header promises where its writer did not know the length: the headers of espeak-ng, of sox and
# of text-to-speech services hold this or more.
LEAST_UNKNOWN_LENGTH = 2_000_000_000


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
        # The copy of a file in memory is read page by page, and only its header is another.
        container = av.open(_mended_wav(path) or str(path), mode="r")
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: cannot be read as video or sound ({error.strerror}): it is cut short or another kind of file; "
            "copy or convert it again"
        ) from None
    with container:
        yield container


def _wav_length(path: Path) -> tuple[int, int] | None:
    """Where a RIFF wav file holds the length of its sound, and that length in bytes; None without such a field."""
    with open(path, "rb") as file:
        form = file.read(12)
        if form[:4] != b"RIFF" or form[8:] != b"WAVE":
            return None
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return file.tell() - 4, size
            file.seek(size + size % 2, 1)
    return None


def _mended_wav(path: Path) -> mmap.mmap | None:
    """A wav file whose writer could not know its length, with the true one in its header; None for any other file.

    Who writes sound to a pipe cannot go back to the header and leaves 0, the largest number, or one near the largest
    signed number there. The decoder would take it for a promise.

    Raises:
        MediaError: the file is shorter than a header that was written in the end.
    """
    found = _wav_length(path)
    if found is None:
        return None
    place, promised = found
    held = path.stat().st_size - place - 4
    if promised <= held and promised != 0:
        return None
    if 0 < promised < LEAST_UNKNOWN_LENGTH or held > promised / 2 > 0:
        raise MediaError(f"{path}: holds {held} of {promised} bytes of sound: the file is cut short; copy it again")
    with open(path, "rb") as file:
        mended = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mended[place : place + 4] = min(held, 2**32 - 1).to_bytes(4, "little")
    return mended


def video_track(container: av.container.InputContainer) -> av.VideoStream | None:
    """The moving picture that players show: the first marked as default, else the first; a cover image is none."""
    pictures = Disposition.attached_pic
    return _marked([stream for stream in container.streams.video if not stream.disposition & pictures])


def audio_track(container: av.container.InputContainer, path: Path, index: int | None = None) -> av.AudioStream | None:
    """The sound that players play: the first track marked as default, else the first; or the one at `index`, from 0.

    Raises:
        MediaError: no such track.
    """
    tracks = container.streams.audio
    if index is None or not tracks:
        return _marked(tracks)
    if not 0 <= index < len(tracks):
        raise MediaError(
            f"{path}: audio_track={index}, but it holds {len(tracks)} sound tracks, counted from 0; choose another, or "
            "null for the one that players play"
        )
    return tracks[index]


def _marked(streams: Sequence[T]) -> T | None:
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(marked or streams), None)


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
