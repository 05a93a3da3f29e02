"""How far commands are that run in the background: read from their logs, shown as live lines or as plain ones."""

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from tqdm import tqdm

TAIL_LINES = 20
_TAIL_BYTES = 8192
_HEAD_BYTES = 200_000
_FOLLOW_SECONDS = 1.0
_BAR_LENGTH = 300  # a bar says how far it is at its beginning

# The last state of a tqdm bar, or of a line of `Line.plain`: 45%|████▌     | 120/304 [00:10<01:20,  2.10clip/s, loss=1]
_BAR = re.compile(
    r"(?P<name>[^%|]*?):?\s*(?P<percent>\d+)%(?:\|[^|]*\|)?(?:\s+(?P<counts>\S+/\S+))?\s+"
    r"\[[\d:]+<(?P<left>[\d:?]+)(?:,\s*(?P<rate>[^,\]]+))?"
)
# fairseq says now and then how many updates it made; `avsyncnet.launch.plan_updates` says first how many there will be.
_UPDATES = re.compile(r"num_updates[=\s]+(\d+)")
_LOGGED = re.compile(r"^(\[[^\]]*\])+ - ")  # time, module and level of a log
_ALL_UPDATES = re.compile(rb"(\d+) updates of up to \d+ frames")


@dataclass(frozen=True)
class Progress:
    """How far a command is, as far as its log says.

    Attributes:
        fraction: share of its work that is done.
        left: seconds to its end.
        doing: what it is at, in a few words.
    """

    fraction: float | None = None
    left: float | None = None
    doing: str = ""


class LogReader:
    """Reads progress from a growing log: progress bars, fairseq's updates, else the last line."""

    def __init__(self, path: Path):
        self.path = path
        self._followed = -_FOLLOW_SECONDS
        self._all_updates: int | None = None
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def follow(self) -> None:
        """Look into the log now and then, so that the rate of what is counted seldom is known when it is asked for."""
        if time.monotonic() - self._followed >= _FOLLOW_SECONDS:
            self._followed = time.monotonic()
            self.read()

    def read(self) -> Progress:
        """The progress now."""
        with open(self.path, "rb") as stream:
            stream.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
        states = [state.strip() for state in re.split(r"[\r\n]+", text) if state.strip()]
        for state in reversed(states):
            bar = _BAR.search(state[:_BAR_LENGTH])
            if bar and int(bar["percent"]) < 100:
                words = [bar["name"].strip(), bar["counts"], (bar["rate"] or "").strip()]
                return Progress(int(bar["percent"]) / 100, _seconds(bar["left"]), ", ".join(filter(None, words)))
            updates = _UPDATES.search(state)
            if updates and self._count_all():
                return self._fairseq(int(updates[1]), time.monotonic())
            if bar:
                break
        return Progress(doing=_LOGGED.sub("", states[-1])[:80] if states else "")

    def _count_all(self) -> int | None:
        if self._all_updates is None:
            with open(self.path, "rb") as stream:
                found = _ALL_UPDATES.search(stream.read(_HEAD_BYTES))
            self._all_updates = int(found[1]) if found else None
        return self._all_updates

    def _fairseq(self, updates: int, now: float) -> Progress:
        """Progress of a training whose log counts updates at intervals; its rate is that since the first count."""
        total = self._all_updates or updates
        if self._last is None or updates != self._last[1]:
            self._last = (now, updates)
        self._first = self._first or self._last
        seconds, done = self._last[0] - self._first[0], updates - self._first[1]
        doing = f"update {updates}/{total}"
        if updates >= total or done <= 0 or seconds <= 0:
            return Progress(updates / total, None, doing)
        left = (total - updates) * seconds / done - (now - self._last[0])
        return Progress(updates / total, max(0.0, left), f"{doing}, {done / seconds:.2f}/s")


