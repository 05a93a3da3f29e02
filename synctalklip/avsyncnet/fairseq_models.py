"""AVHubert, AVSyncNet and the Conformer in fairseq: configuration, initial weights, one forward pass a batch.

B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import MISSING, OmegaConf
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import assert_choice, encoder_structure, size_hint
from synctalklip.avsyncnet.conformer import ConformerConfig, ConformerReader
from synctalklip.avsyncnet.expert import ENCODER_PREFIX, FINE_TUNED, load_encoder, read_checkpoint
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig, AVSyncNet, AVSyncNetConfig, prepare_for_training
from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import to_dict

logger = logging.getLogger(__name__)

_FRONT_ENDS = ENCODER_PREFIX + "feature_extractor_"
# Parts of the encoder that belong to its own pre-training.
_PRETRAINING = ("final_proj.", "label_embs_concat", "mask_emb")
# Parts of AV-SyncNet that a fine-tuned file may have or lack; the last is of older fairseq versions.
_OPTIONAL = ("distance.", "align.", "ctc_proj.", "decoder.embed_positions.")


@dataclass
class AVHubertModelConfig(FairseqDataclass, AVHubertConfig):
    """Structure of the encoder; `num_classes` is filled in from the labels of the task."""

    num_classes: list[int] = field(default_factory=list)
    init_from: str | None = field(default=None, metadata={"help": "checkpoint whose encoder is taken"})
    channels_last: bool = field(default=MISSING, metadata={"help": "memory layout of the ResNet's weights"})
    compile: bool = field(default=MISSING, metadata={"help": "torch.compile of the encoder"})


@dataclass
class AVSyncNetModelConfig(FairseqDataclass, AVSyncNetConfig):
    """Structure of encoder, decoder and distance.

    `vocab_size` is filled in from the tokenizer, `ctc` from the weight of its term.
    """

    num_classes: list[int] = field(default_factory=list)
    ctc: bool = field(default=False, metadata={"help": "a linear layer for the CTC term"})
    init_from: str | None = field(default=None, metadata={"help": "pre-trained or fine-tuned checkpoint"})
    init_parts: str = field(default="all", metadata={"help": "what of it is taken: all or front_ends"})
    frozen_stages: int = field(
        default=MISSING, metadata={"help": "first stages of the video front-end that do not learn, the stem being one"}
    )
    channels_last: bool = field(default=MISSING, metadata={"help": "memory layout of the ResNet's weights"})
    compile: bool = field(default=MISSING, metadata={"help": "torch.compile of the encoder"})


@dataclass
class ConformerModelConfig(FairseqDataclass, ConformerConfig):
    """Structure of the reader; `vocab_size`, `ctc` and `hear` are filled in from tokenizer and loss weights."""

    init_from: str | None = field(default=None, metadata={"help": "checkpoint whose ResNet is taken"})
    frozen_stages: int = field(default=MISSING, metadata={"help": "first stages of the ResNet that do not learn"})
    channels_last: bool = field(default=MISSING, metadata={"help": "memory layout of the ResNet's weights"})
    compile: bool = field(default=MISSING, metadata={"help": "torch.compile of ResNet and Conformer"})


class FineTuneOutput(NamedTuple):
    """What eqs. 4 to 6 need; None where it was not asked for."""

    lip_logits: Tensor  # (B, L, V)
    video: Tensor  # (B, T, D)
    audio_logits: Tensor | None  # (B, L, V)
    ctc_logits: Tensor | None  # (B, T, V)
    audio_ctc_logits: Tensor | None  # (B, T, V)
    distances: Tensor | None  # (B, T, T), of the sound of frame i to the lips of frame j of a clip


@register_model("avhubert", dataclass=AVHubertModelConfig)
class FairseqAVHubert(AVHubert, BaseFairseqModel):
    """Pre-training model."""

    @classmethod
    def build_model(cls, cfg: AVHubertModelConfig, task: Any) -> "FairseqAVHubert":
        """Build with one head for each label set of the task; heads and masks of `init_from` are not taken."""
        model = cls(AVHubertConfig.from_mapping(plain(cfg)), task.label_sizes)
        if cfg.init_from:
            own = model.state_dict()
            kept = {name: own[name] for name in own if name.startswith(_PRETRAINING)}
            weights = _fitting(load_encoder(cfg.init_from).state_dict(), own)
            hint = size_hint(encoder_structure(weights, cfg.init_from))
            checkpoint.load_weights(model, kept | weights, cfg.init_from, hint)
        prepare_for_training(model, cfg.channels_last, cfg.compile)
        return model


@register_model("avsyncnet", dataclass=AVSyncNetModelConfig)
class FairseqAVSyncNet(AVSyncNet, BaseFairseqModel):
    """Fine-tuning model; the two encoder passes of a clip share all weights."""

    def __init__(self, config: AVSyncNetConfig, with_ctc: bool = False) -> None:
        super().__init__(config)
        self.num_updates = 0
        if with_ctc:
            self.ctc_proj = nn.Linear(config.encoder_embed_dim, config.vocab_size)

    @classmethod
    def build_model(cls, cfg: AVSyncNetModelConfig, task: Any) -> "FairseqAVSyncNet":
        """Build for the vocabulary of the task and take the weights of `init_from`."""
        model = cls(AVSyncNetConfig.from_mapping(plain(cfg)), cfg.ctc)
        if cfg.init_from:
            model.initialize(cfg.init_from, task.state.tokenizer, cfg.init_parts)
        encoder = model.encoder.w2v_model
        encoder.feature_extractor_video.resnet.freeze(cfg.frozen_stages)
        prepare_for_training(encoder, cfg.channels_last, cfg.compile)
        return model

    def initialize(self, path: str | Path, tokenizer: bytes, parts: str) -> None:
        """Take the encoder of a pre-trained checkpoint, or all that a fine-tuned one has.

        Args:
            path: checkpoint.
            tokenizer: model of this run's tokenizer.
            parts: all, or front_ends: what looks and listens, below a transformer of random weights.

        Raises:
            CheckpointError: another size, or a decoder over another vocabulary.
        """
        assert_choice("init_parts", parts, ("all", "front_ends"))
        own = self.state_dict()
        state = read_checkpoint(path)
        if (state.get("cfg") or {}).get("model", {}).get("_name") in FINE_TUNED:
            if (state.get("task_state") or {}).get("tokenizer") != tokenizer:
                raise CheckpointError(
                    f"{path}: its decoder reads another vocabulary; use its tokenizer (data.tokenizer.path), or "
                    "start from a pre-trained checkpoint"
                )
            spare = (*_OPTIONAL, ENCODER_PREFIX + "label_embs_concat")
            weights = {
                name: value for name, value in state["model"].items() if name in own or not name.startswith(spare)
            }
            # A head that is new, or has another form, starts fresh; a missing encoder or decoder is an error.
            fresh: tuple[str, ...] = _OPTIONAL
        else:
            weights = {ENCODER_PREFIX + name: value for name, value in load_encoder(path).state_dict().items()}
            fresh = ("decoder.", *_OPTIONAL)
        weights = _fitting(weights, own)
        encoder = {key.removeprefix(ENCODER_PREFIX): value for key, value in weights.items()}
        hint = size_hint(encoder_structure(encoder, path))
        kept = {name: own[name] for name in own if name.startswith((*fresh, ENCODER_PREFIX + "mask_emb"))}
        if parts == "front_ends":
            weights = {name: value for name, value in weights.items() if name.startswith(_FRONT_ENDS)}
            kept = {name: own[name] for name in own if not name.startswith(_FRONT_ENDS)}
        checkpoint.load_weights(self, kept | weights, path, hint)
        logger.info("took %d of %d weights from %s", len(weights), len(own), path)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by the trainer before every update."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        audio: Tensor | None,
        video: Tensor,
        padding_mask: Tensor,
        prev_tokens: Tensor,
        hear: bool = True,
        decode_audio: bool = False,
        freeze_encoder: bool = False,
        detach: str = "none",
    ) -> FineTuneOutput:
        """Both passes of a batch.

        Args:
            audio: (B,A,T), read only when `hear`. video: (B,1,T,88,88).
            padding_mask: (B,T) bool, true = padded. prev_tokens: (B,L).
            hear: the audio-only pass and the distance.
            decode_audio: the decoder (and CTC) on the audio embedding too.
            freeze_encoder: the encoder runs in eval mode and gets no gradient.
            detach: the side whose encoder pass the distance does not move: none, audio, video or both.
        """
        encoder, view, metric = self.encoder.w2v_model, self.config.distance_view, self.distance
        heard = sound = lips = None
        with _frozen(self.encoder) if freeze_encoder else _nothing():
            seen, lips_view = encoder.views(None, video, padding_mask, view)
            if hear:
                heard, sound_view = encoder.views(audio, None, padding_mask, view)
        project = getattr(self, "ctc_proj", None)
        spoken = heard if decode_audio else None
        if heard is not None:
            held = {"none": (), "both": ("audio", "video")}.get(detach, (detach,))
            sound = metric.project(sound_view.detach() if "audio" in held else sound_view, "audio", padding_mask)
            lips = metric.project(lips_view.detach() if "video" in held else lips_view, "video", padding_mask)
        return FineTuneOutput(
            lip_logits=self.decode(prev_tokens, seen, padding_mask),
            video=seen,
            audio_logits=None if spoken is None else self.decode(prev_tokens, spoken, padding_mask),
            ctc_logits=None if project is None else project(seen),
            audio_ctc_logits=None if spoken is None or project is None else project(spoken),
            distances=None if sound is None or lips is None else metric.table(sound, lips),
        )


@register_model("conformer", dataclass=ConformerModelConfig)
class FairseqConformer(ConformerReader, BaseFairseqModel):
    """The reader in training; with `hear`, the sound of a clip passes through the same blocks.

    Its objective is eq. 4 and CTC: the criterion `lip_reading_alignment` without L_av.
    """

    num_updates = 0

    @classmethod
    def build_model(cls, cfg: ConformerModelConfig, task: Any) -> "FairseqConformer":
        """Build for the vocabulary of the task and take the ResNet of `init_from`."""
        model = cls(ConformerConfig.from_mapping(plain(cfg)))
        if cfg.init_from:
            model.initialize(cfg.init_from)
        model.feature_extractor_video.resnet.freeze(cfg.frozen_stages)
        prepare_for_training(model, cfg.channels_last, cfg.compile)
        return model

    def initialize(self, path: str | Path) -> None:
        """Take the ResNet of an AV-HuBERT or AV-SyncNet; an evaluator should share no more with an expert.

        Raises:
            CheckpointError: no such checkpoint, or a ResNet of another size.
        """
        weights = load_encoder(path).feature_extractor_video.resnet.state_dict()
        hint = "use an encoder config with the same resnet_width, resnet_blocks and resnet_relu_type"
        checkpoint.load_weights(self.feature_extractor_video.resnet, weights, path, hint)
        logger.info("took the ResNet of %s", path)

    def set_num_updates(self, num_updates: int) -> None:
        """Called by the trainer before every update."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        audio: Tensor | None,
        video: Tensor,
        padding_mask: Tensor,
        prev_tokens: Tensor,
        decode_audio: bool = False,
        **unused: Any,
    ) -> FineTuneOutput:
        """What the criterion asks of a batch; without a distance there is nothing to hear, detach or freeze.

        Args:
            audio: (B,A,T), read only when `decode_audio`. video: (B,1,T,88,88).
            padding_mask: (B,T) bool, true = padded. prev_tokens: (B,L).
        """
        seen = self.encode(None, video, padding_mask)
        heard = self.encode(audio, None, padding_mask) if decode_audio else None
        project = self.ctc_proj
        return FineTuneOutput(
            lip_logits=self.decode(prev_tokens, seen, padding_mask),
            video=seen,
            audio_logits=None if heard is None else self.decode(prev_tokens, heard, padding_mask),
            ctc_logits=None if project is None else project(seen),
            audio_ctc_logits=None if heard is None or project is None else project(heard),
            distances=None,
        )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradient: neither weights nor batch statistics change."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def plain(cfg: Any) -> dict[str, Any]:
    """The fields of a model configuration, of OmegaConf or a dataclass."""
    return to_dict(cfg) if OmegaConf.is_config(cfg) else vars(cfg)


def _fitting(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what another size does not spoil: the mask embedding of another kind of masking, another F."""
    return {
        name: value
        for name, value in weights.items()
        if not (
            (name.endswith("mask_emb") or name.startswith("distance."))
            and name in own
            and own[name].shape != value.shape
        )
    }
