"""Batches that a SyncNet learns from: segments of clips, the same for any number of workers.

Legend: B clips of a batch, L frames of a segment, W = L - 4 windows.
"""

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset

from synctalklip.data.clips import ClipReader
from synctalklip.data.features import CEPSTRA, SYNC_FRAMES, sound_windows
from synctalklip.data.manifest import Clip
from synctalklip.errors import MetricError


def augment(faces: np.ndarray, shift: int, gain: float, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Move, mirror, re-light and tint a segment as a whole, so that no motion is added.

    Args:
        faces: (L,96,96,3) uint8.
        shift: largest move in pixels; the edge is repeated.
        gain: largest relative change of the brightness.
        colour: largest relative change of each colour beside it.
        rng: source of the randomness.

    Returns:
        Same shape and type.
    """
    height, width = faces.shape[1:3]
    dy, dx = rng.integers(-shift, shift + 1, size=2)
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    if rng.random() < 0.5:
        columns = columns[::-1]
    moved = faces[:, rows][:, :, columns]
    scale = 1 + gain * rng.uniform(-1, 1) + colour * rng.uniform(-1, 1, 3)
    levels = np.clip(np.arange(256)[:, None] * scale, 0, 255).astype(np.uint8)
    return np.stack([levels[:, channel][moved[..., channel]] for channel in range(3)], -1)


def recolour_sound(windows: Tensor, channel: float, rng: np.random.Generator) -> Tensor:
    """The sound as another microphone at another distance would have it.

    A filter and a gain add a constant to each cepstrum.

    Args:
        windows: (W,1,13,20) MFCC.
        channel: standard deviation of the constants.
        rng: source of the randomness.

    Returns:
        Same shape.
    """
    change = channel * rng.standard_normal(CEPSTRA).astype(np.float32)
    return windows + torch.from_numpy(change)[:, None]


class SegmentBatches(Dataset):
    """The batch of every step: a random segment of each chosen clip.

    A batch is a function of seed, step and rank alone, so a resumed run and any number of workers see
    the same batches. Epochs visit every clip once in a new order.

    Args:
        reader: clips of the training split.
        cfg: `train` node of the config (batch_size, frames, steps, shift, gain, colour, channel).
        seed: seed of the run.
        rank: which of the `world` processes asks; each takes its share of the batch.
        world: number of processes.

    Raises:
        MetricError: segments too short to hold a wrong pair, or fewer clips than processes.
    """

    def __init__(self, reader: ClipReader, cfg: DictConfig, seed: int, rank: int = 0, world: int = 1) -> None:
        if cfg.frames < 2 * SYNC_FRAMES:
            raise MetricError(f"train.frames={cfg.frames}: a segment needs at least {2 * SYNC_FRAMES} frames")
        self.per_step = min(cfg.batch_size, len(reader))
        if self.per_step < world:
            raise MetricError(f"a batch of {self.per_step} clips cannot be shared by {world} processes")
        self.reader, self.cfg, self.seed, self.rank, self.world = reader, cfg, seed, rank, world

    def __len__(self) -> int:
        return self.cfg.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """faces (B,L,96,96,3) uint8 and sound (B,W,1,13,20); short clips shorten the segments of their batch."""
        steps_per_epoch = len(self.reader) // self.per_step
        epoch, place = divmod(step, steps_per_epoch)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.reader))
        chosen = order[place * self.per_step : (place + 1) * self.per_step][self.rank :: self.world]
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        length = min(self.cfg.frames, *(self.reader.clips[i].frames for i in chosen))
        faces, sound = [], []
        for i in map(int, chosen):
            start = int(rng.integers(self.reader.clips[i].frames - length + 1))
            segment = np.asarray(self.reader.faces(i)[start : start + length])
            faces.append(augment(segment, self.cfg.shift, self.cfg.gain, self.cfg.colour, rng))
            windows = sound_windows(torch.as_tensor(self.reader.mfcc(i)), self.reader.clips[i].frames)
            sound.append(recolour_sound(windows[start : start + length - SYNC_FRAMES + 1], self.cfg.channel, rng))
        return torch.from_numpy(np.stack(faces)), torch.stack(sound)


def long_enough(clips: list[Clip], limit: int | None) -> list[Clip]:
    """The first `limit` clips that hold a wrong pair besides a right one; says how many do not."""
    kept = [clip for clip in clips if clip.frames >= 2 * SYNC_FRAMES]
    if len(kept) < len(clips):
        print(f"{len(clips) - len(kept)} of {len(clips)} clips are shorter than {2 * SYNC_FRAMES} frames: left out")
    if not kept:
        raise MetricError(f"no clip has {2 * SYNC_FRAMES} frames: a SyncNet cannot be trained on this corpus")
    return kept[:limit]
