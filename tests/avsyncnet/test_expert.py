"""The frozen expert, and every file that it must not take."""

from dataclasses import asdict

import pytest
import sentencepiece
import torch

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import load_encoder, load_expert
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig, AVSyncNet, AVSyncNetConfig
from synctalklip.checkpoint import CheckpointError

SIZES = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "resnet_width": 4,
    "resnet_blocks": [1, 1, 1, 1],
    "feature_grad_mult": 0.1,
}
DECODER = {"decoder_layers": 1, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 64}


@pytest.fixture(scope="session")
def tokenizer_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "words"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["bin blue at a one now", "lay red by b two soon"]),
        model_prefix=str(path),
        model_type="word",
        vocab_size=16,
        hard_vocab_limit=False,
        **{"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "minloglevel": 2},
    )
    return path.with_suffix(".model").read_bytes()


LOCAL = {
    "distance_view": "front_end",
    "distance_head": "conv",
    "distance_width": 0.5,
    "distance_shared": False,
    "distance_kernels": [5, 3],
    "distance_learn_tau": True,
}


@pytest.fixture
def fine_tuned(tmp_path, tokenizer_bytes):
    """A checkpoint of the layout that the trainer writes, and the model in it."""
    torch.manual_seed(0)
    config = AVSyncNetConfig(**SIZES, **DECODER, vocab_size=16, num_classes=[12], distance_tau=0.5, **LOCAL)
    model = AVSyncNet(config).eval()
    state = {
        "args": None,
        "cfg": {"model": asdict(config) | {"_name": "avsyncnet", "ctc": True}},
        "model": model.state_dict() | {"ctc_proj.weight": torch.zeros(16, 32)},
        "task_state": {"tokenizer": tokenizer_bytes, "roi_mode": "landmark", "label_sizes": []},
        "extra_state": {"epoch": 3},
    }
    path = tmp_path / "checkpoint_best.pt"
    checkpoint.save(path, state)
    return path, model, state


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 104, 6, generator=generator), torch.randn(1, 1, 6, 88, 88, generator=generator)


@torch.no_grad()
def test_expert_equals_the_trained_model(fine_tuned):
    path, model, _ = fine_tuned
    expert = load_expert(path, roi_mode="landmark")
    audio, video = inputs()
    heard, seen = expert.encode(audio), expert.encode(video=video)
    assert torch.equal(heard, model.encode(audio))
    tokens = torch.tensor([[2, 5, 6]])
    assert torch.equal(expert.lip_logits(tokens, seen), model.decode(tokens, seen))
    found = expert.distance.table(expert.heard(audio), expert.seen(video))
    assert torch.equal(found, model.distance.table(model.heard(audio), model.seen(video)))
    assert torch.equal(expert.seen(video), expert.seen_features(expert.video_features(video)))
    assert expert.tokenizer.decode(expert.tokenizer.encode("bin red")) == "bin red"
    assert expert.roi_mode == "landmark"
    AVHubert(expert.encoder_config).load_state_dict(expert.encoder.state_dict())


def test_expert_stays_frozen_and_lets_whole_gradients_through(fine_tuned):
    expert = load_expert(fine_tuned[0]).train()
    assert not any(module.training for module in expert.modules())
    assert not any(value.requires_grad for value in expert.parameters())
    assert expert.encoder_config.feature_grad_mult == 1
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    _, video = inputs()
    video.requires_grad_()
    expert.encode(video=video).sum().backward()
    assert video.grad.abs().sum() > 0
    assert all(torch.equal(before[name], value) for name, value in expert.state_dict().items())


def test_encoder_of_either_kind(fine_tuned, tmp_path):
    path, model, _ = fine_tuned
    audio, _ = inputs()
    with torch.no_grad():
        assert torch.equal(load_encoder(path).eval().encode(audio), model.encode(audio))
    pretrained = AVHubert(AVHubertConfig(**SIZES), [12]).eval()
    cfg = {"model": asdict(AVHubertConfig(**SIZES)) | {"_name": "avhubert"}}
    path = tmp_path / "pretrained.pt"
    checkpoint.save(path, {"cfg": cfg, "model": pretrained.state_dict(), "task_state": {"roi_mode": "landmark"}})
    encoder = load_encoder(path).eval()
    assert encoder.config.feature_grad_mult == 1
    assert encoder.config.dropout == 0.1
    with torch.no_grad():
        assert torch.equal(encoder.encode(audio), pretrained.encode(audio))
    with pytest.raises(CheckpointError, match="without a decoder"):
        load_expert(path)


def test_public_layout_is_read(tmp_path):
    """Encoder sizes in `w2v_args`, fine-tuning overrides and unknown keys beside the decoder's, unused tensors."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name not in ("resnet_blocks",)} | {"resnet_width": 2}
    model = AVSyncNet(AVSyncNetConfig(**sizes, **DECODER, vocab_size=16, num_classes=[12])).eval()
    outer = {"_name": "av_hubert_seq2seq", "w2v_path": "x.pt", "dropout": 0.0, "input_modality": "video", **DECODER}
    cfg = {"model": outer | {"w2v_args": {"model": sizes | {"_name": "av_hubert", "latent_temp": "(1, 0, 0)"}}}}
    weights = model.state_dict() | {"decoder.embed_positions._float_tensor": torch.zeros(1)}
    path = tmp_path / "public.pt"
    checkpoint.save(path, {"cfg": cfg, "model": weights, "task_state": {}})
    expert = load_expert(path)
    audio, _ = inputs()
    with torch.no_grad():
        assert torch.equal(expert.encode(audio), model.encode(audio))
    assert expert.roi_mode == "landmark"
    assert expert.tokenizer is None


def _without(name):
    return lambda state: state["model"].pop(name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("cfg"), "'foreign' checkpoint"),
        (lambda state: state.update(kind="generator", cfg=None), "'generator' checkpoint"),
        (lambda state: state.pop("task_state"), "no task state"),
        (lambda state: state["task_state"].pop("roi_mode"), "how its mouth regions were cut"),
        (lambda state: state["task_state"].update(roi_mode="center"), "'center' mouth regions"),
        (lambda state: state["task_state"].update(tokenizer=b"junk"), "not a sentencepiece model"),
        (lambda state: state["cfg"]["model"].update(encoder_layers=3), "encoder.layers.2"),
        (lambda state: state["cfg"]["model"].update(encoder_embed_dim=30), "cannot be split over 4"),
        (lambda state: state["cfg"]["model"].update(decoder_ffn_embed_dim=8), "the model has"),
        (_without("decoder.embed_tokens.weight"), "embed_tokens.weight is missing"),
        (_without("encoder.w2v_model.layer_norm.bias"), "layer_norm.bias is missing"),
    ],
)
def test_unfit_checkpoints_are_refused_with_a_reason(fine_tuned, damage, message):
    path, _, state = fine_tuned
    damage(state)
    checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_expert(path, roi_mode="landmark")
    assert str(path) in str(caught.value)


def test_missing_and_truncated_files_are_refused(fine_tuned, tmp_path):
    path, *_ = fine_tuned
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_expert(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_expert(tmp_path / "nowhere.pt")


class _Dictionary:
    """Stands for the pickled fairseq objects of public files."""


def test_files_with_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "public.pt"
    torch.save({"cfg": {"model": {"_name": "av_hubert_seq2seq"}}, "model": {}, "task_state": _Dictionary()}, path)
    with pytest.raises(CheckpointError, match="pickled objects"):
        load_expert(path)
