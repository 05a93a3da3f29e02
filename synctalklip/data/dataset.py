"""Clips of stage 1: mouth ROI, log filterbank, tokens and frame labels.

B clips, T video frames at 25 Hz, L tokens, C clusters.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from synctalklip.data.augment import Augmentation, NoiseMixer, augment_rois
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import audio_features, normalize_roi
from synctalklip.data.manifest import Clip, DatasetError, FrameLabels
from synctalklip.data.text import EOS, PAD, Tokenizer

logger = logging.getLogger(__name__)

MODALITIES = ("audio", "video")


@dataclass
class Limits:
    """Which clips are used, in frames. Longer and shorter ones are left out; the count is logged.

    Attributes:
        crop_frames: if set, a random window of this many frames of each clip (never with transcripts).
        pad: clips of a batch are filled up to the longest; false cuts them to the shortest, each at a
            random place (never with transcripts).
    """

    min_frames: int = 5
    max_frames: int = 500
    crop_frames: int | None = None
    pad: bool = True


ANY_LENGTH = Limits(min_frames=1, max_frames=10**9)
"""For reading and labelling: every clip counts."""


class ClipDataset(torch.utils.data.Dataset):
    """One split of stage 1. Item (epoch, index) is the same at any worker count.

    Args:
        clips: records of the split.
        tokenizer: with it, clips without a transcript are left out and items carry `target`.
        labels: with them, clips without fitting labels are left out and items carry `labels`.
        augmentation: None for validation and inference.
        modalities: what is read; a modality left out is None in the batch.
        seed: of the augmentation and of the order of clips.
        cache: keep decoded clips in memory; see `ClipReader`.
        disk_cache: keep decoded mouth ROIs on the disk; see `ClipReader`.

    Raises:
        DatasetError: no clip is left, clips with transcripts would be cut, or a setting of the noise is wrong.
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
        disk_cache: bool = False,
    ) -> None:
        limits = limits or Limits()
        unknown = sorted(set(modalities) - set(MODALITIES))
        if unknown or not modalities:
            raise DatasetError(f"modalities {list(modalities)}: choose from {', '.join(MODALITIES)}")
        if tokenizer is not None and (limits.crop_frames or not limits.pad):
            raise DatasetError(
                "crop_frames and pad=false cut clips, which leaves transcripts without their video; set them to null "
                "and true"
            )
        self.clips = _usable(clips, tokenizer, labels, limits)
        self.tokenizer, self.labels = tokenizer, list(labels)
        self.augmentation, self.modalities = augmentation, tuple(modalities)
        self.crop_frames, self.pad, self.seed = limits.crop_frames, limits.pad, seed
        self.reader = ClipReader(self.clips, cache=cache, disk_cache=disk_cache)
        noise = augmentation.noise if augmentation is not None else None
        self.noise = NoiseMixer(noise, self.reader) if noise is not None and noise.prob else None
        self.sizes = np.array([min(clip.frames, limits.crop_frames or clip.frames) for clip in self.clips])
        # Shared memory, so that workers which outlive an epoch see the new one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the augmentation."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Unpadded tensors of a clip: audio (104,T), video (T,88,88), target (L,), labels [(T,)].

        `place` in 0..1 says where a batch that does not pad cuts the clip.
        """
        index = int(index)
        clip, draw = self.clips[index], [self.seed, int(self._epoch), index]
        targets = [torch.from_numpy(labels.targets(clip)) for labels in self.labels]
        # Labels may be a frame short: nothing is predicted where there is no label.
        length = min([clip.frames, *(len(target) for target in targets)])
        place = np.random.default_rng([*draw, 1]).random()
        window = window_at(place, length, min(length, self.crop_frames or length))
        item: dict[str, Any] = {"id": index, "frames": window.stop - window.start, "place": place}
        item["audio"] = self._audio(index, np.random.default_rng([*draw, 2]))[window].T if self._has("audio") else None
        item["video"] = self._video(index, window, np.random.default_rng(draw)) if self._has("video") else None
        item["labels"] = [target[window] for target in targets]
        if self.tokenizer is not None:
            item["target"] = torch.tensor(self.tokenizer.encode(clip.text, eos=True))
        return item

    def _has(self, modality: str) -> bool:
        return modality in self.modalities

    def _audio(self, index: int, rng: np.random.Generator) -> Tensor:
        noisy = None if self.noise is None else self.noise.draw(index, rng)
        return self.reader.logfbank(index) if noisy is None else audio_features(noisy, self.clips[index].frames)

    def _video(self, index: int, window: slice, rng: np.random.Generator) -> Tensor:
        # A copy, so that no more of the disk cache is read than the window.
        rois = np.array(self.reader.rois(index)[window])
        return normalize_roi(rois) if self.augmentation is None else augment_rois(rois, self.augmentation, rng)

    def order(self, bucket_frames: int, epoch: int) -> np.ndarray:
        """Indices by length, those of one bucket shuffled: (clips,) int64."""
        rng = np.random.default_rng([self.seed, epoch, 1])
        return np.lexsort((rng.random(len(self)), self.sizes // max(bucket_frames, 1)))

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """See `collate`; without padding all clips are cut to the shortest first."""
        return collate(items if self.pad else cut_to_shortest(items))


def _usable(
    clips: Sequence[Clip], tokenizer: Tokenizer | None, labels: Sequence[FrameLabels], limits: Limits
) -> list[Clip]:
    reasons: dict[str, int] = {}

    def reason(clip: Clip) -> str:
        if not limits.min_frames <= clip.frames <= limits.max_frames:
            return f"length outside {limits.min_frames}..{limits.max_frames} frames"
        if tokenizer is not None and not clip.text.strip():
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


def window_at(place: float, length: int, frames: int) -> slice:
    """`frames` of a clip of `length`; `place` in 0..1 goes from its first window to its last.

    A window of a window at the same place is nearly the window at that place, so cutting twice stays even.
    """
    start = int(place * (length - frames + 1))
    return slice(start, start + frames)


def cut_to_shortest(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cut every clip of a batch to the frames of the shortest, each at its own `place`.

    Source: AV-HuBERT's pre-training on VoxCeleb2.
    """
    shortest = min(item["frames"] for item in items)

    def cut(item: dict[str, Any]) -> dict[str, Any]:
        window = window_at(item["place"], item["frames"], shortest)
        audio, video = item["audio"], item["video"]
        return item | {
            "frames": shortest,
            "audio": None if audio is None else audio[:, window],
            "video": None if video is None else video[window],
            "labels": [labels[window] for labels in item["labels"]],
        }

    return [cut(item) for item in items]


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
    sizes: np.ndarray, order: np.ndarray, max_frames: int, max_clips: int | None = None, multiple: int = 1
) -> list[list[int]]:
    """Cut `order` into batches whose padded size (clips x longest) stays within `max_frames`.

    A clip longer than the budget makes a batch of its own. A full batch of more than `multiple` clips leaves
    what is over a multiple of it to the next batch; no clip is left out.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for index in map(int, order):
        size = int(sizes[index])
        while batch and (max(longest, size) * (len(batch) + 1) > max_frames or len(batch) == max_clips):
            kept = len(batch) - len(batch) % multiple or len(batch)
            batches.append(batch[:kept])
            batch = batch[kept:]
            longest = max((int(sizes[left]) for left in batch), default=0)
        batch.append(index)
        longest = max(longest, size)
    return [*batches, batch] if batch else batches


def split_to_multiple(batches: list[list[int]], multiple: int) -> list[list[int]]:
    """Halve the batches of most clips until their number is a multiple of `multiple`, or each is one clip.

    With as many batches as passes in every update, no device waits and the last update of an epoch is a
    whole one.
    """
    batches = list(batches)
    for _ in range(-len(batches) % multiple):
        most = max(range(len(batches)), key=lambda index: len(batches[index]))
        batch = batches[most]
        if len(batch) < 2:
            break
        batches[most : most + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches


def clip_batches(
    dataset: ClipDataset, order: np.ndarray, batch_frames: int, progress: str, workers: int = 0
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Indices and collated batch, the clips in `order`, read by `workers` processes; a progress bar counts frames."""
    bar = tqdm(total=int(dataset.sizes.sum()), desc=progress, unit="frame", unit_scale=True, disable=None)
    batches = list(frame_budget_batches(dataset.sizes, order, batch_frames))
    # A generator of its own: a loader draws a number, and training draws from the common one.
    own = torch.Generator()
    loader: DataLoader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers, generator=own
    )
    for batch, sample in zip(batches, loader, strict=True):
        yield batch, sample
        bar.update(int(dataset.sizes[batch].sum()))
    bar.close()


def move(net_input: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The tensors of `net_input` on `device`; None stays None."""
    return {name: None if value is None else value.to(device) for name, value in net_input.items()}
