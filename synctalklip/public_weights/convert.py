"""Checkpoints in other forms: public ones as ours, ours in fairseq's layout, and trained models as they are shipped."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import encoder_name
from synctalklip.avsyncnet.expert import FINE_TUNED, PUBLIC_ROI_MODE, read_checkpoint
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.text import Tokenizer
from synctalklip.errors import SyncTalklipError
from synctalklip.public_weights import talklip
from synctalklip.public_weights.avhubert import StageOne, checked_tokenizer, read_stage_one
from synctalklip.public_weights.export import export, labels_folder
from synctalklip.public_weights.pickle import load_public

log = logging.getLogger(__name__)

DIRECTIONS = ("ours", "fairseq")
SHIPPED_KINDS = ("generator", "discriminator", "syncnet", *FINE_TUNED)
# Heads of pre-training: nothing that a fine-tuned model does needs them.
_PRETRAINING = ("label_embs_concat", "final_proj.weight", "final_proj.bias")


def convert(
    source: str | Path,
    output: str | Path,
    to: str,
    roi_mode: str | None = None,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
) -> list[str]:
    """Convert one checkpoint.

    Args:
        source: public fairseq AV-HuBERT file, public TalkLip, SyncTalkLip or Wav2Lip file, or a checkpoint of ours.
        output: what to write: a folder for stage 1, a `.pt` file for stage 2 and for fairseq.
        to: `ours` or `fairseq`.
        roi_mode: how the mouth regions of its training were cut, where that is not the public way.
        tokenizer: sentencepiece model, where the file has none.
        heads: attention heads of its encoder, where the file does not say and has not the width of a public model.

    Returns:
        What to tell the user, line by line.

    Raises:
        SyncTalklipError: missing, damaged, carrying code, of another kind or size; or a full disk.
    """
    source, output = Path(source), Path(output)
    tokenizer = None if tokenizer is None else Path(tokenizer)
    if to not in DIRECTIONS:
        raise SyncTalklipError(f"to={to}: choose {' or '.join(DIRECTIONS)}")
    if output.resolve() == source.resolve():
        raise SyncTalklipError(f"output={output}: is the input; give another name")
    if source.is_file():
        log.info("reading %s, %.0f MB", source, source.stat().st_size / 1e6)
    if to == "fairseq":
        return _stage_one_to_fairseq(source, output, tokenizer)
    if source.is_dir():
        raise CheckpointError(f"{source}: is a folder; to=ours reads files, to=fairseq converted folders")
    state = load_public(source)
    if "state_dict" in state:
        return talklip.to_ours(state, source, output, roi_mode, heads)
    if "model" in state and (state.get("cfg") is not None or state.get("args") is not None):
        return _stage_one_to_ours(state, source, output, roi_mode, tokenizer, heads)
    if "kind" in state:
        raise CheckpointError(f"{source}: is a {state['kind']!r} checkpoint of this project, ready to use as it is")
    raise CheckpointError(
        f"{source}: holds {', '.join(map(str, list(state)[:4])) or 'nothing'}, is no fairseq checkpoint (model, cfg) "
        "and no TalkLip one (state_dict); give one of these"
    )


def _stage_one_to_ours(
    state: Mapping[str, Any],
    source: Path,
    output: Path,
    roi_mode: str | None,
    tokenizer: Path | None,
    heads: int | None,
) -> list[str]:
    """Write the folder that `load_expert`, `load_encoder` and `init_from` read.

    Args:
        state: content of `source`, from `load_public`.
        source: the file.
        output: the folder to write.
        roi_mode: how the mouth regions of its training were cut; None takes what the file says, or the public way.
        tokenizer: sentencepiece model; None takes the one in the file.
        heads: see `convert`.

    Returns:
        What to tell the user, line by line.

    Raises:
        CheckpointError: another kind or size, or at odds with itself.
    """
    if output.suffix == ".pt":
        raise CheckpointError(f"output={output}: a model of stage 1 becomes a folder; give a name without .pt")
    model = _completed(read_stage_one(state, source, heads), source, tokenizer)
    stored = model.roi_mode
    if roi_mode is not None and stored is not None and roi_mode != stored:
        raise CheckpointError(f"{source}: was trained on {stored!r} mouth regions; leave out roi_mode={roi_mode}")
    config = {
        "kind": model.kind,
        "model_name": model.model_name,
        "config": model.config,
        "label_sizes": model.label_sizes,
        "roi_mode": roi_mode or stored or PUBLIC_ROI_MODE,
        "source": {"file": source.name, "sha256": checkpoint.file_hash(source)},
        "unknown_keys": model.unknown_keys,
        "left_out": model.left_out,
    }
    checkpoint.save_folder(output, model.weights, config, model.tokenizer)
    return [*_summary(model, source), f"wrote {output}, for {config['roi_mode']} mouth regions"]


def _stage_one_to_fairseq(source: Path, output: Path, tokenizer: Path | None) -> list[str]:
    """Write a file that the public code reads, from one of ours.

    Args:
        source: checkpoint of our trainer, or folder of `_stage_one_to_ours`.
        output: the `.pt` file to write.
        tokenizer: sentencepiece model; None takes the one in the checkpoint.

    Returns:
        What to tell the user, line by line.

    Raises:
        CheckpointError: another kind, or a structure that the public code does not have.
    """
    if output.suffix != ".pt":
        raise CheckpointError(f"output={output}: a fairseq checkpoint is one file; give a name that ends in .pt")
    state = read_checkpoint(source)
    if not state.get("cfg"):
        raise CheckpointError(
            f"{source}: is a {state.get('kind', 'foreign')!r} checkpoint; only models of stage 1 have a fairseq layout"
        )
    model = _completed(read_stage_one(state, source), source, tokenizer)
    output = output.resolve()
    left_out = export(model, output, source)
    folder = labels_folder(output)
    return [
        *_summary(replace(model, left_out=[*model.left_out, *left_out]), source),
        f"wrote {output} and {folder}; the file names the folder by its full path: export again after moving it",
    ]


def _completed(model: StageOne, source: Path, tokenizer: Path | None) -> StageOne:
    """With the tokenizer that the user gave."""
    if tokenizer is None:
        return model
    if model.kind != "avsyncnet":
        raise CheckpointError(f"{source}: is pre-trained and reads no text; leave out tokenizer={tokenizer}")
    given = Tokenizer.load(tokenizer).model
    checked_tokenizer(given, model.config["vocab_size"], tokenizer)
    return replace(model, tokenizer=given)


def _summary(model: StageOne, source: Path) -> list[str]:
    config = model.config
    sizes = f"{config['encoder_layers']} layers of {config['encoder_embed_dim']}"
    name = encoder_name(config)
    lines = [
        f"read {source}: {model.model_name}, {f'encoder={name}' if name else 'no size of configs/encoder'} ({sizes}), "
        f"{model.parameters:,} parameters in {len(model.weights)} tensors"
    ]
    if model.kind == "avsyncnet" and model.tokenizer is not None:
        lines.append(f"tokenizer: {config['vocab_size']} symbols")
    elif model.kind == "avsyncnet":
        lines.append(
            f"tokenizer: none in the file; convert again with tokenizer=<its sentencepiece model of "
            f"{config['vocab_size']} symbols> to decode text or to go on training"
        )
    else:
        lines.append(f"label sets: {', '.join(map(str, model.label_sizes))} classes")
    if model.heads_from is not None:
        lines.append(f"attention heads: {config['encoder_attention_heads']}, from {model.heads_from}")
    lines.append("unknown settings, ignored: " + _shortened(model.unknown_keys))
    lines.append(f"left out: {_shortened(model.left_out)}")
    return lines


def _shortened(names: list[str], most: int = 12) -> str:
    """The names, or the first of many and their number."""
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})"


def ship(source: str | Path, output: str | Path, card: str) -> int:
    """Write a trained model as a folder (half-precision safetensors, JSON, tokenizer, card), used as its checkpoint is.

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
    origin |= {"made_of": state["made_of"]} if state.get("made_of") else {}
    weights, config, tokenizer = (
        _stage_one_weights(state, source) if state.get("cfg") else _other_weights(state, source)
    )
    config["source"] = origin
    checkpoint.save_folder(output, {name: _halved(value) for name, value in weights.items()}, config, tokenizer, card)
    return sum(file.stat().st_size for file in Path(output).iterdir())


