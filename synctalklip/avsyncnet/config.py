"""Structure of AV-HuBERT and AV-SyncNet as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from synctalklip.errors import SyncTalklipError


@dataclass
class AVHubertConfig:
    """Structure of AV-HuBERT; the defaults are the public base model and its pre-training.

    Names are the public ones, so that a public configuration can be read. `resnet_width` (channels of the
    first of the ResNet stages), `resnet_blocks`, `mask_equalize` and `modality_dropout_per` are additions
    whose defaults are the public structure.
    """

    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    resnet_width: int = 64
    resnet_blocks: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    resnet_relu_type: str = "prelu"
    audio_feat_dim: int = 104
    modality_fuse: str = "concat"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.1
    encoder_layerdrop: float = 0.05
    feature_grad_mult: float = 0.1
    final_dim: int = 256
    untie_final_proj: bool = True
    logit_temp: float = 0.1
    masking_type: str = "input"
    selection_type: str = "same_seq"
    mask_prob_audio: float = 0.8
    mask_length_audio: int = 10
    mask_prob_image: float = 0.3
    mask_length_image: int = 5
    mask_equalize: bool = True
    modality_dropout: float = 0.5
    audio_dropout: float = 0.5
    modality_dropout_per: str = "batch"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Config from a stored one; names that are not of this class are left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in mapping.items() if name in known})


@dataclass
class AVSyncNetConfig(AVHubertConfig):
    """Encoder, decoder and the audio-visual distance; encoder dropouts are those of fine-tuning.

    `distance_*` are the arguments of `losses.AVDistance`; `align` is `identity` or `conv`, a stack of
    convolutions over time before the distance (SyncTalklip(conv)).
    """

    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    dropout_input: float = 0.0
    encoder_layerdrop: float = 0.1
    feature_grad_mult: float = 1.0
    modality_dropout: float = 0.0
    decoder_layers: int = 6
    decoder_embed_dim: int = 768
    decoder_ffn_embed_dim: int = 3072
    decoder_attention_heads: int = 4
    decoder_dropout: float = 0.1
    decoder_attention_dropout: float = 0.0
    decoder_activation_dropout: float = 0.1
    max_target_positions: int = 2048
    vocab_size: int = 1000
    num_classes: list[int] = field(default_factory=lambda: [2004])
    distance_head: str = "identity"
    distance_normalize: bool = True
    distance_tau: float = 1.0
    align: str = "identity"
    align_kernel: int = 5
    align_layers: int = 1


def assert_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of its choices, by name."""
    if value not in choices:
        raise SyncTalklipError(f"{name} is {value!r}: choose {' or '.join(choices)}")
