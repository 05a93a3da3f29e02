"""What a step of stage 2 reads: datasets and loaders from its config, and features of frozen networks for clips as they
were recorded, computed once a clip instead of once a step.

A painted frame changes the ResNet features of the frames within `REACH` of it; all others are those of the recorded
clip. Sound is only ever changed by windows of silence.

Legend: B clips, T video frames at 25 Hz, F ResNet features, D embedding.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from synctalklip.avsyncnet.config import LAST
from synctalklip.avsyncnet.expert import Expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import SYNC_FRAMES, normalize_roi
from synctalklip.data.manifest import Clip, read_manifest
from synctalklip.data.window_sampling import ImageBudget, WindowConfig
from synctalklip.data.windows import WindowDataset, collate
from synctalklip.errors import SyncTalklipError


class StageTwoData:
    """Training and validation clips of a run.

    Args:
        config: the composed config of scripts/train_generator.py.
        expert: its tokenizer makes the tokens, its ROI mode is compared with the clips'.
        rank: number of this process. processes: how many there are.
    """

    def __init__(self, config: Mapping[str, Any], expert: Expert, rank: int, processes: int):
        self.options, self.seed = config["trainer"], config["seed"]
        self.rank, self.processes = rank, processes
        path = config["expert"]["path"]
        reads, syncs = (config["loss"][name] != 0 for name in ("lambda_lip", "lambda_sync"))
        windows = WindowConfig.from_config(config["windows"])
        if reads and expert.tokenizer is None:
            raise SyncTalklipError(f"{path}: holds no tokenizer, so it cannot read lips; set loss.lambda_lip=0")
        self.sets: dict[str, WindowDataset] = {}
        for split, limit in (("train", None), ("valid", self.options["valid_clips"])):
            clips = read_manifest(config["data"], split, draw=True)[:limit]
            _assert_roi_mode(clips, expert.roi_mode, path)
            if syncs:
                _assert_windows_fit_syncnet(clips, windows)
            # Without transcripts a corpus can still train every other term.
            self.sets[split] = WindowDataset(
                ClipReader(clips, cache=self.options["cache"], disk_cache=self.options["disk_cache"]),
                windows,
                expert.tokenizer if reads else None,
                self.seed,
                train=split == "train",
                sound=syncs,
            )

    def key(self) -> str:
        """Digest of what the batches depend on: seed, budget, windows, clips."""
        data = self.sets["train"]
        facts = [self.seed, self.options["batch_size"], data.config, *((c.id, c.frames) for c in data.reader.clips)]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def loader(self, split: str, skip: int = 0) -> DataLoader:
        """Batches of a split: endless and shuffled to train, each clip once to validate.

        Args:
            split: "train" or "valid".
            skip: number of batches that a resumed run has had.
        """
        data, train, workers = self.sets[split], split == "train", self.options["workers"]
        batches = ImageBudget(
            data.images(),
            [clip.frames for clip in data.reader.clips],
            self.options["batch_size"],
            self.seed,
            shuffle=train,
            skip=skip,
            rank=self.rank if train else 0,
            processes=self.processes if train else 1,
        )
        return DataLoader(
            data,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() and not self.options["cpu"],
            prefetch_factor=self.options["prefetch"] if workers else None,
            # A loader draws a number when it starts; from the global source that would shift a resumed run.
            generator=torch.Generator(),
        )


def _assert_windows_fit_syncnet(clips: list[Clip], windows: WindowConfig) -> None:
    if windows.frames != SYNC_FRAMES:
        raise SyncTalklipError(
            f"windows.frames is {windows.frames}; loss.lambda_sync needs {SYNC_FRAMES}, as SyncNet sees"
        )
    short = [clip for clip in clips if clip.frames < SYNC_FRAMES]
    if short:
        raise SyncTalklipError(
            f"{short[0].root}: clip '{short[0].id}' has {short[0].frames} frames, loss.lambda_sync needs "
            f"{SYNC_FRAMES}; prepare again with min_frames={SYNC_FRAMES} or more"
        )


def _assert_roi_mode(clips: list[Clip], roi_mode: str, path: str) -> None:
    wrong = [clip for clip in clips if clip.roi_mode != roi_mode]
    if wrong:
        raise SyncTalklipError(
            f"{path}: the expert was trained on '{roi_mode}' mouth ROIs, clip '{wrong[0].id}' has "
            f"'{wrong[0].roi_mode}' ones; prepare the clips with the expert's mode"
        )


_OWN = "own_"


class ClipCache:
    """Tensors by kind and clip, kept on their device while they fit; one that does not is computed every time.

    Args:
        limit: bytes of all kinds together.
    """

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self._kept: dict[tuple[str, str], Tensor] = {}

    def get(self, kind: str, clip: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a clip, made without gradients when it is not there."""
        key = kind, clip
        if key not in self._kept:
            with torch.no_grad():
                value = make()
            if self.held + value.nbytes > self.limit:
                return value
            self._kept[key], self.held = value, self.held + value.nbytes
        return self._kept[key]

    def forget(self, kinds: str) -> None:
        """Drop the tensors of all kinds that begin so, and what they hold of the limit."""
        self._kept = {key: value for key, value in self._kept.items() if not key[0].startswith(kinds)}
        self.held = sum(value.nbytes for value in self._kept.values())


