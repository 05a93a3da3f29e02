"""What the distance of an AV-SyncNet knows of synchrony, clip by clip, and a SyncNet beside it.

An expert of stage 2 has to tell a painted frame from its neighbours, and to see that frame and not the recorded ones
around it. Both are measured on clips that it did not learn from: the offset that it finds, and its answer to a wrong
mouth in a short window of a recorded clip.

T video frames at 25 Hz, W windows, E embedding, F ResNet features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from synctalklip.avsyncnet.expert import Expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.features import REACH, SYNC_FRAMES
from synctalklip.data.manifest import Clip
from synctalklip.metrics.offsets import answer_counts, offset_counts, window_distances


@dataclass(frozen=True)
class WrongMouths:
    """The windows of a clip that are shown with a wrong mouth, each in a copy of the clip of its own.

    Attributes:
        windows: how many, spread evenly.
        frames: of each. All show the mouth of one frame half a clip away, of the same person in the same place.
    """

    windows: int = 4
    frames: int = 5

    def places(self, length: int) -> Iterator[tuple[int, int]]:
        """First frame and wrong frame of each window of a clip; none where it is shorter than two windows."""
        if length < 2 * self.frames:
            return
        for window in range(self.windows):
            first = min(length * (2 * window + 1) // (2 * self.windows), length - self.frames)
            yield first, (first + self.frames // 2 + length // 2) % length


@torch.inference_mode()
def gates_of_expert(
    expert: Expert, clips: Sequence[Clip], wrong: WrongMouths, batch_frames: int
) -> dict[str, dict[str, float]]:
    """Counts of every clip by its id, of single frames and of windows; see `metrics.offsets`.

    Those of windows begin with `window_`, and there are none of clips that are too short for them.
    """
    dataset = ClipDataset(clips, limits=ANY_LENGTH)
    device = next(expert.model.parameters()).device
    rows: dict[str, dict[str, float]] = {}
    for batch, sample in clip_batches(dataset, dataset.order(1, 0), batch_frames, "gates"):
        net_input = move(sample["net_input"], device)
        mask = net_input["padding_mask"]
        features = expert.video_features(net_input["video"])
        heard, seen = expert.heard(net_input["audio"], mask), expert.seen_features(features, mask)
        for row, index in enumerate(batch):
            clip, frames = dataset.clips[index], dataset.clips[index].frames
            sound = heard[row, :frames]
            table = _table(expert, sound, seen[row, :frames])
            rows[clip.id] = _offsets(table, wrong.frames)
            clip_features = features[row, :frames], net_input["video"][row, 0, :frames]
            for first, source in wrong.places(frames):
                lips = _wrong_lips(expert, *clip_features, first, source, wrong.frames)
                _add(rows[clip.id], answer_counts(table, _table(expert, sound, lips), first, wrong.frames))
    return rows


def _table(expert: Expert, sound: Tensor, lips: Tensor) -> np.ndarray:
    return expert.distance.table(sound, lips).cpu().numpy()


def _offsets(table: np.ndarray, frames: int) -> dict[str, float]:
    """Of frames, and of windows where the clip holds one."""
    counts = offset_counts(table)
    if len(table) >= frames:
        windows = offset_counts(window_distances(table, frames))
        counts |= {f"window_{name}": value for name, value in windows.items()}
    return counts


def _wrong_lips(expert: Expert, features: Tensor, video: Tensor, first: int, source: int, frames: int) -> Tensor:
    """Projected lips (T,W) of a clip, features (T,F) and video (T,88,88), with one frame's mouth in a window."""
    changed = video.clone()
    changed[first : first + frames] = video[source]
    reached = torch.arange(max(0, first - REACH), min(len(video), first + frames + REACH), device=video.device)
    painted = expert.video_features(changed[None, None], (torch.zeros_like(reached), reached))
    return expert.seen_features(features.index_copy(0, reached, painted)[None])[0]


@torch.inference_mode()
def gates_of_syncnet(model: Any, clips: Sequence[Clip], wrong: WrongMouths) -> dict[str, dict[str, float]]:
    """The same of a SyncNet: its neighbours are windows, and of its answer there is `farther` alone.

    Its distances are Euclidean and were not learned as logits, and windows beside the wrong one show some of it.
    """
    reader = ClipReader(list(clips))
    rows: dict[str, dict[str, float]] = {}
    for index, clip in enumerate(tqdm(clips, "syncnet", unit="clip", disable=None)):
        if clip.frames < SYNC_FRAMES:
            rows[clip.id] = {}
            continue
        faces, mfcc = np.asarray(reader.faces(index)), reader.mfcc(index)
        lips, sound = model.embed_clip(faces, mfcc)
        counts = offset_counts(torch.cdist(sound, lips).numpy())
        rows[clip.id] = {name: counts[name] for name in ("nearer", "neighbours")}
        rows[clip.id] |= {f"window_{name}": value for name, value in counts.items()}
        for first, source in wrong.places(clip.frames):
            if first >= len(lips):  # a mouth shorter than a window of SyncNet, at the end of the clip
                continue
            changed = faces.copy()
            changed[first : first + wrong.frames] = faces[source]
            moved = model.embed_clip(changed, mfcc)[0]
            own, answer = ((sound[first] - side[first]).norm() for side in (lips, moved))
            _add(rows[clip.id], {"farther": float(answer > own), "inside": 1.0})
    return rows


def _add(row: dict[str, float], counts: dict[str, float]) -> None:
    for name, value in counts.items():
        row[name] = row.get(name, 0.0) + value
