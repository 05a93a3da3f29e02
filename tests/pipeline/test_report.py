"""The demo's phases and report."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboardX import SummaryWriter

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, PhaseError, elapsed, run_phases, tail
from synctalklip.pipeline.report import describe_machine, plot_curves, read_curves, write_report


@pytest.fixture
def root(tmp_path):
    """A folder with a script that notes each call in `calls.txt`."""
    (tmp_path / "note.py").write_text(
        "import sys\n"
        "open('calls.txt', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "print('said', *sys.argv[1:])\n"
        "sys.exit(3 if sys.argv[1] == 'fail' else 0)\n"
    )
    return tmp_path


def calls(root):
    return (root / "calls.txt").read_text().split("\n")[:-1]


def test_phases_run_in_order_and_are_not_repeated(root):
    commands = {"first": "note.py a x=1", "left_out": "", "second": "note.py  b\n  y='1 2'"}
    done = run_phases(commands, root / "out", root)
    assert [(phase.name, phase.command) for phase in done] == [
        ("first", "note.py a x=1"),
        ("second", "note.py b y='1 2'"),
    ]
    assert calls(root) == ["a x=1", "b y=1 2"]
    again = run_phases(commands, root / "out", root)
    assert again == done
    assert len(calls(root)) == 2


def test_a_killed_runner_takes_its_phases_with_it(root):
    (root / "wait.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    runner = (
        "from pathlib import Path; from synctalklip.pipeline.phases import run_phases; run_phases({'a': 'wait.py'}, "
    )
    process = subprocess.Popen([sys.executable, "-c", runner + "Path('out'), Path('.'))"], cwd=root)
    pid = root / "pid"
    _until(lambda: pid.is_file() and pid.read_text())
    process.kill()
    process.wait()
    _until(lambda: not _runs(int(pid.read_text())))


def _until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not happen within {seconds} s"
        time.sleep(0.05)


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_changed_command_repeats_all_that_follow(root):
    run_phases({"first": "note.py a", "second": "note.py b", "third": "note.py c"}, root / "out", root)
    run_phases({"first": "note.py a", "second": "note.py B", "third": "note.py c"}, root / "out", root)
    assert calls(root) == ["a", "b", "c", "B", "c"]


def test_fresh_repeats_everything(root):
    run_phases({"first": "note.py a"}, root / "out", root)
    run_phases({"first": "note.py a"}, root / "out", root, fresh=True)
    assert calls(root) == ["a", "a"]


def test_a_failing_phase_stops_with_its_last_lines(root):
    commands = {"first": "note.py a", "second": "note.py fail here", "third": "note.py c"}
    with pytest.raises(PhaseError, match=r"\[ 2/3\] second failed with status 3(.|\n)*said fail here"):
        run_phases(commands, root / "out", root)
    assert calls(root) == ["a", "fail here"]
    with pytest.raises(PhaseError):
        run_phases(commands, root / "out", root)
    assert calls(root) == ["a", "fail here", "fail here"]


def test_what_does_not_need_a_failed_phase_runs_all_the_same(root):
    commands = {"bad": "note.py fail", "after": "note.py after", "apart": "note.py apart", "last": "note.py last"}
    needs = {"bad": [], "after": ["bad"], "apart": [], "last": ["apart"]}
    with pytest.raises(PhaseError, match="bad failed with status 3"):
        run_phases(commands, root / "out", root, needs=needs, keep_going=True)
    assert calls(root) == ["fail", "apart", "last"]
    with pytest.raises(PhaseError, match="bad failed"):
        run_phases(commands, root / "out", root, needs=needs, keep_going=True)
    assert calls(root) == ["fail", "apart", "last", "fail"]


def test_phases_that_are_left_out_once_are_not_forgotten_but_repeated_after_what_they_need(root):
    commands = {"first": "note.py a", "second": "note.py b", "third": "note.py c"}
    needs = {"second": ["first"], "third": []}
    run_phases(commands, root / "out", root, needs=needs)
    run_phases({"first": "note.py a"}, root / "out", root)
    run_phases(commands, root / "out", root, needs=needs)
    assert calls(root) == ["a", "b", "c"]
    state = root / "out" / "state.json"
    entries = json.loads(state.read_text())
    entries[0]["started"] += 60
    state.write_text(json.dumps(entries))
    run_phases(commands, root / "out", root, needs=needs)
    assert calls(root) == ["a", "b", "c", "b"]


def test_a_damaged_state_is_named(root):
    run_phases({"first": "note.py a"}, root / "out", root)
    (root / "out" / "state.json").write_text("[{")
    with pytest.raises(SyncTalklipError, match=r"state\.json: is damaged"):
        run_phases({"first": "note.py a"}, root / "out", root)
    # A fresh run asks nothing of it.
    run_phases({"first": "note.py a"}, root / "out", root, fresh=True)
    assert calls(root) == ["a", "a"]


def test_independent_phases_run_side_by_side_and_the_rest_waits(root):
    (root / "meet.py").write_text(
        "import pathlib, sys, time\n"
        "me, other = sys.argv[1:]\n"
        "pathlib.Path(me).touch()\n"
        "for _ in range(200):\n"
        "    if pathlib.Path(other).exists(): break\n"
        "    time.sleep(0.05)\n"
        "else: sys.exit(f'{other} never came')\n"
    )
    commands = {"a": "meet.py a b", "b": "meet.py b a", "last": "note.py last"}
    done = run_phases(commands, root / "out", root, needs={"b": []}, at_once=2)
    assert [phase.name for phase in done] == ["a", "b", "last"]
    ends = [phase.started + phase.seconds for phase in done]
    assert done[1].started < ends[0]
    assert done[2].started >= max(ends[:2])


def test_a_changed_command_spares_what_does_not_need_it(root):
    commands = {"first": "note.py a", "second": "note.py b", "apart": "note.py c"}
    run_phases(commands, root / "out", root, needs={"apart": []})
    run_phases({**commands, "first": "note.py A"}, root / "out", root, needs={"apart": []})
    assert calls(root) == ["a", "b", "c", "A", "b"]


def test_elapsed_counts_time_side_by_side_once():
    phases = [Phase("a", "", 0.0, 10.0), Phase("b", "", 5.0, 10.0), Phase("c", "", 100.0, 1.0)]
    assert elapsed(phases) == 16.0


def test_tail_shows_the_last_state_of_a_progress_bar(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\n10%\r50%\r100%\nlast\n")
    assert tail(log, 2) == "100%\nlast"


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
def content(root):
    write_events(root / "outputs" / "stage", "loss", [2, 1])
    (root / "outputs" / "table.md").write_text("| row | PSNR |\n|---|---|\n| model | 30 |\n")
    (root / "outputs" / "strip.png").write_bytes(b"")
    (root / "outputs" / "clip.mp4").write_bytes(b"")
    return {
        "title": "Demo",
        "note": "A note.",
        "tables": ["outputs/table.md"],
        "strips": ["outputs/*.png"],
        "videos": ["outputs/*.mp4"],
        "curves": {"one": {"title": "stage", "folder": "outputs/stage", "names": ["loss"]}, "two": None},
    }


def test_report_shows_table_strip_curves_videos_and_seconds(root, content):
    phases = run_phases({"first": "note.py a"}, root / "outputs" / "demo", root)
    text = write_report(root / "outputs" / "demo", phases, content, root).read_text()
    assert "| model | 30 |" in text
    assert "![strip](../strip.png)" in text
    assert "[../clip.mp4](../clip.mp4)" in text
    assert "| stage | loss | 1 | 2 | 1 | 1 | 2 |" in text
    assert f"| first | {phases[0].seconds:.0f} | `python note.py a` |" in text
    assert "- torch: " in text
    assert (root / "outputs" / "demo" / "curves.png").is_file()
    assert json.loads((root / "outputs" / "demo" / "state.json").read_text())[0]["name"] == "first"


@pytest.mark.parametrize("file", ["table.md", "strip.png", "clip.mp4"])
def test_report_misses_nothing_silently(root, content, file):
    (root / "outputs" / file).unlink()
    with pytest.raises(SyncTalklipError, match=file.split(".")[1]):
        write_report(root / "outputs" / "demo", [], content, root)
