"""Encode video and sound with PyAV; a file appears whole or not at all.

N sound samples, H, W height and width in pixels. Frames are uint8 BGR or grey, sound is int16.
"""

import contextlib
import io
import os
import wave as wave_format
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from synctalklip.errors import SyncTalklipError

FPS = 25
SAMPLE_RATE = 16000
# The default arithmetic of the converter darkens 4:2:0 colour by 2 grey levels each way.
EXACT_COLOUR = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


# Numbers of ITU-T H.273.
BT709, BT601_625, BT601 = 1, 5, 6
OPEN = (0, 2, 3)  # RGB, unspecified, reserved
HD_WIDTH, HD_LINES = 1280, 720
MP4 = ("mp4", "mov")


class MediaError(SyncTalklipError):
    """A media file that cannot be read or written; the message names the file, the reason and the way out."""


class DiskError(MediaError):
    """The disk refused a file: no fault of the clip, so bulk work stops instead of rejecting it."""


@dataclass(frozen=True)
class Colour:
    """How colours are stored, in the numbers of ITU-T H.273.

    Attributes:
        matrix: between RGB and YCbCr.
        primaries: what the RGB is.
        transfer: its curve.
    """

    matrix: int = BT601
    primaries: int = BT601
    transfer: int = BT601

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Colour":
        """What a decoded frame says of itself; what it leaves open is as players take it, by the size."""
        usual = BT709 if frame.height >= HD_LINES or frame.width >= HD_WIDTH else BT601
        tags = frame.colorspace, frame.color_primaries, frame.color_trc
        return cls(*(usual if tag in OPEN else int(tag) for tag in tags))

    @property
    def converter(self) -> int:
        """The matrix by the number that swscale has for it; both kinds of BT.601 have the same coefficients."""
        return BT601_625 if self.matrix == BT601 else self.matrix


def as_rate(fps: float | Fraction) -> Fraction:
    """A frame rate as the fraction that containers store."""
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise MediaError(f"a frame rate of {fps} is not possible; give a positive number")
    return rate


