"""A prepared folder, an expert and configurations of small runs of stage 2."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from prepared_factory import make_prepared
from stage2_factory import NARROW, write_expert

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_prepared(tmp_path_factory.mktemp("prepared"), {"train": 5, "valid": 2})


@pytest.fixture(scope="module")
def expert(prepared):
    return write_expert(prepared / "expert.pt", prepared, "landmark")


@pytest.fixture
def configure(prepared, expert, tmp_path):
    def make(*overrides: str, run: str = "run", precision: str = "fp32") -> dict:
        fixed = [
            "experiment=generator/tiny",
            "variant=synctalklip",
            f"data.prepared={prepared}",
            f"expert.path={expert}",
            f"run.dir={tmp_path / run}",
            "run.name=test",
            f"trainer.precision={precision}",
            "trainer.steps=4",
            *NARROW,
        ]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return OmegaConf.to_container(compose("train_generator", overrides=[*fixed, *overrides]), resolve=True)

    return make
