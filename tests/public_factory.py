"""Files in the layout of the public AV-HuBERT releases, with the objects of fairseq that those pickle."""

import argparse
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from omegaconf import OmegaConf

ENCODER = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
}
NARROW = {"resnet_width": 4}
DECODER = {
    "decoder_layers": 1,
    "decoder_embed_dim": 32,
    "decoder_ffn_embed_dim": 48,
    "decoder_attention_heads": 2,
}
# What the released files say beside the sizes, as far as it decides anything.
ENCODER_TEXT = {
    "layer_norm_first": True,
    "activation_fn": "gelu",
    "final_dim": 256,
    "untie_final_proj": True,
    "audio_feat_dim": 104,
    "dropout": 0.1,
    "feature_grad_mult": 0.1,
    "mask_channel_prob": 0.0,
    "input_modality": "video",
    "latent_temp": [2, 0.5, 0.999995],
}
TASK_TEXT = {"_name": "av_hubert_pretraining", "normalize": True, "stack_order_audio": 4, "label_dir": "/cluster/x"}


def tokenizer_model(size: int) -> bytes:
    """A sentencepiece model of `size` symbols, "lay" and "red" among them, with the ids of fairseq dictionaries."""
    written = io.BytesIO()
    words = ["lay", "red"] + [first + second for first in "abcdefgh" for second in "abcdefgh"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[: size - 4])]),
        model_writer=written,
        model_type="word",
        vocab_size=size,
        num_threads=1,
        **{"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "minloglevel": 2},
    )
    return written.getvalue()


def task_state(model: bytes, folder: Path, units: int) -> dict[str, Any]:
    """What the public task pickles: two dictionaries and a tokenizer of fairseq."""
    from fairseq.data import Dictionary
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

    path = folder / "spm.model"
    path.write_bytes(model)
    settings = argparse.Namespace(
        sentencepiece_model=str(path), sentencepiece_enable_sampling=False, sentencepiece_alpha=None
    )
    tokenizer = SentencepieceBPE(settings)
    words, clusters = Dictionary(), Dictionary()
    for index in range(4, tokenizer.sp.GetPieceSize()):
        words.add_symbol(tokenizer.sp.IdToPiece(index))
    for index in range(units):
        clusters.add_symbol(str(index))
    return {"dictionaries": [clusters], "target_dictionary": words, "s2s_tokenizer": tokenizer}


def public_file(
    path: Path,
    weights: dict[str, torch.Tensor],
    encoder: dict[str, Any],
    decoder: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    form: str = "dict",
    zipped: bool = True,
) -> Path:
    """Write a pre-trained file, or with `decoder` a fine-tuned one.

    Args:
        path: the file.
        weights: by the public names.
        encoder: sizes of the encoder.
        decoder: sizes of the decoder.
        state: `task_state`, None as in the oldest files.
        form: configuration as "dict", as omegaconf's object ("omegaconf"), or as flat "args".
        zipped: the format of torch since 1.6, or the one before.
    """
    pretraining = {"model": {"_name": "av_hubert", **ENCODER_TEXT, **encoder}, "task": dict(TASK_TEXT)}
    cfg: dict[str, Any] = pretraining
    if decoder is not None:
        # The overrides of fine-tuning stand beside the decoder and say nothing about the encoder's structure.
        outer = {"dropout": 0.0, "share_decoder_input_output_embed": True, "decoder_normalize_before": True}
        model = {"_name": "av_hubert_seq2seq", "w2v_path": "/x.pt", "wer_args": None, **outer, **decoder}
        cfg = {"model": model | {"w2v_args": pretraining}, "task": TASK_TEXT | {"fine_tuning": True}}
    stored: dict[str, Any] = {"args": None, "cfg": cfg}
    if form == "omegaconf":
        stored["cfg"] = OmegaConf.create(cfg)
    if form == "args":
        flat = {key: value for key, value in cfg["model"].items() if key not in ("_name", "w2v_args")}
        if decoder is not None:
            flat["w2v_args"] = argparse.Namespace(**pretraining["model"])
        stored = {
            "args": argparse.Namespace(arch=cfg["model"]["_name"], task="av_hubert_pretraining", **flat),
            "cfg": None,
        }
    stored |= {
        "model": weights,
        "optimizer_history": [{"num_updates": 7}],
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "extra_state": {"epoch": 2, "meters": _meters()},
    }
    if state is not None:
        stored["task_state"] = state
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    return path


def _meters() -> Any:
    from fairseq.logging.meters import AverageMeter, StopwatchMeter

    return OrderedDict(loss=AverageMeter(), wall=StopwatchMeter())
