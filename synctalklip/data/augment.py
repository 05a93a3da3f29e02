"""What is drawn for a training clip: noise in its sound, recorded or babble of the other clips of the split; of its
pictures window, mirror, softness, brightness; of faces place and tint too.

N sound samples at 16 kHz, int16 scale, T video frames at 25 Hz, H, W height and width in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import BGR_TO_GREY, CROP_SIZE, normalize_roi
from synctalklip.data.manifest import DatasetError

FULL_SCALE = 32767
KINDS = {"noise": ("noise",), "babble": ("babble",), "both": ("noise", "babble")}


@dataclass
class Noise:
    """How often and how loud noise is added.

    Attributes:
        prob: probability for each clip.
        kind: `noise` (recordings under `path`), `babble` (the mean of `babble_clips` other clips of the
            split), `both` (one or the other, with equal chances).
        path: the recordings: a folder that holds wav files at any depth, a text file that lists one wav
            file a line (relative to its own folder), or one wav file. Each draw decodes a whole file, so
            long recordings are best cut into pieces of some 10 s.
        snr_db: level of the clip over the noise in dB; [lowest, highest] draws it anew for every clip.
        babble_clips: voices of the babble; fewer where the split has fewer.
    """

    prob: float
    kind: str
    path: str | None
    snr_db: Any
    babble_clips: int


def mix(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio of root mean squares.

    Args:
        clean: (N,) int16.
        noise: (N,) of any scale.
        snr_db: level of `clean` over the noise in dB.

    Returns:
        (N,) int16. A sum beyond full scale is made quieter as a whole, which keeps the ratio. Without a
        sound on either side there is no ratio, and `clean` comes back.

    Source: AV-HuBERT's noise augmentation.
    """
    signal, added = clean.astype(np.float64), noise.astype(np.float64)
    level, added_level = _rms(signal), _rms(added)
    if level == 0 or added_level == 0:
        return clean
    mixed = signal + added * (level / added_level * 10 ** (-snr_db / 20))
    peak = np.abs(mixed).max()
    if peak > FULL_SCALE:
        mixed *= FULL_SCALE / peak
    return np.rint(mixed).astype(np.int16)


class NoiseMixer:
    """Noise for the clips of one split; what is drawn follows from the generator alone.

    Args:
        settings: kind and level.
        reader: clips of the split; babble is made of them.

    Raises:
        DatasetError: a setting out of range, no recordings, or too few clips for babble.
    """

    def __init__(self, settings: Noise, reader: ClipReader) -> None:
        self.settings, self.reader = settings, reader
        if not 0 <= settings.prob <= 1:
            raise DatasetError(f"noise.prob {settings.prob}: give a probability between 0 and 1")
        if settings.kind not in KINDS:
            raise DatasetError(f"noise.kind {settings.kind!r} is none of {', '.join(KINDS)}")
        if settings.babble_clips < 1:
            raise DatasetError(f"noise.babble_clips {settings.babble_clips}: at least one voice is needed")
        self.snr_db = _range(settings.snr_db)
        self.kinds = KINDS[settings.kind]
        if "babble" in self.kinds and len(reader) < 2:
            raise DatasetError("noise.kind babble needs other clips, and the split has one only; use kind=noise")
        self.files = _recordings(settings.path) if "noise" in self.kinds else []

    def draw(self, index: int, rng: np.random.Generator) -> np.ndarray | None:
        """Sound of clip `index` with noise, (N,) int16; None where the draw leaves it clean."""
        chance, place = rng.random(2)
        if chance >= self.settings.prob:
            return None
        wave = self.reader.wave(index)
        kind = self.kinds[int(place * len(self.kinds))]
        snr_db = rng.uniform(*self.snr_db)
        noise = self._babble(index, len(wave), rng) if kind == "babble" else self._recording(len(wave), rng)
        return mix(wave, noise, snr_db)

    def _recording(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        return _excerpt(media.read_audio(self.files[rng.integers(len(self.files))]), samples, rng)

    def _babble(self, index: int, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Mean of the voices of other clips, each from a place of its own."""
        others = len(self.reader) - 1
        chosen = rng.choice(others, min(self.settings.babble_clips, others), replace=False)
        # Numbers from `index` on mean the clip after: the clip itself is never among its own babble.
        voices = [self.reader.wave(int(other) + (other >= index)) for other in chosen]
        return np.mean([_excerpt(voice, samples, rng) for voice in voices], axis=0)


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))


def _excerpt(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """`samples` of a sound from a random place on; a shorter sound is repeated."""
    spare = len(wave) - samples
    start = int(rng.integers(spare + 1 if spare > 0 else len(wave)))
    return wave[start : start + samples] if spare > 0 else np.resize(np.roll(wave, -start), samples)


def _range(snr_db: Any) -> tuple[float, float]:
    ends = list(snr_db) if isinstance(snr_db, Sequence) and not isinstance(snr_db, str) else [snr_db, snr_db]
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in ends)
    if len(ends) != 2 or not numbers or ends[0] > ends[1]:
        raise DatasetError(f"noise.snr_db {snr_db!r}: give a number of dB, or [lowest, highest]")
    return float(ends[0]), float(ends[1])


def _recordings(path: str | None) -> list[Path]:
    """Wav files of a folder or list, sorted, so that equal folders give equal draws."""
    if path is None:
        raise DatasetError("noise.path: give a folder, a list or a file of recordings, or set noise.kind=babble")
    source = Path(path)
    if source.is_dir():
        files = sorted(source.rglob("*.wav"))
    elif source.suffix.lower() == ".wav":
        files = [source]
    elif source.is_file():
        lines = source.read_text(encoding="utf-8").splitlines()
        files = [source.parent / line.strip() for line in lines if line.strip()]
    else:
        raise DatasetError(f"{source}: there is no such folder or list of noise; check noise.path")
    gone = next((file for file in files if not file.is_file()), None)
    if gone is not None:
        raise DatasetError(f"{source}: the recording {gone} is gone; restore it or take it off the list")
    if not files:
        raise DatasetError(f"{source}: holds no wav file; check noise.path")
    return files


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
