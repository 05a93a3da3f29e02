"""The objective of the generator, term by term (paper section 3.3, equations 7 to 13).

A term is a function of one step; the config's weights choose which are computed. Generated faces reach the frozen
expert through `faces_to_rois`, in the place of the frames they replace, within their whole clip.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding, L tokens, V symbols.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from synctalklip import losses
from synctalklip.avsyncnet.config import LAST
from synctalklip.avsyncnet.expert import Expert
from synctalklip.data.features import CROP_SIZE, faces_to_rois, normalize_roi
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.batches import FeatureCache
from synctalklip.generator.contrastive import Contrastive
from synctalklip.generator.optim import LossSchedule
from synctalklip.syncnet.lse import SyncExpert

PREFIX = "lambda_"
NEIGHBOURS = ("shown", "hidden", "apart")
"""What the expert reads beside the painted frames: the recorded ones (the paper), masked ones, or none, see
`Painted.video_embeddings`."""
# Terms that look at what is said in the painted frames, which frames painted in silence do not show: those of the
# expert see `Painted.shown`, SyncNet every spoken frame.
EXPERT_TERMS, SYNCNET_TERMS = ("lip", "cav"), ("sync",)


def weights_of(loss: Mapping[str, Any]) -> dict[str, float]:
    """Weights that are not 0, by term, from the `lambda_*` entries of a loss config.

    Raises:
        SyncTalklipError: an entry names no term.
    """
    weights = {key.removeprefix(PREFIX): float(value) for key, value in loss.items() if key.startswith(PREFIX)}
    unknown = sorted(set(weights) - set(TERMS))
    if unknown:
        raise SyncTalklipError(f"loss.{PREFIX}{unknown[0]} belongs to no term; there are {', '.join(TERMS)}")
    return {name: weight for name, weight in weights.items() if weight != 0}


@dataclass
class Painted:
    """One step's tensors; what the expert sees of them is computed when a term first asks for it.

    Attributes:
        generated: (N,3,96,96) in 0..1.
        target: (N,3,96,96) in 0..1.
        sound: (B,T,D), what the expert's distance sees of the generator's own audio encoder, `metric_view`.
        batch: the collated batch, see `synctalklip.data.windows.collate`.
        expert: frozen AV-SyncNet.
        clips: the expert looks at the first so many clips of the batch; None for all.
        feature_cache: what the expert says of untouched frames; None computes it in every step.
        neighbours: one of `NEIGHBOURS`.
    """

    generated: Tensor
    target: Tensor
    sound: Tensor
    batch: Mapping[str, Any]
    expert: Expert
    clips: int | None = None
    feature_cache: FeatureCache | None = None
    neighbours: str = "shown"

    @cached_property
    def shown(self) -> Tensor:
        """(n,) int64, the painted frames that the expert looks at; silent ones it does not."""
        return self.batch["spoken"][: sum(self.batch["spoken_counts"][: self.clips])]

    @cached_property
    def padding_mask(self) -> Tensor:
        """(b,T) bool of the clips that the expert looks at."""
        return self.batch["padding_mask"][: self.clips]

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Clip and frame of each painted frame that the expert looks at."""
        return self.batch["clip"][self.shown], self.batch["frame"][self.shown]

    @cached_property
    def video(self) -> Tensor:
        """Mouth ROIs with the painted frames in their places, (b,1,T,88,88), normalised."""
        rois = self.batch["rois"][: self.clips]
        return insert_faces(
            self.generated[self.shown], self.batch["matrices"][self.shown], rois, *self.places, self.padding_mask
        )

    @cached_property
    def features(self) -> Tensor:
        """The expert's ResNet features of the painted clips, (b,T,F)."""
        if self.feature_cache is None:
            return self.expert.video_features(self.video)
        features = self.feature_cache.lips(self.batch, self.clips)
        count = sum(self.batch["reached_counts"][: self.clips])
        reached = self.batch["reached_clip"][:count], self.batch["reached_frame"][:count]
        painted = self.expert.video_features(self.video, reached)
        return features.index_put(reached, painted.to(features.dtype))

    @cached_property
    def painted_mask(self) -> Tensor:
        """(b,T) bool, the painted frames that the expert looks at."""
        return torch.zeros_like(self.padding_mask).index_put(self.places, self.padding_mask.new_ones(()))

    @cached_property
    def memory_mask(self) -> Tensor:
        """(b,T) bool, the frames that the decoder does not look at."""
        return ~self.painted_mask if self.neighbours == "apart" else self.padding_mask

    @cached_property
    def video_embeddings(self) -> Tensor:
        """What the expert's decoder reads of the painted clips, (b,T,D).

        Among recorded neighbours self-attention tells a painted frame what it ought to show. With `hidden` neighbours
        are masked as in pre-training; `apart`, each window of painted frames is encoded as if it were all there is.
        """
        if self.neighbours == "shown":
            return self.expert.encode_features(self.features, self.padding_mask)
        painted = self.painted_mask
        if self.neighbours == "hidden":
            return self.expert.encode_features(self.features, self.padding_mask, hidden=~painted)
        begins = painted & ~functional.pad(painted, (1, 0))[:, :-1]
        windows = (begins.cumsum(1) * painted).masked_fill(~painted, -1)
        return self.expert.encode_features(self.features, ~painted, windows=windows)

    @cached_property
    def seen(self) -> Tensor:
        """The painted clips as the expert's distance compares them, (b,T,W); neighbours are shown."""
        if self.expert.metric_view == LAST and self.neighbours == "shown":
            return self.expert.distance.project(self.video_embeddings, "video", self.padding_mask)
        return self.expert.seen_features(self.features, self.padding_mask)

    @cached_property
    def heard(self) -> Tensor:
        """The sound as the generator's own encoder hears it and the expert's distance compares it, (b,T,W)."""
        return self.expert.distance.project(self.sound[: len(self.padding_mask)], "audio", self.padding_mask)

    @cached_property
    def expert_heard(self) -> Tensor:
        """The same as the frozen expert hears it."""
        if self.feature_cache is not None:
            return self.feature_cache.expert_sound(self.batch, self.clips)
        with torch.no_grad():
            return self.expert.heard(self.batch["audio"][: self.clips], self.padding_mask)


