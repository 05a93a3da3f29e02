"""RESULTS.md and the check of the shipped weights, on made-up runs whose figures can be worked out by hand."""

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from run_factory import READERS, write_run

from synctalklip.checkpoint import file_hash, save_folder
from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline import results
from synctalklip.pipeline.report import Curve
from synctalklip.tables import check_results
from synctalklip.tables.claims import Verdict, find_runs, judge

SYNCNET = {"name": "SyncNet", "sha256": "s"}
CORPUS = "/corpora/my grid"


def config(name: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, [f"run.dir=outputs/{name}", f'data.root="{CORPUS}"', *overrides])
    return OmegaConf.to_container(cfg, resolve=True)


def evaluation(folder: Path, name: str, errors: list[int], lse_c: float = 0.4, psnr: float = 31.0, **summary) -> None:
    """Clips of 6 words, of which so many are read wrongly."""
    rows = [
        {
            "id": f"clip{i}", "frames": 10, "psnr_face": psnr, "ssim_face": 0.95, "lse_c": lse_c, "lse_d": 0.8,
            "in_sync": 1, "WER.words": 6, "WER.word_errors": count,
        }
        for i, count in enumerate(errors)
    ]  # fmt: skip
    summary = {"readers": READERS, "syncnet": SYNCNET, "generated_sha256": name} | summary
    write_run(folder, rows, name, **summary)


def table2(folder: Path, errors: list[int], sha256: str = "a") -> None:
    clips = [
        {"id": f"c{i}", "errors": n, "words": 6, "aligned0": 30, "aligned1": 60, "pairs": 75}
        for i, n in enumerate(errors)
    ]
    folder.mkdir(parents=True)
    (folder / "table2.json").write_text(json.dumps({"AV-SyncNet": {"sha256": sha256, "clips": clips}}))
    (folder / "table2.md").write_text("| AV-SyncNet | stage one |\n")


def state(folder: Path, **entry) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"name": "train", "command": "scripts/train.py", "started": 0.0, "seconds": 60.0}
    (folder / "state.json").write_text(json.dumps([known | entry]))


@pytest.fixture
def sweep(tmp_path):
    """The evaluations of a sweep in which SyncTalklip is read better than TalkLip and worse than Wav2Lip."""
    rows = tmp_path / "outputs" / "ablation_grid" / "evaluate"
    evaluation(rows / "ground_truth", "Ground truth", [1, 1, 0, 1], kind="ground_truth")
    evaluation(rows / "synctalklip" / "seed1", "SyncTalklip", [2, 2, 1, 2], 0.35)
    evaluation(rows / "talklip" / "seed1", "TalkLip", [3, 3, 2, 3], 0.35)
    evaluation(rows / "wav2lip" / "seed1", "Wav2Lip", [1, 1, 0, 2], 0.3)
    return tmp_path


def target(root: Path, **entry) -> Verdict:
    rows = "outputs/ablation_grid/evaluate"
    entry = {"row": f"{rows}/synctalklip", **entry}
    return judge(entry | ({"other": f"{rows}/{entry['other']}"} if "other" in entry else {}), root, 50, 1)


@pytest.mark.parametrize(
    ("entry", "value", "gap", "met"),
    [
        ({"column": "psnr_face", "at_least": 30.0}, 31, 1, True),
        ({"column": "psnr_face", "at_least": 31.0}, 31, 0, True),
        ({"column": "psnr_face", "at_least": 32.0}, 31, -1, False),
        # 7 of 24 words, the recordings 3 of 24: 16.7 points apart, on every clip.
        ({"column": "WER", "at_most": 30.0}, 29.167, -0.833, True),
        ({"column": "WER", "other": "ground_truth", "within": 17.0}, 29.167, -0.333, True),
        ({"column": "WER", "other": "ground_truth", "within": 10.0}, 29.167, 6.667, False),
        ({"column": "lse_c", "other": "ground_truth", "share": 0.85}, 0.35, 0.01, True),
        ({"column": "lse_c", "other": "ground_truth", "share": 0.9}, 0.35, -0.01, False),
        ({"column": "WER", "other": "talklip"}, 29.167, -16.667, True),
        ({"column": "WER", "other": "wav2lip"}, 29.167, 12.5, False),
        # As good is not better.
        ({"column": "lse_c", "other": "talklip"}, 0.35, 0, False),
        ({"column": "lse_c", "other": "wav2lip"}, 0.35, 0.05, True),
    ],
)
def test_verdicts_on_targets(sweep, entry, value, gap, met):
    found = target(sweep, **entry)
    assert (found.value, found.gap[0]) == pytest.approx((value, gap), abs=1e-3)
    assert found.met is met


