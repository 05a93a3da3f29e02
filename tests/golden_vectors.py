"""Vectors of the public AV-HuBERT, read where the folder is beside the repository."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not FOLDER.is_dir(), reason="the golden vectors (../shared/golden) are not here")

TINY = {
    "encoder_layers": 2,
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 128,
    "encoder_attention_heads": 4,
}
TINY_DECODER = {
    "decoder_layers": 2,
    "decoder_embed_dim": 64,
    "decoder_ffn_embed_dim": 128,
    "decoder_attention_heads": 4,
    "vocab_size": 64,
    "num_classes": [104],
}


@cache
def makers() -> ModuleType:
    """`fill_golden` and `golden_input`."""
    spec = importlib.util.spec_from_file_location("golden_weights", FOLDER / "golden_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shapes(name: str) -> dict[str, list[int]]:
    """Names and shapes of a public state dict."""
    return json.loads((FOLDER / f"state_dict_{name}.json").read_text())


def own_shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    """Names and shapes of ours."""
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def vectors(name: str) -> dict[str, torch.Tensor]:
    """Arrays of one file as tensors."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        return {key: torch.from_numpy(np.asarray(stored[key])) for key in stored}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sound, video and padding mask of the vectors: clip 1 is padded from frame 15."""
    padding = torch.zeros(2, 20, dtype=torch.bool)
    padding[1, 15:] = True
    make = makers().golden_input
    return make("audio", (2, 104, 20)), make("video", (2, 1, 20, 88, 88)), padding
