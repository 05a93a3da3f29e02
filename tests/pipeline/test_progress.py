"""How far a command is, read from its log and shown in a terminal or a file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from synctalklip.pipeline import progress
from synctalklip.pipeline.progress import Line, LogReader, PlainDisplay, Progress, tail


def test_tail_shows_the_last_state_of_a_progress_bar(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\n10%\r50%\r100%\nlast\n")
    assert tail(log, 2) == "100%\nlast"


def read(tmp_path, text):
    log = tmp_path / "log"
    log.write_text(text)
    return LogReader(log).read()


def test_a_bar_is_read_as_it_was_drawn(tmp_path):
    """tqdm writes the log: 40 of 100 clips, two a second."""
    script = (
        "from tqdm import tqdm\n"
        "bar = tqdm(total=100, desc='prepare', unit='clip', smoothing=0)\n"
        "bar.start_t -= 20\nbar.update(40)\nbar.set_postfix(loss=1)\nbar.refresh()\n"
        "import os\nos._exit(0)\n"
    )
    log = tmp_path / "log"
    with open(log, "wb") as output:
        subprocess.run([sys.executable, "-c", script], stderr=output, check=True)
    found = LogReader(log).read()
    assert found.fraction == pytest.approx(0.4)
    assert found.left == pytest.approx(30, abs=2)
    assert re.fullmatch(r"prepare, 40/100, [12]\.\d\dclip/s", found.doing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Progress()),
        ("reading\n", Progress(doing="reading")),
        ("  0%|          | 0/9 [00:00<?, ?clip/s]", Progress(0.0, None, "0/9, ?clip/s")),
        ("50%|#####     | 1/2 [1:00:00<2:00:05, 3.6e+3s/step]\n", Progress(0.5, 7205.0, "1/2, 3.6e+3s/step")),
        # What was said after the end of a bar counts, the bar no more.
        ("50%|##  | 1/2 [00:01<00:01]\r100%|####| 2/2 [00:02<00:00]\nwriting\n", Progress(doing="writing")),
        # A pipeline in a pipeline: its last line is that of all its phases.
        ("[ 1/2] a: 90% [00:09<00:01]\nall phases: 30% [00:30<01:10]\n", Progress(0.3, 70.0, "all phases")),
    ],
)
def test_logs(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


def test_a_line_of_a_pipeline_is_read_back(tmp_path):
    line = Line("[ 3/12] finetune", 90.0, 400.0, Progress(0.25, 270.0, "update 50/200, 0.55/s"))
    assert line.plain() == "[ 3/12] finetune: 25% [01:30<04:30, update 50/200, 0.55/s]"
    found = read(tmp_path, line.plain() + "\n")
    assert (found.fraction, found.left) == (0.25, 270.0)


def test_updates_of_fairseq_give_a_rate(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = tmp_path / "log"
    log.write_text(
        "INFO | {'optimization': {'max_epoch': 0, 'max_update': 300, 'lr': [0.1]}}\nepoch 1: num_updates=20, lr=1\n"
    )
    reader = LogReader(log)
    assert reader.read() == Progress(20 / 300, None, "update 20/300")
    now[0] = 140.0
    with open(log, "a") as stream:
        stream.write("epoch 2: num_updates=100, lr=1\n")
    # 80 updates took 40 s, so 200 more take 100 s.
    assert reader.read() == Progress(100 / 300, 100.0, "update 100/300, 2.00/s")
    now[0] = 150.0
    assert reader.read().left == 90.0
    with open(log, "a") as stream:
        stream.write("valid | loss 1 | num_updates 100\nsaved\n")
    assert reader.read().left == 90.0


def test_time_left_is_its_own_or_what_is_expected():
    assert Line("a", 30.0, 100.0, Progress()).left == 70.0
    assert Line("a", 30.0, 100.0, Progress()).fraction == 0.3
    assert Line("a", 130.0, 100.0, Progress()).left == 0.0
    assert Line("a", 30.0, 100.0, Progress(0.5, 30.0)).left == 30.0
    assert Line("a", 30.0, None, Progress()).left is None
    assert Line("a", 30.0, None, Progress(doing="x")).plain() == "a: [00:30<?, x]"


RUNNER = """
import sys
from pathlib import Path
from synctalklip.pipeline import progress
from synctalklip.pipeline.runner import run_phases
progress.PlainDisplay.seconds = progress.LiveDisplay.seconds = 0.2
commands = {"slow": "slow.py", "beside": "slow.py", "last": "last.py"}
seconds = {"slow": 2, "beside": 2, "last": 1}
run_phases(commands, Path("out"), Path("."), needs={"beside": []}, at_once=2, expected=seconds)
"""


@pytest.fixture
def scripts(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(20), 'counting', unit='thing'): time.sleep(0.1)\n"
    )
    (tmp_path / "last.py").write_text("print('done')\n")
    return tmp_path


def test_a_terminal_shows_one_live_line_a_running_phase(scripts):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 140, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", RUNNER], cwd=scripts, stdout=slave, stderr=slave)
    os.close(slave)
    screen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        screen += chunk
    assert process.wait() == 0
    text = screen.decode()
    drawn = re.findall(r"(\d+)%\|[^|]*\| \[ 1/3\] slow  \S+ of about 00:02, \S+ left  counting, \d+/20", text)
    assert len(set(drawn)) > 2
    assert re.search(r"\| \[ 2/3\] beside ", text)
    assert re.search(r"\| all phases  00:0\d, 00:0\d left", text)
    # Only what starts and ends stays: the cursor goes back over the rest.
    assert text.count("[ 3/3] last: python last.py") == 1
    assert "\x1b[A" in text


def test_a_file_gets_plain_lines(scripts):
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=scripts, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[:2] == ["[ 1/3] slow: python slow.py", "[ 2/3] beside: python slow.py"]
    assert any(
        re.fullmatch(r"\[ 1/3\] slow: \d+% \[00:0\d<00:0\d, counting, \d+/20, .*thing/s\]", line) for line in lines
    )
    assert any(re.fullmatch(r"all phases: \d+% \[00:0\d<00:0\d\]", line) for line in lines)
    assert re.fullmatch(r"\[ 3/3\] last: \d+ s", lines[-1])
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_file_is_not_flooded(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with open(tmp_path / "log", "w") as stream:
        display = PlainDisplay(stream)
        for now[0] in range(600):
            if display.due():
                display.show([], Line("all phases", now[0], None, Progress()))
    assert len((tmp_path / "log").read_text().splitlines()) == 9
