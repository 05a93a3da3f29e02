"""Public weights to ours and back: same outputs, same words, and a reason for every file that does not fit."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden_vectors import TINY, TINY_DECODER, inputs, makers, needs_golden, shapes, vectors
from media_factory import full_disk
from public_factory import DECODER, ENCODER, NARROW, public_file, task_state, tokenizer_model

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import load_encoder, load_expert
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig, AVSyncNet, AVSyncNetConfig
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.text import Tokenizer
from synctalklip.errors import SyncTalklipError
from synctalklip.public_weights.avhubert import read_stage_one
from synctalklip.public_weights.convert import convert
from synctalklip.public_weights.pickle import load_public

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS, UNITS = 48, 10
FLOAT_TENSOR = "decoder.embed_positions._float_tensor"
DEEP = {**ENCODER, "encoder_layers": 3}


def seq2seq(**sizes) -> AVSyncNet:
    torch.manual_seed(0)
    config = AVSyncNetConfig(
        **{**ENCODER, **NARROW, **DECODER, "vocab_size": SYMBOLS, "num_classes": [UNITS + 4], **sizes}
    )
    return AVSyncNet(config).eval()


def weights_of(model) -> dict[str, torch.Tensor]:
    return model.state_dict() | ({FLOAT_TENSOR: torch.zeros(1)} if isinstance(model, AVSyncNet) else {})


@pytest.fixture(scope="module")
def model_bytes() -> bytes:
    return tokenizer_model(SYMBOLS)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory, model_bytes) -> tuple[Path, AVSyncNet]:
    """A public fine-tuned file with everything that fairseq pickles, and the model in it."""
    folder, model = tmp_path_factory.mktemp("public"), seq2seq()
    state = task_state(model_bytes, folder, UNITS)
    return public_file(folder / "base_433h.pt", weights_of(model), ENCODER, DECODER, state), model


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 104, 6, generator=generator), torch.randn(1, 1, 6, 88, 88, generator=generator)


@torch.no_grad()
def assert_same(expert, model) -> None:
    audio, video = clip()
    seen = expert.encode(video=video)
    assert torch.equal(seen, model.encode(video=video))
    assert torch.equal(expert.encode(audio), model.encode(audio))
    tokens = torch.tensor([[2, 5, 6]])
    assert torch.equal(expert.lip_logits(tokens, seen), model.decode(tokens, seen))


@pytest.mark.parametrize(
    ("form", "zipped"), [("dict", True), ("omegaconf", True), ("omegaconf", False), ("args", False)]
)
def test_fine_tuned_files_of_every_age_become_the_same_expert(tmp_path, model_bytes, form, zipped):
    model, out = seq2seq(), tmp_path / "out"
    state = task_state(model_bytes, tmp_path, UNITS)
    path = public_file(tmp_path / "x.pt", weights_of(model), ENCODER, DECODER, state, form, zipped)
    lines = "\n".join(convert(path, out, "ours"))
    assert {file.name for file in out.iterdir()} == {"model.safetensors", "config.json", "spm.model"}
    expert = load_expert(out, roi_mode="landmark")
    assert_same(expert, model)
    assert expert.tokenizer.model == model_bytes == (out / "spm.model").read_bytes()
    assert expert.tokenizer.decode(expert.tokenizer.encode("lay red")) == "lay red"
    # Dropouts are those of the pre-training, as the public code leaves them; gradients reach the pixels whole.
    assert (expert.encoder_config.dropout, expert.encoder_config.feature_grad_mult) == (0.1, 1.0)
    assert f"tokenizer: {SYMBOLS} symbols" in lines
    assert "model.wer_args" in lines
    assert FLOAT_TENSOR in lines
    assert "last_optimizer_state" in lines


def test_the_folder_says_where_it_comes_from(fine_tuned, tmp_path):
    path, model = fine_tuned
    lines = convert(path, tmp_path / "out", "ours")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["kind"], config["model_name"]) == ("avsyncnet", "av_hubert_seq2seq")
    assert config["source"] == {"file": "base_433h.pt", "sha256": checkpoint.file_hash(path)}
    assert config["unknown_keys"] == ["model.wer_args"]
    assert config["label_sizes"] == [UNITS + 4]
    assert config["config"]["encoder_layers"] == 2
    # What a run notes of its expert.
    assert checkpoint.file_hash(tmp_path / "out") == checkpoint.file_hash(tmp_path / "out" / "model.safetensors")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"{count:,} parameters in {len(model.state_dict())} tensors" in lines[0]


def test_both_kinds_start_a_training_from_a_folder(fine_tuned, tmp_path, model_bytes):
    from synctalklip.avsyncnet.fairseq_models import AVHubertModelConfig, FairseqAVHubert, FairseqAVSyncNet

    path, model = fine_tuned
    convert(path, tmp_path / "tuned", "ours")
    torch.manual_seed(1)
    pretrained = AVHubert(AVHubertConfig(**ENCODER, **NARROW), [UNITS + 4]).eval()
    convert(public_file(tmp_path / "p.pt", pretrained.state_dict(), ENCODER), tmp_path / "pretrained", "ours")
    audio, _ = clip()
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "pretrained").eval().encode(audio), pretrained.encode(audio))

    config = AVSyncNetConfig(**ENCODER, **NARROW, **DECODER, vocab_size=SYMBOLS, num_classes=[])
    learner = FairseqAVSyncNet(config).eval()
    learner.initialize(tmp_path / "tuned", model_bytes, "all")
    assert_same(SimpleNamespace(encode=learner.encode, lip_logits=learner.decode), model)
    learner.initialize(tmp_path / "pretrained", model_bytes, "all")
    with torch.no_grad():
        assert torch.equal(learner.eval().encode(audio), pretrained.encode(audio))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        learner.initialize(tmp_path / "tuned", b"other", "all")

    speed = {"channels_last": False, "compile": False}
    cfg = AVHubertModelConfig(**ENCODER, **NARROW, **speed, init_from=str(tmp_path / "tuned"))
    built = FairseqAVHubert.build_model(cfg, SimpleNamespace(label_sizes=[7])).eval()
    with torch.no_grad():
        assert torch.equal(built.encode(audio), model.encode(audio))
    for sizes in (DEEP, {**ENCODER, "encoder_layers": 1}):
        other = FairseqAVSyncNet(AVSyncNetConfig(**sizes, **NARROW, **DECODER, vocab_size=SYMBOLS, num_classes=[]))
        for folder in ("tuned", "pretrained"):
            with pytest.raises(CheckpointError, match="file has 2 layers of 32 dimensions: use an encoder config"):
                other.initialize(tmp_path / folder, model_bytes, "all")


@needs_golden
@torch.no_grad()
def test_golden_weights_give_the_public_outputs_both_ways(tmp_path):
    stored, (audio, video, padding) = vectors("avhubert_tiny"), inputs()
    golden = {name: makers().golden_tensor(name, tuple(shape)) for name, shape in shapes("seq2seq_tiny").items()}
    model = tokenizer_model(TINY_DECODER["vocab_size"])
    decoder = {name: value for name, value in TINY_DECODER.items() if name.startswith("decoder_")}
    path = public_file(tmp_path / "s.pt", golden | {FLOAT_TENSOR: torch.zeros(1)}, TINY, decoder)
    (tmp_path / "given.model").write_bytes(model)
    assert any("tokenizer: none in the file" in line for line in convert(path, tmp_path / "without", "ours"))
    convert(path, tmp_path / "tuned", "ours", tokenizer=tmp_path / "given.model")
    convert(tmp_path / "tuned", tmp_path / "back.pt", "fairseq")
    convert(tmp_path / "back.pt", tmp_path / "again", "ours")
    for folder in ("without", "again"):
        expert = load_expert(tmp_path / folder)
        seen = expert.encode(None, video, padding)
        logits = expert.lip_logits(stored["seq2seq_prev_tokens"], seen, padding)
        torch.testing.assert_close(logits, stored["seq2seq_logits_video"], atol=1e-4, rtol=0)
    assert load_expert(tmp_path / "again").tokenizer.model == model

    golden = {name: makers().golden_tensor(name, tuple(shape)) for name, shape in shapes("avhubert_tiny").items()}
    convert(public_file(tmp_path / "p.pt", golden, TINY), tmp_path / "pretrained", "ours")
    convert(tmp_path / "pretrained", tmp_path / "p_back.pt", "fairseq")
    convert(tmp_path / "p_back.pt", tmp_path / "p_again", "ours")
    found = load_encoder(tmp_path / "p_again").eval().encode(audio, video, padding)
    assert (found - stored["encoder_both"])[~padding].abs().max() < 1e-4
    for name, expected in (("back", "seq2seq_tiny"), ("p_back", "avhubert_tiny")):
        exported = checkpoint.load(tmp_path / f"{name}.pt")["model"]
        public = shapes(expected) | ({FLOAT_TENSOR: [1]} if name == "back" else {})
        assert {key: list(value.shape) for key, value in exported.items()} == public


LOCAL = {
    "distance_view": "front_end",
    "distance_head": "conv",
    "distance_shared": False,
    "distance_kernels": [5, 3],
}


def assert_trains_talklip(cfg, words) -> None:
    """The lip-reading loss of TalkLip's training, built from the configuration of its expert: eq. 4 by hand."""
    from fairseq.criterions import build_criterion

    criterion = build_criterion(cfg.criterion, SimpleNamespace(target_dictionary=words))
    logits, target = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([[5, 6, 2]])
    model = SimpleNamespace(
        get_normalized_probs=lambda output, log_probs: output.log_softmax(-1), get_targets=lambda *_: target
    )
    found, _ = criterion.compute_loss(model, logits, {})
    log = logits.log_softmax(-1)
    share = 0.1 / 6
    truth = log.gather(2, target[..., None]).sum()
    assert torch.allclose(found, -(1 - 0.1 - share) * truth - share * log.sum())
    assert criterion.sentence_avg


