"""The Conformer reader: padding, learning, resuming, reading free and forced, mistakes."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.conformer import ConformerConfig, ConformerEncoder, ConformerReader
from synctalklip.avsyncnet.decode import Generation, load_reader, open_reader, read_clips
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.avsyncnet.search import greedy
from synctalklip.avsyncnet.train import ConfigError, complete_sizes, fairseq_config, summary, train
from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError

pytestmark = pytest.mark.trains

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "resnet_width": 4,
    "resnet_blocks": [1, 1, 1, 1],
    "resnet_relu_type": "relu",
    "conformer_layers": 2,
    "conformer_dim": 32,
    "conformer_ffn_dim": 48,
    "conformer_heads": 2,
    "conformer_kernel": 7,
    "decoder_layers": 1,
    "decoder_embed_dim": 32,
    "decoder_ffn_embed_dim": 48,
    "decoder_attention_heads": 2,
}
MICRO = [f"encoder.{name}={value}" for name, value in SIZES.items() if not isinstance(value, list)]
CONFORMER = ["experiment=avsyncnet/conformer_tiny", *MICRO, "fairseq.dataset.max_tokens=60"]


def configured(prepared, run_dir, *more):
    """Root configuration of a run of the smallest Conformer."""
    overrides = [f"data.prepared={prepared}", f"run.name={run_dir.name}", f"run.dir={run_dir}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train_avsyncnet", overrides=[*overrides, "fairseq.common.cpu=true", *CONFORMER, *more])


def module(**options):
    """An untrained reader whose every parameter matters."""
    torch.manual_seed(0)
    rest = {"conformer_dropout": 0.1, "decoder_dropout": 0.1, "decoder_attention_dropout": 0.0}
    rest |= {"decoder_activation_dropout": 0.0, "max_target_positions": 100, "audio_feat_dim": 104, "vocab_size": 16}
    net = ConformerReader(ConformerConfig(**SIZES, **rest, **options)).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return net


@pytest.fixture(scope="session")
def conformer(prepared, tmp_path_factory):
    """Checkpoint of two updates, with large random weights: what it reads differs from clip to clip."""
    folder = tmp_path_factory.mktemp("run") / "conformer"
    path = train(configured(prepared, folder, "fairseq.optimization.max_update=2")) / "checkpoint_best.pt"
    state, rng = checkpoint.load(path), torch.Generator().manual_seed(0)
    for name, value in state["model"].items():
        if value.is_floating_point() and "running" not in name:
            scale = 3.0 if "encoder_attn" in name else 0.3
            value.copy_(scale * torch.randn(value.shape, generator=rng))
    checkpoint.save(path, state)
    return path


@pytest.fixture(scope="module")
def clips(prepared):
    return read_manifest(prepared)


@pytest.fixture(scope="module")
def rois(clips):
    reader = ClipReader(clips)
    return [reader.rois(index) for index in range(len(clips))]


@torch.no_grad()
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_padding_changes_nothing(modality):
    net = module(ctc=True, hear=True)
    shape = (2, 1, 20, 88, 88) if modality == "video" else (2, 104, 20)
    x, mask = torch.randn(shape), torch.zeros(2, 20, dtype=torch.bool)
    mask[1, 12:] = True
    short = x[1:, :, :12]
    x[1, :, 12:] = 0
    padded, alone = net.encode(**{modality: x}, padding_mask=mask), net.encode(**{modality: short})
    assert torch.allclose(padded[1, :12], alone[0], atol=1e-5)
    assert torch.equal(alone, net.encode(**{modality: short}, padding_mask=mask[1:, :12]))
    tokens = torch.tensor([[2, 5, 6]])
    assert torch.allclose(
        net.decode(tokens.expand(2, 3), padded, mask)[1], net.decode(tokens, alone, mask[1:, :12])[0], atol=1e-5
    )
    assert greedy(net.decode, padded, mask)[1] == greedy(net.decode, alone, mask[1:, :12])[0]


@torch.no_grad()
def test_blocks_are_those_of_torchaudio():
    encoder = module().encoder
    x = torch.randn(3, 15, 32)
    expected, _ = encoder.conformer(x, torch.full((3,), 15))
    assert torch.allclose(encoder(x, torch.zeros(3, 15, dtype=torch.bool)), expected, atol=1e-6)
    assert isinstance(encoder, ConformerEncoder)
    assert len(encoder.layers) == 2


def test_published_size():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train_avsyncnet", overrides=["experiment=avsyncnet/conformer", "run.name=x", "run.dir=x"])
    node = fairseq_config(cfg)
    with torch.device("meta"):
        net = ConformerReader(ConformerConfig.from_mapping({**node.model, "vocab_size": 40, "ctc": True}))
    layer = net.encoder.layers[0]
    assert len(net.encoder.layers) == 12
    assert layer.self_attn.num_heads == 4
    assert layer.conv_module.sequential[2].kernel_size == (31,)
    assert layer.ffn1.sequential[1].weight.shape == (2048, 256)
    assert len(net.decoder.layers) == 6
    assert net.ctc_proj.weight.shape == (40, 256)
    # One depthwise kernel more or less would show: attention, two FFNs, convolution module and five norms a block.
    norms, attention, ffn = 2 * 256, 4 * (256 * 256 + 256), 256 * 2048 * 2 + 2048 + 256
    convolution = 256 * 512 + 512 + 256 * 31 + 256 + norms + 256 * 256 + 256
    block = 5 * norms + attention + 2 * ffn + convolution
    assert sum(p.numel() for p in net.encoder.parameters()) == 12 * block
    assert (node.criterion.lambda_lip, node.criterion.lambda_ctc, node.criterion.lambda_av) == (0.7, 0.3, 0.0)
    assert list(node.task.modalities) == ["video"]


def test_checkpoint_names_its_kind_and_is_read_without_fairseq(conformer):
    state = checkpoint.load(conformer)
    assert state["cfg"]["model"]["_name"] == "conformer"
    assert state["task_state"]["roi_mode"] == "landmark"
    assert state["task_state"]["tokenizer"]
    code = (
        "import sys, numpy; from synctalklip.avsyncnet.decode import open_reader; "
        f"print(open_reader({str(conformer)!r}).read([numpy.zeros((9, 96, 96), numpy.uint8)])); "
        "sys.exit('fairseq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_overfits_two_clips_and_reads_them(prepared, tmp_path):
    """They come to be read without an error, by the trainer's validation and by the reader of evaluation."""
    few = tmp_path / "few"
    shutil.copytree(prepared, few)
    lines = (few / "manifest.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"split": "train"' in line][:2]
    (few / "manifest.jsonl").write_text("\n".join(kept) + "\n")
    options = [
        "fairseq.optimization.max_update=40",
        "fairseq.optimization.lr=[0.005]",
        "fairseq.dataset.valid_subset=train",
        "fairseq.dataset.validate_interval=40",
        "fairseq.checkpoint.save_interval=40",
        "fairseq.task.modalities=[video]",
        "loss.lambda_audio=0",
        "fairseq.criterion.precision=fp32",
        "fairseq.model.conformer_dropout=0",
        "fairseq.model.decoder_dropout=0",
        "fairseq.task.augmentation={flip:0,random_crop:false,resample:0,jitter:0}",
    ]
    folder = train(configured(few, tmp_path / "fit", *options))
    assert summary(folder)["best"] == 0
    mine = read_manifest(few)
    reader = ClipReader(mine)
    read = open_reader(folder / "checkpoint_best.pt").read([reader.rois(index) for index in range(2)])
    assert read == [clip.text for clip in mine]


def test_resumed_equals_straight(prepared, tmp_path):
    options = ["fairseq.optimization.max_update=4", "fairseq.checkpoint.save_interval_updates=2"]
    options += ["fairseq.checkpoint.keep_interval_updates=-1", "fairseq.dataset.disable_validation=true"]
    straight = train(configured(prepared, tmp_path / "straight", *options))
    middle = next(straight.glob("checkpoint_*_2.pt"))
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    shutil.copy(middle, tmp_path / "resumed" / "checkpoints" / "checkpoint_last.pt")
    resumed = train(configured(prepared, tmp_path / "resumed", *options))
    one, other = (checkpoint.load(folder / "checkpoint_last.pt")["model"] for folder in (straight, resumed))
    before = checkpoint.load(middle)["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], before[name]) for name in one)


def test_front_end_of_a_pretraining(prepared, pretrained, tmp_path):
    from fairseq import tasks

    node = fairseq_config(configured(prepared, tmp_path / "a", f"init_from={pretrained}"))
    complete_sizes(node)
    own = tasks.setup_task(node.task).build_model(node.model).state_dict()
    taken = {name: value for name, value in checkpoint.load(pretrained)["model"].items() if "video.resnet" in name}
    assert len(taken) > 20
    assert all(torch.equal(own[name], value) for name, value in taken.items())
    wide = fairseq_config(configured(prepared, tmp_path / "b", f"init_from={pretrained}", "encoder.resnet_width=8"))
    complete_sizes(wide)
    with pytest.raises(CheckpointError, match="resnet_width"):
        tasks.setup_task(wide.task).build_model(wide.model)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.lambda_av=1", "lambda_av belongs to AV-SyncNet"),
        ("fairseq.criterion.freeze_updates=5", "freeze_updates belongs to AV-SyncNet"),
        ("+encoder.conv_pos=8", "encoder.conv_pos: is no field of ConformerConfig"),
        ("+fairseq.model.distance_head=conv", "distance_head"),
    ],
)
def test_settings_of_another_model_are_refused(prepared, tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        complete_sizes(fairseq_config(configured(prepared, tmp_path / "run", override)))


@pytest.mark.parametrize("beam", [1, 3])
def test_reading_depends_on_neither_batch_nor_order(conformer, clips, rois, beam):
    reader = open_reader(conformer, beam=beam)
    together = reader.read(rois)
    assert beam > 1 or len(set(together)) > 1
    order = np.random.default_rng(0).permutation(len(rois))
    assert [together[index] for index in order] == reader.read([rois[index] for index in order])
    reader.batch_frames = 13
    assert reader.read(rois) == together
    expert = load_reader(conformer)
    stored = {reading.id: reading.hypothesis for reading in read_clips(expert, clips, Generation(beam), ["video"], 40)}
    assert [stored[clip.id] for clip in clips] == together


def test_a_folder_reads_as_the_checkpoint_does(conformer, rois, tmp_path):
    state = checkpoint.load(conformer)
    task = state["task_state"]
    stated = {"kind": "conformer", "config": dict(state["cfg"]["model"]), "roi_mode": task["roi_mode"]}
    checkpoint.save_folder(tmp_path / "shipped", state["model"], stated, task["tokenizer"])
    assert open_reader(tmp_path / "shipped").read(rois[:4]) == open_reader(conformer).read(rois[:4])


def test_sound_is_read_where_it_was_trained_on(conformer, clips):
    expert = load_reader(conformer)
    assert len(list(read_clips(expert, clips, Generation(), ["audio"], 100))) == len(clips)
    with pytest.raises(SyncTalklipError, match="one modality at a time"):
        list(read_clips(expert, clips, Generation(), ["audio", "video"], 100))
    with pytest.raises(SyncTalklipError, match="lips alone"):
        module().encode(audio=torch.zeros(1, 104, 5))


def test_checkpoints_of_another_kind_are_named(conformer, pretrained, tmp_path):
    with pytest.raises(CheckpointError, match="'conformer' checkpoint"):
        load_expert(conformer)
    with pytest.raises(CheckpointError, match="without a decoder"):
        open_reader(pretrained)
    checkpoint.save(tmp_path / "generator.pt", {"kind": "generator", "model": {}})
    with pytest.raises(CheckpointError, match="'generator' checkpoint"):
        open_reader(tmp_path / "generator.pt")
    state = checkpoint.load(conformer)
    plain = {"model": state["model"], "task_state": state["task_state"]}
    settings = dict(state["cfg"]["model"])
    checkpoint.save(tmp_path / "size.pt", plain | {"cfg": {"model": settings | {"conformer_ffn_dim": 64}}})
    with pytest.raises(CheckpointError, match="does not fit"):
        open_reader(tmp_path / "size.pt")
    del settings["conformer_heads"]
    checkpoint.save(tmp_path / "heads.pt", plain | {"cfg": {"model": settings}})
    with pytest.raises(CheckpointError, match="conformer_heads"):
        open_reader(tmp_path / "heads.pt")
