"""Validation of stage 2: terms and picture scores on the same frames of every clip, each clip once; sample pictures.

A picture of samples has the columns target, masked input, identity, painted face and difference; a sample video shows a
whole clip beside what is painted for its sound.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from synctalklip import losses
from synctalklip.checkpoint import write_atomically
from synctalklip.data.clips import ClipReader
from synctalklip.data.media import write_video
from synctalklip.generator.fused import FusedGenerator, paint_clip
from synctalklip.generator.model import TalkingFaceGenerator
from synctalklip.generator.objective import Painted
from synctalklip.generator.unet import UPPER_ROWS, mask_lower_half, to_unit
from synctalklip.metrics.image import psnr, ssim

Batch = Mapping[str, Any]

COLUMNS = ("target", "masked", "identity", "generated", "difference")
"""Of a picture of samples."""
AMPLIFIED = 4
"""Factor on the difference between painted and target, which would be hard to see."""
ENLARGED = 2


@torch.no_grad()
def validate(
    batches: Iterable[Batch],
    paint: Callable[[Batch], Painted],
    terms: Callable[[Painted], dict[str, Tensor]],
    show: Callable[[Batch, Painted], None],
) -> dict[str, float]:
    """Terms and picture scores, means over the painted frames.

    Args:
        batches: of the validation clips.
        paint: runs the generator.
        terms: the terms of the objective.
        show: is given the first batch.
    """
    sums: dict[str, float] = defaultdict(float)
    frames = 0
    for number, batch in enumerate(batches):
        painted = paint(batch)
        # The limit is for training; validation looks at every clip.
        painted.clips = None
        scalars = terms(painted)
        # Inference pastes the painted half alone, so pictures are measured as it shows them.
        shown = torch.cat([painted.target[:, :, :UPPER_ROWS], painted.generated[:, :, UPPER_ROWS:]], dim=2)
        scalars["l1"] = losses.reconstruction(shown, painted.target)
        scalars["psnr"] = psnr(shown, painted.target).mean()
        scalars["ssim"] = ssim(shown, painted.target).mean()
        count = len(painted.target)
        frames += count
        for name, value in scalars.items():
            sums[name] += float(value) * count
        if number == 0:
            show(batch, painted)
    return {name: value / frames for name, value in sums.items()}


@dataclass
class Samples:
    """Pictures and videos that a validation leaves in a folder.

    Attributes:
        folder: of the run's samples.
        rows: of the picture.
        videos: validation clips that are written as videos.
        step: updates so far, for the names of the files.
    """

    folder: Path
    rows: int
    videos: int
    step: int

    def panel(self, batch: Batch, painted: Painted) -> np.ndarray:
        """Write the picture of a batch; (H,W,3) uint8 RGB, see `sample_panel`."""
        panel = sample_panel(batch["target"], batch["identity"], painted.generated, self.rows)
        write_panel(self.folder / f"step_{self.step:07d}.png", panel)
        return panel

    def write_videos(self, model: TalkingFaceGenerator, reader: ClipReader) -> None:
        """Write the first clips, each beside what is painted for its sound; the model is left in eval mode."""
        model.eval()
        for index in range(min(self.videos, len(reader))):
            name = f"step_{self.step:07d}_{reader.clips[index].id.replace('/', '_')}.mp4"
            write_sample_video(self.folder / name, model, reader, index)


def sample_panel(target: Tensor, identity: Tensor, generated: Tensor, count: int) -> np.ndarray:
    """Rows of target | masked | identity | generated | difference, for frames spread over the batch.

    Args:
        target: (N,96,96,3) uint8 BGR.
        identity: (N,96,96,3) uint8 BGR.
        generated: (N,3,96,96) in 0..1, BGR.
        count: number of rows, as far as there are frames.

    Returns:
        (rows*96, 5*96, 3) uint8 RGB.
    """
    chosen = torch.linspace(0, len(target) - 1, min(count, len(target))).round().long().to(target.device)
    faces = to_unit(target[chosen])
    painted = generated[chosen].float()
    difference = (painted - faces).abs() * AMPLIFIED
    columns = torch.stack([faces, mask_lower_half(faces), to_unit(identity[chosen]), painted, difference], dim=1)
    rows = columns.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    bgr = rows.float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.ascontiguousarray(bgr[..., ::-1])


def write_panel(path: str | Path, panel: np.ndarray) -> None:
    """Write an RGB picture (H,W,3) uint8 as PNG."""
    encoded = cv2.imencode(".png", panel[..., ::-1])[1].tobytes()
    write_atomically(path, lambda part: part.write_bytes(encoded))


def write_sample_video(path: str | Path, model: TalkingFaceGenerator, reader: ClipReader, index: int) -> None:
    """A whole clip beside what the model paints for its sound, with the sound.

    Args:
        path: mp4 file.
        model: in eval mode.
        reader: the clips.
        index: of the clip.
    """
    device = next(model.parameters()).device
    faces = reader.faces(index)
    painted = paint_clip(model, FusedGenerator(model, "fp32", device), faces, reader.logfbank(index))
    frames = np.concatenate([faces, painted], axis=2).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    statement = {"comment": json.dumps({"generated": True, "columns": ["recorded", "painted"]})}
    write_video(path, frames, wave=reader.wave(index), metadata=statement)
