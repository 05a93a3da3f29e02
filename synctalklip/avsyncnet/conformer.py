"""A Conformer lip reader: the evaluator of WER3, of another family than the experts.

Legend: B clips, T video frames at 25 Hz, A = 104 sound values a frame, D embedding, L tokens, V symbols, C channels.

Source: Conformer (arXiv 2005.08100) with hybrid CTC/attention, as the published WER3 uses it; the blocks are
torchaudio's. It looks at the same 88x88 mouth regions as AV-SyncNet, not at 112x112 face crops.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from omegaconf import MISSING
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.models import Conformer

from synctalklip import checkpoint
from synctalklip.avsyncnet.decoder import DecoderState, TextDecoder
from synctalklip.avsyncnet.frontend import AudioFrontend, VideoFrontend
from synctalklip.checkpoint import CheckpointError
from synctalklip.errors import SyncTalklipError


@dataclass
class ConformerConfig:
    """Structure; the values stand in configs/encoder/conformer*.yaml and configs/fairseq/conformer.yaml.

    Attributes:
        conformer_kernel: frames that a depthwise convolution sees, odd.
        resnet_width, resnet_blocks, resnet_relu_type: as in `AVHubertConfig`.
        ctc: a linear layer for the CTC term.
        hear: a layer for sound, which may help in training; nothing is heard in evaluation.
        vocab_size: filled in from the tokenizer.
    """

    resnet_width: int = MISSING
    resnet_blocks: list[int] = MISSING
    resnet_relu_type: str = MISSING
    conformer_layers: int = MISSING
    conformer_dim: int = MISSING
    conformer_ffn_dim: int = MISSING
    conformer_heads: int = MISSING
    conformer_kernel: int = MISSING
    conformer_dropout: float = MISSING
    decoder_layers: int = MISSING
    decoder_embed_dim: int = MISSING
    decoder_ffn_embed_dim: int = MISSING
    decoder_attention_heads: int = MISSING
    decoder_dropout: float = MISSING
    decoder_attention_dropout: float = MISSING
    decoder_activation_dropout: float = MISSING
    max_target_positions: int = MISSING
    audio_feat_dim: int = MISSING
    vocab_size: int = 0
    ctc: bool = False
    hear: bool = False

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Config from a stored one; names that are not of this class are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in mapping.items() if name in known})


class ConformerEncoder(nn.Module):
    """torchaudio's Conformer, in which no frame sees padding; (B, T, D) -> (B, T, D).

    torchaudio keeps padding out of the attention only: its convolutions mix what the layers make of padded
    frames into the last frames of a clip, which would then depend on the batch that the clip is in.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.conformer = Conformer(
            config.conformer_dim,
            config.conformer_heads,
            config.conformer_ffn_dim,
            config.conformer_layers,
            config.conformer_kernel,
            config.conformer_dropout,
        )
        self._padding: Tensor | None = None
        for module in self.conformer.modules():
            if isinstance(module, nn.Conv1d) and module.groups > 1:
                module.register_forward_pre_hook(self._silence)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, from the first to the last."""
        return self.conformer.conformer_layers

    def _silence(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Zeros in the padded frames of (B, C, T), which is what a convolution sees beyond the end of a clip."""
        return None if self._padding is None else (inputs[0].masked_fill(self._padding[:, None], 0),)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        self._padding = padding_mask
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x, padding_mask)
        self._padding = None
        return x.transpose(0, 1)


class ConformerReader(nn.Module):
    """ResNet front-end, Conformer, text decoder and CTC head. Reads lips; in training it may listen as well."""

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.config = config
        dim = config.conformer_dim
        self.feature_extractor_video = VideoFrontend(
            config.resnet_width, config.resnet_blocks, config.resnet_relu_type, dim
        )
        self.feature_extractor_audio = AudioFrontend(config.audio_feat_dim, dim) if config.hear else None
        self.encoder = ConformerEncoder(config)
        self.decoder = TextDecoder.from_config(config, dim)
        self.ctc_proj = nn.Linear(dim, config.vocab_size) if config.ctc else None

    def encode(
        self, audio: Tensor | None = None, video: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Embed the frames of one modality -> (B, T, D).

        Args:
            audio: (B, A, T). video: (B, 1, T, 88, 88).
            padding_mask: (B, T) bool, true = padded.

        Raises:
            SyncTalklipError: both modalities, or sound for a model without a layer for it.
        """
        if (audio is None) == (video is None):
            raise SyncTalklipError("a Conformer reads one modality at a time: give modalities=[video]")
        if video is not None:
            x = self.feature_extractor_video(video)
        elif self.feature_extractor_audio is None:
            raise SyncTalklipError("this Conformer was trained on lips alone: give modalities=[video]")
        else:
            x = self.feature_extractor_audio(audio)
        return self.encoder(F.dropout(x, self.config.conformer_dropout, self.training), padding_mask)

    def decode(
        self,
        prev_tokens: Tensor,
        embeddings: Tensor,
        padding_mask: Tensor | None = None,
        state: DecoderState | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of the next token; see `TextDecoder.forward`."""
        return self.decoder(prev_tokens, embeddings, padding_mask, state)


def build_conformer(state: Mapping[str, Any], path: str | Path) -> ConformerReader:
    """The model of a checkpoint, frozen.

    Args:
        state: from `expert.read_checkpoint`, of kind `conformer`.
        path: of the file, for messages.

    Raises:
        CheckpointError: of other sizes than it states, or incomplete.
    """
    config = ConformerConfig.from_mapping(state["cfg"]["model"])
    missing = [item.name for item in fields(config) if getattr(config, item.name) == MISSING]
    if missing:
        raise CheckpointError(f"{path}: does not say its {missing[0]}; train it with this version")
    try:
        model = ConformerReader(config)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be built ({error})") from error
    checkpoint.load_weights(model, state["model"], path)
    return model.requires_grad_(False).eval()