def test_ours_becomes_a_file_that_fairseq_reads(tmp_path, model_bytes):
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu
    from fairseq.data import Dictionary

    model = seq2seq(resnet_width=64, num_classes=[], resnet_relu_type="relu", **LOCAL)
    config = vars(model.config)
    state = {
        "cfg": {"model": config | {"_name": "avsyncnet"}},
        "model": model.state_dict() | {"ctc_proj.weight": torch.zeros(SYMBOLS, 32)},
        "task_state": {"tokenizer": model_bytes, "roi_mode": "landmark", "label_sizes": []},
    }
    checkpoint.save(tmp_path / "ours.pt", state)
    lines = "\n".join(convert(tmp_path / "ours.pt", tmp_path / "sub" / "public.pt", "fairseq"))
    own = [name for name in state["model"] if name.startswith(("distance.", "ctc_proj."))]
    assert len(own) >= 3
    assert all(name in lines for name in own)

    read = load_checkpoint_to_cpu(str(tmp_path / "sub" / "public.pt"))
    cfg = read["cfg"]
    assert (cfg.model._name, cfg.task._name) == ("av_hubert_seq2seq", "av_hubert_pretraining")
    assert cfg.model.w2v_args.model.resnet_relu_type == "relu"
    assert cfg.model.normalize == cfg.model.w2v_args.task.normalize
    # What the public task loads when its state is empty, by the paths in its configuration.
    words = Dictionary.load(f"{cfg.task.label_dir}/dict.{cfg.task.labels[0]}.txt")
    assert words.symbols[4:] == Tokenizer(model_bytes).symbols[4:]
    units = Dictionary.load(f"{cfg.model.w2v_args.task.label_dir}/dict.{cfg.model.w2v_args.task.labels[0]}.txt")
    assert len(units) == read["model"]["encoder.w2v_model.label_embs_concat"].shape[0]
    assert Path(cfg.task.tokenizer_bpe_model).read_bytes() == model_bytes
    assert read["task_state"] == {}
    assert_trains_talklip(cfg, words)

    convert(tmp_path / "sub" / "public.pt", tmp_path / "again", "ours")
    assert_same(load_expert(tmp_path / "again"), model)


