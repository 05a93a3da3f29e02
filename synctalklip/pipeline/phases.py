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
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError

TAIL_LINES = 20
POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 30


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its parent is gone, however that went; called between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


class PhaseError(SyncTalklipError):
    """A phase that ended with an error; the message carries its last lines."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A finished phase.

    Attributes:
        name: its name in the configuration.
        command: the command line, without the interpreter.
        started: when it started, in seconds since the epoch.
        seconds: how long it ran.
        machine: what it ran on, "" where that was not written down.
    """

    name: str
    command: str
    started: float
    seconds: float
    machine: str = ""


@functools.cache
def name_machine() -> str:
    """The GPU where there is one, and the cores that this process may use."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{len(os.sched_getaffinity(0))} cores"


def elapsed(phases: Sequence[Phase]) -> float:
    """Seconds in which at least one of the phases ran; phases that ran side by side count once."""
    total, covered = 0.0, 0.0
    for phase in sorted(phases, key=lambda phase: phase.started):
        end = phase.started + phase.seconds
        total += max(0.0, end - max(covered, phase.started))
        covered = max(covered, end)
    return total


class _Running:
    """A phase whose process runs, its output going to a log."""

    def __init__(self, title: str, name: str, command: str, log: Path, root: Path, threads: int):
        self.title, self.name, self.command, self.log = title, name, command, log
        self.started, self.reported = time.time(), time.perf_counter()
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

    def report(self) -> None:
        """Say now and then how far it is."""
        if time.perf_counter() - self.reported >= HEARTBEAT_SECONDS:
            _say(f"{self.title}: {time.time() - self.started:.0f} s  {_last_line(self.log)}")
            self.reported = time.perf_counter()

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


def run_phases(
    commands: Mapping[str, str],
    directory: Path,
    root: Path,
    fresh: bool = False,
    needs: Mapping[str, Sequence[str]] | None = None,
    at_once: int = 1,
    keep_going: bool = False,
) -> list[Phase]:
    """Run command lines with this Python; skip what an earlier call finished.

    A phase is skipped only if its command and those of all phases that it needs are the same as then, and none of those
    ran again since. Phases that are not among `commands` stay in the state, except in a fresh run. The output of each
    goes to `directory/logs`.

    Args:
        commands: name -> "scripts/x.py key=value ...", in order; an empty command leaves the phase out.
        directory: where the state and the logs are kept.
        root: folder from which the commands are run.
        fresh: run all, whatever was finished before.
        needs: name -> phases that it reads from; a phase that is not named needs all before it.
        at_once: so many phases run side by side, and share the cores.
        keep_going: after a failure all phases that do not need the failed one still run, and the error comes last.

    Returns:
        The finished phases in the order of `commands`.

    Raises:
        PhaseError: a command failed; its last lines, its log and the way to go on are named.
    """
    commands = {name: " ".join(command.split()) for name, command in commands.items() if command}
    names = list(commands)
    needs = {
        name: [need for need in (needs or {}).get(name, names[:number]) if need in commands]
        for number, name in enumerate(names)
    }
    state = directory / "state.json"
    known = {} if fresh else read_state(state)
    done = _finished(known, commands, needs)
    others = [entry for name, entry in known.items() if name not in commands]
    titles = {name: f"[{number:2d}/{len(names)}] {name}" for number, name in enumerate(names, 1)}
    for phase in done.values():
        _say(f"{titles[phase.name]}: done before, {phase.seconds:.0f} s")
    running: list[_Running] = []
    failed: dict[str, PhaseError] = {}
    cores = len(os.sched_getaffinity(0))
    # Without this a terminated demo would leave its phases running, and the next one would write where they do.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while len(done) < len(names):
            started = {*done, *failed, *(phase.name for phase in running)}
            ready = [name for name in names if name not in started and all(need in done for need in needs[name])]
            if not ready and not running:
                raise next(iter(failed.values()))
            side_by_side = min(at_once, len(running) + len(ready))
            for name in ready[: at_once - len(running)]:
                _say(f"{titles[name]}: python {commands[name]}")
                log = directory / "logs" / f"{names.index(name) + 1:02d}_{name}.log"
                threads = max(1, cores // side_by_side)
                running.append(_Running(titles[name], name, commands[name], log, root, threads))
            time.sleep(POLL_SECONDS)
            for phase in [phase for phase in running if phase.process.poll() is not None]:
                running.remove(phase)
                try:
                    done[phase.name] = phase.finished()
                except PhaseError as error:
                    if not keep_going:
                        raise
                    failed[phase.name] = error
                    _say(f"{phase.title}: failed, see {phase.log}")
                    continue
                _say(f"{phase.title}: {done[phase.name].seconds:.0f} s")
                kept = [*(done[name] for name in names if name in done), *others]
                entries = json.dumps([dataclasses.asdict(entry) for entry in kept], indent=1)
                write_atomically(state, lambda part, entries=entries: part.write_text(entries))
            for phase in running:
                phase.report()
    finally:
        # After an error or an interrupt the others end too; they go on from their last checkpoint.
        for phase in running:
            phase.process.terminate()
        for phase in running:
            phase.process.wait()
        signal.signal(signal.SIGTERM, before)
    return [done[name] for name in names]


def read_state(state: Path) -> dict[str, Phase]:
    """The finished phases by name, from the `state.json` that `run_phases` wrote; none where there is no such file.

    Raises:
        SyncTalklipError: the file is damaged.
    """
    if not state.is_file():
        return {}
    try:
        return {entry["name"]: Phase(**entry) for entry in json.loads(state.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise SyncTalklipError(f"{state}: is damaged ({error}); delete it and run again") from error


def _finished(
    entries: Mapping[str, Phase], commands: Mapping[str, str], needs: Mapping[str, Sequence[str]]
) -> dict[str, Phase]:
    """The phases that ran before with these very commands, after what they need."""
    done: dict[str, Phase] = {}
    for name, command in commands.items():
        entry = entries.get(name)
        if entry is None or entry.command != command or not all(need in done for need in needs[name]):
            continue
        if all(done[need].started + done[need].seconds <= entry.started + 1 for need in needs[name]):
            done[name] = entry
    return done


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file; of a progress bar only its last state."""
    with open(log, encoding="utf-8", errors="replace", newline="") as stream:
        last = deque((line.rstrip("\r\n").rsplit("\r", 1)[-1] for line in stream), maxlen=lines)
    return "\n".join(last)


def _last_line(log: Path) -> str:
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - 500))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1].strip()[:100] if lines else ""


def _say(line: str) -> None:
    print(line[:200], file=sys.stderr, flush=True)
