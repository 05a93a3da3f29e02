"""Curves and the report of a pipeline."""

import sys

import pytest
from tensorboardX import SummaryWriter

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase
from synctalklip.pipeline.report import describe_machine, plot_curves, read_curves, write_report


def write_events(folder, tag, values, start=0):
    writer = SummaryWriter(str(folder), filename_suffix=f".{start}")
    for step, value in enumerate(values, start):
        writer.add_scalar(tag, value, step)
    writer.close()


def test_curves_are_joined_over_restarts(tmp_path):
    write_events(tmp_path / "run" / "valid", "loss", [4, 3, 2])
    write_events(tmp_path / "run" / "valid", "loss", [2.5, 1], start=2)
    write_events(tmp_path / "run", "lr", [1])
    (curve,) = read_curves(tmp_path / "run", ["valid/*"])
    assert curve.name == "valid/loss"
    assert curve.steps == [0, 1, 2, 3]
    assert curve.values == [4, 3, 2.5, 1]
    assert {curve.name for curve in read_curves(tmp_path / "run")} == {"valid/loss", "lr"}


def test_a_run_without_events_is_named(tmp_path):
    with pytest.raises(SyncTalklipError, match="no TensorBoard event file"):
        read_curves(tmp_path)
    write_events(tmp_path, "loss", [1])
    with pytest.raises(SyncTalklipError, match="no curve is named lose; there are loss"):
        read_curves(tmp_path, ["lose"])


def test_plot_survives_a_panel_without_curves(tmp_path):
    plot_curves({"empty": []}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_machine():
    machine = describe_machine()
    assert int(machine["cores"]) >= 1
    assert machine["Python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")


@pytest.fixture
def content(tmp_path):
    write_events(tmp_path / "outputs" / "stage", "loss", [2, 1])
    (tmp_path / "outputs" / "table.md").write_text("| row | PSNR |\n|---|---|\n| model | 30 |\n")
    (tmp_path / "outputs" / "strip.png").write_bytes(b"")
    (tmp_path / "outputs" / "clip.mp4").write_bytes(b"")
    return {
        "title": "Demo",
        "note": "A note.",
        "tables": ["outputs/table.md"],
        "strips": ["outputs/*.png"],
        "videos": ["outputs/*.mp4"],
        "curves": {"one": {"title": "stage", "folder": "outputs/stage", "names": ["loss"]}, "two": None},
    }


def test_report_shows_table_strip_curves_videos_and_seconds(tmp_path, content):
    phases = [Phase("first", "note.py a", 0.0, 61.2)]
    text = write_report(tmp_path / "outputs" / "demo", phases, content, tmp_path).read_text()
    assert "| model | 30 |" in text
    assert "![strip](../strip.png)" in text
    assert "[../clip.mp4](../clip.mp4)" in text
    assert "| stage | loss | 1 | 2 | 1 | 1 | 2 |" in text
    assert "| first | 61 | `python note.py a` |" in text
    assert "- torch: " in text
    assert (tmp_path / "outputs" / "demo" / "curves.png").is_file()


@pytest.mark.parametrize("file", ["table.md", "strip.png", "clip.mp4"])
def test_report_misses_nothing_silently(tmp_path, content, file):
    (tmp_path / "outputs" / file).unlink()
    with pytest.raises(SyncTalklipError, match=file.split(".")[1]):
        write_report(tmp_path / "outputs" / "demo", [], content, tmp_path)
