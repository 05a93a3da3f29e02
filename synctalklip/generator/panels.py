"""Pictures and videos that show what a generator does: target, masked input, identity, painted face, difference."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from synctalklip.checkpoint import write_atomically
from synctalklip.data.clips import ClipReader
from synctalklip.data.media import write_video
from synctalklip.generator.fused import Painter, paint_clip
from synctalklip.generator.model import TalkingFaceGenerator
from synctalklip.generator.unet import mask_lower_half, to_unit

AMPLIFIED = 4
"""Factor on the difference between painted and target, which would be hard to see."""
ENLARGED = 2


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
    painted = paint_clip(model, Painter(model, "fp32", device), faces, reader.logfbank(index))
    frames = np.concatenate([faces, painted], axis=2).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    statement = {"comment": json.dumps({"generated": True, "columns": ["recorded", "painted"]})}
    write_video(path, frames, wave=reader.wave(index), metadata=statement)