def _seconds(clock: str) -> float | None:
    """Seconds of "01:20" or "1:00:00"; None of "?"."""
    if "?" in clock:
        return None
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file; of a progress bar only its last state."""
    with open(log, encoding="utf-8", errors="replace", newline="") as stream:
        last = deque((line.rstrip("\r\n").rsplit("\r", 1)[-1] for line in stream), maxlen=lines)
    return "\n".join(last)


@dataclass(frozen=True)
class Line:
    """One line of a display.

    Attributes:
        title: what runs.
        elapsed: seconds since it started.
        expected: seconds that it was expected to take.
        progress: how far it says to be.
    """

    title: str
    elapsed: float
    expected: float | None
    progress: Progress

    @property
    def left(self) -> float | None:
        """Seconds to its end: its own estimate, or what is left of the expected time."""
        if self.progress.left is not None or self.expected is None:
            return self.progress.left
        return max(0.0, self.expected - self.elapsed)

    @property
    def fraction(self) -> float | None:
        """Share that is done, by its own count or by time."""
        if self.progress.fraction is not None or self.left is None:
            return self.progress.fraction
        return self.elapsed / max(self.elapsed + self.left, 1e-9)

    def live(self) -> str:
        """What stands behind its bar."""
        left = "" if self.left is None else f", {_clock(self.left)} left"
        expected = "" if self.expected is None else f" of about {_clock(self.expected)}"
        doing = f"  {self.progress.doing}" if self.progress.doing else ""
        return f"{self.title}  {_clock(self.elapsed)}{expected}{left}{doing}"

    def plain(self) -> str:
        """The line of a log, in the form of a progress bar, so that a pipeline can read that of a pipeline in it."""
        percent = "" if self.fraction is None else f"{100 * self.fraction:.0f}% "
        left = "?" if self.left is None else _clock(self.left)
        doing = f", {self.progress.doing}" if self.progress.doing else ""
        return f"{self.title}: {percent}[{_clock(self.elapsed)}<{left}{doing}]"


def _clock(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


class Display(Protocol):
    """Shows how far phases are."""

    def due(self) -> bool:
        """Whether it is time to show something new."""

    def show(self, lines: Sequence[Line], total: Line) -> None:
        """Show the phases that run, and all together."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Remove what does not stay."""


class PlainDisplay:
    """Lines for a file: one each minute for each phase that runs."""

    seconds = 60.0

    def __init__(self, stream: TextIO):
        self.stream = stream
        self._shown = time.monotonic()

    def due(self) -> bool:
        if time.monotonic() - self._shown < self.seconds:
            return False
        self._shown = time.monotonic()
        return True

    def show(self, lines: Sequence[Line], total: Line) -> None:
        for line in (*lines, total):
            self.say(line.plain())

    def say(self, line: str) -> None:
        print(line[:200], file=self.stream, flush=True)

    def close(self) -> None:
        pass


class _Bar(tqdm):
    monitor_interval = 0  # no thread: the runner forks


class LiveDisplay(PlainDisplay):
    """A bar for each phase that runs and one for all, redrawn in a terminal."""

    seconds = 1.0

    def __init__(self, stream: TextIO):
        super().__init__(stream)
        self._bars: list[tqdm] = []

    def show(self, lines: Sequence[Line], total: Line) -> None:
        wanted = (*lines, total)
        while len(self._bars) > len(wanted):
            self._bars.pop().close()
        for position, line in enumerate(wanted):
            if position == len(self._bars):
                form = "{percentage:3.0f}%|{bar:10}| {desc}"
                bar = _Bar(
                    total=1.0, position=position, leave=False, bar_format=form, dynamic_ncols=True, file=self.stream
                )
                self._bars.append(bar)
            bar = self._bars[position]
            bar.n = min(line.fraction or 0.0, 1.0)
            bar.set_description_str(line.live())

    def say(self, line: str) -> None:
        _Bar.write(line[:200], file=self.stream)

    def close(self) -> None:
        while self._bars:
            self._bars.pop().close()


def choose_display(stream: TextIO) -> Display:
    """Live lines in a terminal, plain ones elsewhere."""
    return LiveDisplay(stream) if stream.isatty() else PlainDisplay(stream)