def test_our_own_checkpoint_becomes_a_folder_too(tmp_path, model_bytes):
    model = seq2seq(num_classes=[], resnet_blocks=[1, 1, 1, 1], **LOCAL)
    state = {
        "cfg": {"model": vars(model.config) | {"_name": "avsyncnet", "ctc": False, "init_from": None}},
        "model": model.state_dict(),
        "task_state": {"tokenizer": model_bytes, "roi_mode": "center88", "label_sizes": []},
    }
    checkpoint.save(tmp_path / "ours.pt", state)
    convert(tmp_path / "ours.pt", tmp_path / "out", "ours")
    expert = load_expert(tmp_path / "out", roi_mode="center88")
    assert_same(expert, model)
    audio, video = clip()
    with torch.no_grad():
        found = expert.distance.table(expert.heard(audio), expert.seen(video))
        assert torch.equal(found, model.distance.table(model.heard(audio), model.seen(video)))
    with pytest.raises(CheckpointError, match="trained on 'center88'"):
        convert(tmp_path / "ours.pt", tmp_path / "other", "ours", roi_mode="landmark")
    with pytest.raises(CheckpointError, match="resnet_width is 4, not 64"):
        convert(tmp_path / "out", tmp_path / "public.pt", "fairseq")


# Tensors of one stored number, so that the large model is a small file.
@pytest.mark.parametrize(
    ("sizes", "decoder", "name", "parameters"),
    [
        ({}, None, "base", 103_330_280),
        (
            {
                "encoder_layers": 24,
                "encoder_embed_dim": 1024,
                "encoder_ffn_embed_dim": 4096,
                "encoder_attention_heads": 16,
            },
            {
                "decoder_layers": 9,
                "decoder_embed_dim": 1024,
                "decoder_ffn_embed_dim": 4096,
                "decoder_attention_heads": 8,
            },
            "large",
            477_332_200,
        ),
    ],
)
def test_public_sizes_are_recognised(tmp_path, sizes, decoder, name, parameters):
    from synctalklip.avsyncnet.config import encoder_name

    with torch.device("meta"):
        if decoder is None:
            model = AVHubert(AVHubertConfig(**sizes), [2004])
        else:
            model = AVSyncNet(AVSyncNetConfig(**sizes, **decoder, vocab_size=1000, num_classes=[2004]))
    weights = {key: torch.zeros(()).expand(value.shape) for key, value in model.state_dict().items()}
    path = public_file(tmp_path / "x.pt", weights, sizes, decoder)
    assert path.stat().st_size < 1_000_000
    read = read_stage_one(load_public(path), path)
    assert read.parameters == parameters
    assert encoder_name(read.config) == name
    # Old files lack the configuration of the pre-training; the weights show the sizes.
    state = load_public(path)
    if decoder is not None:
        state["cfg"]["model"]["w2v_args"] = None
        assert read_stage_one(state, path).config["encoder_attention_heads"] == 16
        state["cfg"]["model"]["w2v_args"] = {"model": {"encoder_layers": 12, "encoder_embed_dim": 768}}
        with pytest.raises(CheckpointError, match=r"layers is 12 in its configuration and 24 in its.*encoder=large"):
            read_stage_one(state, path)


