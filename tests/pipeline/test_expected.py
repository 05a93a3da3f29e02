"""How long a pipeline will take."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline import expected, plan


def config(name: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose(name, ["run.dir=x", "data.root=y", *overrides]), resolve=True)


def test_a_part_of_the_phases_and_how_long_they_take(tmp_path, monkeypatch):
    (tmp_path / "outputs/stage1_grid").mkdir(parents=True)
    (tmp_path / "outputs/stage1_grid/report.md").touch()
    commands, needs = plan.chosen_phases(config("results", "only=[compare_grid,stage1_grid]"))
    assert list(commands) == ["stage1_grid", "compare_grid"] == list(needs)
    with pytest.raises(SyncTalklipError, match="no phase 'sweep'; choose from stage1_grid"):
        plan.chosen_phases(config("results", "only=[sweep]"))
    monkeypatch.setattr(expected, "probe_seconds", lambda device: 0.5)
    text = expected.expectations(
        config("results", "reference.probe=0.25", "phases.stage1_synthetic.seconds=3000"),
        ["stage1_grid", "stage1_synthetic"],
        tmp_path,
    )
    assert "stage1_grid: done" in text
    assert "stage1_synthetic: about 1 h 40 min" in text