def test_a_verdict_is_clear_when_the_whole_interval_is_on_its_side(sweep):
    assert target(sweep, column="WER", other="ground_truth", within=17.0).clearly
    assert target(sweep, column="WER", at_most=29.2).met
    assert not target(sweep, column="WER", at_most=29.2).clearly
    found = target(sweep, column="WER", other="talklip")
    assert found.cells() == ["29.2", "< 45.8", "-16.67 [-16.67, -16.67]", "clearly"]
    assert found.how == "WER of SyncTalklip: errors of all words; by reader (r), decoding free, beam 1; 4 clips"


def test_seeds_are_averaged_and_rows_of_table_2_are_read(sweep):
    evaluation(
        sweep / "outputs/ablation_grid/evaluate/synctalklip/seed2", "SyncTalklip", [0, 0, 0, 1], generated_sha256="b"
    )
    # (7/24 + 1/24) / 2
    assert target(sweep, column="WER", at_most=20.0).value == pytest.approx(100 / 6)
    table2(sweep / "t", [0, 0, 3, 0])
    found = judge({"row": "t#AV-SyncNet", "column": "errors", "at_most": 20.0}, sweep, 50, 1)
    assert (found.value, found.met) == (pytest.approx(12.5), True)
    assert find_runs("t/absent#AV-SyncNet", sweep) == []
    with pytest.raises(SyncTalklipError, match=r"table2\.json: holds no 'other'"):
        find_runs("t#other", sweep)


def test_rows_that_were_not_measured_are_no_verdict_and_other_judges_are_refused(sweep):
    assert target(sweep, column="WER", other="absent") is None
    readers = {"WER": READERS["WER"] | {"sha256": "another"}}
    evaluation(sweep / "outputs/ablation_grid/evaluate/foreign/seed1", "x", [0] * 4, readers=readers)
    with pytest.raises(SyncTalklipError, match="scored by different files as WER"):
        target(sweep, column="WER", other="foreign")
    with pytest.raises(SyncTalklipError, match="not measured in 'avs_u'"):
        target(sweep, column="avs_u", at_least=1.0)


@pytest.fixture
def finished(sweep, monkeypatch):
    """All phases finished, without event files: curves are made up."""
    monkeypatch.setattr(results, "read_curves", lambda folder, names: [Curve(names[0], [0, 1], [1.0, 2.0])])
    outputs = sweep / "outputs"
    table2(outputs / "stage1_grid" / "table2", [1, 2, 2, 2])
    table2(outputs / "stage1" / "table2", [0])
    picture = cv2.imencode(".png", np.full((40, 1500, 3), 99, np.uint8))[1].tobytes()
    for folder in ("stage1_grid", "stage1"):
        (outputs / folder / "report.md").touch()
        (outputs / folder / "pretrain").mkdir()
        (outputs / folder / "pretrain" / "iterations.md").write_text("| iteration 5 |\n")
    (outputs / "ablation_synthetic").mkdir()
    for folder in ("ablation_grid", "ablation_synthetic"):
        (outputs / folder / "tables.md").write_text(f"## Table 1\n\nof {folder}\n\n## Claims of the paper\n\nclaimed\n")
    (outputs / "results" / "compare").mkdir(parents=True)
    (outputs / "results" / "compare" / "strip.png").write_bytes(picture)
    (outputs / "ablation_grid" / "evaluate" / "synctalklip" / "seed1" / "strip.png").write_bytes(picture)
    state(outputs / "stage1_grid", command=f"scripts/a.py data=grid 'data.root=\"{CORPUS}\"' x=1", machine="2 cores")
    state(outputs / "stage1", command=f"scripts/b.py out={sweep}/outputs/x")
    state(outputs / "ablation_grid", machine="NVIDIA H200, 16 cores", seconds=30.0)
    state(outputs / "results", name="compare_grid", machine="2 cores", seconds=5.0)
    return sweep


