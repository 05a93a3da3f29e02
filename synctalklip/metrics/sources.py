"""Where the faces of an evaluation come from: the truth, a still mouth, a generator, or videos in a folder.

Legend: T video frames at 25 Hz.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.metrics.errors import MetricError

IDENTITY_FRAME = 0


class Source(Protocol):
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


class GroundTruth:
    """The stored face crops themselves."""

    kind, name, file = "ground_truth", "Ground truth", None

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        return reader.faces(index)


class StillMouth:
    """The lower half of the identity frame on every frame: what a generator without lips would score."""

    kind, name, file = "still_mouth", "Still mouth", None

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        faces = reader.faces(index).copy()
        half = faces.shape[1] // 2
        faces[:, half:] = faces[IDENTITY_FRAME, half:]
        return faces


class Generator:
    """A trained generator that speaks the clip's own sound; lossless, painted as `scripts/generate.py` does.

    The pose is each frame without its lower half, the identity is frame 0, and only the lower half is taken
    from the output.

    Args:
        path: `generator.pt`.
        device: where to run.
        batch_size: frames painted at once.
        roi_mode: ROI mode of the corpus; another one is refused.
    """

    kind = "generator"

    def __init__(self, path: Path, device: torch.device, batch_size: int, roi_mode: str) -> None:
        from synctalklip.generator.model import load_generator

        self.file, self.device, self.batch_size = path, device, batch_size
        self.model = load_generator(path, device, roi_mode)
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        self.name = run.name or path.stem

    @torch.inference_mode()
    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        from synctalklip.generator.unet import UPPER_ROWS, generator_input

        truth = reader.faces(index)
        audio = torch.as_tensor(reader.logfbank(index), dtype=torch.float32).T[None].to(self.device)
        padding = torch.zeros(1, len(truth), dtype=torch.bool, device=self.device)
        speech = self.model.encode_speech(audio, padding)[0]
        target = torch.from_numpy(np.ascontiguousarray(truth))
        identity = target[IDENTITY_FRAME : IDENTITY_FRAME + 1].expand_as(target)
        painted = truth.copy()
        for rows in torch.arange(len(truth)).split(self.batch_size):
            inputs = generator_input(target[rows], identity[rows]).to(self.device)
            output = self.model(inputs, speech[rows.to(self.device)])[:, :, UPPER_ROWS:]
            lower = (output.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
            painted[rows.numpy(), UPPER_ROWS:] = lower.cpu().numpy()
        return painted


class Videos:
    """A folder of `<id>.mp4`, cropped by the stored boxes; the videos show the source's whole frame.

    Args:
        folder: the videos. Results of other projects enter a table this way.
    """

    kind, file = "videos", None

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name

    def faces(self, reader: ClipReader, index: int) -> np.ndarray:
        """Raises:
        MetricError: the video is missing, shorter than the clip, or too small for the boxes.
        """
        from synctalklip.data.face import crop_face

        clip, boxes = reader.clips[index], reader.boxes(index)
        path = self.folder / f"{clip.id}.mp4"
        if not path.is_file():
            raise MetricError(f"{path} is missing: every clip of the split needs a generated video")
        faces = []
        for frame, box in zip(media.read_frames(path), boxes):
            # A box may leave the picture by its margin, but its centre cannot.
            centre = (box[:2] + box[2:]) / 2
            if not (0 <= centre[0] < frame.shape[1] and 0 <= centre[1] < frame.shape[0]):
                raise MetricError(
                    f"{path} has frames of {frame.shape[1]}x{frame.shape[0]}, the stored face lies outside: "
                    "generate at the size of the source video"
                )
            faces.append(crop_face(frame, box))
        if len(faces) < clip.frames:
            raise MetricError(
                f"{path} has {len(faces)} frames at 25 fps, the clip has {clip.frames}: generate it whole"
            )
        return np.stack(faces)


def open_source(generated: str, device: torch.device, batch_size: int, roi_mode: str) -> Source:
    """The source named by `generated`: ground_truth, still_mouth, a generator checkpoint, or a folder.

    Raises:
        MetricError: it is none of these.
        CheckpointError: a checkpoint that is no generator of this corpus.
    """
    plain = {"ground_truth": GroundTruth, "still_mouth": StillMouth}
    if generated in plain:
        return plain[generated]()
    path = Path(generated)
    if path.is_dir():
        return Videos(path)
    if path.is_file():
        return Generator(path, device, batch_size, roi_mode)
    raise MetricError(
        f"generated={generated} is no file or folder: give ground_truth, still_mouth, a generator.pt, "
        "or a folder of <id>.mp4"
    )
