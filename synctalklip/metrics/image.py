"""Picture quality: PSNR and SSIM in float64, the arithmetic of the published scripts under its own name, and the scores
of a clip: face crop, its lower half, and the full frame.

Legend: N images or T video frames at 25 Hz, C channels, H rows, W columns.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from synctalklip.errors import MetricError

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def _check_pair(generated: Tensor, target: Tensor) -> None:
    if generated.shape != target.shape or generated.ndim != 4:
        raise MetricError(
            f"image metrics need two (N,C,H,W) batches of one shape, "
            f"got {tuple(generated.shape)} and {tuple(target.shape)}"
        )
    if not (generated.is_floating_point() and target.is_floating_point()):
        raise MetricError("image metrics need float images in 0..1; divide uint8 images by 255 first")


def psnr(generated: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        generated: (N,C,H,W) float in 0..1.
        target: same shape.

    Returns:
        (N,) float64 in dB; infinity where the two images are identical.

    Raises:
        MetricError: the shapes differ, or the images are not float.
    """
    _check_pair(generated, target)
    error = (generated.double() - target.double()).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(error)


def _gaussian() -> np.ndarray:
    weight = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    return weight / weight.sum()


def _blur(images: Tensor) -> Tensor:
    """Valid separable Gaussian filter of float64 (...,H,W)."""
    weight = _gaussian()
    if images.device.type == "cpu":
        # Row by row, within the caches: 2 to 4 times faster than sums of whole shifted pictures.
        inner = slice(WINDOW // 2, -(WINDOW // 2))
        planes = images.reshape(-1, *images.shape[-2:]).numpy()
        filtered = [cv2.sepFilter2D(plane, cv2.CV_64F, weight, weight)[inner, inner] for plane in planes]
        return torch.from_numpy(np.stack(filtered)).reshape(*images.shape[:-2], *filtered[0].shape)
    for axis in (-2, -1):
        length = images.shape[axis] - WINDOW + 1
        total = images.narrow(axis, 0, length) * weight[0]
        for start, value in enumerate(weight[1:], start=1):
            total.add_(images.narrow(axis, start, length), alpha=value)
        images = total
    return images


def ssim_map(generated: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of every window (Wang et al. 2004): Gaussian, 11x11, sigma 1.5.

    A part of the rows of the map is the map of those rows of the pictures, so that one map serves a face and its
    lower half.

    Args:
        generated: (N,C,H,W) float in 0..1, at least 11 pixels high and wide.
        target: same shape.

    Returns:
        (N,C,H-10,W-10) float64; 1 where the windows are identical.

    Raises:
        MetricError: the shapes differ, the images are not float or smaller than the window.
    """
    _check_pair(generated, target)
    if min(generated.shape[-2:]) < WINDOW:
        raise MetricError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, got {tuple(generated.shape)}")
    x, y = generated.double(), target.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x.square()
    var_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x.square() + mean_y.square() + K1**2)
    structure = (2 * covariance + K2**2) / (var_x + var_y + K2**2)
    return luminance * structure


def ssim(generated: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image: the mean of `ssim_map`, arguments and errors as there.

    Equal to scikit-image with `gaussian_weights=True, use_sample_covariance=False, data_range=1`:
    only windows that lie fully inside the image count, and the channels are averaged.

    Returns:
        (N,) float64; 1 for identical images.
    """
    return ssim_map(generated, target).mean(dim=(1, 2, 3))


def psnr_legacy_uint8(generated: np.ndarray, target: np.ndarray) -> np.ndarray:
    """PSNR as the published TalkLip and SyncTalklip scripts compute it, to compare with their tables.

    They subtract and square in uint8, so both wrap at 256: errors of 16 grey levels and more look
    small, and no value falls under about 24 dB. Identical images (and wrapped zeros) count 100.

    Args:
        generated: (N,H,W,C) or (H,W,C) uint8.
        target: same shape.

    Returns:
        (N,) float64 in dB.

    Raises:
        MetricError: the arrays are not uint8 or the shapes differ.
    """
    if generated.dtype != np.uint8 or target.dtype != np.uint8 or generated.shape != target.shape:
        raise MetricError("psnr_legacy_uint8 needs two uint8 arrays of one shape")
    difference = np.subtract(generated, target)
    wrapped = np.multiply(difference, difference).reshape(-1, int(np.prod(generated.shape[-3:])))
    error = wrapped.mean(axis=1, dtype=np.float64)
    legacy = np.full(error.shape, 100.0)
    np.divide(255.0, np.sqrt(error), out=legacy, where=error > 0)
    return np.where(error > 0, 20.0 * np.log10(legacy), 100.0)


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
