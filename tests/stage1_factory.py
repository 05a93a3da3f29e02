"""A prepared folder, and a model small enough to train in seconds."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from prepared_factory import make_prepared

from synctalklip.cli import CONFIGS

MICRO = [
    "encoder.encoder_layers=2",
    "encoder.encoder_embed_dim=32",
    "encoder.encoder_ffn_embed_dim=48",
    "encoder.encoder_attention_heads=2",
    "encoder.conv_pos=8",
    "encoder.conv_pos_groups=2",
    "encoder.resnet_width=4",
    "encoder.decoder_layers=1",
    "encoder.decoder_attention_heads=2",
    "fairseq.dataset.max_tokens=60",
    "fairseq.common.cpu=true",
]
PRETRAIN = ["fairseq=pretrain", "loss=masked_prediction", "fairseq.lr_scheduler.warmup_updates=2"]


def overrides(prepared: Path, run_dir: Path) -> list[str]:
    """Overrides of a run of the smallest model."""
    return [f"data.prepared={prepared}", f"run.name={run_dir.name}", f"run.dir={run_dir}", *MICRO]


def configure(prepared: Path, run_dir: Path, *more: str) -> DictConfig:
    """Root configuration of a run of the smallest model."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train_avsyncnet", overrides=[*overrides(prepared, run_dir), *more])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Ten training and four validation clips of 8 to 13 frames, a word tokenizer, labels of iteration 1."""
    from synctalklip.avsyncnet.clustering import KMeansSettings, cluster, features_of
    from synctalklip.data.manifest import read_manifest

    root = make_prepared(tmp_path_factory.mktemp("prepared"), {"train": 10, "valid": 4, "test": 3}, frames=(8, 10, 13))
    features, rate = features_of(1, None, None, 100)
    settings = KMeansSettings(clusters=6, batch_frames=50, passes=1, fraction=1.0)
    cluster(features, read_manifest(root), settings, rate, root / "labels" / "iter1", seed=1)
    return root


@pytest.fixture(scope="session")
def fine_tuned(prepared, tmp_path_factory) -> Path:
    """Checkpoint of a fine-tuning of two updates, with all terms."""
    from synctalklip.avsyncnet.train import train

    terms = ["loss.lambda_audio=0.5", "loss.lambda_ctc=1", "fairseq.optimization.max_update=2"]
    return train(configure(prepared, tmp_path_factory.mktemp("run") / "finetune", *terms)) / "checkpoint_best.pt"


@pytest.fixture(scope="session")
def pretrained(prepared, tmp_path_factory) -> Path:
    """Checkpoint of a pre-training of two updates."""
    from synctalklip.avsyncnet.train import train

    updates = "fairseq.optimization.max_update=2"
    return (
        train(configure(prepared, tmp_path_factory.mktemp("run") / "pretrain", *PRETRAIN, updates))
        / "checkpoint_last.pt"
    )