def insert_faces(
    generated: Tensor, matrices: Tensor, rois: Tensor, clip: Tensor, frame: Tensor, padding_mask: Tensor
) -> Tensor:
    """Put generated faces into the mouth ROIs of their clips.

    Args:
        generated: (N,3,96,96) in 0..1.
        matrices: (N,2,3), face crop to ROI pixels.
        rois: (B,T,96,96) uint8, the untouched ROIs.
        clip: (N,) row of each face in `rois`.
        frame: (N,) its frame.
        padding_mask: (B,T) bool, true on padding, which becomes zero.

    Returns:
        (B,1,T,88,88) float32, the expert's input; gradients reach `generated` alone, and only where it is seen.
    """
    # Outside autocast: half precision cannot hold the coordinates of the warp.
    with torch.autocast(generated.device.type, enabled=False):
        rois, matrices = middle_of(rois, matrices)
        painted = normalize_roi(faces_to_rois(generated, matrices, rois[clip, frame].float() / 255))
        # In place, in an order in which autograd need not know of the untouched frames: no whole clip is copied.
        video = normalize_roi(rois).masked_fill_(padding_mask[:, :, None, None], 0)
        return video.index_put_((clip, frame), painted).unsqueeze(1)


def middle_of(rois: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The part of ROIs (...,96,96) that the expert sees, (...,88,88), and matrices (N,2,3) that lead into it."""
    edge = (rois.shape[-1] - CROP_SIZE) // 2
    moved = torch.cat([matrices[:, :, :2], matrices[:, :, 2:] - edge], dim=2)
    return rois[..., edge : edge + CROP_SIZE, edge : edge + CROP_SIZE], moved


class Objective:
    """Equation 13 without its sum: the terms of a step.

    Args:
        loss: the loss config.
        expert: frozen AV-SyncNet.
        discriminator: the caller holds it read-only.
        sync_expert: frozen SyncNet of the term `sync`.

    Attributes:
        weights: the full weight of each term that is not switched off.
    """

    def __init__(
        self,
        loss: Mapping[str, Any],
        expert: Expert,
        discriminator: nn.Module,
        sync_expert: SyncExpert | None = None,
    ):
        self.loss, self.expert, self.discriminator, self.sync_expert = loss, expert, discriminator, sync_expert
        self.weights = weights_of(loss)
        self.schedule = LossSchedule(loss["schedule"], list(TERMS))
        if not self.weights_at(0):
            raise SyncTalklipError("loss: no term counts at step 0; give one a lambda above 0 and schedule [0, 0]")
        if loss["lip"]["neighbours"] not in NEIGHBOURS:
            raise SyncTalklipError(
                f"loss.lip.neighbours is '{loss['lip']['neighbours']}'; use one of {', '.join(NEIGHBOURS)}"
            )
        self._contrastive = Contrastive(loss["contrastive"], expert.distance)

    def weights_at(self, step: int) -> dict[str, float]:
        """The weights that hold at a step, see `LossSchedule`; terms that do not count are left out."""
        return self.schedule.at(self.weights, step)

    def terms(self, step: Painted, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Scalars by term; by default those whose weight is not 0."""
        names = self.weights if names is None else names
        empty = EXPERT_TERMS * (len(step.shown) == 0) + SYNCNET_TERMS * (len(step.batch["spoken"]) == 0)
        return {name: step.generated.sum() * 0 if name in empty else TERMS[name](self, step) for name in names}

    def reconstruction(self, step: Painted) -> Tensor:
        """Equation 7 on the whole face."""
        return losses.reconstruction(step.generated, step.target, "full")

    def lower_reconstruction(self, step: Painted) -> Tensor:
        """Equation 7 on the painted half."""
        return losses.reconstruction(step.generated, step.target, "lower")

    def mouth_reconstruction(self, step: Painted) -> Tensor:
        """Equation 7 around the mouth."""
        return losses.reconstruction(step.generated, step.target, "mouth")

    def adversarial(self, step: Painted) -> Tensor:
        """Equation 8."""
        return losses.adversarial_generator(
            self.discriminator(step.generated).float(), self.loss["adversarial"]["form"]
        )

    def lip_reading(self, step: Painted) -> Tensor:
        """Equation 4 on the painted clips, through the frozen decoder."""
        rows = len(step.padding_mask)
        logits = self.expert.lip_logits(step.batch["prev_tokens"][:rows], step.video_embeddings, step.memory_mask)
        options = self.loss["lip"]
        return losses.lip_reading(
            logits.float(), step.batch["tokens"][:rows], options["smoothing"], options["reduction"]
        )

    def contrastive(self, step: Painted) -> Tensor:
        """Equations 11 and 12 between the painted lips and the sound."""
        return self._contrastive(step)

    def synchronisation(self, step: Painted) -> Tensor:
        """Wav2Lip's expert loss on the windows that are not silent."""
        # Outside autocast, as SyncNet was trained; it is small beside the generator.
        with torch.autocast(step.generated.device.type, enabled=False):
            faces = step.generated[step.batch["spoken"]]
            assert self.sync_expert is not None
            return losses.synchronisation(*self.sync_expert.embed(faces, step.batch["sound"]))


TERMS: dict[str, Callable[[Objective, Painted], Tensor]] = {
    "rec": Objective.reconstruction,
    "rec_lower": Objective.lower_reconstruction,
    "rec_mouth": Objective.mouth_reconstruction,
    "adv": Objective.adversarial,
    "lip": Objective.lip_reading,
    "cav": Objective.contrastive,
    "sync": Objective.synchronisation,
}
