"""Command lines that are run one after the other or side by side, resumably."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import PhaseError
from synctalklip.pipeline.runner import run_phases


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
    commands = {"first": "note.py a x=1", "second": "note.py b y='1  2'"}
    done = run_phases(commands, root / "out", root)
    assert [(phase.name, phase.command) for phase in done] == [
        ("first", "note.py a x=1"),
        ("second", "note.py b y='1  2'"),
    ]
    assert calls(root) == ["a x=1", "b y=1  2"]
    again = run_phases(commands, root / "out", root)
    assert again == done
    assert len(calls(root)) == 2


def test_a_killed_runner_takes_its_phases_with_it(root):
    (root / "wait.py").write_text("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    runner = (
        "from pathlib import Path; from synctalklip.pipeline.runner import run_phases; run_phases({'a': 'wait.py'}, "
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
