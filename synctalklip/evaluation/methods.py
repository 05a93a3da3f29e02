"""What an evaluation looks at: pairs of a face and a sound, and the methods that give their pictures.

A sound is the clip's own, that of another clip, or silence. A generator that only repeats what it saw in training, or
copies the mouth of its pose image, does well on its own sound; the other two show it (KeySync 2025). A method is the
truth, a still mouth, a generator, or videos in a folder.

Legend: T video frames at 25 Hz, H, W height and width of a frame in pixels.
"""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import OmegaConf

from synctalklip import checkpoint
from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.geometry import crop_face
from synctalklip.data.manifest import Clip, write_jsonl
from synctalklip.errors import MetricError

PAIRINGS = ("reconstruction", "cross", "silent")


@dataclass(frozen=True)
class Pair:
    """A face and the sound that it is made to say.

    Attributes:
        clip: whose face.
        sound: whose sound; None is silence.
    """

    clip: Clip
    sound: Clip | None

    @property
    def text(self) -> str:
        """What is said, "" when that is not known or nothing."""
        return self.sound.text if self.sound else ""

    def reader(self) -> ClipReader:
        """The clip with its new sound; every array is read once."""
        return ClipReader([self.clip], cache=True) if self.sound == self.clip else DubbedReader(self)


class DubbedReader(ClipReader):
    """One clip that is heard with another sound, cut or filled with silence to the length of its video."""

    def __init__(self, pair: Pair) -> None:
        super().__init__([pair.clip], cache=True)
        self.samples = pair.clip.frames * media.SAMPLE_RATE // media.FPS
        self.sound = ClipReader([pair.sound], cache=True) if pair.sound else None

    def wave(self, index: int) -> np.ndarray:
        """See `ClipReader.wave`."""
        wave = np.zeros(self.samples, np.int16)
        if self.sound:
            spoken = self.sound.wave(index)[: self.samples]
            wave[: len(spoken)] = spoken
        return wave


def pair_clips(clips: Sequence[Clip], setting: str) -> list[Pair]:
    """What each clip is made to say.

    Crossed clips change their sounds in twos: by length, each with the next one whose sentence differs, so that little
    is cut and every sound is heard. One that is left over takes the sound nearest in length.

    Args:
        clips: of the whole split, so that the pairs stay the same when fewer are evaluated.
        setting: one of `PAIRINGS`.

    Returns:
        In the order of `clips`; the same for the same clips in any order.

    Raises:
        MetricError: unknown setting, or a clip without another one that says something else.
    """
    if setting not in PAIRINGS:
        raise MetricError(f"setting={setting}: choose {', '.join(PAIRINGS)}")
    if setting != "cross":
        return [Pair(clip, clip if setting == "reconstruction" else None) for clip in clips]
    waiting = sorted(clips, key=lambda clip: (clip.samples, clip.id))
    sounds: dict[str, Clip] = {}
    while waiting:
        clip = waiting.pop(0)
        place = next((i for i, other in enumerate(waiting) if _differs(clip, other)), None)
        if place is None:
            sounds[clip.id] = _nearest(clip, clips)
        else:
            other = waiting.pop(place)
            sounds[clip.id], sounds[other.id] = other, clip
    return [Pair(clip, sounds[clip.id]) for clip in clips]


def _differs(clip: Clip, other: Clip) -> bool:
    """Whether the other clip says something else; without transcripts every other clip does."""
    return clip.id != other.id and (clip.text != other.text or not clip.text)


def _nearest(clip: Clip, clips: Sequence[Clip]) -> Clip:
    others = [other for other in clips if _differs(clip, other)]
    if not others:
        raise MetricError(
            f"setting=cross: no other clip of the split says something else than {clip.id}; take a larger split"
        )
    return min(others, key=lambda other: (abs(other.samples - clip.samples), other.id))


