"""The dataset of stage 2: windows of consecutive frames to paint, within their whole clip (paper section 3.3).

Every draw depends on (seed, epoch, clip) alone and every batch on (seed, number of the batch) alone, so the same
seed gives the same batches at any number of workers, and a run goes on where it stopped by skipping batches.

Legend: B clips, T video frames at 25 Hz, N frames to paint of all clips of a batch, L tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from synctalklip.data.augment import FaceChange
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import REACH, audio_features, sound_windows
from synctalklip.data.manifest import Clip
from synctalklip.data.text import Tokenizer
from synctalklip.data.window_sampling import SAMPLES, Plan, WindowConfig, identity_start, quiet_starts, window_starts
from synctalklip.errors import SyncTalklipError


class WindowDataset(Dataset):
    """Clips with the frames to paint; items are asked for by (epoch, clip index).

    Args:
        reader: the prepared clips.
        config: how windows and identity frames are drawn.
        tokenizer: makes the token ids of the lip-reading loss; None leaves them out.
        seed: seed of all draws.
        train: False spreads the windows evenly over the clip, ignores the epoch and makes no silence.
        sound: items also carry what SyncNet hears of each window.
    """

    def __init__(
        self,
        reader: ClipReader,
        config: WindowConfig,
        tokenizer: Tokenizer | None,
        seed: int,
        train: bool,
        sound: bool = False,
    ):
        self.reader, self.config, self.tokenizer = reader, config, tokenizer
        self.seed, self.train, self.sound = seed, train, sound
        if tokenizer is not None:
            silent = [clip.id for clip in reader.clips if not clip.text]
            if silent:
                raise SyncTalklipError(
                    f"{reader.clips[0].root}: {len(silent)} clips have no transcript, '{silent[0]}' is the first; "
                    "leave them out of the split, or set loss.lambda_lip=0"
                )

    def __len__(self) -> int:
        return len(self.reader)

    def images(self) -> list[int]:
        """Number of frames to paint of each clip."""
        return [self.config.images(clip.frames) for clip in self.reader.clips]

    def plan(self, epoch: int, index: int) -> Plan:
        """Windows, their identity windows, and which of them are silent."""
        clip, config = self.reader.clips[index], self.config
        rng = np.random.default_rng((self.seed, epoch if self.train else 0, index))
        frames = min(config.frames, clip.frames)
        starts = window_starts(clip.frames, config.count(clip.frames), frames, rng if self.train else None)
        silent = np.zeros(len(starts), bool)
        if self.train and config.silence is not None:
            starts, silent = self._silence(index, starts, frames, rng)
        sources = [identity_start(int(s), clip.frames, frames, config.min_gap, rng) for s in starts]
        return Plan(starts, np.asarray(sources), silent)

    def _silence(
        self, index: int, starts: np.ndarray, frames: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move some windows to silent places that no other window takes."""
        silence = self.config.silence
        assert silence is not None
        starts, silent = starts.copy(), np.zeros(len(starts), bool)
        chosen = np.flatnonzero(rng.random(len(starts)) < silence.probability)
        if len(chosen) == 0:
            return starts, silent
        length = self.reader.clips[index].frames
        quiet = quiet_starts(self.reader.wave(index), length, frames, silence.threshold_db)
        for window in chosen:
            others = np.delete(starts, window)
            free = quiet[(np.abs(quiet[:, None] - others) >= frames).all(axis=1)]
            if len(free):
                starts[window], silent[window] = rng.choice(free), True
        order = np.argsort(starts)
        return starts[order], silent[order]

    def sampled_frames(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Target frames and the identity frame of each, both (n,) int64."""
        return self._frames(self.plan(epoch, index), index)

    def _frames(self, plan: Plan, index: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(min(self.config.frames, self.reader.clips[index].frames))
        held = steps if self.config.identity == "window" else np.zeros_like(steps)
        return (plan.starts[:, None] + steps).reshape(-1), (plan.sources[:, None] + held).reshape(-1)

    def _audio(self, plan: Plan, index: int) -> Tensor:
        """Features of the clip's sound, (T,104), digital silence in silent windows."""
        if not plan.silent.any():
            return torch.as_tensor(self.reader.logfbank(index)).float()
        wave = np.array(self.reader.wave(index))
        for start in plan.starts[plan.silent]:
            wave[start * SAMPLES : (start + self.config.frames) * SAMPLES] = 0
        return audio_features(wave, self.reader.clips[index].frames)

    def _change(self, epoch: int, index: int, size: int) -> FaceChange | None:
        """How the crops of a clip are changed in an epoch of training."""
        if not self.train or self.config.augment is None:
            return None
        # A source of its own: the windows stay where they are without it.
        return self.config.augment.draw(size, np.random.default_rng((self.seed, epoch, index, 1)))

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Item of (epoch, clip index).

        Returns:
            `clip`; `frames` (n,) int64; `target`, `identity` (n,96,96,3) uint8 BGR; `matrices` (n,2,3) float32;
            `silent` (n,) bool; `rois` (T,96,96) uint8; `audio` (T,104) float32; `tokens` (L,) int64 ending in eos,
            or None; `sound` (s,13,20), MFCC of the windows that are not silent, or None.
        """
        epoch, index = key
        clip: Clip = self.reader.clips[index]
        plan = self.plan(epoch, index)
        target, identity = self._frames(plan, index)
        faces, matrices = self.reader.faces(index), self.reader.matrices(index)[target]
        targets, identities = faces[target], faces[identity]
        change = self._change(epoch, index, faces.shape[1])
        if change is not None:
            gains = change.tint(targets)
            targets, identities = change.faces(targets, gains), change.faces(identities, gains)
            matrices = change.matrices(matrices)
        tokens = sound = None
        if self.tokenizer is not None:
            tokens = torch.tensor([*self.tokenizer.encode(clip.text), self.tokenizer.eos])
        if self.sound:
            windows = sound_windows(torch.as_tensor(self.reader.mfcc(index)), clip.frames).squeeze(1)
            sound = windows[torch.from_numpy(plan.starts[~plan.silent])]
        return {
            "clip": clip.id,
            "frames": torch.from_numpy(target),
            "target": torch.from_numpy(targets),
            "identity": torch.from_numpy(identities),
            "matrices": torch.from_numpy(matrices).float(),
            "silent": torch.from_numpy(np.repeat(plan.silent, len(target) // len(plan.starts))),
            "rois": torch.from_numpy(np.ascontiguousarray(self.reader.rois(index))),
            "audio": self._audio(plan, index),
            "tokens": tokens,
            "sound": sound,
        }


def _pad(items: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True, padding_value=value)


def _reached(item: dict[str, Any]) -> Tensor:
    """Frames of a clip that look different to the expert once the spoken ones are painted, (r,) int64, sorted."""
    spoken = item["frames"][~item["silent"]]
    around = spoken[:, None] + torch.arange(-REACH, REACH + 1)
    return around.clamp(0, len(item["rois"]) - 1).flatten().unique()


def collate(items: Sequence[dict[str, Any]], pad: int = 1, eos: int = 2) -> dict[str, Any]:
    """Concatenate the frames to paint over the clips and pad what belongs to whole clips.

    Args:
        items: items of a `WindowDataset`.
        pad: token id of padding.
        eos: token id that ends a sentence and, moved to the front, starts the decoder's input.

    Returns:
        `clips` list of B ids; `lengths` list of their frames; `altered` list of whether silence replaced some of their
        sound; `clip` (N,) row of each frame in the batch and `frame` (N,) its place in that clip;
        `target`, `identity` (N,96,96,3) uint8; `matrices` (N,2,3); `rois` (B,T,96,96) uint8; `audio` (B,104,T);
        `padding_mask` (B,T) true on padding; `silent` (N,) bool; `spoken` (n,) int64, which of the N are not silent,
        and `spoken_counts`, how many of them each clip has, as numbers; `reached_clip`, `reached_frame` (r,), the
        frames that painting the spoken ones changes for the expert, and `reached_counts` of each clip; `tokens`,
        `prev_tokens` (B,L), or absent
        without a tokenizer; `sound` (s,13,20), or absent.
    """
    lengths = torch.tensor([len(item["rois"]) for item in items])
    reached = [_reached(item) for item in items]
    counts = torch.tensor([len(item["frames"]) for item in items])
    batch: dict[str, Any] = {
        "clips": [item["clip"] for item in items],
        "lengths": lengths.tolist(),
        "altered": [bool(item["silent"].any()) for item in items],
        "clip": torch.repeat_interleave(torch.arange(len(items)), counts),
        "frame": torch.cat([item["frames"] for item in items]),
        "rois": _pad([item["rois"] for item in items], 0),
        "audio": _pad([item["audio"] for item in items], 0).transpose(1, 2),
        "padding_mask": torch.arange(int(lengths.max())) >= lengths[:, None],
    }
    for name in ("target", "identity", "matrices", "silent"):
        batch[name] = torch.cat([item[name] for item in items])
    # Counted here, where it is free: to select by a mask on a GPU is to wait for it.
    batch["spoken"] = torch.nonzero(~batch["silent"]).squeeze(1)
    batch["spoken_counts"] = [int((~item["silent"]).sum()) for item in items]
    batch["reached_counts"] = [len(frames) for frames in reached]
    batch["reached_clip"] = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(batch["reached_counts"]))
    batch["reached_frame"] = torch.cat(reached)
    if items[0]["sound"] is not None:
        batch["sound"] = torch.cat([item["sound"] for item in items])
    if items[0]["tokens"] is not None:
        batch["tokens"] = _pad([item["tokens"] for item in items], pad)
        shifted = [torch.cat([torch.tensor([eos]), item["tokens"][:-1]]) for item in items]
        batch["prev_tokens"] = _pad(shifted, pad)
    return batch
