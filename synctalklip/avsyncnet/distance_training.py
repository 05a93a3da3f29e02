"""F of eqs. 5 and 11 learned on a frozen AV-SyncNet, whose views of the clips are computed once: seconds, not hours.

The paper fine-tunes with eq. 5 and leaves F open. Frozen, the words that are read stay what they are, and any form of F
can be tried; with negatives of the same clip it learns what synchrony is (`losses.frame_contrast`).

Legend: B clips, T video frames at 25 Hz, D embedding, W projected embedding.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import assert_view
from synctalklip.avsyncnet.expert import expert_of, read_checkpoint
from synctalklip.avsyncnet.model import AVSyncNet
from synctalklip.cli import to_dict
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.manifest import Clip, read_manifest
from synctalklip.device import choose_device
from synctalklip.distance import LEARNED, AVDistance
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import CONTRASTS, frame_contrast
from synctalklip.metrics.offsets import offset_counts

log = logging.getLogger(__name__)

KIND = "distance_training"
Views = list[tuple[Tensor, Tensor]]
"""Of each clip what the distance sees of its sound and of its lips, (T,D) each."""


@torch.no_grad()
def views_of(model: AVSyncNet, clips: Sequence[Clip], batch_frames: int, progress: str) -> Views:
    """The views of the model's configuration, in the order of `clips`, on the model's device."""
    dataset = ClipDataset(clips, limits=ANY_LENGTH)
    device = next(model.parameters()).device
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for batch, sample in clip_batches(dataset, dataset.order(1, 0), batch_frames, progress):
        net_input = move(sample["net_input"], device)
        mask = net_input["padding_mask"]
        sound = model.metric_view(audio=net_input["audio"], padding_mask=mask)
        lips = model.metric_view(video=net_input["video"], padding_mask=mask)
        for index, *sides in zip(batch, sound, lips):
            found[index] = tuple(side[: dataset.clips[index].frames].clone() for side in sides)
    return [found[index] for index in range(len(dataset))]


def batch_of(views: Views, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sound (B,T,D), lips (B,T,D) and padding mask (B,T) of some clips."""
    sound, lips = (pad_sequence([views[i][side] for i in chosen], batch_first=True) for side in (0, 1))
    lengths = torch.tensor([len(views[i][0]) for i in chosen], device=sound.device)
    return sound, lips, torch.arange(sound.shape[1], device=sound.device) >= lengths[:, None]


