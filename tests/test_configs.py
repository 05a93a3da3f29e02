"""Every configuration composes, and a mistyped key ends a run at once with its name."""

import itertools
import re
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


# What an experiment of each script names in its defaults, so that the groups behind its values can be found.
GROUPS = {
    "train_avsyncnet": {"encoder", "loss", "fairseq"},
    "train_generator": {"generator", "discriminator", "loss"},
    "train_syncnet": {"syncnet"},
}

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
def test_an_experiment_is_a_whole_recipe(experiment):
    """It composes, says which row it reproduces, extends no other, and names its sizes, losses, rates and budget."""
    path, script = CONFIGS / "experiment" / f"{experiment}.yaml", script_of(experiment)
    loss = composed(script, f"experiment={experiment}").get("loss", {})
    package, *lines = path.read_text().splitlines()
    assert package == "# @package _global_"
    said = " ".join(itertools.takewhile(lambda line: line.startswith("# "), lines))
    assert re.search(r"\bTables? [1-5]|\bAV-HuBERT|\bmake demo|of the tables", said)
    stated = OmegaConf.to_container(OmegaConf.load(path))
    assert all(key.startswith("override /") for entry in stated["defaults"] for key in entry)
    groups = {key.removeprefix("override /") for entry in stated["defaults"] for key in entry}
    # Eq. 5 has a distance to name, and a recipe may choose its variant.
    groups -= {"variant"}
    assert groups == GROUPS[script] | ({"distance"} if loss.get("lambda_av") else groups & {"distance"})
    if script == "train_generator":
        assert set(stated["optim"]) == {"generator", "discriminator", "schedule"}
        assert {"steps", "batch_size"} <= stated["trainer"].keys()
    if script == "train_avsyncnet":
        assert {"max_update", "lr"} <= stated["fairseq"]["optimization"].keys()
        assert {name for name in loss if name.startswith("lambda_") or name == "alpha"} <= stated["loss"].keys()


def test_a_schedule_goes_over_an_experiment():
    assert composed("train_avsyncnet", "experiment=avsyncnet/pretrain_base").fairseq.optimization.max_update == 400000
    found = composed("train_avsyncnet", "experiment=avsyncnet/pretrain_base", "schedule=vox").fairseq
    assert (found.optimization.max_update, found.task.limits.crop_frames) == (800000, 400)


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
