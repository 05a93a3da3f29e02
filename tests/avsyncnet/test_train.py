"""Real runs of fairseq's trainer on a few clips: learning, initial weights, kill and resume, mistakes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from stage1_factory import PRETRAIN, configure, overrides

from synctalklip import checkpoint, device
from synctalklip.avsyncnet.criterion import NonFiniteLoss
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.avsyncnet.task import FairseqClips
from synctalklip.avsyncnet.train import ConfigError, fairseq_config, repair_last_checkpoint, summary, train
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError

pytestmark = pytest.mark.trains

ROOT = Path(__file__).resolve().parents[2]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)["model"]


def test_checkpoint_is_complete(fine_tuned):
    state = checkpoint.load(fine_tuned)
    assert state["cfg"]["model"]["_name"] == "avsyncnet"
    assert state["cfg"]["model"]["vocab_size"] == 16
    assert set(state["task_state"]) == {"tokenizer", "roi_mode", "label_sizes"}
    assert load_expert(fine_tuned).tokenizer.size == 16
    run = fine_tuned.parents[1]
    assert list((run / "tensorboard").rglob("events*"))
    assert (run / "fairseq.yaml").is_file()
    assert summary(fine_tuned.parent)["metric"] == "wer"


def test_overfits_a_handful_of_clips(prepared, tmp_path):
    options = [
        "fairseq.optimization.max_update=60",
        "fairseq.optimization.lr=[0.005]",
        "fairseq.lr_scheduler.phase_ratio=[0.1,0.6,0.3]",
        "fairseq.dataset.validate_interval=100",
        "fairseq.checkpoint.save_interval=100",
        "fairseq.dataset.valid_subset=train",
        "fairseq.task.cache=true",
        "fairseq.task.augmentation.flip=0",
        "fairseq.task.augmentation.random_crop=false",
        "fairseq.model.encoder_layerdrop=0",
        "loss.lambda_av=0",
        "loss.lambda_audio=1",
    ]
    folder = train(configure(prepared, tmp_path / "fit", *options))
    # A reader that ignores the clip gets four words in each of three places wrong three times of four.
    assert summary(folder)["best"] < 50


def test_pretraining_weights_start_a_fine_tuning(prepared, pretrained, tmp_path):
    node = configure(prepared, tmp_path / "a", f"init_from={pretrained}", "fairseq.optimization.max_update=1")
    from fairseq import tasks

    from synctalklip.avsyncnet.train import complete_sizes

    node = fairseq_config(node)
    complete_sizes(node)
    model = tasks.setup_task(node.task).build_model(node.model)
    source = weights(pretrained)
    own = model.state_dict()
    taken = [name for name in source if "encoder.w2v_model." + name in own and "mask_emb" not in name]
    assert len(taken) > 40
    assert all(torch.equal(own["encoder.w2v_model." + name], source[name]) for name in taken)


def test_fine_tuned_weights_start_another_run(prepared, fine_tuned, tmp_path):
    options = ["fairseq.optimization.max_update=2", "fairseq.optimization.lr=[0]", "distance=conv"]
    folder = train(configure(prepared, tmp_path / "b", f"init_from={fine_tuned}", *options))
    source, own = weights(fine_tuned), weights(folder / "checkpoint_last.pt")
    parameters = [name for name in source if name.endswith("weight") and name in own and "ctc" not in name]
    assert all(torch.equal(source[name], own[name]) for name in parameters)
    assert any(name.startswith("distance.video_projection.") for name in own)


def test_another_size_or_vocabulary_is_explained(prepared, fine_tuned, tmp_path):
    from synctalklip.data.text import train_tokenizer

    one = "fairseq.optimization.max_update=1"
    with pytest.raises(CheckpointError, match="does not fit"):
        train(configure(prepared, tmp_path / "c", f"init_from={fine_tuned}", one, "encoder.encoder_ffn_embed_dim=64"))
    train_tokenizer(["another vocabulary", "altogether"], tmp_path / "other.model", "word")
    other = f"data.tokenizer.path={tmp_path / 'other.model'}"
    with pytest.raises(CheckpointError, match="vocabulary"):
        train(configure(prepared, tmp_path / "d", f"init_from={fine_tuned}", one, other))


def test_a_run_keeps_the_precision_it_began_with(prepared, tmp_path, monkeypatch):
    def settings(*options: str) -> DictConfig:
        return configure(prepared, tmp_path / "run", "fairseq.optimization.max_update=2", *options)

    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    folder = train(settings())
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    train(settings())
    assert OmegaConf.load(folder.parent / "fairseq.yaml").criterion.precision == "fp32"
    with pytest.raises(SyncTalklipError, match="the run began in fp32 and bf16 is asked for"):
        train(settings("fairseq.criterion.precision=bf16"))


def test_a_run_from_before_the_precision_had_its_name_goes_on(prepared, tmp_path):
    """What earlier versions stored as `amp_bf16`, and nothing about frozen stages."""
    settings = configure(prepared, tmp_path / "run", "fairseq.optimization.max_update=2")
    file = train(settings).parent / "fairseq.yaml"
    stored = OmegaConf.load(file)
    del stored.criterion.precision, stored.model.frozen_stages
    stored.criterion.amp_bf16 = True
    OmegaConf.save(stored, file)
    train(settings)
    assert OmegaConf.load(file).criterion.precision == "bf16"


FINE_TUNED = [
    "fairseq.model.encoder_layerdrop=0.2",
    "fairseq.task.augmentation.resample=0.5",
    "fairseq.task.augmentation.jitter=0.2",
]
# Three updates an epoch, of two passes each: the run is killed in the middle of the first epoch.
PRE_TRAINED = [
    *PRETRAIN,
    "fairseq.dataset.max_tokens=30",
    "fairseq.dataset.num_workers=1",
    "fairseq.task.batch_frames=60",
    "fairseq.task.limits.pad=false",
    "fairseq.task.augmentation.noise.prob=0.5",
    "fairseq.task.augmentation.noise.snr_db=[-5,5]",
    "fairseq.task.disk_cache=true",
    "fairseq.model.modality_dropout=0.5",
]


@pytest.mark.parametrize("variant", [FINE_TUNED, PRE_TRAINED], ids=["fine_tuning", "pre_training"])
def test_killed_and_resumed_equals_straight(prepared, tmp_path, variant):
    options = ["fairseq.optimization.max_update=9", "fairseq.checkpoint.save_interval_updates=2", *variant]
    straight = train(configure(prepared, tmp_path / "straight", *options))
    command = [sys.executable, "scripts/train_avsyncnet.py", *overrides(prepared, tmp_path / "killed"), *options]
    command.append(f"hydra.run.dir={tmp_path / 'killed'}")
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | threads, stdout=subprocess.DEVNULL)
    last = tmp_path / "killed" / "checkpoints" / "checkpoint_last.pt"
    started = time.monotonic()
    while not last.exists() and process.poll() is None and time.monotonic() - started < 120:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    repair_last_checkpoint(last.parent)
    done = summary(last.parent)["updates"]
    assert 0 < done < 9
    resumed = train(configure(prepared, tmp_path / "killed", *options))
    assert summary(resumed)["updates"] == summary(straight)["updates"] == 9
    before = checkpoint.file_hash(last)
    train(configure(prepared, tmp_path / "killed", *options))
    assert checkpoint.file_hash(last) == before, "a finished run must not train on"
    one, other = weights(straight / "checkpoint_last.pt"), weights(resumed / "checkpoint_last.pt")
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_last_checkpoint_cut_short_is_replaced_by_a_whole_one(fine_tuned, tmp_path):
    whole = fine_tuned.read_bytes()
    (tmp_path / "checkpoint_best.pt").write_bytes(whole)
    (tmp_path / "checkpoint_last.pt").write_bytes(whole[: len(whole) // 2])
    repair_last_checkpoint(tmp_path)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == whole
    (tmp_path / "checkpoint_best.pt").unlink()
    (tmp_path / "checkpoint_last.pt").write_bytes(b"half")
    with pytest.raises(SyncTalklipError, match="cut short"):
        repair_last_checkpoint(tmp_path)


def test_pretraining_predicts_clusters(prepared, pretrained):
    state = checkpoint.load(pretrained)
    assert state["cfg"]["model"]["_name"] == "avhubert"
    assert state["task_state"] == {"tokenizer": None, "roi_mode": "landmark", "label_sizes": [10]}
    assert state["model"]["label_embs_concat"].shape[0] == 10


def test_two_runs_of_one_process_do_not_see_each_other(prepared, tmp_path):
    options = ["fairseq.optimization.max_update=2", "fairseq.checkpoint.best_checkpoint_metric=loss"]
    train(configure(prepared, tmp_path / "one", *options))
    from fairseq import checkpoint_utils

    checkpoint_utils.save_checkpoint.best = -1e9
    second = train(configure(prepared, tmp_path / "two", *options))
    assert (second / "checkpoint_best.pt").is_file()
    assert list((tmp_path / "two" / "tensorboard").rglob("events*"))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+fairseq.optimization.lrr=[1]", "lrr"),
        ("+fairseq.model.layerz=1", "layerz"),
        ("+fairseq.task.cach=true", "cach"),
        ("+fairseq.task.augmentation.flop=1", "flop"),
        ("+fairseq.task.augmentation.noise.probability=1", "probability"),
        ("+fairseq.criterion.lamda_av=1", "lamda_av"),
        ("+fairseq.optimizer.betas=1", "betas"),
        ("+encoder.encoder_layer=1", "encoder_layer"),
        ("fairseq.optimization.clip_norm=much", "clip_norm"),
        ("fairseq.criterion._name=lip_readng", "lip_readng"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(prepared, tmp_path, override, key):
    with pytest.raises(ConfigError, match=key):
        fairseq_config(configure(prepared, tmp_path / "x", "fairseq.optimization.max_update=1", override))


def test_missing_ingredients_are_named_before_training(prepared, tmp_path):
    one = "fairseq.optimization.max_update=1"
    with pytest.raises(SyncTalklipError, match="iter7"):
        train(configure(prepared, tmp_path / "x", *PRETRAIN, one, "fairseq.task.labels=[iter7]"))
    with pytest.raises(SyncTalklipError, match="tokenizer"):
        train(configure(prepared, tmp_path / "x", one, "data.tokenizer.path=nowhere.model"))


@pytest.mark.parametrize("workers", [0, 2])
def test_clip_that_goes_while_training_is_named(prepared, tmp_path, monkeypatch, workers):
    folder = Path(shutil.copytree(prepared, tmp_path / "prepared"))
    lost = max(read_manifest(folder, "train"), key=lambda clip: clip.frames).rois
    set_epoch = FairseqClips.set_epoch

    def lose_in_epoch_two(self, epoch):
        set_epoch(self, epoch)
        if epoch == 2:
            lost.unlink(missing_ok=True)

    monkeypatch.setattr(FairseqClips, "set_epoch", lose_in_epoch_two)
    options = ["fairseq.optimization.max_update=20", "fairseq.dataset.disable_validation=true"]
    with pytest.raises(SyncTalklipError) as error:
        train(configure(folder, tmp_path / "run", *options, f"fairseq.dataset.num_workers={workers}"))
    assert str(error.value) == f"{lost}: there is no such file; check the path"
    assert 0 < summary(tmp_path / "run" / "checkpoints")["updates"] < 20, "the first epoch is kept"


def test_frozen_weights_may_not_decay(prepared, pretrained, tmp_path):
    options = [f"init_from={pretrained}", "fairseq.criterion.freeze_updates=5", "fairseq.optimizer.weight_decay=0.1"]
    with pytest.raises(ConfigError, match="weight_decay"):
        train(configure(prepared, tmp_path / "x", "fairseq.optimization.max_update=1", *options))


def test_non_finite_loss_stops_before_the_update(prepared, tmp_path):
    options = ["fairseq.optimization.max_update=3", "distance.tau=1e39", "fairseq.dataset.disable_validation=true"]
    with pytest.raises(NonFiniteLoss, match="av="):
        train(configure(prepared, tmp_path / "nan", *options))
    assert not (tmp_path / "nan" / "checkpoints" / "checkpoint_last.pt").exists()


def test_front_ends_alone_are_taken(prepared, pretrained, tmp_path):
    from synctalklip import checkpoint
    from synctalklip.avsyncnet.expert import ENCODER_PREFIX, load_encoder

    options = ["fairseq.optimization.max_update=2", "fairseq.optimization.lr=[0]", f"init_from={pretrained}"]
    options += ["fairseq.model.init_parts=front_ends"]
    folder = train(configure(prepared, tmp_path / "parts", *options))
    found = checkpoint.load(folder / "checkpoint_last.pt")["model"]
    for name, value in load_encoder(pretrained).named_parameters():
        taken = torch.equal(found[ENCODER_PREFIX + name], value)
        # Norms begin with ones and zeros either way.
        if name.startswith("feature_extractor") or value.ndim > 1:
            assert taken == name.startswith("feature_extractor"), name


def test_a_run_of_other_settings_is_not_gone_on_with(prepared, tmp_path):
    short = ["fairseq.optimization.max_update=2"]
    train(configure(prepared, tmp_path / "run", *short))
    with pytest.raises(ConfigError, match=r"label_smoothing=0\.1, and 0\.2 is asked for"):
        train(configure(prepared, tmp_path / "run", *short, "loss.label_smoothing=0.2"))
    longer = ["fairseq.optimization.max_update=3", "fairseq.task.cache=true"]
    assert summary(train(configure(prepared, tmp_path / "run", *longer)))["updates"] == 3
