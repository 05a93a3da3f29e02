"""Every command line of the demos composes with the configuration of its script."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS

SCRIPTS = CONFIGS.parent / "scripts"
DEMOS = {"synthetic": [], "grid": ["demo=grid", "data.root=/corpora/my grid"]}


def composed(config, overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, overrides)


def phases(demo):
    config = composed("demo", DEMOS[demo])
    return {name: shlex.split(command) for name, command in config.phases.items() if command.strip()}


@pytest.mark.parametrize("demo", DEMOS)
def test_commands_compose(demo):
    for name, (script, *overrides) in phases(demo).items():
        path = Path(script)
        assert (SCRIPTS / path.name).is_file(), name
        config = composed(path.stem, overrides)
        if "data" in config:
            assert config.data.name in ("synthetic", "grid", "grid_raw")
            assert config.data.root == ("data/synthetic" if demo == "synthetic" else "/corpora/my grid")


@pytest.mark.parametrize("demo", DEMOS)
def test_no_run_writes_where_another_does(demo):
    names = [argument for command in phases(demo).values() for argument in command if argument.startswith("run.name=")]
    assert len(names) == len(set(names)) == len(phases(demo))


def test_grid_needs_its_folder():
    assert OmegaConf.is_missing(composed("demo", ["demo=grid"]).data, "root")