class FeatureCache:
    """Features of untouched clips, each computed on its own, so that they do not depend on the batch.

    Args:
        expert: frozen AV-SyncNet.
        megabytes: memory of the device for all features together.
    """

    def __init__(self, expert: Expert, megabytes: int):
        self.expert = expert
        self._cache = ClipCache(megabytes * 2**20)

    def lips(self, batch: Mapping[str, Any], clips: int | None) -> Tensor:
        """ResNet features of the recorded lips of the first `clips` clips, (B,T,F), zero on padding."""

        def make(row: int, frames: int) -> Tensor:
            video = normalize_roi(batch["rois"][row : row + 1, :frames]).unsqueeze(1)
            return self.expert.video_features(video)[0]

        return self._rows("lips", batch, clips, make, altered=False)

    def expert_sound(self, batch: Mapping[str, Any], clips: int | None) -> Tensor:
        """The sound of the first `clips` clips as the expert's distance compares it, (B,T,W)."""
        return self._sound("expert_sound", self.expert.heard, batch, clips)

    def own_sound(self, encode: Callable[[Tensor], Tensor], batch: Mapping[str, Any], view: str = LAST) -> Tensor:
        """A view of the generator's encoder while that does not learn; `encode` maps (1,104,T) to (1,T,D)."""
        return self._sound(f"{_OWN}{view}", encode, batch, None)

    def forget_own_sound(self) -> None:
        """The generator's encoder has begun to learn."""
        self._cache.forget(_OWN)

    def _sound(
        self, kind: str, encode: Callable[[Tensor], Tensor], batch: Mapping[str, Any], clips: int | None
    ) -> Tensor:
        def make(row: int, frames: int) -> Tensor:
            return encode(batch["audio"][row : row + 1, :, :frames])[0]

        return self._rows(kind, batch, clips, make, altered=True)

    def _rows(
        self,
        kind: str,
        batch: Mapping[str, Any],
        clips: int | None,
        make: Callable[[int, int], Tensor],
        altered: bool,
    ) -> Tensor:
        """Stack the clips; where silence `altered` what is asked for, it is not of the clip and not kept."""
        rows: list[Tensor] = []
        names: Sequence[str] = batch["clips"][:clips]
        for row, (name, frames) in enumerate(zip(names, batch["lengths"])):
            if altered and batch["altered"][row]:
                with torch.no_grad():
                    rows.append(make(row, frames))
            else:
                rows.append(self._cache.get(kind, name, partial(make, row, frames)))
        stacked = pad_sequence(rows, batch_first=True)
        missing = batch["padding_mask"].shape[1] - stacked.shape[1]
        return torch.nn.functional.pad(stacked, (0, 0, 0, missing)) if missing else stacked