def distance_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings `distance_*` of a model from a config of the group distance.

    Raises:
        SyncTalklipError: an F that learns nothing, or a loss that it cannot learn from.
    """
    if options["head"] not in LEARNED:
        raise SyncTalklipError(f"distance={options['head']} has nothing to learn: choose {' or '.join(LEARNED)}")
    if options["loss"]["form"] not in CONTRASTS:
        raise SyncTalklipError(
            f"distance.loss.form {options['loss']['form']!r} teaches a constant: choose {' or '.join(CONTRASTS)}"
        )
    return {f"distance_{name}": value for name, value in options.items() if name != "loss"}


class DistanceTrainer:
    """Learns F by passes over the clips, keeps the best by the validation clips, and resumes exactly.

    Args:
        cfg: the root config of scripts/learn_distance.py.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg, self.loss = cfg, to_dict(cfg.distance.loss)
        self.folder = Path(cfg.run.dir) / "checkpoints"
        self.settings = distance_settings(to_dict(cfg.distance))
        self.source = read_checkpoint(cfg.checkpoint)
        self.made_of = sorted(checkpoint.origins(cfg.checkpoint))
        splits = {name: self._clips(name) for name in ("train", "valid")}
        expert = expert_of(self.source, cfg.checkpoint, splits["train"][0].roi_mode)
        assert_view(self.settings["distance_view"], expert.model.config.encoder_layers)
        self.identity = self._identity(splits)
        self.done, self.best = 0, float("inf")
        torch.manual_seed(cfg.seed)
        self.device = torch.device(choose_device(cfg.device))
        expert.model.config = replace(expert.model.config, **self.settings)
        self.distance = AVDistance(expert.model.config.encoder_embed_dim, **expert.model.config.distance())
        self.distance.to(self.device)
        self.best_weights = self._weights()
        self.optimizer = torch.optim.AdamW(
            self.distance.parameters(), cfg.train.lr, weight_decay=cfg.train.weight_decay
        )
        updates = cfg.train.passes * math.ceil(len(splits["train"]) / cfg.train.batch_size)
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, updates))
        self.resume()
        model = expert.model.to(self.device)
        left = self.done < cfg.train.passes
        self.views = {
            name: views_of(model, clips, cfg.batch_frames, f"views of {name}") if left else []
            for name, clips in splits.items()
        }

    def _clips(self, split: str) -> list[Clip]:
        """As many clips of a split as the config asks for, spread evenly over it."""
        clips, most = read_manifest(self.cfg.data.prepared, split), self.cfg.clips[split] or None
        if not clips:
            raise SyncTalklipError(f"{self.cfg.data.prepared}: has no clip of the split {split}: prepare some")
        count = min(len(clips), most or len(clips))
        return [clips[index * len(clips) // count] for index in range(count)]

    def _identity(self, splits: Mapping[str, Sequence[Clip]]) -> dict[str, Any]:
        """What a state must agree with to be gone on from."""
        clips = repr([[(clip.id, clip.frames) for clip in clips] for clips in splits.values()])
        return {
            "seed": self.cfg.seed,
            "checkpoint": checkpoint.file_hash(self.cfg.checkpoint),
            "clips": hashlib.sha256(clips.encode()).hexdigest(),
            "distance": self.settings | self.loss,
            "train": dict(self.cfg.train),
        }

    def run(self) -> dict[str, float]:
        """Learn to the last pass.

        Returns:
            The last validation, see `validate`.
        """
        values: dict[str, float] = {}
        with SummaryWriter(str(Path(self.cfg.run.dir) / "tensorboard"), purge_step=self.done) as logger:
            bar = tqdm(range(self.done, self.cfg.train.passes), "distance", self.cfg.train.passes, initial=self.done)
            for _ in bar:
                logger.add_scalar("train/loss", self.learn(), self.done)
                values = self.validate()
                for name, value in values.items():
                    logger.add_scalar(f"valid/{name}", value, self.done)
                bar.set_postfix(values, refresh=False)
                if values["loss"] < self.best:
                    self.best, self.best_weights = values["loss"], self._weights()
                self.save()
        return values

    def learn(self) -> float:
        """One pass over the training clips, random by seed and pass alone; its mean loss."""
        train, views = self.cfg.train, self.views["train"]
        torch.manual_seed(self.cfg.seed * 100003 + self.done)
        total = 0.0
        for chosen in torch.randperm(len(views)).split(train.batch_size):
            sound, lips, mask = batch_of(views, chosen.tolist())
            sound, lips = (functional.dropout(view, train.dropout) for view in (sound, lips))
            loss = self._loss(sound, lips, mask)
            if not torch.isfinite(loss):
                raise SyncTalklipError(f"the loss is {loss.item()} in pass {self.done}: lower train.lr")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.decay.step()
            total += loss.item() * len(chosen)
        self.done += 1
        return total / len(views)

    def _loss(self, sound: Tensor, lips: Tensor, mask: Tensor) -> Tensor:
        distance = self.distance
        table = distance.table(distance.project(sound, "audio", mask), distance.project(lips, "video", mask))
        return frame_contrast(table, mask, **self.loss)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, and the shares of held-out frames that are found and whose own lips are nearer than the next ones."""
        total, counts = 0.0, dict.fromkeys(("found0", "found1", "sounds", "nearer", "neighbours"), 0.0)
        for index in range(len(self.views["valid"])):
            sound, lips, mask = batch_of(self.views["valid"], [index])
            total += self._loss(sound, lips, mask).item()
            found = offset_counts(self.distance.matrix(sound, lips)[0].cpu().numpy())
            counts = {name: value + found[name] for name, value in counts.items()}
        shares = {name: counts[name] / counts["sounds"] for name in ("found0", "found1")}
        nearer = counts["nearer"] / max(1.0, counts["neighbours"])
        return {"loss": total / len(self.views["valid"]), **shares, "nearer": nearer}

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.distance.state_dict().items()}

    def save(self) -> None:
        """Write the state for resuming, and the AV-SyncNet with the best F so far, as stage 2 reads it."""
        own = ("distance.", "align.")
        weights = {name: value for name, value in self.source["model"].items() if not name.startswith(own)}
        weights |= {f"distance.{name}": value for name, value in self.best_weights.items()}
        plain = {name: value for name, value in self.source["cfg"]["model"].items() if not name.startswith("align")}
        cfg = {**self.source["cfg"], "model": plain | self.settings}
        whole = {"cfg": cfg, "model": weights, "task_state": self.source["task_state"]}
        # Its encoder and decoder are those of its source: neither may judge a generator that the other supervised.
        whole["made_of"] = self.made_of
        checkpoint.save(self.folder / "checkpoint_best.pt", whole)
        state = {"kind": KIND, "run": self.identity, "done": self.done, "best": self.best}
        state |= {"distance": self._weights(), "best_weights": self.best_weights}
        state |= {"optimizer": self.optimizer.state_dict(), "decay": self.decay.state_dict()}
        checkpoint.save(self.folder / "checkpoint_last.pt", state)

    def resume(self) -> None:
        """Go on from the saved state where there is one."""
        path = self.folder / "checkpoint_last.pt"
        if not path.exists():
            return
        state = checkpoint.load(path, kind=KIND)
        differing = [name for name, value in self.identity.items() if state["run"].get(name) != value]
        if differing:
            raise SyncTalklipError(
                f"{path}: belongs to a run with another {' and '.join(differing)}; choose another run.name, or delete "
                "it to start anew"
            )
        checkpoint.load_weights(self.distance, state["distance"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.decay.load_state_dict(state["decay"])
        self.done, self.best, self.best_weights = state["done"], state["best"], state["best_weights"]
        log.info("going on after pass %d of %s", self.done, path)
