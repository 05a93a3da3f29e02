"""Structure of AV-HuBERT and AV-SyncNet as data, and the same read off weights, to check what a file says of itself."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from omegaconf import OmegaConf
from torch import Tensor

from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError

# Weights do not show how many attention heads there are: of the public base and large encoders, by their width.
_PUBLIC_HEADS = {768: 12, 1024: 16}


# Views of the encoder beside the numbers of its layers: before the transformer, and what the decoder reads.
FRONT_END, LAST = "front_end", "last"


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

    `distance_view` is what the distance of eqs. 5 and 11 sees, a view of `AVHubert.views`; the other `distance_*` are
    the arguments of `distance.AVDistance`.
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
    distance_view: str = "last"
    distance_head: str = "identity"
    distance_width: float = 1.0
    distance_shared: bool = True
    distance_kernels: list[int] = field(default_factory=lambda: [1, 1])
    distance_layers: int = 1
    distance_normalize: bool = True
    distance_tau: float = 1.0
    distance_learn_tau: bool = False

    def distance(self) -> dict[str, Any]:
        """Arguments of `distance.AVDistance` but for its width of input."""
        names = ("head", "width", "shared", "kernels", "layers", "normalize", "tau", "learn_tau")
        return {name: getattr(self, f"distance_{name}") for name in names}


def assert_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of its choices, by name."""
    if value not in choices:
        raise SyncTalklipError(f"{name} is {value!r}: choose {' or '.join(choices)}")


def assert_view(view: str, layers: int) -> None:
    """Refuse a view that an encoder of so many layers has not: front_end, last, or the number of a layer."""
    if view not in (FRONT_END, LAST) and not (view.isdecimal() and 1 <= int(view) <= layers):
        raise SyncTalklipError(f"distance.view is {view!r}: choose {FRONT_END}, {LAST}, or a layer from 1 to {layers}")


def encoder_structure(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Settings of `AVHubertConfig` that weights show.

    Args:
        weights: of an encoder, without a prefix.
        path: of the file, for messages.

    Raises:
        CheckpointError: a tensor that every encoder has is missing.
    """
    dim = _shape(weights, "encoder.layer_norm.weight", path)[0]
    positions = _shape(weights, "encoder.pos_conv.0.weight_v", path)
    fused = _shape(weights, "layer_norm.weight", path)[0]
    audio = _shape(weights, "feature_extractor_audio.proj.weight", path)[1]
    resnet = "feature_extractor_video.resnet"
    found = {
        "encoder_layers": _count(weights, r"encoder\.layers\.(\d+)\."),
        "encoder_embed_dim": dim,
        "encoder_ffn_embed_dim": _shape(weights, "encoder.layers.0.fc1.weight", path)[0],
        "conv_pos": positions[2],
        "conv_pos_groups": dim // positions[1],
        "resnet_width": _shape(weights, f"{resnet}.frontend3D.0.weight", path)[0],
        "resnet_blocks": [
            _count(weights, rf"{re.escape(resnet)}\.trunk\.layer{stage}\.(\d+)\.")
            for stage in range(1, 1 + _count(weights, rf"{re.escape(resnet)}\.trunk\.layer(\d+)\.", first=1))
        ],
        "resnet_relu_type": "prelu" if f"{resnet}.frontend3D.2.weight" in weights else "relu",
        "audio_feat_dim": audio,
        "modality_fuse": "concat" if fused == 2 * dim else "add",
    }
    if "mask_emb" in weights and audio != dim:
        found["masking_type"] = "input" if weights["mask_emb"].shape[0] == audio else "feature"
    if "label_embs_concat" in weights:
        found["final_dim"] = weights["label_embs_concat"].shape[1]
    return found


def decoder_structure(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Settings of `AVSyncNetConfig`'s decoder that weights show; see `encoder_structure`."""
    vocabulary, dim = _shape(weights, "decoder.embed_tokens.weight", path)
    return {
        "decoder_layers": _count(weights, r"decoder\.layers\.(\d+)\."),
        "decoder_embed_dim": dim,
        "decoder_ffn_embed_dim": _shape(weights, "decoder.layers.0.fc1.weight", path)[0],
        "vocab_size": vocabulary,
    }


def heads_of(dim: int, path: str | Path) -> int:
    """Attention heads of a public encoder of this width, where its file does not say.

    Raises:
        CheckpointError: no public encoder is so wide; a wrong number would load and compute something else.
    """
    if dim not in _PUBLIC_HEADS:
        raise CheckpointError(
            f"{path}: does not say how many attention heads it has, and no public model has {dim} dimensions; give "
            "their number with heads=... (encoder_attention_heads of its training)"
        )
    return _PUBLIC_HEADS[dim]


def encoder_name(structure: Mapping[str, Any]) -> str | None:
    """The file under configs/encoder whose sizes these are, None when there is none."""
    names = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim")
    for file in sorted((CONFIGS / "encoder").glob("*.yaml")):
        sizes: Any = OmegaConf.load(file)
        if all(sizes.get(name) == structure.get(name) for name in names):
            return file.stem
    return None


def size_hint(structure: Mapping[str, Any]) -> str:
    """What to do about weights of another size."""
    name = encoder_name(structure)
    sizes = f"{structure['encoder_layers']} layers of {structure['encoder_embed_dim']} dimensions"
    return f"the file has {sizes}: use " + (f"encoder={name}" if name else "an encoder config with these sizes")


def _shape(weights: Mapping[str, Tensor], name: str, path: str | Path) -> list[int]:
    if name not in weights:
        raise CheckpointError(f"{path}: {name} is missing; the file is incomplete, copy it again")
    return list(weights[name].shape)


def _count(names: Iterable[str], pattern: str, first: int = 0) -> int:
    """How many numbers from `first` on stand in the names."""
    found = {int(match.group(1)) for name in names if (match := re.match(pattern, name))}
    return max(found) - first + 1 if found else 0
