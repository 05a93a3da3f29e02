"""Features of frozen networks for untouched clips, computed once a clip instead of once a step.

A painted frame changes the ResNet features of the frames within `REACH` of it; all others are those of the recorded
clip. Sound is only ever changed by windows of silence.

Legend: B clips, T video frames at 25 Hz, F ResNet features, D embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from synctalklip.avsyncnet.config import LAST
from synctalklip.avsyncnet.expert import Expert
from synctalklip.data.features import normalize_roi

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
