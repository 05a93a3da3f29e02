"""Converts checkpoints of stage 1: public AV-HuBERT files to ours, and ours to fairseq's layout."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import encoder_name
from synctalklip.avsyncnet.expert import PUBLIC_ROI_MODE, read_checkpoint
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.text import Tokenizer
from synctalklip.public_weights.avhubert import StageOne, checked_tokenizer, read_stage_one
from synctalklip.public_weights.export import export, labels_folder


def to_ours(
    state: Mapping[str, Any], source: Path, output: Path, roi_mode: str | None, tokenizer: Path | None
) -> list[str]:
    """Write the folder that `load_expert`, `load_encoder` and `init_from` read.

    Args:
        state: content of `source`, from `load_public`.
        source: the file.
        output: the folder to write.
        roi_mode: how the mouth regions of its training were cut; None takes what the file says, or the public way.
        tokenizer: sentencepiece model; None takes the one in the file.

    Returns:
        What to tell the user, line by line.

    Raises:
        CheckpointError: another kind or size, or at odds with itself.
    """
    if output.suffix == ".pt":
        raise CheckpointError(f"output={output}: a model of stage 1 becomes a folder; give a name without .pt")
    model = _completed(read_stage_one(state, source), source, tokenizer)
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


def to_fairseq(source: Path, output: Path, tokenizer: Path | None) -> list[str]:
    """Write a file that the public code reads, from one of ours.

    Args:
        source: checkpoint of our trainer, or folder of `to_ours`.
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
    lines.append("unknown settings, ignored: " + shortened(model.unknown_keys))
    lines.append(f"left out: {shortened(model.left_out)}")
    return lines


def shortened(names: list[str], most: int = 12) -> str:
    """The names, or the first of many and their number."""
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})"
