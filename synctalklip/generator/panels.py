"""Pictures that show what a generator does: target, masked input, identity and painted face side by side."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from synctalklip.checkpoint import write_atomically
from synctalklip.generator.unet import mask_lower_half, to_unit


def sample_panel(target: Tensor, identity: Tensor, generated: Tensor, count: int) -> np.ndarray:
    """Rows of target | masked | identity | generated, for frames spread over the batch.

    Args:
        target: (N,96,96,3) uint8 BGR.
        identity: (N,96,96,3) uint8 BGR.
        generated: (N,3,96,96) in 0..1, BGR.
        count: number of rows, as far as there are frames.

    Returns:
        (rows*96, 4*96, 3) uint8 RGB.
    """
    chosen = torch.linspace(0, len(target) - 1, min(count, len(target))).round().long().to(target.device)
    faces = to_unit(target[chosen])
    columns = torch.stack([faces, mask_lower_half(faces), to_unit(identity[chosen]), generated[chosen]], dim=1)
    rows = columns.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    bgr = rows.float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.ascontiguousarray(bgr[..., ::-1])


def write_panel(path: str | Path, panel: np.ndarray) -> None:
    """Write an RGB picture (H,W,3) uint8 as PNG."""
    encoded = cv2.imencode(".png", panel[..., ::-1])[1].tobytes()
    write_atomically(path, lambda part: part.write_bytes(encoded))
