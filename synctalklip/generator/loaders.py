"""Datasets and loaders of stage 2 from its config."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from synctalklip.avsyncnet.expert import Expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import SYNC_FRAMES
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
            clips = read_manifest(config["data"]["prepared"], split)[:limit]
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