def _stage_one_weights(
    state: Mapping[str, Any], source: Path
) -> tuple[dict[str, Tensor], dict[str, Any], bytes | None]:
    model = read_stage_one(state, source)
    if model.kind not in FINE_TUNED:
        raise CheckpointError(f"{source}: is pre-trained only; fine-tune it before it is shipped")
    # Its helper for training, which `read_stage_one` leaves out too.
    config = model.config | {"ctc": False}
    weights = {name: value for name, value in model.weights.items() if not name.endswith(_PRETRAINING)}
    stated: dict[str, Any] = {"kind": model.kind, "config": config, "label_sizes": [], "roi_mode": model.roi_mode}
    return weights, stated, model.tokenizer


def _other_weights(state: Mapping[str, Any], source: Path) -> tuple[dict[str, Tensor], dict[str, Any], bytes | None]:
    if state.get("kind") not in SHIPPED_KINDS:
        raise CheckpointError(
            f"{source}: is a {state.get('kind', 'foreign')!r} checkpoint; {', '.join(SHIPPED_KINDS)} ship"
        )
    stated = {name: value for name, value in state.items() if name not in ("model", "tokenizer")}
    return dict(state["model"]), stated, state.get("tokenizer")


def _halved(value: Tensor) -> Tensor:
    """Matrices and kernels in half precision; biases, norms and statistics stay as they are."""
    return value.to(torch.float16) if value.is_floating_point() and value.ndim > 1 else value
