"""Train a SyncNet on a prepared corpus: in-sync windows against shifted ones and against those of other clips.

A batch holds segments of clips, the same for any number of workers.

Legend: B clips of a batch, L frames of a segment, W = L - 4 windows, E embedding.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip import checkpoint
from synctalklip.cli import to_dict
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import CEPSTRA, SYNC_FRAMES, sound_windows
from synctalklip.data.manifest import Clip, read_manifest
from synctalklip.device import choose_device, choose_precision, record_precision
from synctalklip.errors import MetricError
from synctalklip.syncnet.lse import AnySyncNet, SyncNetInfo, build_syncnet, save_syncnet, score_clip


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


def window_contrast(
    video: Tensor, audio: Tensor, temperature: float, tolerance: int = 1, other_clips: bool = False
) -> Tensor:
    """InfoNCE over window pairs, from lips to sound and back (van den Oord et al. 2018).

    Args:
        video: (B,W,E).
        audio: (B,W,E).
        temperature: the squared distances are divided by twice this; for embeddings of length one that
            is the cosine divided by it.
        tolerance: pairs whose windows lie 1..tolerance frames apart are neither positive nor negative,
            because they share nearly all of their frames.
        other_clips: the negatives of a window are all windows of the batch, not those of its clip alone.

    Returns:
        Scalar, mean over windows and directions.
    """
    windows = video.shape[1]
    if other_clips:
        video, audio = video.flatten(0, 1).unsqueeze(0), audio.flatten(0, 1).unsqueeze(0)
    logits = -torch.cdist(video, audio).square() / (2 * temperature)
    index = torch.arange(video.shape[1], device=video.device)
    apart = (index[:, None] - index[None]).abs()
    same_clip = index[:, None] // windows == index[None] // windows
    logits = logits.masked_fill(same_clip & (apart > 0) & (apart <= tolerance), float("-inf"))
    target = index.expand(len(video), -1)
    return 0.5 * (F.cross_entropy(logits.transpose(1, 2), target) + F.cross_entropy(logits, target))


class PairEmbedder(nn.Module):
    """One forward for both towers, so that a distributed wrapper sees a single call."""

    def __init__(self, syncnet: AnySyncNet) -> None:
        super().__init__()
        self.syncnet: AnySyncNet = syncnet

    def forward(self, faces: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """faces (B,L,96,96,3) uint8, sound (B,W,1,13,20) -> video (B,W,E), audio (B,W,E)."""
        count, length = faces.shape[:2]
        pixels = self.syncnet.pixels(faces.flatten(0, 1)).unflatten(1, (count, length)).transpose(0, 1)
        video = self.syncnet.embed_video(pixels).reshape(count, length - SYNC_FRAMES + 1, -1)
        audio = self.syncnet.embed_audio(sound.flatten(0, 1)).reshape(count, length - SYNC_FRAMES + 1, -1)
        return video, audio


@torch.no_grad()
def validate(model: AnySyncNet, reader: ClipReader, max_shift: int) -> dict[str, float]:
    """Scores of whole held-out clips.

    Returns:
        `offset_accuracy` (share of clips whose offset is found within one frame), and the mean `lse_d`,
        `lse_c` and `distance_at_zero` of the true clips, `lse_d_still` of clips that show their first
        frame only, and `distance_delayed` at offset 0 of clips whose sound comes 8 frames late.
    """
    model.eval()
    rows = []
    for i in range(len(reader)):
        faces, mfcc = np.asarray(reader.faces(i)), torch.as_tensor(reader.mfcc(i))
        true = score_clip(model, faces, mfcc, max_shift)
        still = score_clip(model, np.repeat(faces[:1], len(faces), axis=0), mfcc, max_shift)
        delayed = score_clip(model, faces, torch.roll(mfcc, 32, 0), max_shift)
        rows.append(
            (
                abs(true.offset) <= 1,
                true.distance,
                true.confidence,
                true.distance_at_zero,
                still.distance,
                delayed.distance_at_zero,
            )
        )
    names = ("offset_accuracy", "lse_d", "lse_c", "distance_at_zero", "lse_d_still", "distance_delayed")
    return dict(zip(names, np.mean(np.asarray(rows, dtype=np.float64), axis=0).tolist()))


class Trainer:
    """Trains by steps, validates whole clips, resumes exactly.

    Args:
        cfg: the root config of `scripts/train_syncnet.py`.
        train: reader of the training clips.
        valid: reader of the held-out clips.
    """

    def __init__(self, cfg: DictConfig, train: ClipReader, valid: ClipReader) -> None:
        self.cfg, self.valid = cfg, valid
        self.directory = Path(cfg.run.dir)
        device = choose_device("cpu" if cfg.trainer.cpu else "auto")
        self.precision = choose_precision(cfg.trainer.precision, device, self._begun())
        self.accelerator = Accelerator(cpu=cfg.trainer.cpu, mixed_precision=self.precision.mixed_precision)
        if self.accelerator.is_main_process:
            record_precision(self.precision, "trainer.precision", self.directory)
        torch.manual_seed(cfg.seed)
        self.structure = to_dict(cfg.syncnet, resolve=True)
        pair = PairEmbedder(build_syncnet(**self.structure))
        optimizer = torch.optim.AdamW(pair.parameters(), lr=cfg.train.lr, weight_decay=cfg.train.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(pair, optimizer)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = SegmentBatches(train, cfg.train, cfg.seed, rank, world)
        self.step = 0

    @property
    def syncnet(self) -> AnySyncNet:
        return self.accelerator.unwrap_model(self.model).syncnet

    @property
    def last(self) -> Path:
        """Where the state for resuming lies."""
        return self.directory / "checkpoints" / "last.pt"

    def _begun(self) -> str | None:
        """The precision of the run that is gone on from."""
        return checkpoint.load(self.last, kind="syncnet_training").get("precision") if self.last.exists() else None

    def learning_rate(self) -> float:
        """Linear warm-up, then linearly down to zero at the last step."""
        train = self.cfg.train
        warm = min(1.0, (self.step + 1) / max(1, train.warmup))
        return train.lr * warm * (1 - self.step / train.steps)

    def update(self, faces: Tensor, sound: Tensor) -> float:
        """One step; returns the loss.

        Raises:
            MetricError: the loss is not finite; nothing was updated.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        device = self.accelerator.device
        with self.accelerator.autocast():
            video, audio = self.model(faces.to(device), sound.to(device))
        train = self.cfg.train
        loss = window_contrast(video.float(), audio.float(), train.temperature, train.tolerance, train.other_clips)
        if not torch.isfinite(loss):
            raise MetricError(f"SyncNet loss is {loss.item()} at step {self.step}: lower train.lr")
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Write the state for resuming and the model that evaluation loads."""
        if not self.accelerator.is_main_process:
            return
        weights = self.syncnet.state_dict()
        state = {"kind": "syncnet_training", "model": weights, "step": self.step, "precision": self.precision.name}
        checkpoint.save(self.last, state | {"optimizer": self.optimizer.state_dict(), "run": self._identity()})
        info = SyncNetInfo(self.structure["structure"], self.cfg.data.name, self.step, self.cfg.clips.train_split)
        save_syncnet(self.directory / "syncnet.pt", self.syncnet, self.structure, info)

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with to be gone on from; a run may be made longer."""
        clips = repr([(clip.id, clip.frames) for clip in self.batches.reader.clips])
        train = {name: value for name, value in to_dict(self.cfg.train, resolve=True).items() if name != "steps"}
        return {
            "seed": self.cfg.seed,
            "syncnet": self.structure,
            "train": train,
            "data": hashlib.sha256(clips.encode()).hexdigest(),
        }

    def resume(self) -> None:
        """Continue from `last` when it is there.

        Raises:
            MetricError: it is of another run.
        """
        if not self.last.exists():
            return
        state = checkpoint.load(self.last, kind="syncnet_training")
        mine = self._identity()
        # States of earlier versions say nothing of their run.
        other = [name for name, value in state.get("run", mine).items() if mine.get(name) != value]
        if other:
            raise MetricError(
                f"{self.last}: belongs to a run with another {' and '.join(other)}; choose another run.name, or delete "
                f"{self.directory} to start anew"
            )
        checkpoint.load_weights(self.syncnet, state["model"], self.last)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.accelerator.print(f"resuming {self.last} at step {self.step}")

    def run(self) -> dict[str, float]:
        """Train to the last step.

        Returns:
            The last validation, see `validate`; also written to `<run.dir>/metrics.json`.
        """
        cfg, started = self.cfg, time.monotonic()
        self.resume()
        writer = SummaryWriter(self.directory / "tensorboard", purge_step=self.step)
        left = range(self.step, cfg.train.steps)
        loader = DataLoader(self.batches, batch_size=None, sampler=left, num_workers=cfg.trainer.workers)
        main = self.accelerator.is_main_process
        bar = tqdm(loader, "syncnet", cfg.train.steps, initial=self.step, unit="step", disable=not main)
        scores: dict[str, float] = {}
        for faces, sound in bar:
            writer.add_scalar("train/lr", self.learning_rate(), self.step)
            loss = self.update(faces, sound)
            writer.add_scalar("train/contrast", loss, self.step)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if self.step % cfg.trainer.valid_every == 0 and self.step < cfg.train.steps:
                scores = self.validate(writer)
                self.save()
        scores = self.validate(writer)
        self.save()
        writer.close()
        if main:
            report = {"steps": self.step, "seconds": time.monotonic() - started, "clips": len(self.valid)} | scores
            (self.directory / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        return scores

    def validate(self, writer: SummaryWriter) -> dict[str, float]:
        """Score the held-out clips on the main process and log them."""
        scores: dict[str, float] = {}
        if self.accelerator.is_main_process:
            scores = validate(self.syncnet, self.valid, self.cfg.max_shift)
            for name, value in scores.items():
                writer.add_scalar(f"valid/{name}", value, self.step)
            tqdm.write("  ".join([f"step {self.step}"] + [f"{n} {v:.3f}" for n, v in scores.items()]))
        self.accelerator.wait_for_everyone()
        return scores


def train_syncnet(cfg: DictConfig) -> dict[str, float]:
    """Train on the corpus of `cfg.data`; see `Trainer.run`."""
    train = long_enough(read_manifest(cfg.data, cfg.clips.train_split, draw=True), cfg.clips.train)
    valid = long_enough(read_manifest(cfg.data, cfg.clips.valid_split), cfg.clips.valid)
    cache = cfg.trainer.cache
    return Trainer(cfg, ClipReader(train, cache=cache), ClipReader(valid, cache=cache)).run()
