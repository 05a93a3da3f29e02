"""Picture quality of a clip: face crop, its lower half, and the full frame.

Legend: T video frames at 25 Hz, H, W height and width in pixels.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from synctalklip.errors import MetricError
from synctalklip.metrics.image import WINDOW, psnr, psnr_legacy_uint8, ssim_map

CHUNK = 64
"""Face crops compared at once; their order of summation does not depend on it."""


def score_faces(faces: np.ndarray, truth: np.ndarray, device: torch.device) -> dict[str, float]:
    """PSNR and SSIM of a clip over the face crop and its lower half, and the published PSNR of the crop.

    Args:
        faces: (T,96,96,3) uint8 BGR.
        truth: same shape.
        device: where to compute.

    Returns:
        Means over frames. Frames that equal the truth have an infinite PSNR and are left out of its mean;
        it is infinite when all are equal. `psnr_legacy` counts 100 for them, as the published scripts do.
    """
    half = faces.shape[1] // 2
    ratios: dict[str, list[Tensor]] = {"face": [], "lower": []}
    similarities: dict[str, list[Tensor]] = {"face": [], "lower": []}
    for start in range(0, len(faces), CHUNK):
        ours, theirs = (_unit(pictures[start : start + CHUNK], device) for pictures in (faces, truth))
        similar = ssim_map(ours, theirs)
        for name, first in (("face", 0), ("lower", half)):
            ratios[name].append(psnr(ours[:, :, first:], theirs[:, :, first:]))
            similarities[name].append(similar[:, :, first:].mean(dim=(1, 2, 3)))
    scores = {f"psnr_{name}": _mean_of_finite(torch.cat(values).tolist()) for name, values in ratios.items()}
    scores |= {f"ssim_{name}": float(torch.cat(values).mean()) for name, values in similarities.items()}
    return scores | {"psnr_legacy": float(psnr_legacy_uint8(faces, truth).mean())}


def score_frames(pairs: Iterable[tuple[np.ndarray, np.ndarray]], device: torch.device) -> dict[str, float]:
    """PSNR and SSIM of a clip over full frames; one pair of frames is held at a time.

    Args:
        pairs: generated and true frame, (H,W,3) uint8 BGR of one size each.
        device: where to compute.

    Returns:
        Means over frames, as in `score_faces`.
    """
    ratios, similarities = zip(*(_score_frame(ours, theirs, device) for ours, theirs in pairs))
    return {"psnr_frame": _mean_of_finite(ratios), "ssim_frame": math.fsum(similarities) / len(similarities)}


def _score_frame(ours: np.ndarray, theirs: np.ndarray, device: torch.device) -> tuple[float, float]:
    """PSNR and SSIM of one frame; only the windows that see a difference are computed, the others are 1."""
    differs = (ours != theirs).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if len(rows) == 0:
        return math.inf, 1.0
    part = np.s_[_grown(rows, len(differs)), _grown(columns, differs.shape[1])]
    mine, true = (_unit(picture[part][None], device) for picture in (ours, theirs))
    similar = ssim_map(mine, true)[0]
    share = similar[0].numel() / ((differs.shape[0] - WINDOW + 1) * (differs.shape[1] - WINDOW + 1))
    # The squared error outside the part is zero.
    ratio = float(psnr(mine, true)) + 10 * math.log10(differs.size / (mine.shape[2] * mine.shape[3]))
    return ratio, 1 + share * (float(similar.mean()) - 1)


def _grown(places: np.ndarray, length: int) -> slice:
    """The stretch of an axis that holds every window which covers one of `places`."""
    return slice(max(0, places[0] - WINDOW + 1), min(length, places[-1] + WINDOW))


def _unit(pictures: np.ndarray, device: torch.device) -> Tensor:
    """(N,H,W,3) uint8 -> (N,3,H,W) float64 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).double() / 255


def _mean_of_finite(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.inf


class Perceptual(Protocol):
    """A learned distance of pictures."""

    def __call__(self, faces: np.ndarray, truth: np.ndarray) -> float:
        """(T,96,96,3) uint8 BGR twice -> mean over frames."""
        ...


def open_lpips(device: torch.device) -> Perceptual:
    """LPIPS (Zhang et al. 2018) on AlexNet, by the package `lpips`; nothing is downloaded.

    Raises:
        MetricError: the package is not installed, or AlexNet's weights are not in torch.hub's cache.
    """
    try:
        import lpips
    except ImportError:
        raise MetricError("quality.lpips=true needs the package lpips: install it, or leave LPIPS out") from None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not list(folder.glob("alexnet-*.pth")):
        raise MetricError(
            f"quality.lpips=true needs AlexNet's weights: put torchvision's alexnet-*.pth into {folder}, or leave "
            "LPIPS out"
        )
    network = lpips.LPIPS(net="alex", verbose=False).to(device).eval()

    @torch.no_grad()
    def distance(faces: np.ndarray, truth: np.ndarray) -> float:
        total = 0.0
        for start in range(0, len(faces), CHUNK):
            # The network wants RGB in -1..1.
            ours, theirs = (_unit(p[start : start + CHUNK], device).float().flip(1) * 2 - 1 for p in (faces, truth))
            total += float(network(ours, theirs).double().sum())
        return total / len(faces)

    return distance
