"""Real media files for tests: odd rates, rotated, late sound, broken, and clips with a real face in them."""

import contextlib
import resource
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

# astronaut() holds one frontal face here: x1, y1, x2, y2.
ASTRONAUT_FACE = (178, 82, 267, 171)


def make_media(
    path: Path,
    frames: list[np.ndarray],
    fps: float | Fraction = 25,
    times: list[float] | None = None,
    rotation: int = 0,
    sound: np.ndarray | None = None,
    rate: int = 44100,
    sound_start: float = 0.0,
    sound_codec: str = "aac",
    faststart: bool = False,
    aspect: Fraction = Fraction(1),
) -> Path:
    """Write a file as a camera or a corpus might have done, without the package's own writer.

    Args:
        path: mp4, mkv or mov.
        frames: (H,W,3) BGR each.
        fps: nominal rate.
        times: seconds of every frame, for a variable rate.
        rotation: display matrix, degrees counter-clockwise.
        sound: (channels, N) float in -1..1.
        rate: Hz of the sound.
        sound_start: seconds from the first frame to the first sample.
        sound_codec: encoder.
        faststart: index at the front of an mp4, so that a cut file still opens.
        aspect: width of a pixel over its height.
    """
    fps = Fraction(fps).limit_denominator(1001)
    clock, converter = Fraction(1, 90000), VideoReformatter()
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "4", "preset": "veryfast", "threads": "1"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = clock
        video.codec_context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        audio = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
            picture = converter.reformat(picture, format="yuv420p", interpolation=exact, threads=1)
            time = times[number] if times else number / fps
            picture.pts, picture.time_base = round(time / clock), clock
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout=layout)
            block.sample_rate, block.pts, block.time_base = rate, round(sound_start * rate), Fraction(1, rate)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def two_tracks(path: Path, default: int | None) -> Path:
    """Video tracks of brightness 50 and 150, sound tracks of 300 and 1000 Hz; those at `default` are marked."""
    with av.open(str(path), "w") as container:
        pictures = [container.add_stream("mpeg4", rate=25, width=64, height=48) for _ in range(2)]
        sounds = [container.add_stream("aac", rate=16000, layout="mono") for _ in range(2)]
        for streams in (pictures, sounds):
            for number, stream in enumerate(streams):
                stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, level in zip(pictures, (50, 150)):
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="bgr24")
                container.mux(stream.encode(frame))
        for stream, hertz in zip(sounds, (300, 1000)):
            block = av.AudioFrame.from_ndarray(tone(1, 16000, hertz).astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts = 16000, 0
            container.mux(stream.encode(block))
        for stream in (*pictures, *sounds):
            container.mux(stream.encode(None))
    return path


def flat_video(path: Path, colours: list[tuple[int, int, int]], size: tuple[int, int], matrix: int | None) -> Path:
    """Two frames of upright bars of stored (Y, Cb, Cr), lossless; `matrix` is their tag, None for none."""
    planes = np.zeros((3, size[1], size[0]), np.uint8)
    for number, columns in enumerate(np.array_split(np.arange(size[0] // 16), len(colours))):
        planes[:, :, 16 * columns[0] : 16 * columns[-1] + 16] = np.array(colours[number])[:, None, None]
    halves = [plane[::2, ::2].reshape(size[1] // 4, size[0]) for plane in planes[1:]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.concatenate([planes[0], *halves]), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound_file(path: Path, samples: np.ndarray, rate: int, layout: str, codec: str = "flac") -> Path:
    """Write (N,C) int16 with named channels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        packed = np.ascontiguousarray(samples.astype(np.int16)).reshape(1, -1)
        block = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        block.sample_rate, block.pts = rate, 0
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


def float_wav(path: Path, sound: np.ndarray, rate: int = 16000) -> Path:
    """Write (N,) float32 as it is, NaN and all."""
    content = sound.astype("<f4").tobytes()
    header = b"RIFF" + (36 + len(content)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + rate.to_bytes(4, "little")
    header += (4 * rate).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    path.write_bytes(header + b"data" + len(content).to_bytes(4, "little") + content)
    return path


def tone(seconds: float, rate: int = 44100, hertz: float = 440, channels: int = 1) -> np.ndarray:
    """(channels, N) float, half of full scale."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave, (channels, 1))


def grey_steps(count: int, size: tuple[int, int] = (64, 48), step: int = 3) -> list[np.ndarray]:
    """Frames whose brightness is 20 + step * number, so that a decoded frame tells which one it was."""
    return [np.full((size[1], size[0], 3), 20 + step * number, np.uint8) for number in range(count)]


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H,W,3) smooth coloured noise, different in every corner."""
    small = np.random.default_rng(seed).integers(30, 220, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def astronaut() -> np.ndarray:
    """(512,512,3) BGR with one frontal face at `ASTRONAUT_FACE`."""
    return np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])


def squeezed(frame: np.ndarray, aspect: Fraction) -> np.ndarray:
    """A frame stored in pixels of this aspect, which show what it shows."""
    height, width = frame.shape[:2]
    size = (round(width / aspect), height) if aspect > 1 else (width, round(height * aspect))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def moving_face(count: int, step: tuple[float, float] = (1.0, 0.5), size: tuple[int, int] = (240, 220)) -> list:
    """Frames in which the face moves by `step` pixels a frame; in the first it is at `ASTRONAUT_FACE` - (100, 20)."""
    image = astronaut()
    shifts = [np.array([[1, 0, step[0] * t - 100], [0, 1, step[1] * t - 20]]) for t in range(count)]
    return [cv2.warpAffine(image, shift, size, borderMode=cv2.BORDER_REFLECT) for shift in shifts]


def lrs_corpus(root: Path, clips: dict[str, tuple[str, list[np.ndarray], np.ndarray | None, str | None]]) -> Path:
    """Write a corpus in the LRS2 layout: id -> (list, frames, sound at 44.1 kHz, transcript or None for no file)."""
    for name, (listed, frames, sound, text) in clips.items():
        video = root / "main" / f"{name}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        make_media(video, frames, sound=sound)
        if text is not None:
            video.with_suffix(".txt").write_text(f"Text:  {text}\nConf:  5\n")
        with open(root / f"{listed}.txt", "a") as stream:
            stream.write(f"{name} NF\n")
    for listed in ("train", "val", "test"):
        (root / f"{listed}.txt").touch()
    return root


@contextlib.contextmanager
def full_disk():
    """Files cannot grow beyond 20 kB, as on a disk that runs full while it is written to."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
