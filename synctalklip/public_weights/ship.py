"""Trained models as they are shipped: half-precision safetensors, plain JSON, the tokenizer and a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import FINE_TUNED, read_checkpoint
from synctalklip.checkpoint import CheckpointError
from synctalklip.public_weights.avhubert import read_stage_one

KINDS = ("generator", "discriminator", "syncnet", *FINE_TUNED)
# Heads of pre-training: nothing that a fine-tuned model does needs them.
_PRETRAINING = ("label_embs_concat", "final_proj.weight", "final_proj.bias")


def ship(source: str | Path, output: str | Path, card: str) -> int:
    """Write a trained model as a folder that goes wherever its checkpoint goes.

    Args:
        source: checkpoint of a run: a fine-tuned model of stage 1, a `generator.pt` or a `syncnet.pt`.
        output: the folder; one that was shipped so before is replaced.
        card: the model card, Markdown.

    Returns:
        Its size in bytes.

    Raises:
        CheckpointError: missing, damaged or of a kind that is not shipped; or the folder holds other files.
    """
    source = Path(source)
    state = read_checkpoint(source)
    origin = {"file": source.name, "sha256": checkpoint.file_hash(source)}
    weights, config, tokenizer = _stage_one(state, source) if state.get("cfg") else _plain(state, source)
    config["source"] = origin
    checkpoint.save_folder(output, {name: _halved(value) for name, value in weights.items()}, config, tokenizer, card)
    return sum(file.stat().st_size for file in Path(output).iterdir())


def _stage_one(state: Mapping[str, Any], source: Path) -> tuple[dict[str, Tensor], dict[str, Any], bytes | None]:
    model = read_stage_one(state, source)
    if model.kind not in FINE_TUNED:
        raise CheckpointError(f"{source}: is pre-trained only; fine-tune it before it is shipped")
    # Its helper for training, which `read_stage_one` leaves out too.
    config = model.config | {"ctc": False}
    weights = {name: value for name, value in model.weights.items() if not name.endswith(_PRETRAINING)}
    stated = {"kind": model.kind, "config": config, "label_sizes": [], "roi_mode": model.roi_mode}
    return weights, stated, model.tokenizer


def _plain(state: Mapping[str, Any], source: Path) -> tuple[dict[str, Tensor], dict[str, Any], bytes | None]:
    if state.get("kind") not in KINDS:
        raise CheckpointError(f"{source}: is a {state.get('kind', 'foreign')!r} checkpoint; {', '.join(KINDS)} ship")
    stated = {name: value for name, value in state.items() if name not in ("model", "tokenizer")}
    return dict(state["model"]), stated, state.get("tokenizer")


def _halved(value: Tensor) -> Tensor:
    """Matrices and kernels in half precision; biases, norms and statistics stay as they are."""
    return value.to(torch.float16) if value.is_floating_point() and value.ndim > 1 else value
