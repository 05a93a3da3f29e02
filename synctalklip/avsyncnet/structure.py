"""The structure of a model read off its weights, to check what a file says of itself or to do without it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import CONFIGS

# The public base and large models have equally wide heads; weights do not show how many there are.
_HEAD_WIDTH = 64


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
    """Attention heads of an encoder of the public family.

    Raises:
        CheckpointError: its size is none of that family.
    """
    if dim % _HEAD_WIDTH:
        raise CheckpointError(
            f"{path}: does not say how many attention heads it has, and {dim} dimensions are no multiple of "
            f"{_HEAD_WIDTH} as in the public models; give a file with its configuration"
        )
    return dim // _HEAD_WIDTH


def encoder_name(structure: Mapping[str, Any]) -> str | None:
    """The file under configs/encoder whose sizes these are, None when there is none."""
    names = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim")
    for file in sorted((CONFIGS / "encoder").glob("*.yaml")):
        sizes = OmegaConf.load(file)
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
