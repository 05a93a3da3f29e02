"""The contrastive term of stage 2: eqs. 11 and 12 between painted lips and sound, and the forms in their place.

Of the paper: theta is the distance that stage 1 learned, the anchor is the sound of a painted frame, negatives are the
other painted frames of its clip. Our extensions, each a setting: the sound of all frames of the clip as candidates,
which is known without painting; only the nearest of them as negatives, for eq. 12 goes on pushing away what is far
already; cross-entropy over the candidates, which stops where the own sound is nearest; the frozen expert's ear.

Legend: B clips, T video frames at 25 Hz, N painted frames, M candidates, W projected embedding.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from synctalklip import losses
from synctalklip.distance import AVDistance
from synctalklip.errors import SyncTalklipError

CHOICES = {
    "form": ("distance", "cross_entropy", "infonce", "audio_infonce"),
    "encoder": ("generator", "expert"),
    "anchor": ("audio", "video"),
    "candidates": ("painted", "clip"),
    "negatives": ("all", "sampled", "nearest"),
}


class Compared(Protocol):
    """What the term reads of a step; see `objective.Painted`."""

    @property
    def places(self) -> tuple[Tensor, Tensor]: ...

    @property
    def padding_mask(self) -> Tensor: ...

    @property
    def seen(self) -> Tensor: ...

    @property
    def heard(self) -> Tensor: ...

    @property
    def expert_heard(self) -> Tensor: ...


class Contrastive:
    """The term `cav`.

    Args:
        options: `loss.contrastive`.
        distance: theta of stage 1, frozen.

    Raises:
        SyncTalklipError: a choice that does not exist, or choices that do not go together.
    """

    def __init__(self, options: Mapping[str, Any], distance: AVDistance):
        for name, choices in CHOICES.items():
            if options[name] not in choices:
                raise SyncTalklipError(f"loss.contrastive.{name} is '{options[name]}'; use one of {', '.join(choices)}")
        if options["form"] == "audio_infonce" and (options["anchor"], options["candidates"]) != ("audio", "painted"):
            raise SyncTalklipError("loss.contrastive: the form audio_infonce needs anchor: audio, candidates: painted")
        if options["candidates"] == "clip" and options["anchor"] == "audio":
            raise SyncTalklipError(
                "loss.contrastive: candidates: clip are sounds, the anchor is the painted lips: set anchor: video"
            )
        if (options["negatives"] == "all") != (options["count"] is None):
            raise SyncTalklipError(
                f"loss.contrastive: negatives: {options['negatives']} with count: {options['count']}; sampled and "
                "nearest need a count, all none"
            )
        self.options = options
        infonce = partial(losses.infonce, temperature=options["temperature"])
        forms: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
            "distance": (distance.table, losses.cross_modal_contrastive),
            "cross_entropy": (distance.table, losses.frame_cross_entropy),
            "infonce": (_cosines, infonce),
            "audio_infonce": (_audio_negatives, infonce),
        }
        self._table, self._loss = forms[options["form"]]

    def __call__(self, step: Compared) -> Tensor:
        """Scalar of the painted frames of a step."""
        options, (clips, frames) = self.options, step.places
        heard = step.heard if options["encoder"] == "generator" else step.expert_heard
        lips, own, candidates = step.seen[clips, frames], None, None
        if options["candidates"] == "painted":
            sound = heard[clips, frames]
        else:
            sound, candidates = heard.flatten(0, 1), _every_frame(step.padding_mask)
            own = clips * heard.shape[1] + frames
        # Outside autocast: half precision rounds a cosine, and a distance, by more than the forms forgive.
        with torch.autocast(lips.device.type, enabled=False):
            table = self._table(sound.float(), lips.float())
        table = table if options["anchor"] == "audio" else table.T
        return self._loss(table, self._negatives(table, step, candidates), own=own)

    def _negatives(self, table: Tensor, step: Compared, candidates: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N,M) bool."""
        options = self.options
        allowed = losses.negatives_of(*step.places, options["scope"], options["min_gap"], candidates)
        if candidates is not None:
            allowed = allowed & ~step.padding_mask.flatten()
        if options["negatives"] == "nearest":
            return losses.nearest_negatives(table, allowed, options["count"])
        if options["negatives"] == "sampled":
            return losses.sampled_negatives(allowed, options["count"], options["share"])
        return allowed


def _every_frame(padding_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Clip and number of every frame of a padded batch, (B*T,) each."""
    clips, frames = (torch.arange(size, device=padding_mask.device) for size in padding_mask.shape)
    return clips.repeat_interleave(len(frames)), frames.repeat(len(clips))


def _audio_negatives(audio: Tensor, video: Tensor) -> Tensor:
    return losses.audio_negatives(audio, video)


def _cosines(audio: Tensor, video: Tensor) -> Tensor:
    return functional.normalize(audio, dim=-1) @ functional.normalize(video, dim=-1).T
