"""Decode video and sound with PyAV: any container in, 25 fps frames and 16 kHz mono out.

The writers live in `encode.py` and are offered here too, so that a user of media needs one name.

T video frames, N sound samples, H, W height and width in pixels. Frames are uint8 BGR, sound is int16.
Time zero of a file is its first video frame; sound that starts later is padded, sound that starts earlier is cut.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from synctalklip.data.encode import (
    EXACT_COLOUR,
    FPS,
    SAMPLE_RATE,
    DiskError,
    MediaError,
    VideoWriter,
    as_rate,
    write_bytes,
    write_video,
    write_wav,
    written_whole,
)

__all__ = [
    "FPS",
    "SAMPLE_RATE",
    "DiskError",
    "MediaError",
    "MediaInfo",
    "VideoWriter",
    "as_rate",
    "probe",
    "read_audio",
    "read_frames",
    "read_gray",
    "read_video",
    "write_bytes",
    "write_video",
    "write_wav",
    "written_whole",
]

# A hole this long between two frames is a broken clock, not a slow picture.
LONGEST_GAP = 60
# Sound time stamps are rounded to the container's clock; smaller holes are that rounding.
SMALLEST_SOUND_GAP = Fraction(1, 10)
# Containers round durations; a file that ends earlier than this was cut off.
MISSING_TAIL = Fraction(1, 2)


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds.

    Attributes:
        fps: mean frame rate, None for sound and still images.
        frames: number of frames, an estimate where the container does not store it; 0 without video.
        width: pixels as displayed, after rotation; 0 without video.
        height: pixels as displayed, after rotation; 0 without video.
        rotation: degrees counter-clockwise that the display matrix asks for (0, 90, 180, 270).
        sample_rate: Hz, None without sound.
        duration: seconds.
    """

    fps: Fraction | None
    frames: int
    width: int
    height: int
    rotation: int
    sample_rate: int | None
    duration: float


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
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


def _video(container: av.container.InputContainer) -> av.VideoStream | None:
    """First moving picture; the cover image of a music file does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _decoded(container: av.container.InputContainer, stream: av.stream.Stream, path: Path) -> Iterator[av.frame.Frame]:
    count, end = 0, None
    try:
        for frame in container.decode(stream):
            count += 1
            if frame.pts is not None:
                end = frame.pts * frame.time_base + _length(frame, stream)
            yield frame
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path}: broken after {count} {stream.type} frames ({error.strerror}); copy or convert the file again"
        ) from None
    if count == 0:
        raise MediaError(f"{path}: the {stream.type} track holds nothing; record or convert the file again")
    if stream.duration and end is not None:
        promised = ((stream.start_time or 0) + stream.duration) * stream.time_base
        if promised - end > MISSING_TAIL:
            raise MediaError(
                f"{path}: the {stream.type} ends at {float(end):.2f} s of {float(promised):.2f} s: the file is cut "
                "short; copy it again"
            )


def _length(frame: av.frame.Frame, stream: av.stream.Stream) -> Fraction:
    """Seconds that a frame lasts."""
    if stream.type == "audio":
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration:
        return frame.duration * frame.time_base
    return 1 / Fraction(stream.average_rate or FPS)


def _turns(frame: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise that show the frame upright."""
    return round(frame.rotation / 90) % 4


def _pixels(frame: av.VideoFrame, pixel_format: str, converter: VideoReformatter) -> np.ndarray:
    # A pool of threads for every small frame costs 25 times the conversion.
    picture = converter.reformat(frame, format=pixel_format, interpolation=EXACT_COLOUR, threads=1)
    # Rows of a decoded frame may be padded: contiguous copies are what cv2 and dlib read rightly.
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), _turns(frame)))


def probe(path: str | Path) -> MediaInfo:
    """Look at a file without decoding it all.

    Raises:
        MediaError: the file is missing, empty, or holds neither video nor sound.
    """
    path = Path(path)
    with _opened(path) as container:
        video = _video(container)
        audio = next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise MediaError(f"{path}: holds neither video nor sound; give a media file")
        rate = audio.sample_rate if audio else None
        streams = [stream for stream in (video, audio) if stream is not None and stream.duration]
        duration = max((float(stream.duration * stream.time_base) for stream in streams), default=0.0)
        if duration == 0 and container.duration:
            duration = container.duration / av.time_base
        if video is None:
            return MediaInfo(None, 0, 0, 0, 0, rate, duration)
        first = next(_decoded(container, video, path))
        turns = _turns(first)
        width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            return MediaInfo(None, 1, width, height, 90 * turns, rate, 0.0)
        fps = video.average_rate or video.guessed_rate
        frames = video.frames or (round(duration * fps) if fps else 0)
        return MediaInfo(fps, frames, width, height, 90 * turns, rate, duration)


