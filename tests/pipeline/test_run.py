"""A whole pipeline from its configuration: phases, what is said of them, the report."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.run import run_pipeline

SCRIPT = """
import pathlib, sys
args = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = pathlib.Path("outputs") / args["run.name"]
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "table.md", "a") as file:
    print(args["word"], file=file)
"""
PHASES = {
    "first": {"script": "write", "shared": ["both"], "seconds": 3},
    "second": {"script": "write", "args": {"word": "two"}, "seconds": 4},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "write.py").write_text(SCRIPT)
    monkeypatch.setattr("synctalklip.pipeline.run.probe_seconds", lambda device: 0.1)
    return tmp_path


def run(root, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("pipeline", ["~pipeline", "run.name=it", f"run.dir={root}/outputs/it", *overrides])
    report = {"title": "It", "note": "A note.", "tables": ["${out}/first/table.md", "${out}/second/table.md"]}
    report |= {"strips": [], "videos": [], "curves": {}}
    finish = {"_target_": "synctalklip.pipeline.report.report", "_partial_": True}
    own = {"phases": PHASES, "shared": {"both": {"word": "one"}}, "report": report, "finish": finish}
    OmegaConf.set_struct(cfg, False)
    cfg = OmegaConf.merge(cfg, own)
    OmegaConf.resolve(cfg)
    return run_pipeline(cfg, root)


def test_phases_run_once_and_the_report_shows_what_they_wrote(root, capfd):
    said = run(root, "reference.probe=0.05")
    assert said == f"report: {root}/outputs/it/report.md"
    text = (root / "outputs/it/report.md").read_text()
    assert "\none\n\ntwo\n" in text
    assert "`python scripts/write.py run.name=it/second word=two`" in text
    told = capfd.readouterr()
    assert [line.split() for line in told.out.splitlines()[1:]] == [
        ["first", "6", "s"],
        ["second", "8", "s"],
        ["in", "all", "14", "s"],
    ]
    assert "[ 1/2] first: python scripts/write.py word=one run.name=it/first" in told.err
    run(root)
    assert (root / "outputs/it/first/table.md").read_text() == "one\n"
    assert [line.split()[-1] for line in capfd.readouterr().out.splitlines()[1:]] == ["done"] * 3
    run(root, "fresh=true")
    assert (root / "outputs/it/first/table.md").read_text() == "one\none\n"


def test_a_part_runs_without_a_report_and_a_report_is_written_without_a_run(root):
    assert run(root, "only=[first]") == ""
    assert not (root / "outputs/it/second").exists()
    with pytest.raises(SyncTalklipError, match=r"second/table\.md: the report should show this file"):
        run(root, "write=true")
    run(root)
    (root / "outputs/it/report.md").unlink()
    run(root, "write=true", "fresh=true")
    assert (root / "outputs/it/report.md").is_file()
    assert (root / "outputs/it/first/table.md").read_text() == "one\n"