def test_attention_heads_are_never_guessed(fine_tuned, tmp_path):
    path, model = fine_tuned
    began = public_file(tmp_path / "pretrained.pt", model.encoder.w2v_model.state_dict(), ENCODER)

    def left_by_their_trainer(state, w2v_path):
        state["cfg"]["model"] |= {"w2v_args": None, "w2v_path": str(w2v_path)}

    known = changed(path, tmp_path / "known.pt", lambda state: left_by_their_trainer(state, began))
    assert f"attention heads: 4, from {began}" in "\n".join(convert(known, tmp_path / "known", "ours"))
    assert_same(load_expert(tmp_path / "known"), model)
    unknown = changed(path, tmp_path / "unknown.pt", lambda state: left_by_their_trainer(state, "/gone/x.pt"))
    with pytest.raises(CheckpointError, match=r"no public model has 32 dimensions; give their number with heads="):
        convert(unknown, tmp_path / "unknown", "ours")
    with pytest.raises(CheckpointError, match="cannot be built"):
        convert(unknown, tmp_path / "unknown", "ours", heads=5)
    convert(unknown, tmp_path / "unknown", "ours", heads=4)
    assert_same(load_expert(tmp_path / "unknown"), model)
    with pytest.raises(CheckpointError, match="has 4 attention heads; leave out heads=2"):
        convert(path, tmp_path / "stated", "ours", heads=2)