def _timed(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Frames with their time in seconds after the first one; frames without a stamp follow the mean rate."""
    origin, time = None, Fraction(0)
    for frame in frames:
        if frame.pts is not None:
            stamp = frame.pts * frame.time_base
            origin = stamp - time if origin is None else origin
            time = stamp - origin
        yield time, frame
        time += _length(frame, stream)


def _at_rate(
    frames: Iterable[tuple[Fraction, av.VideoFrame]], stream: av.VideoStream, rate: Fraction, path: Path
) -> Iterator[av.VideoFrame]:
    """The frame nearest in time to every tick of a constant rate."""
    shown, last, last_time = 0, None, Fraction(0)
    for time, frame in frames:
        if last is not None:
            if time - last_time > LONGEST_GAP:
                raise MediaError(
                    f"{path}: a hole of {float(time - last_time):.0f} s after {float(last_time):.2f} s: its time "
                    "stamps are broken; convert the file again"
                )
            while shown / rate < (last_time + time) / 2:
                yield last
                shown += 1
        last, last_time = frame, time
    total = max(shown, 1, round((last_time + _length(last, stream)) * rate))
    for _ in range(shown, total):
        yield last


def _read(path: str | Path, fps: float | Fraction | None, threads: int, pixel_format: str) -> Iterator[np.ndarray]:
    path = Path(path)
    with _opened(path) as container:
        stream = _video(container)
        if stream is None:
            raise MediaError(f"{path}: has no video track; give a video file")
        stream.codec_context.thread_count = threads
        if threads != 1:
            stream.thread_type = "AUTO"
        frames = _decoded(container, stream, path)
        if fps is not None:
            frames = _at_rate(_timed(frames, stream), stream, as_rate(fps), path)
        previous, pixels, converter = None, None, VideoReformatter()
        for frame in frames:
            # A frame that is shown twice is converted once; the reader may write into what it gets.
            pixels = pixels.copy() if frame is previous else _pixels(frame, pixel_format, converter)
            previous = frame
            yield pixels


def read_frames(path: str | Path, fps: float | Fraction | None = FPS, threads: int = 1) -> Iterator[np.ndarray]:
    """Stream the frames of a video, upright, at a constant rate.

    Args:
        path: any video container; an image file is a video of one frame.
        fps: output rate; every tick takes the source frame nearest in time. None keeps the source's frames.
        threads: decoder threads, 0 for one per core.

    Yields:
        (H,W,3) uint8 BGR.

    Raises:
        MediaError: missing, empty, cut short, broken, or without video.
    """
    return _read(path, fps, threads, "bgr24")


def read_video(path: str | Path, fps: float | Fraction | None = FPS) -> np.ndarray:
    """All frames of a video, (T,H,W,3) uint8 BGR; see `read_frames`."""
    return np.stack(list(read_frames(path, fps)))


def read_gray(path: str | Path) -> np.ndarray:
    """All frames as stored, grey, (T,H,W) uint8; see `read_frames` for the errors."""
    return np.stack(list(_read(path, None, 1, "gray")))


def read_audio(path: str | Path, sample_rate: int | None = SAMPLE_RATE) -> np.ndarray:
    """Sound of a file, mixed down to mono and resampled.

    Args:
        path: any container or sound file. Beside video, sample 0 is the time of the first video frame.
        sample_rate: output rate in Hz, None for the file's own (see `probe`).

    Returns:
        (N,) int16. Float sound beyond full scale is clipped, holes in the time stamps are silence.

    Raises:
        MediaError: missing, empty, cut short, without sound, or sound with NaN or infinite samples.
    """
    path = Path(path)
    with _opened(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise MediaError(f"{path}: has no audio track; give a file with sound")
        video = _video(container)
        origin = None
        if video is not None and video.start_time is not None:
            origin = video.start_time * video.time_base
        sample_rate = sample_rate or stream.sample_rate
        pieces = list(_sound_pieces(_decoded(container, stream, path), origin, sample_rate, path))
        total = max(start + len(piece) for start, piece in pieces)
        total = _without_padding(total, container, stream, origin, sample_rate)
    if total <= 0:
        raise MediaError(f"{path}: the sound ends before the video begins; mux the file again")
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
    resampler, parts, start, kind, expected = None, [], Fraction(0), None, Fraction(0)

    def piece() -> tuple[int, np.ndarray]:
        parts.extend(resampler.resample(None))
        return round(start * sample_rate), np.concatenate([part.to_ndarray()[0] for part in parts])

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
            resampler, parts, kind = av.AudioResampler("s16", "mono", sample_rate), [], _kind(frame)
            expected = start
        # Only lengths are counted from here on: stamps of compressed sound are rounded.
        expected += Fraction(frame.samples, frame.sample_rate)
        frame.pts = None
        parts.extend(resampler.resample(frame))
    yield piece()


def _kind(frame: av.AudioFrame) -> tuple:
    return frame.sample_rate, frame.layout.name, frame.format.name