def written(root: Path, *overrides: str) -> str:
    return results.write_results(config("results", "method=synctalklip", *overrides), root).read_text()


def test_results_show_targets_tables_pictures_and_costs(finished):
    text = written(finished, "remarks.targets=[Because of this.]")
    assert "Not complete" not in text
    # AV-SyncNet has 7 errors in 24 words, the generator reads 16.7 points worse than the recordings.
    assert "| AV-SyncNet reads unseen clips: WER of AV-SyncNet: " in text
    missed = next(line for line in text.splitlines() if "targets are met" in line)
    assert missed.startswith("6 of 11 targets are met. Missed: AV-SyncNet reads unseen clips; words within 10 points")
    assert "Because of this." in text
    assert text.index("## Targets") < text.index("### Claims of the paper") < text.index("of ablation_synthetic")
    assert "- SyncTalklip: the paper's losses and weights." in text
    assert "Not measured: still_mouth, no_lip, no_contrastive, infonce," in text
    for name in ("curves.png", "strip_table1.jpg", "strip_generator.jpg"):
        assert f"(data/results/{name})" in text
    assert cv2.imread(str(finished / "data/results/strip_table1.jpg")).shape == (27, 1000, 3)
    assert "| train | NVIDIA H200, 16 cores | 30 | `python scripts/train.py` |" in text
    assert "| train | not noted | 60 |" in text
    assert "| compare_grid | 2 cores | 5 |" in text
    assert "All together: 155 s." in text


def test_no_path_of_the_machine_is_shown(finished):
    (finished / "outputs/stage1/table2/table2.md").write_text(f"made of {CORPUS}/clips in {finished}/outputs\n")
    text = written(finished)
    assert "`python scripts/a.py data=grid data.root=GRID x=1`" in text
    assert "out=outputs/x" in text
    assert "made of GRID/clips in outputs" in text
    assert CORPUS not in text
    assert str(finished) not in text


def test_missing_runs_are_named(finished):
    (finished / "outputs/ablation_synthetic/tables.md").unlink()
    (finished / "outputs/results/compare/strip.png").unlink()
    text = written(finished)
    assert "**Not complete:** sweep_synthetic, compare_grid did not finish;" in text
    assert "of ablation_synthetic" not in text
    assert "strip_table1" not in text
    # Without any run every target is open, and none is said to be met.
    text = results.write_results(config("results"), finished / "empty").read_text()
    assert "0 of 11 targets are met. Not measured: AV-SyncNet reads unseen clips;" in text
    assert text.count("**not measured**") == 11


def test_what_a_finished_phase_left_out_is_an_error(finished):
    (finished / "outputs/stage1/table2/table2.md").unlink()
    with pytest.raises(SyncTalklipError, match=r"stage1/table2/table2\.md: should be shown"):
        written(finished)
    with pytest.raises(SyncTalklipError, match="no section 'targts'"):
        written(finished, "+remarks.targts=[x]")


@pytest.mark.parametrize("name", ["results", "check_results"])
def test_every_command_composes(name):
    phases = config(name)["phases"].values()
    for command in (phase["command"] if isinstance(phase, dict) else phase for phase in phases):
        script, *overrides = shlex.split(command)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose(Path(script).stem, overrides)
        if "data.root" in command:
            assert cfg.data.root == CORPUS


@pytest.fixture
def shipped(finished):
    """Shipped folders of all four models; the generator and AV-SyncNet were made from other runs."""
    for number, (name, source) in enumerate(
        {"avsyncnet_grid": "x", "generator_grid": "SyncTalklip", "syncnet_grid": "s", "reader_grid": "r"}.items()
    ):
        weights = {"w": torch.full((1,), float(number))}
        save_folder(finished / "checkpoints" / name, weights, {"kind": "syncnet", "source": {"sha256": source}})
    return finished


