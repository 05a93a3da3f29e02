"""Every configuration composes, and a mistyped key ends a run at once with its name."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
ROOT_FILES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "run")
EXPERIMENTS = sorted(
    str(path.relative_to(CONFIGS / "experiment").with_suffix("")) for path in (CONFIGS / "experiment").rglob("*.yaml")
)


HEAVY = {"torch", "fairseq", "cv2", "matplotlib"}


def script_of(experiment: str) -> str:
    folder, name = experiment.split("/")
    # The recipes of a corpus are named after what they train.
    trained = name if folder == "grid" and name == "generator" else {"grid": "avsyncnet"}.get(folder, folder)
    return f"train_{trained}"


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides=["run.name=test", "run.dir=outputs/test", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize("name", ROOT_FILES)
def test_root_files_compose_and_have_a_script(name):
    assert (ROOT / "scripts" / f"{name}.py").is_file()
    assert composed(name).seed == 1


@pytest.mark.parametrize("data", sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml")))
def test_data_configs_compose(data):
    cfg = composed("prepare", f"data={data}", "data.root=somewhere")
    assert cfg.data.name == data
    assert cfg.data.prepared == f"data/prepared/{data}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_compose_and_say_what_they_reproduce(experiment):
    composed(script_of(experiment), f"experiment={experiment}")
    assert (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().startswith("# @package _global_\n# ")


@pytest.mark.parametrize(
    ("script", "override"),
    [
        ("train_avsyncnet", "expriment=avsyncnet/finetune"),
        ("train_avsyncnet", "loss.lamda_av=1"),
        ("train_avsyncnet", "fairseq.optimization.lrr=[1]"),
        ("train_generator", "expriment=generator/tiny"),
        ("train_generator", "loss.lamda_cav=1"),
        ("train_syncnet", "trainer.stepps=1"),
        ("evaluate", "genrated=x"),
        ("generate", "vidoe=x"),
        ("prepare", "data.rot=x"),
    ],
)
def test_typos_fail_fast_with_their_name(script, override, tmp_path):
    command = [sys.executable, "-X", "importtime", f"scripts/{script}.py", override, f"hydra.run.dir={tmp_path}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    said = "\n".join(line for line in run.stderr.splitlines() if not line.startswith("import time:"))
    assert override.split("=")[0].split(".")[-1] in said + run.stdout
    # What takes seconds to import was not reached.
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & HEAVY
