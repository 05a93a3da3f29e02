"""A model of stage 1 as a checkpoint that the public code reads (facebookresearch/av_hubert under fairseq)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import ENCODER_PREFIX
from synctalklip.checkpoint import CheckpointError, write_atomically, write_text
from synctalklip.data.text import Tokenizer
from synctalklip.public_weights.avhubert import (
    DECODER_FIXED,
    DECODER_NAMES,
    ENCODER_FIXED,
    ENCODER_NAMES,
    PRETRAIN_MODEL,
    PUBLIC_RESNET,
    SEQ2SEQ_MODEL,
    TASK,
    TASK_FIXED,
    UNREAD_BUFFER,
    StageOne,
)

# TalkLip builds its lip-reading loss from this group, and the group `optimization` that fairseq would ask for
# `sentence_avg` is not in a file without a training.
CRITERION = {
    "_name": "label_smoothed_cross_entropy",
    "label_smoothing": 0.1,
    "report_accuracy": True,
    "ignore_prefix_size": 0,
    "sentence_avg": True,
}

# Ids below belong to the special symbols of every fairseq dictionary; its text file leaves them out.
_SPECIAL = 4


def labels_folder(output: Path) -> Path:
    """Where the dictionaries and the tokenizer of an exported file lie."""
    return output.with_name(output.stem + "_labels")


def export(model: StageOne, output: Path, source: str | Path) -> list[str]:
    """Write `output` and, beside it, the dictionaries that the public code asks for.

    The file holds plain containers: the public task finds no pickled dictionary in it, and reads the ones that its
    configuration names. They are named by their full path, as the public code wants.

    Args:
        model: what is exported.
        output: the `.pt` file to write.
        source: of the model, for messages.

    Returns:
        Names of the tensors that the public model does not have.

    Raises:
        CheckpointError: the public code has no such structure.
    """
    fine_tuned = model.kind == "avsyncnet"
    _assert_public(model, fine_tuned, source)
    weights, left_out = _weights(model, fine_tuned)
    rows = weights[(ENCODER_PREFIX if fine_tuned else "") + "label_embs_concat"].shape[0]
    sizes = model.label_sizes or [rows]
    names = ["km"] if len(sizes) == 1 else [f"km{index}" for index in range(len(sizes))]
    folder = labels_folder(output)
    pretraining = _pretraining(model.config, folder, names)
    cfg = _fine_tuning(model.config, folder, pretraining) if fine_tuned else pretraining
    _write_labels(folder, dict(zip(names, sizes)), model.tokenizer if fine_tuned else None)
    checkpoint.save(output, _layout(cfg, weights))
    return left_out


def _assert_public(model: StageOne, fine_tuned: bool, source: str | Path) -> None:
    config = model.config
    wrong = [f"{key} is {config[key]}, not {value}" for key, value in PUBLIC_RESNET.items() if config[key] != value]
    if fine_tuned and config["decoder_embed_dim"] != config["encoder_embed_dim"]:
        wrong.append("its decoder is not as wide as its encoder")
    if fine_tuned and model.tokenizer is None:
        wrong.append("it has no tokenizer (give tokenizer=...)")
    if wrong:
        raise CheckpointError(
            f"{source}: the public code cannot build this model: {'; '.join(wrong)}; export one that was trained with "
            "encoder=base or encoder=large"
        )


def _weights(model: StageOne, fine_tuned: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the public model, and the names of ours that it does not have."""
    prefix = ENCODER_PREFIX if fine_tuned else ""
    own = (prefix, "decoder.") if fine_tuned else ("",)
    kept = {name: value for name, value in model.weights.items() if name.startswith(own)}
    if fine_tuned:
        # The public model keeps the embeddings of its pre-training labels, which nothing reads.
        unread = torch.zeros(_SPECIAL, model.config["final_dim"])
        kept = {prefix + "label_embs_concat": unread, UNREAD_BUFFER: torch.zeros(1)} | kept
    return kept, sorted(set(model.weights) - set(kept))


def _pretraining(config: Mapping[str, Any], folder: Path, labels: list[str]) -> dict[str, Any]:
    model = {key: config[key] for key in sorted(ENCODER_NAMES)} | ENCODER_FIXED
    task = _task(folder) | {"labels": labels, "fine_tuning": False, "is_s2s": False, "label_rate": 25}
    return _groups({"_name": PRETRAIN_MODEL, "label_rate": 25} | model, task, {"_name": "av_hubert"})


def _fine_tuning(config: Mapping[str, Any], folder: Path, pretraining: dict[str, Any]) -> dict[str, Any]:
    dropouts = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "feature_grad_mult")
    model = {
        "_name": SEQ2SEQ_MODEL,
        "w2v_path": "",
        "normalize": True,
        "data": str(folder),
        "apply_mask": False,
        "freeze_finetune_updates": 0,
        "layerdrop": config["encoder_layerdrop"],
        **{key: config[key] for key in dropouts},
        **{key: config[key] for key in sorted(DECODER_NAMES)},
        **DECODER_FIXED,
        "w2v_args": pretraining,
    }
    task = _task(folder) | {
        "labels": ["wrd"],
        "fine_tuning": True,
        "is_s2s": True,
        "single_target": True,
        "tokenizer_bpe_name": "sentencepiece",
        "tokenizer_bpe_model": str(folder / checkpoint.TOKENIZER),
    }
    return _groups(model, task, CRITERION)


def _task(folder: Path) -> dict[str, Any]:
    return {
        "_name": TASK,
        "data": str(folder),
        "label_dir": str(folder),
        "sample_rate": 25,
        "max_sample_size": 500,
        "max_trim_sample_size": 500,
        "pad_audio": True,
        "random_crop": False,
        "modalities": ["audio", "video"],
        **TASK_FIXED,
    }


def _groups(model: dict[str, Any], task: dict[str, Any], criterion: dict[str, Any]) -> dict[str, Any]:
    """The groups of fairseq's configuration that reading a model looks at."""
    return {"_name": None, "model": model, "task": task, "criterion": criterion, "bpe": None, "tokenizer": None}


def _layout(cfg: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    history = {
        "criterion_name": "",
        "optimizer_name": "",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {
        "args": None,
        "cfg": cfg,
        "model": {name: value.detach().clone() for name, value in weights.items()},
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }


def _write_labels(folder: Path, sizes: Mapping[str, int], tokenizer: bytes | None) -> None:
    symbols = {name: [str(index) for index in range(size - _SPECIAL)] for name, size in sizes.items()}
    if tokenizer is not None:
        symbols["wrd"] = Tokenizer(tokenizer).symbols[_SPECIAL:]
        write_atomically(folder / checkpoint.TOKENIZER, lambda part: part.write_bytes(tokenizer))
    for name, entries in symbols.items():
        text = "".join(f"{symbol} 1\n" for symbol in entries)
        write_text(folder / f"dict.{name}.txt", text)