def _partial(path: Path) -> Path:
    # Always the same name: what a killed run left is overwritten by the next one.
    return path.with_name(f".{path.stem}.part{path.suffix}")


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give the name of a file beside `path` to fill; it becomes `path` only when the block ends well.

    Raises:
        DiskError: the disk refused it; nothing half-written stays and an older `path` still stands.
    """
    path = Path(path)
    part = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another folder, then "
            "run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


@dataclass(frozen=True)
class Codec:
    """An encoder and its settings.

    Attributes:
        encoder: FFmpeg's name.
        most: largest crf, 0 being the least.
        options: for the encoder; "{threads}" stands for the number of its threads, "{preset}" for its effort.
        tag: by which players know the stream in mp4 files, None for the usual one.
        containers: that can hold it.
    """

    encoder: str
    most: int
    options: Mapping[str, str]
    tag: str | None = None
    containers: tuple[str, ...] = ("matroska", "mov", "mp4")

    def settings(self, crf: float, threads: int, preset: str) -> dict[str, str]:
        """What the encoder is opened with."""
        values = {"threads": threads, "pools": threads or "*", "preset": preset}
        return {"crf": f"{crf:g}", **{name: option.format(**values) for name, option in self.options.items()}}


CODECS = {
    # Without mbtree=0 x264 gives other packets for equal frames from run to run.
    "h264": Codec(
        "libx264",
        51,
        {"preset": "{preset}", "threads": "{threads}", "x264-params": "mbtree=0"},
        containers=("matroska", "mov", "mp4", "avi"),
    ),
    # Apple's players know HEVC by this tag alone.
    "hevc": Codec("libx265", 51, {"preset": "fast", "x265-params": "log-level=error:pools={pools}"}, "hvc1"),
    "av1": Codec("libsvtav1", 63, {"preset": "8", "svtav1-params": "lp={threads}"}),
}
"""Video codecs that can be written."""


class VideoWriter:
    """Write video, with AAC sound if wanted; the file appears whole at the end or not at all.

    Sizes that 4:2:0 colour cannot hold (odd) are extended by repeating the last column or row.

    Args:
        path: file to write; the suffix chooses the container.
        fps: frame rate.
        size: width and height of the frames.
        sample_rate: Hz of `write_audio`, None for no sound.
        pixel_aspect: width of a pixel over its height, which players honour.
        colour: how colours are stored; a tag of the file says so to players.
        sound_like: the track whose packets `copy_audio` takes, in place of `sample_rate`.
        layout: channels of `write_audio`, a name that the AAC encoder knows ("mono", "stereo", "5.1").
        crf: quality, 18 is visually clean, lower is better; 0 is lossless with h264.
        codec: one of `CODECS`.
        preset: effort of x264.
        pixel_format: stored pixels, "yuv420p" plays everywhere, "yuv444p" keeps full colour resolution.
        metadata: tags of the container.
        threads: encoder threads, 0 for one per core. The bytes depend on it.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction,
        size: tuple[int, int],
        sample_rate: int | None = None,
        crf: float = 18,
        codec: str = "h264",
        preset: str = "fast",
        pixel_format: str = "yuv420p",
        metadata: dict[str, str] | None = None,
        threads: int = 1,
        layout: str = "mono",
        pixel_aspect: Fraction = Fraction(1),
        colour: Colour = Colour(),
        sound_like: av.AudioStream | None = None,
    ):
        self.path = Path(path)
        self.frames = 0
        self.samples = 0
        self._rate = as_rate(fps)
        self._size = size
        self._sample_rate, self._layout, self._sound_like = sample_rate, layout, sound_like
        self._channels = av.AudioLayout(layout).nb_channels
        even = 2 if pixel_format == "yuv420p" else 1
        self._margin = tuple((-side) % even for side in size)
        self._pixel_aspect, self._colour = pixel_aspect, colour
        self._codec, self._video_options = CODECS[codec], CODECS[codec].settings(crf, threads, preset)
        self._pixel_format = pixel_format
        self._metadata = metadata or {}
        self._converter = VideoReformatter()
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(written_whole(self.path))
            # Through a Python file every refused write is seen, also the last one.
            file = stack.enter_context(open(part, "wb"))
            self._container = av.open(file, "w", format=_container(self.path))
            self._container.metadata.update(self._metadata)
            self._add_streams()
            self._resources = stack.pop_all()
        return self

    def _add_streams(self) -> None:
        # The encoder of AV1 tells about itself otherwise.
        os.environ.setdefault("SVT_LOG", "1")
        video: Any = self._container.add_stream(self._codec.encoder, rate=self._rate, options=self._video_options)
        if self._codec.tag is not None and self._container.format.name in MP4:
            video.codec_tag = self._codec.tag
        video.width, video.height = (side + more for side, more in zip(self._size, self._margin, strict=True))
        video.pix_fmt = self._pixel_format
        tags: Any = video.codec_context
        tags.colorspace, tags.color_primaries, tags.color_trc = astuple(self._colour)
        tags.sample_aspect_ratio = self._pixel_aspect
        self._video, self._audio = video, None
        if self._sound_like is not None:
            self._audio = self._container.add_stream_from_template(self._sound_like)
        elif self._sample_rate is not None:
            self._audio = self._container.add_stream("aac", rate=self._sample_rate, layout=self._layout)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, (H,W,3) BGR or (H,W) grey, uint8."""
        width, height = self._size
        if frame.dtype != np.uint8 or frame.shape[:2] != (height, width) or frame.ndim not in (2, 3):
            raise MediaError(
                f"{self.path}: got a frame {frame.shape} {frame.dtype}, expected uint8 of {height} x {width} pixels"
            )
        right, below = self._margin
        if right or below:
            frame = np.pad(frame, ((0, below), (0, right), (0, 0))[: frame.ndim], mode="edge")
        kind = "bgr24" if frame.ndim == 3 else "gray"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind)
        # The encoder would convert too, with a pool of threads for every frame.
        picture = self._converter.reformat(
            picture,
            format=self._pixel_format,
            dst_colorspace=self._colour.converter,
            interpolation=EXACT_COLOUR,
            threads=1,
        )
        self.write_stored(picture)

    def write_stored(self, frame: av.VideoFrame) -> None:
        """Append a frame that has the stored pixel format and colour already."""
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self.frames += 1
        self._container.mux(self._video.encode(frame))

    def write_audio(self, wave: np.ndarray) -> None:
        """Append sound, (N,) or (N,C) int16."""
        if self._audio is None or self._sample_rate is None:
            raise MediaError(f"{self.path}: was opened without sound; give sample_rate")
        if len(wave) == 0:
            return
        # Packed samples: the channels of one time lie side by side.
        packed = _checked_wave(wave, self.path, self._channels).reshape(1, -1)
        sound = av.AudioFrame.from_ndarray(packed, format="s16", layout=self._layout)
        sound.sample_rate = self._sample_rate
        sound.pts, sound.time_base = self.samples, Fraction(1, self._sample_rate)
        self.samples += len(wave)
        self._container.mux(self._audio.encode(sound))

    def copy_audio(self, packet: av.Packet) -> None:
        """Append a packet of the track `sound_like`; its times count from the first frame on."""
        packet.stream = self._audio
        self._container.mux(packet)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        # Runs before the file is closed and renamed; its own failure undoes both.
        self._resources.callback(self._discard if kind else self._finish)
        return bool(self._resources.__exit__(kind, error, trace))

    def _finish(self) -> None:
        if self.frames == 0:
            self._discard()
            raise MediaError(f"{self.path}: no frame was written; the input holds none")
        for stream in (self._video, None if self._sound_like is not None else self._audio):
            if stream is not None and (stream is self._video or self.samples):
                self._container.mux(stream.encode(None))
        self._container.close()

    def _discard(self) -> None:
        # The trailer of a file that is thrown away may fail as its frames did.
        with contextlib.suppress(Exception):
            self._container.close()


def _container(path: Path) -> str:
    names = {".mkv": "matroska", ".mov": "mov", ".mp4": "mp4", ".avi": "avi"}
    if path.suffix.lower() not in names:
        raise MediaError(f"{path}: {path.suffix!r} is no kind of video file to write; end it in {', '.join(names)}")
    return names[path.suffix.lower()]


def assert_writable(path: str | Path, codec: str = "h264") -> None:
    """Check the name of a video before the work that fills it.

    Raises:
        MediaError: its suffix names no container that can be written, or none that holds the codec.
        DiskError: its folder cannot be written to, or made.
    """
    parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise DiskError(f"{path}: cannot be written, as {parent} is no folder that takes files; choose another folder")
    if _container(Path(path)) not in CODECS[codec].containers:
        raise MediaError(f"{path}: {Path(path).suffix} files hold no {codec}; end it in .mp4 or .mkv")


def _checked_wave(wave: np.ndarray, path: Path, channels: int = 1) -> np.ndarray:
    if wave.dtype != np.int16 or wave.ndim not in (1, 2) or wave.size != channels * len(wave):
        expected = "one row" if channels == 1 else f"{channels} columns"
        raise MediaError(f"{path}: got sound {wave.shape} {wave.dtype}, expected {expected} of int16")
    return np.ascontiguousarray(wave)


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction = FPS,
    wave: np.ndarray | None = None,
    sample_rate: int = SAMPLE_RATE,
    **options: Any,
) -> None:
    """Write frames, (H,W,3) BGR or (H,W) grey uint8, and sound, (N,) int16; options as of `VideoWriter`.

    Raises:
        MediaError: no frame, frames of unequal sizes.
        DiskError: the disk refused the file.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise MediaError(f"{path}: no frame was written; the input holds none")
    size = first.shape[1], first.shape[0]
    with VideoWriter(path, fps, size, None if wave is None else sample_rate, **options) as writer:
        writer.write(first)
        for frame in frames:
            writer.write(frame)
        if wave is not None:
            writer.write_audio(wave)


def write_wav(path: str | Path, wave: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write (N,) int16 as a mono 16-bit wav file.

    Raises:
        DiskError: the disk refused the file.
    """
    memory = io.BytesIO()
    with wave_format.open(memory, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(_checked_wave(wave, Path(path)).astype("<i2").tobytes())
    write_bytes(path, memory.getvalue())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a small file whole or not at all.

    Raises:
        DiskError: the disk refused the file.
    """
    with written_whole(path) as part:
        part.write_bytes(content)
