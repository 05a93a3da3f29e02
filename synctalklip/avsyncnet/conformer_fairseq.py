"""The Conformer registered with fairseq. Its objective is eq. 4 and CTC: `lip_reading_alignment` without L_av.

B clips, T video frames at 25 Hz, L tokens.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import MISSING
from torch import Tensor

from synctalklip import checkpoint
from synctalklip.avsyncnet.conformer import ConformerConfig, ConformerReader
from synctalklip.avsyncnet.expert import load_encoder
from synctalklip.avsyncnet.fairseq_models import FineTuneOutput, plain
from synctalklip.avsyncnet.speed import prepare_for_training

logger = logging.getLogger(__name__)


@dataclass
class ConformerModelConfig(FairseqDataclass, ConformerConfig):
    """Structure of the reader; `vocab_size`, `ctc` and `hear` are filled in from tokenizer and loss weights."""

    init_from: str | None = field(default=None, metadata={"help": "checkpoint whose ResNet is taken"})
    frozen_stages: int = field(default=MISSING, metadata={"help": "first stages of the ResNet that do not learn"})
    channels_last: bool = field(default=MISSING, metadata={"help": "memory layout of the ResNet's weights"})
    compile: bool = field(default=MISSING, metadata={"help": "torch.compile of ResNet and Conformer"})


@register_model("conformer", dataclass=ConformerModelConfig)
class FairseqConformer(ConformerReader, BaseFairseqModel):
    """The reader in training; with `hear`, the sound of a clip passes through the same blocks."""

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
        """Take the ResNet of an AV-HuBERT or AV-SyncNet; an evaluator should share no more with a supervisor.

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
            audio=None,
            audio_logits=None if heard is None else self.decode(prev_tokens, heard, padding_mask),
            ctc_logits=None if project is None else project(seen),
            audio_ctc_logits=None if heard is None or project is None else project(heard),
            distances=None,
        )
