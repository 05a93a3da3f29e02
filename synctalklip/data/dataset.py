"""Clips of stage 1: mouth ROI, log filterbank, tokens and frame labels.

B clips, T video frames at 25 Hz, L tokens, C clusters.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from synctalklip.data.clips import ClipReader
from synctalklip.data.features import normalize_roi
from synctalklip.data.labels import DatasetError, FrameLabels
from synctalklip.data.manifest import Clip
from synctalklip.data.text import EOS, PAD, Tokenizer

logger = logging.getLogger(__name__)

ROI_SIZE, CROP_SIZE = 96, 88

MODALITIES = ("audio", "video")


@dataclass
class Augmentation:
    """What is drawn for every clip of a training epoch; one draw for all frames of the clip.

    Attributes:
        random_crop: a random 88x88 window instead of the central one.
        flip: probability of a mirror image.
        resample: probability of shrinking the ROI and enlarging it again, which makes it as soft as a ROI
            that was pasted from a 96x96 face crop.
        resample_factor: mean shrinking; the canonical face box is 185 ROI pixels wide, 185/96 = 1.93.
        jitter: largest relative change of contrast, and of brightness in units of half the grey range.
    """

    random_crop: bool = False
    flip: float = 0.0
    resample: float = 0.0
    resample_factor: float = 1.93
    jitter: float = 0.0


@dataclass
class Limits:
    """Which clips are used, in frames. Longer and shorter ones are left out; the count is logged.

    Attributes:
        crop_frames: if set, a random window of this many frames of each clip (never with transcripts).
    """

    min_frames: int = 5
    max_frames: int = 500
    crop_frames: int | None = None


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


class ClipDataset(torch.utils.data.Dataset):
    """One split of stage 1. Item (epoch, index) is the same at any worker count.

    Args:
        clips: records of the split.
        tokenizer: with it, clips without a transcript are left out and items carry `target`.
        labels: with them, clips without fitting labels are left out and items carry `labels`.
        augmentation: None for validation and inference.
        modalities: what is read; a modality left out is None in the batch.
        seed: of the augmentation and of the order of clips.
        cache: keep decoded clips in memory.

    Raises:
        DatasetError: no clip is left, or transcripts are asked for together with `crop_frames`.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        tokenizer: Tokenizer | None = None,
        labels: Sequence[FrameLabels] = (),
        augmentation: Augmentation | None = None,
        limits: Limits | None = None,
        modalities: Sequence[str] = MODALITIES,
        seed: int = 1,
        cache: bool = False,
    ) -> None:
        limits = limits or Limits()
        unknown = sorted(set(modalities) - set(MODALITIES))
        if unknown or not modalities:
            raise DatasetError(f"modalities {list(modalities)}: choose from {', '.join(MODALITIES)}")
        if tokenizer is not None and limits.crop_frames:
            raise DatasetError("crop_frames cuts clips, which leaves transcripts without their video; set it to null")
        self.clips = _usable(clips, tokenizer, labels, limits)
        self.tokenizer, self.labels = tokenizer, list(labels)
        self.augmentation, self.modalities = augmentation, tuple(modalities)
        self.crop_frames, self.seed = limits.crop_frames, seed
        self.reader = ClipReader(self.clips, cache=cache)
        self.sizes = np.array([min(clip.frames, limits.crop_frames or clip.frames) for clip in self.clips])
        # Shared memory, so that workers which outlive an epoch see the new one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the augmentation."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Unpadded tensors of a clip: audio (104,T), video (T,88,88), target (L,), labels [(T,)]."""
        index = int(index)
        clip = self.clips[index]
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        audio = self.reader.logfbank(index) if "audio" in self.modalities else None
        rois = self.reader.rois(index) if "video" in self.modalities else None
        video = None
        if rois is not None:
            augmentation = self.augmentation
            video = normalize_roi(rois) if augmentation is None else augment_rois(rois, augmentation, rng)
        targets = [torch.from_numpy(labels.targets(clip)) for labels in self.labels]
        # Labels may be a frame short: nothing is predicted where there is no label.
        length = min([clip.frames, *(len(target) for target in targets)])
        start = 0
        if self.crop_frames and length > self.crop_frames:
            start = int(rng.integers(0, length - self.crop_frames + 1))
            length = self.crop_frames
        window = slice(start, start + length)
        item: dict[str, Any] = {"id": index, "frames": length}
        item["audio"] = None if audio is None else audio[window].T
        item["video"] = None if video is None else video[window]
        item["labels"] = [target[window] for target in targets]
        if self.tokenizer is not None:
            item["target"] = torch.tensor(self.tokenizer.encode(clip.text, eos=True))
        return item

    def order(self, bucket_frames: int, epoch: int) -> np.ndarray:
        """Indices by length, those of one bucket shuffled: (clips,) int64."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        return np.lexsort((rng.random(len(self)), self.sizes // max(bucket_frames, 1)))

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """See `collate`."""
        return collate(items)


def _usable(
    clips: Sequence[Clip], tokenizer: Tokenizer | None, labels: Sequence[FrameLabels], limits: Limits
) -> list[Clip]:
    reasons: dict[str, int] = {}

    def reason(clip: Clip) -> str:
        if not limits.min_frames <= clip.frames <= limits.max_frames:
            return f"length outside {limits.min_frames}..{limits.max_frames} frames"
        if tokenizer is not None and not clip.text:
            return "no transcript"
        if not all(one.fits(clip) for one in labels):
            return "no frame labels of the same length"
        return ""

    kept = []
    for clip in clips:
        why = reason(clip)
        if why:
            reasons[why] = reasons.get(why, 0) + 1
        else:
            kept.append(clip)
    summary = ", ".join(f"{count} left out: {why}" for why, count in reasons.items())
    if summary:
        logger.warning("%d of %d clips used; %s", len(kept), len(clips), summary)
    if not kept:
        raise DatasetError(f"none of {len(clips)} clips can be used ({summary or 'the split is empty'})")
    return kept


def _pad_stack(tensors: Sequence[Tensor], dim: int, value: float = 0) -> Tensor:
    """Stack tensors that differ in `dim` only, padded at its end with `value`."""
    longest = max(tensor.shape[dim] for tensor in tensors)
    shape = list(tensors[0].shape)
    shape[dim] = longest
    padded = tensors[0].new_full([len(tensors), *shape], value)
    for row, tensor in zip(padded, tensors):
        row.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return padded


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A padded batch.

    Returns:
        `id` (B,), `frames` (B,), `net_input` with audio (B,104,T) or None, video (B,1,T,88,88) or None,
        padding_mask (B,T) bool, true = padded; where the dataset has them `target` (B,L) ending in eos,
        `net_input.prev_tokens` (B,L) (eos moved to the front, padded with pad), `labels` [(B,T)] padded
        with pad.
    """
    frames = torch.tensor([item["frames"] for item in items])
    net_input: dict[str, Any] = {
        "audio": None,
        "video": None,
        "padding_mask": torch.arange(int(frames.max()))[None] >= frames[:, None],
    }
    if items[0]["audio"] is not None:
        net_input["audio"] = _pad_stack([item["audio"] for item in items], dim=1)
    if items[0]["video"] is not None:
        net_input["video"] = _pad_stack([item["video"] for item in items], dim=0).unsqueeze(1)
    batch: dict[str, Any] = {
        "id": torch.tensor([item["id"] for item in items]),
        "frames": frames,
        "net_input": net_input,
    }
    if "target" in items[0]:
        batch["target"] = _pad_stack([item["target"] for item in items], dim=0, value=PAD)
        previous = [torch.cat([item["target"].new_tensor([EOS]), item["target"][:-1]]) for item in items]
        net_input["prev_tokens"] = _pad_stack(previous, dim=0, value=PAD)
    if items[0]["labels"]:
        batch["labels"] = [
            _pad_stack(list(per_set), dim=0, value=PAD) for per_set in zip(*(item["labels"] for item in items))
        ]
    return batch


def frame_budget_batches(
    sizes: np.ndarray, order: np.ndarray, max_frames: int, max_clips: int | None = None
) -> list[list[int]]:
    """Cut `order` into batches whose padded size (clips x longest) stays within `max_frames`.

    A clip longer than the budget makes a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in map(int, order):
        grown = max(longest, int(sizes[index]))
        full = not batches or grown * (len(batches[-1]) + 1) > max_frames or len(batches[-1]) == max_clips
        if full:
            batches.append([])
            grown = int(sizes[index])
        batches[-1].append(index)
        longest = grown
    return batches
