"""Run a list of command lines, resumably, as a user would type them, side by side where they allow it."""

import ctypes
import dataclasses
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from synctalklip.checkpoint import write_text
from synctalklip.pipeline.phases import Phase, PhaseError, finished_phases, name_machine, read_state, seconds_to_go
from synctalklip.pipeline.progress import Line, LogReader, Progress, choose_display, tail

POLL_SECONDS = 0.2

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def run_phases(
    commands: Mapping[str, str],
    directory: Path,
    root: Path,
    fresh: bool = False,
    needs: Mapping[str, Sequence[str]] | None = None,
    at_once: int = 1,
    keep_going: bool = False,
    expected: Mapping[str, float] | None = None,
) -> list[Phase]:
    """Run command lines with this Python; skip what an earlier call finished.

    A phase is skipped only if its command and those of all phases that it needs are the same as then, and none of those
    ran again since. Phases that are not among `commands` stay in the state, except in a fresh run. The output of each
    goes to `directory/logs`; how far it is stands on stderr.

    Args:
        commands: name -> "scripts/x.py key=value ...", in order.
        directory: where the state and the logs are kept.
        root: folder from which the commands are run.
        fresh: run all, whatever was finished before.
        needs: name -> phases that it reads from; a phase that is not named needs all before it.
        at_once: so many phases run side by side, and share the cores.
        keep_going: after a failure all phases that do not need the failed one still run, and the error comes last.
        expected: seconds that phases take on this machine, as far as they are known.

    Returns:
        The finished phases in the order of `commands`.

    Raises:
        PhaseError: a command failed; its last lines, its log and the way to go on are named.
    """
    names = list(commands)
    waits_for = {
        name: [need for need in (needs or {}).get(name, names[:number]) if need in commands]
        for number, name in enumerate(names)
    }
    with _ended_by_sigterm():
        return _Runner(commands, directory, root, fresh, waits_for, expected or {}).run(at_once, keep_going)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leave by an exception on SIGTERM: else a terminated runner would leave its phases running."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its parent is gone, however that went; called between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


class _Running:
    """A phase whose process runs, its output going to a log."""

    def __init__(self, title: str, name: str, command: str, log: Path, root: Path, threads: int):
        self.title, self.name, self.command, self.log = title, name, command, log
        self.started, self.reader = time.time(), LogReader(log)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", *shlex.split(command)],
                cwd=root,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                # A phase that outlives a killed runner would write where the next runner's phase writes.
                preexec_fn=functools.partial(_end_with, os.getpid()),
            )

    def line(self, expected: float | None) -> Line:
        """How far it is."""
        return Line(self.title, time.time() - self.started, expected, self.reader.read())

    def finished(self) -> Phase:
        """The record of a process that ended.

        Raises:
            PhaseError: it failed.
        """
        if self.process.returncode:
            raise PhaseError(
                f"{self.title} failed with status {self.process.returncode}; its last lines:\n{tail(self.log)}\n"
                f"The whole output is in {self.log}. Mend the cause and run the same command again: "
                "finished phases are not repeated."
            )
        return Phase(self.name, self.command, self.started, time.time() - self.started, name_machine())


class _Runner:
    """The state of `run_phases`; its arguments are explained there."""

    def __init__(
        self,
        commands: Mapping[str, str],
        directory: Path,
        root: Path,
        fresh: bool,
        needs: Mapping[str, Sequence[str]],
        expected: Mapping[str, float],
    ):
        self.commands, self.directory, self.root, self.needs, self.expected = commands, directory, root, needs, expected
        self.state = directory / "state.json"
        known = {} if fresh else read_state(self.state)
        self.done = finished_phases(known, commands, needs)
        self.others = [entry for name, entry in known.items() if name not in commands]
        self.titles = {name: f"[{number:2d}/{len(commands)}] {name}" for number, name in enumerate(commands, 1)}
        self.running: list[_Running] = []
        self.failed: dict[str, PhaseError] = {}
        self.display = choose_display(sys.stderr)
        self.started = time.time()

    def run(self, at_once: int, keep_going: bool) -> list[Phase]:
        for done in self.done.values():
            self.display.say(f"{self.titles[done.name]}: done before, {done.seconds:.0f} s")
        try:
            while len(self.done) < len(self.commands):
                self._start(at_once)
                time.sleep(POLL_SECONDS)
                self._collect(keep_going)
                for phase in self.running:
                    phase.reader.follow()
                if self.running and self.display.due():
                    lines = [phase.line(self.expected.get(phase.name)) for phase in self.running]
                    self.display.show(lines, self._total(lines, at_once))
        finally:
            self.display.close()
            # After an error or an interrupt the others end too; they go on from their last checkpoint.
            for one in self.running:
                one.process.terminate()
            for one in self.running:
                one.process.wait()
        return [self.done[name] for name in self.commands]

    def _start(self, at_once: int) -> None:
        """Start as many phases as may run; raise the first failure where none may and none runs."""
        seen = {*self.done, *self.failed, *(phase.name for phase in self.running)}
        ready = [n for n in self.commands if n not in seen and all(need in self.done for need in self.needs[n])]
        if not ready and not self.running:
            raise next(iter(self.failed.values()))
        threads = max(1, len(os.sched_getaffinity(0)) // min(at_once, len(self.running) + len(ready)))
        for name in ready[: at_once - len(self.running)]:
            self.display.say(f"{self.titles[name]}: python {self.commands[name]}")
            log = self.directory / "logs" / f"{list(self.commands).index(name) + 1:02d}_{name}.log"
            self.running.append(_Running(self.titles[name], name, self.commands[name], log, self.root, threads))

    def _collect(self, keep_going: bool) -> None:
        """Note the phases that ended."""
        for phase in [phase for phase in self.running if phase.process.poll() is not None]:
            self.running.remove(phase)
            try:
                self.done[phase.name] = phase.finished()
            except PhaseError as error:
                if not keep_going:
                    raise
                self.failed[phase.name] = error
                self.display.say(f"{phase.title}: failed, see {phase.log}")
                continue
            self.display.say(f"{phase.title}: {self.done[phase.name].seconds:.0f} s")
            kept = [*(self.done[name] for name in self.commands if name in self.done), *self.others]
            entries = json.dumps([dataclasses.asdict(entry) for entry in kept], indent=1)
            write_text(self.state, entries)

    def _total(self, lines: Sequence[Line], at_once: int) -> Line:
        """How far all of them together are; without time left where that of a phase is not known."""
        slower = self._slower(lines)
        waiting = [name for name in self.commands if name not in {*self.done, *self.failed}]
        left = {name: slower * self.expected[name] if name in self.expected else None for name in waiting}
        left |= {phase.name: line.left for phase, line in zip(self.running, lines)}
        running = [phase.name for phase in self.running]
        known = {name: seconds for name, seconds in left.items() if seconds is not None}
        to_go = seconds_to_go(known, self.needs, at_once, running) if len(known) == len(left) else None
        return Line("all phases", time.time() - self.started, None, Progress(left=to_go))

    def _slower(self, lines: Sequence[Line]) -> float:
        """How many times as long as expected phases take, by those that ended and those that say how far they are."""
        took = [
            (phase.seconds, self.expected[name])
            for name, phase in self.done.items()
            if name in self.expected and phase.started >= self.started
        ]
        took += [
            (line.elapsed + line.progress.left, line.expected)
            for line in lines
            if line.expected and line.progress.left is not None
        ]
        expected = sum(wanted for _, wanted in took)
        return sum(seconds for seconds, _ in took) / expected if expected else 1.0
