"""Every command line of the demos composes with the configuration of its script."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS

SCRIPTS = CONFIGS.parent / "scripts"
GRID = "data.root=/corpora/my grid"
DEMOS = {
    "synthetic": ("demo", []),
    "shipped": ("demo", ["demo=shipped"]),
    "grid": ("demo", ["demo=grid", GRID]),
    "stage1": ("stage1_report", []),
    "stage1_grid": ("stage1_report", ["stage1=grid", GRID]),
}


def composed(config, overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, overrides)


def phases(demo):
    config = composed(*DEMOS[demo])
    return {name: shlex.split(command) for name, command in config.phases.items() if command.strip()}


@pytest.mark.parametrize("demo", DEMOS)
def test_commands_compose(demo):
    for name, (script, *overrides) in phases(demo).items():
        path = Path(script)
        assert (SCRIPTS / path.name).is_file(), name
        config = composed(path.stem, overrides)
        if "data" in config:
            assert config.data.name in ("synthetic", "grid", "grid_raw", "stage1")
            folder = "data/stage1" if demo == "stage1" else "data/synthetic"
            assert config.data.root == ("/corpora/my grid" if "grid" in demo else folder)


@pytest.mark.parametrize("demo", DEMOS)
def test_no_run_writes_where_another_does(demo):
    names = [argument for command in phases(demo).values() for argument in command if argument.startswith("run.name=")]
    assert len(names) == len(set(names)) == len(phases(demo))


def test_the_demo_of_make_starts_from_what_ships():
    commands = phases("shipped")
    assert not {"cluster", "pretrain"} & commands.keys()
    starts = [
        composed(Path(script).stem, overrides) for script, *overrides in map(commands.get, ("finetune", "lip_reader"))
    ]
    starts += [composed("train_generator", commands["generator"][1:]).init]
    paths = [getattr(start, "init_from", None) or start.generator for start in starts]
    assert paths == [f"checkpoints/{name}_grid" for name in ("avsyncnet", "reader", "generator")]
    assert all((CONFIGS.parent / path / "model.safetensors").is_file() for path in paths)
    assert "demo=shipped" in (CONFIGS.parent / "Makefile").read_text()


@pytest.mark.parametrize("demo", DEMOS)
def test_every_curve_is_that_of_a_run(demo):
    names = {argument.partition("=")[2] for command in phases(demo).values() for argument in command}
    for entry in composed(*DEMOS[demo]).report.curves.values():
        if entry:
            run = Path(entry.folder).relative_to("outputs")
            assert {str(folder) for folder in run.parents} & (names - {"."}), entry.folder


def test_grid_needs_its_folder():
    assert OmegaConf.is_missing(composed("demo", ["demo=grid"]).data, "root")
