"""What is drawn for the pictures of a training clip: window, mirror, softness, brightness.

T video frames at 25 Hz, H, W height and width in pixels.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from synctalklip.data.features import CROP_SIZE, normalize_roi
from synctalklip.data.noise import Noise


@dataclass
class Augmentation:
    """What is drawn for every clip of a training epoch; one draw for all frames of the clip.

    Attributes:
        random_crop: a random 88x88 window instead of the central one.
        flip: probability of a mirror image.
        resample: probability of shrinking the ROI and enlarging it again, which makes it as soft as a ROI
            that was pasted from a 96x96 face crop.
        resample_factor: mean shrinking; the canonical face box is 164 ROI pixels wide, 164/96 = 1.71.
        jitter: largest relative change of contrast, and of brightness in units of half the grey range.
        noise: noise in the sound; None: clean.
    """

    random_crop: bool = False
    flip: float = 0.0
    resample: float = 0.0
    resample_factor: float = 1.71
    jitter: float = 0.0
    noise: Noise | None = None


def resample_roi(rois: np.ndarray, factor: float) -> np.ndarray:
    """Shrink frames (T,H,W) uint8 by `factor` (area mean) and enlarge them again (bilinear)."""
    height, width = rois.shape[1:]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.stack(
        [cv2.resize(cv2.resize(frame, small, interpolation=cv2.INTER_AREA), (width, height)) for frame in rois]
    )


def _jitter(rois: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    contrast = 1 + amount * rng.uniform(-1, 1)
    brightness = 64 * amount * rng.uniform(-1, 1)
    mean = float(rois.mean())
    levels = (np.arange(256) - mean) * contrast + mean + brightness
    return np.clip(levels, 0, 255).astype(np.uint8)[rois]


def augment_rois(rois: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Draw one change for a clip: (T,96,96) uint8 -> (T,88,88) float32, normalised.

    Every number is drawn whether it is used or not, so that switching one augmentation off leaves the
    draws of the others as they were.
    """
    margin = rois.shape[-1] - CROP_SIZE
    top, left = rng.integers(0, margin + 1, 2)
    flip, soften = rng.random(2)
    factor = augmentation.resample_factor * rng.uniform(0.9, 1.1)
    if soften < augmentation.resample:
        rois = resample_roi(rois, factor)
    if augmentation.jitter:
        rois = _jitter(rois, augmentation.jitter, rng)
    crop: Any = (int(top), int(left)) if augmentation.random_crop else "center"
    return normalize_roi(rois, crop=crop, flip=bool(flip < augmentation.flip))
