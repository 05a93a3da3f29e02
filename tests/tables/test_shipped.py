"""What is stated of the shipped weights, on made-up runs whose figures can be worked out by hand."""

import copy
import functools
import json

import pytest
import torch
from hydra import compose as composed
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from run_factory import write_evaluation, write_sweep, write_table2

from synctalklip.checkpoint import file_hash, save_folder
from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.shipped import compare, read_stated, state_shipped


@functools.cache
def plain(name: str, *overrides: str) -> dict:
    settings = [f"run.dir=outputs/{name}", "data.root=GRID", *overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(composed(name, settings), resolve=True)


def config(name: str, *overrides: str) -> dict:
    return copy.deepcopy(plain(name, *overrides))


@pytest.fixture
def shipped(tmp_path):
    """Shipped folders of all four models; AV-SyncNet was made by another run."""
    write_sweep(tmp_path)
    write_table2(tmp_path / "outputs/stage1_grid/table2", {"AV-SyncNet_learned_F": [1, 2, 2, 2]})
    for number, (name, source) in enumerate(
        {"avsyncnet_grid": "x", "generator_grid": "SyncTalklip", "syncnet_grid": "s", "reader_grid": "r"}.items()
    ):
        weights = {"w": torch.full((1,), float(number))}
        save_folder(tmp_path / "checkpoints" / name, weights, {"kind": "syncnet", "source": {"sha256": source}})
    return tmp_path


def test_figures_of_shipped_weights_are_those_of_the_run_that_made_them(shipped):
    folder = shipped / "checkpoints"
    kept = {"sha256": file_hash(folder / "avsyncnet_grid"), "run": "elsewhere", "clips": 4, "metrics": {"errors": 9.0}}
    (folder / "results.json").write_text(json.dumps({"avsyncnet_grid": kept, "reader_grid": kept}))
    facts = state_shipped(config("pipeline", "pipeline=results", "method=synctalklip"), shipped)
    stated = json.loads((folder / "results.json").read_text())
    assert stated["avsyncnet_grid"] == kept
    assert stated["generator_grid"]["run"] == "outputs/ablation_grid/evaluate/synctalklip/seed1"
    assert stated["generator_grid"]["metrics"]["WER"] == pytest.approx(700 / 24)
    assert stated["reader_grid"]["metrics"] == {"WER": 12.5}
    assert stated["syncnet_grid"]["sha256"] == file_hash(folder / "syncnet_grid")
    by_name = {fact["weights"]: fact for fact in facts}
    assert by_name["avsyncnet_grid"]["kept"] is True
    assert (by_name["generator_grid"]["model"], by_name["reader_grid"]["figures"]) == ("SyncTalklip", {"WER": "12.5"})
    # Weights that were exchanged lose what was stated of them.
    save_folder(folder / "avsyncnet_grid", {"w": torch.ones(3)}, {"kind": "syncnet"})
    facts = state_shipped(config("pipeline", "pipeline=results", "method=synctalklip"), shipped)
    assert [fact["kept"] for fact in facts if fact["weights"] == "avsyncnet_grid"] == [False]
    assert "avsyncnet_grid" not in json.loads((folder / "results.json").read_text())


@pytest.fixture
def checked(shipped):
    """The shipped weights measured again; AV-SyncNet ships from the run at hand."""
    save_folder(shipped / "checkpoints/avsyncnet_grid", {"w": torch.ones(3)}, {"kind": "x", "source": {"sha256": "a"}})
    state_shipped(config("pipeline", "pipeline=results", "method=synctalklip"), shipped)
    out = shipped / "outputs" / "check_results"
    write_table2(out / "table2", {"AV-SyncNet": [1, 2, 2, 2]})
    write_evaluation(out / "ground_truth", "Ground truth", [1, 1, 0, 1], kind="ground_truth")
    write_evaluation(out / "generator", "SyncTalklip", [2, 2, 1, 2], 0.352, psnr=30.95)
    return shipped


def test_the_check_passes_within_tolerances_and_names_what_is_off(checked):
    settings = config("check_results")
    stated = read_stated(settings, checked)
    text, off = compare(settings, stated, checked)
    assert off == []
    row = next(line for line in text.splitlines() if "PSNR face" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "generator_grid", "PSNR face", "31.000", "30.950", "-0.050", "0.1", "yes",
    ]  # fmt: skip
    settings["tolerances"] |= {"psnr_face": 0.04, "lse_c": 0.001}
    text, off = compare(settings, stated, checked)
    assert off == ["generator_grid in PSNR face", "generator_grid in LSE-C"]
    assert text.count(" no |") == 2


def test_the_check_refuses_other_weights_other_clips_and_lacking_figures(checked):
    settings = config("check_results")
    stated = read_stated(settings, checked)
    stated["reader_grid"]["clips"] = 95
    with pytest.raises(SyncTalklipError, match="has 4 clips, the figures of reader_grid come from 95"):
        compare(settings, stated, checked)
    save_folder(checked / "checkpoints/generator_grid", {"w": torch.zeros(9)}, {"kind": "generator"})
    with pytest.raises(SyncTalklipError, match=r"generator_grid: its weights \(\w{8}\) are not those of the stated"):
        read_stated(settings, checked)
    (checked / "checkpoints/generator_grid/model.safetensors").unlink()
    with pytest.raises(SyncTalklipError, match=r"generator_grid: holds no model\.safetensors"):
        read_stated(settings, checked)
    file = checked / "checkpoints/results.json"
    file.write_text("{}")
    with pytest.raises(SyncTalklipError, match="states nothing of avsyncnet_grid"):
        read_stated(settings, checked)
    file.write_text("[")
    with pytest.raises(SyncTalklipError, match=r"results\.json: cannot be read"):
        read_stated(settings, checked)
