"""Decode video and sound with PyAV: any container in, 25 fps frames and 16 kHz mono out.

Sound is read in `sound.py`, files are written in `encode.py`; both are offered here under one name.

T video frames, N sound samples, H, W height and width in pixels. Frames are uint8 BGR, sound is int16.
Pixels are square unless they are asked for as stored: the frames of a DVD are widened to what a player shows.
Time zero of a file is its first video frame; sound that starts later is padded, sound that starts earlier is cut.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

from synctalklip.data.containers import (
    LONGEST_GAP,
    audio_track,
    decoded,
    frame_length,
    in_seconds,
    opened,
    video_track,
)
from synctalklip.data.encode import (
    FPS,
    SAMPLE_RATE,
    Colour,
    DiskError,
    MediaError,
    VideoWriter,
    as_rate,
    assert_writable,
    write_bytes,
    write_video,
    write_wav,
    written_whole,
)
from synctalklip.data.pictures import FramePictures, FramePixels, Picture, square_size, stored_aspect, turns
from synctalklip.data.sound import Sound, first_picture, mix_down, read_audio, read_sound

__all__ = [
    "FPS",
    "SAMPLE_RATE",
    "Colour",
    "DiskError",
    "FramePictures",
    "MediaError",
    "MediaInfo",
    "Picture",
    "Sound",
    "VideoWriter",
    "as_rate",
    "assert_writable",
    "first_picture",
    "mix_down",
    "probe",
    "read_audio",
    "read_frames",
    "read_gray",
    "read_pictures",
    "read_sound",
    "read_video",
    "video_track",
    "write_bytes",
    "write_video",
    "write_wav",
    "written_whole",
]


T = TypeVar("T")


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds.

    Attributes:
        fps: mean frame rate, None for sound and still images.
        frames: number of frames, an estimate where the container does not store it; 0 without video.
        width: square pixels as displayed, after rotation; 0 without video.
        height: square pixels as displayed, after rotation; 0 without video.
        rotation: degrees counter-clockwise that the display matrix asks for (0, 90, 180, 270).
        sample_rate: Hz, None without sound.
        duration: seconds.
        audio_track: which of the sound tracks is read, from 0; None without sound.
        video_track: which of the video tracks is read, from 0; None without video.
        pixel_aspect: width of a stored pixel over its height, after rotation.
        colour: how its colours are stored; None without video.
    """

    fps: Fraction | None
    frames: int
    width: int
    height: int
    rotation: int
    sample_rate: int | None
    duration: float
    audio_track: int | None = None
    video_track: int | None = None
    pixel_aspect: Fraction = Fraction(1)
    colour: Colour | None = None

    @property
    def stored_scale(self) -> tuple[float, float]:
        """Columns and rows of stored pixels in one square pixel."""
        return min(1.0, float(1 / self.pixel_aspect)), min(1.0, float(self.pixel_aspect))


def probe(path: str | Path, audio_index: int | None = None) -> MediaInfo:
    """Look at a file without decoding it all.

    Args:
        path: any container.
        audio_index: see `read_audio`.

    Raises:
        MediaError: the file is missing, empty, or holds neither video nor sound.
    """
    path = Path(path)
    with opened(path) as container:
        video, audio = video_track(container), audio_track(container, path, audio_index)
        if video is None and audio is None:
            raise MediaError(f"{path}: holds neither video nor sound; give a media file")
        lasting = (track for track in (video, audio) if track is not None)
        duration = max((float(in_seconds(one.duration, one)) for one in lasting if one.duration), default=0.0)
        if duration == 0 and container.duration:
            duration = container.duration / av.time_base
        rate = audio.sample_rate if audio else None
        tracks = (
            None if audio is None else container.streams.audio.index(audio),
            None if video is None else container.streams.video.index(video),
        )
        if video is None:
            return MediaInfo(None, 0, 0, 0, 0, rate, duration, *tracks)
        first = next(decoded(container, video, path))
        aspect, turned = stored_aspect(video), turns(first)
        width, height = square_size(first.width, first.height, aspect)
        if turned % 2:
            width, height, aspect = height, width, 1 / aspect
        fps: Fraction | None = video.average_rate or video.guessed_rate
        frames = video.frames or (round(duration * fps) if fps else 0)
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            fps, frames, duration = None, 1, 0.0
        colour = Colour.of(first)
        return MediaInfo(fps, frames, width, height, 90 * turned, rate, duration, *tracks, aspect, colour)


def _timed(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Frames with their time in seconds after the first one; frames without a stamp follow the mean rate.

    AVI has a constant rate and no presentation times: what its frames carry is the order of decoding.
    """
    origin, time = None, Fraction(0)
    stamped = stream.container.format.name != "avi"
    for frame in frames:
        if stamped and frame.pts is not None:
            stamp = in_seconds(frame.pts, frame)
            origin = stamp - time if origin is None else origin
            time = stamp - origin
        yield time, frame
        time += frame_length(frame, stream)


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
    assert last is not None  # `decoded` refuses a track without frames
    total = max(shown, 1, round((last_time + frame_length(last, stream)) * rate))
    for _ in range(shown, total):
        yield last


def _read(
    path: str | Path,
    fps: float | Fraction | None,
    threads: int,
    converter: Callable[[av.VideoStream], Callable[[av.VideoFrame], T]],
) -> Iterator[T]:
    path = Path(path)
    with opened(path) as container:
        stream = video_track(container)
        if stream is None:
            raise MediaError(f"{path}: has no video track; give a video file")
        stream.codec_context.thread_count = threads
        if threads != 1:
            stream.thread_type = "AUTO"
        frames = decoded(container, stream, path)
        if fps is not None:
            frames = _at_rate(_timed(frames, stream), stream, as_rate(fps), path)
        previous, convert = None, converter(stream)
        pixels: Any = None
        for frame in frames:
            # A frame that is shown twice is converted once; the reader may write into what it gets.
            pixels = pixels.copy() if frame is previous else convert(frame)
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
    return _read(path, fps, threads, partial(FramePixels, pixel_format="bgr24"))


def read_pictures(path: str | Path, fps: float | Fraction | None = FPS) -> Iterator[Picture]:
    """As `read_frames`, as stored: the pixels have the shape that they have in the file."""
    return _read(path, fps, 0, FramePictures)


def read_video(path: str | Path, fps: float | Fraction | None = FPS) -> np.ndarray:
    """All frames of a video, (T,H,W,3) uint8 BGR; see `read_frames`."""
    return np.stack(list(read_frames(path, fps)))


def read_gray(path: str | Path) -> np.ndarray:
    """All frames as stored, grey, (T,H,W) uint8; see `read_frames` for the errors."""
    return np.stack(list(_read(path, None, 1, partial(FramePixels, pixel_format="gray"))))