def test_figures_of_shipped_weights_are_those_of_the_run_that_made_them(shipped):
    folder = shipped / "checkpoints"
    kept = {"sha256": file_hash(folder / "avsyncnet_grid"), "run": "elsewhere", "clips": 4, "metrics": {"errors": 9.0}}
    (folder / "results.json").write_text(json.dumps({"avsyncnet_grid": kept, "reader_grid": kept}))
    text = written(shipped)
    stated = json.loads((folder / "results.json").read_text())
    assert stated["avsyncnet_grid"] == kept
    assert stated["generator_grid"]["run"] == "outputs/ablation_grid/evaluate/synctalklip/seed1"
    assert stated["generator_grid"]["metrics"]["WER"] == pytest.approx(700 / 24)
    assert stated["reader_grid"]["metrics"] == {"WER": 12.5}
    assert stated["syncnet_grid"]["sha256"] == file_hash(folder / "syncnet_grid")
    assert "what they stated of it stays" in text
    # Weights that were exchanged lose what was stated of them.
    save_folder(folder / "avsyncnet_grid", {"w": torch.ones(3)}, {"kind": "syncnet"})
    assert "nothing is stated of it" in written(shipped)
    assert "avsyncnet_grid" not in json.loads((folder / "results.json").read_text())


@pytest.fixture
def checked(shipped):
    """The shipped weights measured again; AV-SyncNet ships from the run at hand."""
    save_folder(shipped / "checkpoints/avsyncnet_grid", {"w": torch.ones(3)}, {"kind": "x", "source": {"sha256": "a"}})
    written(shipped)
    out = shipped / "outputs" / "check_results"
    table2(out / "table2", [1, 2, 2, 2])
    evaluation(out / "ground_truth", "Ground truth", [1, 1, 0, 1], kind="ground_truth")
    evaluation(out / "generator", "SyncTalklip", [2, 2, 1, 2], 0.352, psnr=30.95)
    return shipped


def test_the_check_passes_within_tolerances_and_names_what_is_off(checked):
    settings = config("check_results")
    stated = check_results.read_stated(settings, checked)
    text, off = check_results.compare(settings, stated, checked)
    assert off == []
    row = next(line for line in text.splitlines() if "PSNR face" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "generator_grid", "PSNR face", "31.000", "30.950", "-0.050", "0.1", "yes",
    ]  # fmt: skip
    settings["tolerances"] |= {"psnr_face": 0.04, "lse_c": 0.001}
    text, off = check_results.compare(settings, stated, checked)
    assert off == ["generator_grid in PSNR face", "generator_grid in LSE-C"]
    assert text.count("**no**") == 2


def test_the_check_refuses_other_weights_other_clips_and_lacking_figures(checked):
    settings = config("check_results")
    stated = check_results.read_stated(settings, checked)
    stated["reader_grid"]["clips"] = 95
    with pytest.raises(SyncTalklipError, match="has 4 clips, the figures of reader_grid come from 95"):
        check_results.compare(settings, stated, checked)
    save_folder(checked / "checkpoints/generator_grid", {"w": torch.zeros(9)}, {"kind": "generator"})
    with pytest.raises(SyncTalklipError, match=r"generator_grid: its weights \(\w{8}\) are not those of the stated"):
        check_results.read_stated(settings, checked)
    (checked / "checkpoints/generator_grid/model.safetensors").unlink()
    with pytest.raises(SyncTalklipError, match=r"generator_grid: holds no model\.safetensors"):
        check_results.read_stated(settings, checked)
    file = checked / "checkpoints/results.json"
    file.write_text("{}")
    with pytest.raises(SyncTalklipError, match="states nothing of avsyncnet_grid"):
        check_results.read_stated(settings, checked)
    file.write_text("[")
    with pytest.raises(SyncTalklipError, match=r"results\.json: cannot be read"):
        check_results.read_stated(settings, checked)
