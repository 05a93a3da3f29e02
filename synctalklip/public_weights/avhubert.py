"""Files of stage 1 brought into one form: public fairseq AV-HuBERT ones, and ours.

Names and values of the public configurations are those of facebookresearch/av_hubert (avhubert/hubert.py,
hubert_asr.py, hubert_pretraining.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import (
    AVHubertConfig,
    AVSyncNetConfig,
    decoder_structure,
    encoder_structure,
    heads_of,
    size_hint,
)
from synctalklip.avsyncnet.expert import ENCODER_PREFIX, FINE_TUNED, PRETRAINED, decoder_settings, encoder_settings
from synctalklip.avsyncnet.hubert import AVHubert
from synctalklip.avsyncnet.model import AVSyncNet
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.text import TextError, Tokenizer
from synctalklip.public_weights.pickle import Inert, load_public, plain

PRETRAIN_MODEL, SEQ2SEQ_MODEL, TASK = "av_hubert", "av_hubert_seq2seq", "av_hubert_pretraining"

# Settings that both sides have under one name.
ENCODER_NAMES = frozenset(
    """encoder_layers encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads conv_pos conv_pos_groups
    resnet_relu_type audio_feat_dim modality_fuse dropout attention_dropout activation_dropout dropout_input
    encoder_layerdrop feature_grad_mult final_dim untie_final_proj logit_temp masking_type selection_type
    mask_prob_audio mask_length_audio mask_prob_image mask_length_image modality_dropout audio_dropout""".split()
)
DECODER_NAMES = frozenset(
    """decoder_layers decoder_embed_dim decoder_ffn_embed_dim decoder_attention_heads decoder_dropout
    decoder_attention_dropout decoder_activation_dropout max_target_positions""".split()
)

# What AVHubert, TextDecoder and the clips are built for. A file that says otherwise computes something else.
ENCODER_FIXED: dict[str, Any] = {
    "layer_norm_first": True,
    "activation_fn": "gelu",
    "sub_encoder_layers": 0,
    "target_glu": False,
    "sim_type": "cosine",
}
DECODER_FIXED: dict[str, Any] = {
    "decoder_normalize_before": True,
    "decoder_learned_pos": False,
    "share_decoder_input_output_embed": True,
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
}
TASK_FIXED: dict[str, Any] = {
    "normalize": True,
    "stack_order_audio": 4,
    "image_crop_size": 88,
    "image_mean": 0.421,
    "image_std": 0.165,
}

# Known, and without meaning here: training of theirs, or removed features of fairseq.
UNUSED_NAMES = frozenset(
    """_name w2v_path w2v_args no_pretrained_weights final_dropout apply_mask mask_length mask_prob mask_selection
    mask_other no_mask_overlap mask_min_space mask_channel_length mask_channel_prob mask_channel_selection
    mask_channel_other mask_channel_min_space no_mask_channel_overlap freeze_finetune_updates layerdrop
    decoder_layerdrop normalize data label_rate extractor_mode conv_feature_layers conv_bias latent_temp
    dropout_features skip_masked skip_nomask resnet_weights input_modality wav_input""".split()
)

# The structure of every public model; ours can be another, which the public code could not build.
PUBLIC_RESNET: dict[str, Any] = {"resnet_width": 64, "resnet_blocks": [2, 2, 2, 2]}

# A number that older fairseq versions store with sinusoidal positions and never read.
UNREAD_BUFFER = "decoder.embed_positions._float_tensor"


@dataclass
class StageOne:
    """A model of stage 1 and all that is known about it.

    Attributes:
        kind: `avhubert` (pre-trained) or `avsyncnet` (fine-tuned).
        model_name: its name in the file.
        config: what `AVHubertConfig` or `AVSyncNetConfig` is made from.
        weights: by the names of `AVHubert` or `AVSyncNet`.
        tokenizer: bytes of its sentencepiece model, None when there is none.
        label_sizes: classes of each label set of its pre-training.
        roi_mode: how its mouth regions were cut, None when the file does not say.
        unknown_keys: settings in the file that neither side knows.
        left_out: tensors and other parts of the file that are not taken.
        heads_from: where the number of attention heads was found when the file itself does not say it.
    """

    kind: str
    model_name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: bytes | None
    label_sizes: list[int]
    roi_mode: str | None
    unknown_keys: list[str]
    left_out: list[str]
    heads_from: str | None = None

    @property
    def parameters(self) -> int:
        """Number of learned values."""
        counted = ("running_mean", "running_var", "num_batches_tracked")
        return sum(value.numel() for name, value in self.weights.items() if not name.endswith(counted))


def read_stage_one(state: Mapping[str, Any], path: str | Path, heads: int | None = None) -> StageOne:
    """Understand the content of a fairseq checkpoint.

    Args:
        state: from `load_public`.
        path: of the file, for messages.
        heads: attention heads of its encoder, where neither the file nor the one that it began from says it.

    Raises:
        CheckpointError: not of stage 1, with another structure than the public one, or at odds with itself.
    """
    cfg = _configuration(state, path)
    name = cfg["model"].get("_name")
    heads_from = _complete_pretraining(cfg, path)
    if name not in PRETRAINED + FINE_TUNED:
        raise CheckpointError(f"{path}: is a fairseq {name!r} model; give an av_hubert or av_hubert_seq2seq one")
    weights, left_out = _weights(state, path)
    fine_tuned = name in FINE_TUNED
    stored_task = state.get("task_state")
    task = stored_task if isinstance(stored_task, Mapping) else {}
    config, guessed = _structure(cfg, weights, fine_tuned, path, heads)
    sizes = _label_sizes(task, weights, fine_tuned)
    tokenizer = _tokenizer(task, cfg.get("task") or {}, config["vocab_size"], path) if fine_tuned else None
    _assert_buildable(config, weights, sizes, fine_tuned, path)
    left_out += [name for name in ("last_optimizer_state", "optimizer_history") if state.get(name)]
    return StageOne(
        "avsyncnet" if fine_tuned else "avhubert",
        name,
        config,
        weights,
        tokenizer,
        sizes,
        task.get("roi_mode"),
        _unknown(cfg, name),
        left_out,
        guessed or heads_from,
    )


def _configuration(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """`cfg` as a nested dict; older files hold one flat `args`."""
    if state.get("cfg") is not None:
        cfg = _plain(state["cfg"], path)
        if isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
            inner = cfg["model"].get("w2v_args")
            # A flat Namespace in the place of a whole configuration.
            if isinstance(inner, dict) and not isinstance(inner.get("model"), dict):
                cfg["model"]["w2v_args"] = {"model": inner, "task": inner}
            return cfg
    flat = _plain(state.get("args"), path)
    if isinstance(flat, dict) and flat:
        inner = flat.pop("w2v_args", None)
        model = flat | {"_name": flat.get("_name") or flat.get("arch")}
        if isinstance(inner, dict):
            inner = inner if isinstance(inner.get("model"), dict) else {"model": inner, "task": inner}
            model["w2v_args"] = inner
        return {"model": model, "task": dict(flat)}
    raise CheckpointError(f"{path}: has weights but no configuration (cfg or args); get the file from its authors")


def _complete_pretraining(cfg: dict[str, Any], path: str | Path) -> str | None:
    """Public training stores no `w2v_args`, but names the file it began from; its configuration, where it is here.

    Returns:
        What to tell of it, None where nothing was read.
    """
    begun = cfg["model"].get("w2v_path")
    if cfg["model"].get("_name") != SEQ2SEQ_MODEL or cfg["model"].get("w2v_args"):
        return None
    if not isinstance(begun, str) or not Path(begun).is_file():
        return None
    cfg["model"]["w2v_args"] = _configuration(load_public(begun), begun)
    return f"{begun}, which {path} began from"


def _plain(stored: Any, path: str | Path) -> Any:
    try:
        return plain(stored)
    except (RecursionError, TypeError):
        # Only a file that was made to do so holds a configuration that contains itself, or one with a false `items`.
        raise CheckpointError(
            f"{path}: its configuration has no end or no form; get the file from its authors"
        ) from None


def _weights(state: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    stored = state.get("model")
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"{path}: its model is not a dict of tensors; get the file from its authors")
    weights, left_out = {}, []
    for name, value in stored.items():
        # The weight norm of newer torch versions stores the same two tensors under other names.
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if name.endswith("embed_positions._float_tensor") or name.startswith("ctc_proj."):
            left_out.append(name)
        else:
            weights[name] = value
    return weights, left_out


def _structure(
    cfg: dict, weights: Mapping[str, Tensor], fine_tuned: bool, path: str | Path, heads: int | None
) -> tuple[dict[str, Any], str | None]:
    """Settings of our config: what the file states, and must agree with what its weights show; where heads are from."""
    inner = {
        key.removeprefix(ENCODER_PREFIX): value for key, value in weights.items() if key.startswith(ENCODER_PREFIX)
    }
    found = encoder_structure(inner if fine_tuned else weights, path)
    model = cfg["model"]
    foreign = model.get("_name") in ("av_hubert", "av_hubert_seq2seq")
    # Without the configuration of its pre-training, the overrides of fine-tuning say nothing about sizes.
    sized = not (foreign and fine_tuned) or bool(model.get("w2v_args"))
    stated = encoder_settings({"cfg": cfg}) if sized else {}
    _assert_fixed(stated, ENCODER_FIXED, path)
    _assert_fixed(cfg.get("task") or {}, TASK_FIXED, path)
    if fine_tuned:
        _assert_fixed(model, DECODER_FIXED, path)
        found |= decoder_structure(weights, path)
        stated |= decoder_settings({"cfg": cfg})
    stated = {key: value for key, value in stated.items() if value is not None}
    clashes = [
        f"{key} is {stated[key]} in its configuration and {value} in its weights"
        for key, value in found.items()
        if stated.get(key, value) != value and key != "vocab_size"
    ]
    if clashes:
        raise CheckpointError(f"{path}: {'; '.join(clashes[:3])}; {size_hint(found)} or get the file from its authors")
    heads_from = None
    if "encoder_attention_heads" not in stated:
        found["encoder_attention_heads"] = heads or heads_of(found["encoder_embed_dim"], path)
        heads_from = "heads=" if heads else "the public models of this width"
    elif heads not in (None, stated["encoder_attention_heads"]):
        raise CheckpointError(
            f"{path}: has {stated['encoder_attention_heads']} attention heads; leave out heads={heads}"
        )
    kind = AVSyncNetConfig if fine_tuned else AVHubertConfig
    config = asdict(kind.from_mapping(stated | found))
    config.pop("num_classes", None)
    return config, heads_from


def _assert_fixed(stated: Mapping[str, Any], fixed: Mapping[str, Any], path: str | Path) -> None:
    for key, value in fixed.items():
        if stated.get(key) is not None and stated[key] != value:
            raise CheckpointError(
                f"{path}: was trained with {key}={stated[key]}, which is not the public structure ({key}={value}) "
                "and cannot be built here"
            )


def _label_sizes(task: Mapping[str, Any], weights: Mapping[str, Tensor], fine_tuned: bool) -> list[int]:
    rows = weights.get((ENCODER_PREFIX if fine_tuned else "") + "label_embs_concat")
    if rows is None:
        return []
    stored = task.get("label_sizes") or [len(symbols_of(one) or []) for one in task.get("dictionaries") or []]
    return list(stored) if sum(stored) == rows.shape[0] else [rows.shape[0]]


def symbols_of(dictionary: Any) -> list[str] | None:
    """Symbols of a pickled fairseq Dictionary in the order of their ids, the four special ones included."""
    if not isinstance(dictionary, Inert) or not isinstance(dictionary.state, dict):
        return None
    symbols = dictionary.state.get("symbols")
    return [str(symbol) for symbol in symbols] if isinstance(symbols, list) else None


def _tokenizer(task: Mapping[str, Any], settings: Mapping[str, Any], vocabulary: int, path: str | Path) -> bytes | None:
    """The sentencepiece model of our checkpoints, the one inside a pickled tokenizer, or the file named instead."""
    model = task.get("tokenizer")
    if model is None and isinstance(task.get("s2s_tokenizer"), Inert):
        processor = (task["s2s_tokenizer"].state or {}).get("sp")
        model = processor.state if isinstance(processor, Inert) else None
        # Its library pickles the model alone, or since 0.2 as one of several attributes.
        model = model.get("model_proto") if isinstance(model, dict) else model
    named = settings.get("tokenizer_bpe_model")
    if model is None and isinstance(named, str) and Path(named).is_file():
        model = Path(named).read_bytes()
    if model is None:
        return None
    checked_tokenizer(model, vocabulary, path, symbols_of(task.get("target_dictionary")))
    return bytes(model)


def checked_tokenizer(model: Any, vocabulary: int, path: str | Path, symbols: list[str] | None = None) -> Tokenizer:
    """The tokenizer of `vocabulary` symbols; its ids must be those of the dictionary `symbols`.

    Raises:
        CheckpointError: no sentencepiece model, or another vocabulary.
    """
    try:
        tokenizer = Tokenizer(model)
    except (TextError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}; give its sentencepiece model (tokenizer=...)") from None
    if tokenizer.size != vocabulary:
        raise CheckpointError(
            f"{path}: its tokenizer has {tokenizer.size} symbols, its decoder {vocabulary}; give the sentencepiece "
            "model of its training (tokenizer=...)"
        )
    pairs = enumerate(zip(symbols or tokenizer.symbols, tokenizer.symbols))
    wrong = [(index, *pair) for index, pair in pairs if index > Tokenizer.unk and pair[0] != pair[1]]
    if wrong:
        index, theirs, ours = wrong[0]
        raise CheckpointError(f"{path}: id {index} is {theirs!r} in its dictionary and {ours!r} in its tokenizer")
    return tokenizer


def _assert_buildable(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], sizes: list[int], fine_tuned: bool, path: str | Path
) -> None:
    hint = f"{size_hint(config)}, or get the file from its authors"
    try:
        with torch.device("meta"):
            if fine_tuned:
                model: nn.Module = AVSyncNet(AVSyncNetConfig(**config, num_classes=sizes))
            else:
                model = AVHubert(AVHubertConfig(**config), sizes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be built ({error})") from error
    checkpoint.assert_fits(model, weights, path, hint)


def _unknown(cfg: Mapping[str, Any], name: str) -> list[str]:
    own = set(AVSyncNetConfig.__dataclass_fields__) | {"num_classes", "ctc", "init_from"}
    known = own | UNUSED_NAMES | set(ENCODER_FIXED) | set(DECODER_FIXED) | set(TASK_FIXED)
    model = cfg["model"]
    inner = (model.get("w2v_args") or {}).get("model") or {}
    return sorted(f"model.{key}" for key in model if key not in known) + sorted(
        f"model.w2v_args.model.{key}" for key in inner if key not in known
    )