def write_jobs(path: Path, pairs: Sequence[Pair]) -> None:
    """A list for `scripts/generate.py jobs=`, with which a method that makes videos says the same.

    Args:
        path: jsonl file; the silence that it may need is written beside it.
        pairs: of one setting other than reconstruction.
    """
    silence = path.with_name("silence.wav")
    if any(pair.sound is None for pair in pairs):
        longest = max(pair.clip.frames for pair in pairs)
        media.write_wav(silence, np.zeros(longest * media.SAMPLE_RATE // media.FPS, np.int16))
    jobs = (
        {
            "video": str(Path(pair.clip.source).absolute()),
            "audio": str((pair.sound.wav if pair.sound else silence).absolute()),
            "output": f"videos/{pair.clip.id}.mp4",
            "shorter": "keep",
        }
        for pair in pairs
    )
    write_jsonl(path, jobs)


IDENTITY_FRAME = 0


class VideoError(MetricError):
    """A generated video that is missing or unfit; the clip cannot be scored."""


class Method(Protocol):
    """A method under evaluation.

    Attributes:
        kind: "ground_truth", "still_mouth", "generator" or "videos".
        name: default name of its row.
        file: checkpoint behind it, if any.
    """

    kind: str
    name: str
    file: Path | None

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        """Face crops of clip `index`, (T,96,96,3) uint8 BGR."""
        ...

    def frames(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[np.ndarray]:
        """Its full frames, (H,W,3) uint8 BGR each; `faces` are its face crops."""
        ...

    def pairs(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same with the frames of the source video beside them."""
        ...

    def facts(self, clip: Clip) -> list[Any]:
        """What its pictures of a clip depend on besides its checkpoint: plain values."""
        ...


def source_frames(reader: ClipReader, index: int) -> Iterator[np.ndarray]:
    """The frames of the video that a clip was prepared from, (H,W,3) uint8 BGR each.

    Raises:
        MetricError: it has another length than the clip.
        MediaError: it is missing or broken.
    """
    clip, count = reader.clips[index], 0
    for frame in media.read_frames(clip.source):
        count += 1
        if count > clip.frames:
            break
        yield frame
    if count != clip.frames:
        relation = "more" if count > clip.frames else "fewer"
        raise MetricError(
            f"{clip.source} has {relation} frames than the {clip.frames} that were prepared from it: prepare it again, "
            "or set full_frame=false"
        )


class _Stored:
    """Faces that come from the stored crops and full frames that come from the source video."""

    kind: str
    name: str
    file: Path | None = None

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        raise NotImplementedError

    def frames(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[np.ndarray]:
        return (frame for frame, _ in self.pairs(reader, index, faces))

    def pairs(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The lower halves of `faces` pasted into the source's frames, as `scripts/generate.py` does it."""
        from synctalklip.generator.fused import paste_lower
        from synctalklip.generator.unet import UPPER_ROWS

        options = OmegaConf.load(CONFIGS / "generate.yaml")
        for frame, box, face in zip(source_frames(reader, index), reader.boxes(index), faces):
            yield paste_lower(frame, box, face[UPPER_ROWS:], options.feather, options.shape), frame

    def facts(self, clip: Clip) -> list[Any]:
        return []


class GroundTruth(_Stored):
    """The recording itself."""

    kind, name = "ground_truth", "Ground truth"

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        return reader.faces(index)

    def pairs(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((frame, frame) for frame in source_frames(reader, index))


class StillMouth(_Stored):
    """The lower half of the identity frame on every frame: what a generator without lips would score."""

    kind, name = "still_mouth", "Still mouth"

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        faces = reader.faces(index).copy()
        half = faces.shape[1] // 2
        faces[:, half:] = faces[IDENTITY_FRAME, half:]
        return faces


class Generator(_Stored):
    """A trained generator that speaks the clip's sound; lossless, painted as `scripts/generate.py` does.

    The pose is each frame without its lower half, the identity is frame 0, and only the lower half is taken
    from the output.

    Args:
        path: `generator.pt`, or the folder of a shipped one.
        device: where to run.
        batch_size: frames painted at once.
        roi_mode: ROI mode of the corpus; another one is refused.
        precision: see `device.choose_precision`.
    """

    kind = "generator"

    def __init__(self, path: Path, device: torch.device, batch_size: int, roi_mode: str, precision: str) -> None:
        from synctalklip.generator.fused import FusedGenerator
        from synctalklip.generator.model import load_generator

        self.file, self.device, self.batch_size = path, device, batch_size
        self.model = load_generator(path, device, roi_mode)
        self.paint = FusedGenerator(self.model, precision, device)
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        self.name = path.name if path.is_dir() else run.name or path.stem

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        from synctalklip.generator.fused import paint_clip, speech_features_of

        faces = reader.faces(index)
        heard = speech_features_of(self.model)(reader.wave(index), len(faces))
        return paint_clip(self.model, self.paint, faces, heard, IDENTITY_FRAME, self.batch_size)


class Videos:
    """A folder of `<id>.mp4`, cropped by the stored boxes; the videos show the source's whole frame.

    Args:
        folder: the videos. Results of other projects enter a table this way.
    """

    kind = "videos"
    file: Path | None = None

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    def path(self, clip: Clip) -> Path:
        """The video of a clip.

        Raises:
            VideoError: there is none.
        """
        path = self.folder / f"{clip.id}.mp4"
        if not path.is_file():
            raise VideoError(f"{path} is missing: every clip of the split needs a generated video")
        return path

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        """Raises:
        VideoError: the video is missing, broken, shorter than the clip, or of another size than its source.
        """
        return np.stack([crop_face(frame, box) for frame, box in zip(self._frames(reader, index), reader.boxes(index))])

    def frames(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[np.ndarray]:
        return self._frames(reader, index)

    def pairs(self, reader: ClipReader, index: int, faces: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(self._frames(reader, index), source_frames(reader, index), strict=True)

    def facts(self, clip: Clip) -> list[Any]:
        path = self.folder / f"{clip.id}.mp4"
        return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []

    def _frames(self, reader: ClipReader, index: int) -> Iterator[np.ndarray]:
        """As many frames as the clip has; longer videos are cut."""
        clip, boxes, count = reader.clips[index], reader.boxes(index), 0
        path, size = self.path(clip), _source_size(clip)
        try:
            for frame, box in zip(media.read_frames(path), boxes):
                _check_size(path, frame, box, size)
                count += 1
                yield frame
        except media.MediaError as error:
            raise VideoError(str(error)) from error
        if count < clip.frames:
            raise VideoError(f"{path} has {count} frames at 25 fps, the clip has {clip.frames}: generate it whole")


def _source_size(clip: Clip) -> tuple[int, int] | None:
    """Width and height of the video a clip was prepared from, where its track says so."""
    try:
        with np.load(clip.track) as stored:
            width, height = (int(side) for side in stored["source_size"])
    except (OSError, ValueError, TypeError, OverflowError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return width, height


def _check_size(path: Path, frame: np.ndarray, box: np.ndarray, size: tuple[int, int] | None) -> None:
    height, width = frame.shape[:2]
    # A box may leave the picture by its margin, but its centre cannot.
    centre = (box[:2] + box[2:]) / 2
    inside = 0 <= centre[0] < width and 0 <= centre[1] < height
    if (size or (width, height)) != (width, height) or not inside:
        wanted = f"the source has {size[0]}x{size[1]}" if size else "the stored face lies outside"
        raise VideoError(f"{path} has frames of {width}x{height}, {wanted}: generate at the size of the source video")


def open_method(generated: str, device: torch.device, batch_size: int, roi_mode: str, precision: str) -> Method:
    """The method named by `generated`: ground_truth, still_mouth, a generator checkpoint (in `precision`), or a folder.

    Raises:
        MetricError: it is none of these.
        CheckpointError: a checkpoint that is no generator of this corpus.
    """
    plain: dict[str, type[_Stored]] = {"ground_truth": GroundTruth, "still_mouth": StillMouth}
    if generated in plain:
        return plain[generated]()
    path = Path(generated)
    if path.is_file() or (path / checkpoint.CONFIG).is_file():
        return Generator(path, device, batch_size, roi_mode, precision)
    if path.is_dir():
        return Videos(path)
    raise MetricError(
        f"generated={generated} is no file or folder: give ground_truth, still_mouth, a generator.pt, "
        "or a folder of <id>.mp4"
    )
