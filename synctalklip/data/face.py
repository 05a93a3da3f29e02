"""Faces: detect, track, cut, paste, and look at generated ones through the mouth ROI.

N faces, H, W height and width in pixels. The parts live in `detectors.py`, `tracking.py` and `geometry.py`, which
need no torch; this module offers them under one name.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from synctalklip.data.detectors import DlibFaces, FaceAlignmentFaces, FaceDetector
from synctalklip.data.geometry import (
    FACE_SIZE,
    ROI_SIZE,
    FaceError,
    Geometry,
    crop_face,
    crop_roi,
    geometry,
    paste_face,
)
from synctalklip.data.tracking import Track, track_face

__all__ = [
    "FACE_SIZE",
    "ROI_SIZE",
    "DlibFaces",
    "FaceAlignmentFaces",
    "FaceDetector",
    "FaceError",
    "Geometry",
    "Track",
    "crop_face",
    "crop_roi",
    "faces_to_rois",
    "geometry",
    "paste_face",
    "track_face",
]

# Grey of ITU-R BT.601 for blue, green, red.
BGR_TO_GREY = (0.114, 0.587, 0.299)


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Numbers that are copied to a GPU anew in every step would make it wait for the processor.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def faces_to_rois(faces: Tensor, matrices: Tensor, rois: Tensor) -> Tensor:
    """Paste generated faces into their mouth ROIs, as the lip expert sees them; differentiable in all inputs.

    One grid_sample for the batch. ROI pixels outside the face crop keep `rois`, and no gradient reaches the face
    from there.

    Args:
        faces: (N,3,H,W) float BGR in 0..1.
        matrices: (N,2,3) face-crop pixels -> ROI pixels.
        rois: (N,h,w) float grey in 0..1, the ROIs of the same frames.

    Returns:
        (N,h,w) grey in 0..1.
    """
    height, width = faces.shape[-2:]
    rows, columns = rois.shape[-2:]
    weights = _constant(BGR_TO_GREY, faces.dtype, faces.device).view(1, 3, 1, 1)
    grey = (faces * weights).sum(dim=1, keepdim=True)
    # The coordinates stay in float32 even if the faces come in half precision: 8 bits cannot hold them.
    matrices = matrices.float()
    y, x = torch.meshgrid(
        torch.arange(rows, device=faces.device, dtype=torch.float32),
        torch.arange(columns, device=faces.device, dtype=torch.float32),
        indexing="ij",
    )
    offsets = torch.stack([x, y]).flatten(1) - matrices[:, :, 2:]
    a, b, c, d = matrices[:, :, :2].flatten(1).unbind(dim=1)
    inverse = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    places = torch.einsum("nij,njk->nki", inverse, offsets).view(-1, rows, columns, 2)
    last = _constant((width - 1, height - 1), places.dtype, places.device)
    inside = ((places >= 0) & (places <= last)).all(dim=-1)
    grid = (places / last * 2 - 1).to(grey.dtype)
    warped = functional.grid_sample(grey, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return torch.where(inside, warped[:, 0], rois.to(warped.dtype))
