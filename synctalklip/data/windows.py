"""The dataset of stage 2: windows of consecutive frames to paint, within their whole clip (paper section 3.3).

Every draw depends on (seed, epoch, clip) alone and every batch on (seed, number of the batch) alone, so the same
seed gives the same batches at any number of workers, and a run goes on where it stopped by skipping batches.

Legend: B clips, T video frames at 25 Hz, N frames to paint of all clips of a batch, L tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import Clip
from synctalklip.data.text import Tokenizer
from synctalklip.errors import SyncTalklipError

IDENTITY_MODES = ("window", "frame")


@dataclass(frozen=True)
class WindowConfig:
    """How the frames to paint and their identity frames are drawn.

    Attributes:
        frames: length of a window of consecutive frames.
        fraction: windows per frame of the clip (0.08 of 75 frames are 6 windows).
        min_windows: at least so many windows a clip, as far as they fit.
        max_windows: at most so many, null for no limit.
        identity: "window", as many consecutive frames paired one to one, or "frame", one frame for the window.
        min_gap: frames between a window and its identity frames, as far as the clip is long enough.
    """

    frames: int
    fraction: float
    min_windows: int
    max_windows: int | None
    identity: str
    min_gap: int

    def __post_init__(self) -> None:
        if self.identity not in IDENTITY_MODES:
            raise SyncTalklipError(f"windows.identity is '{self.identity}'; use one of {', '.join(IDENTITY_MODES)}")
        if self.frames < 1 or self.min_windows < 1 or self.min_gap < 0 or not 0 <= self.fraction <= 1:
            raise SyncTalklipError(
                "windows: frames and min_windows start at 1, min_gap at 0, and fraction lies in 0..1"
            )

    def count(self, length: int) -> int:
        """Number of windows of a clip of `length` frames."""
        wanted = max(int(self.fraction * length), self.min_windows)
        wanted = min(wanted, self.max_windows or wanted)
        return max(1, min(wanted, length // self.frames))

    def images(self, length: int) -> int:
        """Number of frames to paint of a clip of `length` frames."""
        return self.count(length) * min(self.frames, length)


def window_starts(length: int, count: int, frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """First frames of `count` disjoint windows, sorted, all arrangements equally likely.

    Args:
        length: T of the clip.
        count: number of windows; `count * frames <= length`, or 1.
        frames: length of a window.
        rng: source of chance; None spreads the windows evenly (validation).
    """
    frames = min(frames, length)
    free = length - count * frames
    # Shrink every window to one frame: drawing disjoint windows becomes drawing distinct places.
    if rng is None:
        places = np.round((np.arange(count) + 0.5) * free / count).astype(np.int64)
        return places + np.arange(count) * frames
    places = np.sort(rng.choice(free + count, size=count, replace=False))
    return places + np.arange(count) * (frames - 1)


def identity_start(start: int, length: int, frames: int, min_gap: int, rng: np.random.Generator) -> int:
    """First frame of the identity window of the window at `start`.

    The two are at least `min_gap` frames apart. A clip that is too short for that gives the farthest window it has.
    """
    frames = min(frames, length)
    starts = np.arange(length - frames + 1)
    gap = np.abs(starts - start) - frames
    allowed = starts[gap >= min_gap]
    if len(allowed) == 0:
        allowed = starts[gap == gap.max()]
    return int(rng.choice(allowed))


class WindowDataset(Dataset):
    """Clips with the frames to paint; items are asked for by (epoch, clip index).

    Args:
        reader: the prepared clips.
        config: how windows and identity frames are drawn.
        tokenizer: makes the token ids of the lip-reading loss; None leaves them out.
        seed: seed of all draws.
        train: False spreads the windows evenly over the clip and ignores the epoch.
    """

    def __init__(self, reader: ClipReader, config: WindowConfig, tokenizer: Tokenizer | None, seed: int, train: bool):
        self.reader, self.config, self.tokenizer = reader, config, tokenizer
        self.seed, self.train = seed, train
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

    def draw(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Target frames and the identity frame of each, both (n,) int64."""
        clip, config = self.reader.clips[index], self.config
        rng = np.random.default_rng((self.seed, epoch if self.train else 0, index))
        frames = min(config.frames, clip.frames)
        starts = window_starts(clip.frames, config.count(clip.frames), frames, rng if self.train else None)
        sources = [identity_start(int(s), clip.frames, frames, config.min_gap, rng) for s in starts]
        steps = np.arange(frames)
        target = (starts[:, None] + steps).reshape(-1)
        held = steps if config.identity == "window" else np.zeros_like(steps)
        return target, (np.asarray(sources)[:, None] + held).reshape(-1)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Item of (epoch, clip index).

        Returns:
            `clip`; `frames` (n,) int64; `target`, `identity` (n,96,96,3) uint8 BGR; `matrices` (n,2,3) float32;
            `rois` (T,96,96) uint8; `audio` (T,104) float32; `tokens` (L,) int64 ending in eos, or None.
        """
        epoch, index = key
        clip: Clip = self.reader.clips[index]
        target, identity = self.draw(epoch, index)
        faces = self.reader.faces(index)
        tokens = None
        if self.tokenizer is not None:
            tokens = torch.tensor([*self.tokenizer.encode(clip.text), self.tokenizer.eos])
        return {
            "clip": clip.id,
            "frames": torch.from_numpy(target),
            "target": torch.from_numpy(faces[target]),
            "identity": torch.from_numpy(faces[identity]),
            "matrices": torch.from_numpy(self.reader.matrices(index)[target]).float(),
            "rois": torch.from_numpy(np.ascontiguousarray(self.reader.rois(index))),
            "audio": torch.as_tensor(self.reader.logfbank(index)).float(),
            "tokens": tokens,
        }


def _pad(items: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True, padding_value=value)


def collate(items: Sequence[dict[str, Any]], pad: int = 1, eos: int = 2) -> dict[str, Any]:
    """Concatenate the frames to paint over the clips and pad what belongs to whole clips.

    Args:
        items: items of a `WindowDataset`.
        pad: token id of padding.
        eos: token id that ends a sentence and, moved to the front, starts the decoder's input.

    Returns:
        `clips` list of B ids; `clip` (N,) row of each frame in the batch and `frame` (N,) its place in that clip;
        `target`, `identity` (N,96,96,3) uint8; `matrices` (N,2,3); `rois` (B,T,96,96) uint8; `audio` (B,104,T);
        `padding_mask` (B,T) true on padding; `tokens`, `prev_tokens` (B,L), or absent without a tokenizer.
    """
    lengths = torch.tensor([len(item["rois"]) for item in items])
    counts = torch.tensor([len(item["frames"]) for item in items])
    batch: dict[str, Any] = {
        "clips": [item["clip"] for item in items],
        "clip": torch.repeat_interleave(torch.arange(len(items)), counts),
        "frame": torch.cat([item["frames"] for item in items]),
        "rois": _pad([item["rois"] for item in items], 0),
        "audio": _pad([item["audio"] for item in items], 0).transpose(1, 2),
        "padding_mask": torch.arange(int(lengths.max())) >= lengths[:, None],
    }
    for name in ("target", "identity", "matrices"):
        batch[name] = torch.cat([item[name] for item in items])
    if items[0]["tokens"] is not None:
        batch["tokens"] = _pad([item["tokens"] for item in items], pad)
        shifted = [torch.cat([torch.tensor([eos]), item["tokens"][:-1]]) for item in items]
        batch["prev_tokens"] = _pad(shifted, pad)
    return batch


class ImageBudget(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, clip index) of about equal numbers of frames to paint.

    Clips of like length share a batch, which keeps padding small. The order of clips and of batches is drawn
    anew every epoch from (seed, epoch).

    Args:
        images: number of frames to paint of each clip.
        lengths: T of each clip.
        budget: most frames to paint in a batch; a clip that alone has more is a batch of its own.
        seed: seed of the order.
        shuffle: False keeps the order of the manifest and gives one epoch (validation).
        skip: number of batches to leave out at the start (a resumed run).
        rank: number of this process.
        processes: number of processes; each takes its share of the batches.
    """

    def __init__(
        self,
        images: Sequence[int],
        lengths: Sequence[int],
        budget: int,
        seed: int,
        shuffle: bool,
        skip: int = 0,
        rank: int = 0,
        processes: int = 1,
    ):
        if budget < 1:
            raise SyncTalklipError(f"images per batch is {budget}; at least 1 is needed")
        self.images, self.lengths = np.asarray(images), np.asarray(lengths)
        self.budget, self.seed, self.shuffle = budget, seed, shuffle
        self.skip, self.rank, self.processes = skip, rank, processes

    def epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """All batches of an epoch; every clip is in exactly one."""
        rng = np.random.default_rng((self.seed, epoch))
        order = np.arange(len(self.images))
        if self.shuffle:
            order = rng.permutation(order)
            # Rounded lengths make like clips meet while chance still decides which.
            order = order[np.argsort(self.lengths[order] // 10, kind="stable")]
        batches: list[list[tuple[int, int]]] = []
        filled = 0
        for index in order.tolist():
            if not batches or filled + self.images[index] > self.budget:
                batches.append([])
                filled = 0
            batches[-1].append((epoch, index))
            filled += self.images[index]
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffle else batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Endless over the epochs when shuffled, one epoch otherwise."""
        if not self.shuffle:
            yield from self.epoch(0)[self.rank :: self.processes]
            return
        epoch, skip = 0, self.skip
        while True:
            batches = self.epoch(epoch)
            # Every process takes part in every step: what does not divide starts the epoch's shares anew.
            share = -(-len(batches) // self.processes)
            mine = [batches[(self.rank + i * self.processes) % len(batches)] for i in range(share)]
            yield from mine[skip:] if skip < share else []
            skip = max(0, skip - share)
            epoch += 1