def changed(path: Path, target: Path, change) -> Path:
    """A copy of a public file after `change` of its content."""
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["cfg"]["model"].update(_name="wav2vec2"), "'wav2vec2' model"),
        (lambda s: s.update(cfg=None), "holds args, cfg, model"),
        (lambda s: s.update(cfg={}), "no configuration"),
        (lambda s: s["model"].pop("encoder.w2v_model.layer_norm.weight"), "layer_norm.weight is missing"),
        (lambda s: s["model"].pop("decoder.layers.0.fc2.bias"), r"decoder\.layers\.0\.fc2\.bias is missing"),
        (lambda s: s["model"].update(extra=torch.zeros(2)), "extra is unexpected"),
        (lambda s: s["model"].update(note="x"), "not a dict of tensors"),
        (lambda s: s["cfg"]["model"].update(decoder_normalize_before=False), "decoder_normalize_before=False"),
        (lambda s: s["cfg"]["model"]["w2v_args"]["model"].update(layer_norm_first=False), "layer_norm_first=False"),
        (lambda s: s["cfg"]["task"].update(stack_order_audio=1), "stack_order_audio=1"),
        (lambda s: s["cfg"]["model"].update(decoder_layers=2), "decoder_layers is 2 in its configuration and 1"),
        (lambda s: s["task_state"]["target_dictionary"].symbols.__setitem__(9, "odd"), "id 9 is 'odd'"),
        (lambda s: s["task_state"].update(tokenizer=b"junk"), "not a sentencepiece model"),
    ],
)
def test_files_at_odds_with_themselves_are_refused(fine_tuned, tmp_path, change, message):
    path = changed(fine_tuned[0], tmp_path / "x.pt", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(path, tmp_path / "out", "ours")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_command_are_explained(fine_tuned, tmp_path):
    path, out = fine_tuned[0], tmp_path / "out"
    other = tmp_path / "other.model"
    other.write_bytes(tokenizer_model(SYMBOLS - 8))
    for arguments, message in (
        ((path, out, "theirs"), "choose ours or fairseq"),
        ((path, tmp_path / "out.pt", "ours"), "becomes a folder"),
        ((path, path, "ours"), "is the input"),
        ((path, out, "ours", None, other), "40 symbols, its decoder 48"),
        ((path, out, "ours", None, tmp_path / "none.model"), "no tokenizer there"),
        ((tmp_path / "none.pt", out, "ours"), "no such checkpoint"),
        ((path, out, "fairseq"), "ends in .pt"),
        ((path, tmp_path / "out.pt", "fairseq"), "convert it first"),
        ((tmp_path, tmp_path / "out.pt", "fairseq"), "folder without config"),
        ((tmp_path, out, "ours"), "is a folder"),
    ):
        with pytest.raises(SyncTalklipError, match=message):
            convert(*arguments)
    assert not out.exists()


def test_nothing_of_the_user_is_overwritten(fine_tuned, tmp_path):
    path, out = fine_tuned[0], tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds other files \(thesis.txt\)"):
        convert(path, out, "ours")
    (out / "thesis.txt").unlink()
    convert(path, out, "ours")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with full_disk(), pytest.raises(SyncTalklipError, match=r"cannot be written .*free some space"):
        convert(path, out, "ours")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    convert(path, out, "ours")


def test_a_damaged_folder_is_refused(fine_tuned, tmp_path):
    out = tmp_path / "out"
    convert(fine_tuned[0], out, "ours")
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:9000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_expert(out)
    (out / "model.safetensors").write_bytes(whole)
    (out / "config.json").write_text(json.dumps({"kind": "syncnet"}))
    with pytest.raises(CheckpointError, match="'syncnet' checkpoint"):
        load_expert(out)
    (out / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_encoder(out)
    (out / "config.json").unlink()
    with pytest.raises(CheckpointError, match="without config"):
        load_expert(out)


def test_the_script_tells_what_it_read(fine_tuned, tmp_path):
    command = [sys.executable, "scripts/convert_checkpoint.py", f"hydra.run.dir={tmp_path}/run"]
    command += [f"input={fine_tuned[0]}", f"output={tmp_path}/out"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "av_hubert_seq2seq" in run.stdout
    assert f"wrote {tmp_path}/out, for landmark mouth regions" in run.stdout


@pytest.mark.parametrize("key", ["cfg", "args"])
def test_a_configuration_that_contains_itself_is_refused(key):
    endless = {"model": {"_name": "av_hubert"}}
    endless["model"]["inner"] = endless
    with pytest.raises(CheckpointError, match=r"c\.pt: its configuration has no end"):
        read_stage_one({key: endless, "model": {}}, "c.pt")
