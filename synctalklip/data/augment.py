"""What is drawn for the pictures of a training clip: window, mirror, softness, brightness; of faces place and tint too.

T video frames at 25 Hz, H, W height and width in pixels.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from synctalklip.data.face import BGR_TO_GREY
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


@dataclass(frozen=True)
class FaceAugmentation:
    """What is drawn for the face crops of a clip, so that the generator finds a mouth where the picture has it.

    Attributes:
        probability: that a clip is changed at all.
        mirror: probability of a mirror image.
        shift: largest shift either way, in crop sizes.
        scale: largest relative change of size.
        stretch: largest relative change of width against height.
        rotate: largest turn, in degrees.
        colour: largest relative change of each colour against the others; the grey that the expert sees stays.
    """

    probability: float
    mirror: float
    shift: float
    scale: float
    stretch: float
    rotate: float
    colour: float

    def draw(self, size: int, rng: np.random.Generator) -> "FaceChange | None":
        """The change of a clip with crops of `size` pixels; None for none."""
        if rng.random() >= self.probability:
            return None
        (dx, dy, scale, stretch, rotate), tint = rng.uniform(-1, 1, 5), rng.uniform(-1, 1, 3)
        bigger, wider = 1 + self.scale * scale, 1 + self.stretch * stretch
        width, height = bigger * wider, bigger * (1 / wider)
        width *= -1 if rng.random() < self.mirror else 1
        turn = np.deg2rad(self.rotate * rotate)
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([width, height])
        centre = np.full(2, (size - 1) / 2)
        offset = centre - linear @ centre + size * self.shift * np.array([dx, dy])
        return FaceChange(np.column_stack([linear, offset]), 1 + self.colour * tint)


@dataclass(frozen=True)
class FaceChange:
    """One change of the crops of a clip.

    Attributes:
        affine: (2,3), pixels of the crop to pixels of the changed crop.
        gains: (3,), of blue, green and red before the grey is set right.
    """

    affine: np.ndarray
    gains: np.ndarray

    def faces(self, faces: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """Change crops (n,H,W,3) uint8; `gains` as `tint` gives them. What lies outside is mirrored in."""
        size = faces.shape[2], faces.shape[1]
        moved = [cv2.warpAffine(face, self.affine, size, borderMode=cv2.BORDER_REFLECT_101) for face in faces]
        levels = np.clip(np.arange(256)[:, None] * gains, 0, 255).round().astype(np.uint8)
        return np.stack([cv2.LUT(face, levels.reshape(1, 256, 3)) for face in moved])

    def tint(self, faces: np.ndarray) -> np.ndarray:
        """(3,) gains of the colours that leave the mean grey of the crops as it is."""
        blue_green_red = faces.reshape(-1, 3).mean(axis=0) * BGR_TO_GREY
        return self.gains * blue_green_red.sum() / max((self.gains * blue_green_red).sum(), 1e-6)

    def matrices(self, matrices: np.ndarray) -> np.ndarray:
        """Maps (n,2,3) from crop to ROI pixels become maps from the changed crop, so that the expert sees the same."""
        back = np.vstack([cv2.invertAffineTransform(self.affine), [0, 0, 1]])
        return (matrices.astype(np.float64) @ back).astype(np.float32)
