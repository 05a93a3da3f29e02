"""Run a list of command lines one after the other, resumably, as a user would type them."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError

TAIL_LINES = 20
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 30


class PhaseError(SyncTalklipError):
    """A phase that ended with an error; the message carries its last lines."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A finished phase.

    Attributes:
        name: its name in the configuration.
        command: the command line, without the interpreter.
        seconds: how long it ran, summed over interrupted attempts that were counted.
    """

    name: str
    command: str
    seconds: float


def run_phases(commands: Mapping[str, str], directory: Path, root: Path, fresh: bool = False) -> list[Phase]:
    """Run each command line with this Python; skip what an earlier call finished.

    A phase is skipped only if its command and those of all phases before it are the same as then, because
    each phase reads what the earlier ones wrote. The output of each goes to `directory/logs`.

    Args:
        commands: name -> "scripts/x.py key=value ...", in order; an empty command leaves the phase out.
        directory: where the state and the logs are kept.
        root: folder from which the commands are run.
        fresh: run all, whatever was finished before.

    Raises:
        PhaseError: a command failed; its last lines, its log and the way to go on are named.
    """
    commands = {name: " ".join(command.split()) for name, command in commands.items() if command}
    state = directory / "state.json"
    done = [] if fresh else _finished(state, commands)
    for number, (name, command) in enumerate(commands.items(), 1):
        title = f"[{number:2d}/{len(commands)}] {name}"
        if number <= len(done):
            _say(f"{title}: done before, {done[number - 1].seconds:.0f} s")
            continue
        _say(f"{title}: python {command}")
        started = time.perf_counter()
        _run(title, shlex.split(command), directory / "logs" / f"{number:02d}_{name}.log", root)
        done.append(Phase(name, command, time.perf_counter() - started))
        entries = json.dumps([dataclasses.asdict(phase) for phase in done], indent=1)
        write_atomically(state, lambda part, entries=entries: part.write_text(entries))
        _say(f"{title}: {done[-1].seconds:.0f} s")
    return done


def _finished(state: Path, commands: Mapping[str, str]) -> list[Phase]:
    """The phases at the head of the list that ran before with these very commands."""
    if not state.is_file():
        return []
    try:
        entries = [Phase(**entry) for entry in json.loads(state.read_text())]
    except (ValueError, TypeError) as error:
        raise SyncTalklipError(f"{state}: is damaged ({error}); delete it and run again") from error
    done = []
    for entry, (name, command) in zip(entries, commands.items()):
        if (entry.name, entry.command) != (name, command):
            break
        done.append(entry)
    return done


def _run(title: str, arguments: Sequence[str], log: Path, root: Path) -> None:
    """Run one command, its output going to `log`, showing its last line while it runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = reported = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments], cwd=root, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while _runs(process):
                now = time.perf_counter()
                if sys.stderr.isatty():
                    _show(f"{title}: {now - started:.0f} s  {_last_line(log)}")
                elif now - reported >= HEARTBEAT_SECONDS:
                    _say(f"{title}: {now - started:.0f} s  {_last_line(log)}")
                    reported = now
        except BaseException:
            # An interrupt reaches the child too; it writes its checkpoint and ends by itself.
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise PhaseError(
            f"{title} failed with status {process.returncode}; its last lines:\n{tail(log)}\n"
            f"The whole output is in {log}. Mend the cause and run the same command again: "
            "finished phases are not repeated."
        )


def _runs(process: subprocess.Popen) -> bool:
    """Wait a moment; whether it still runs."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


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


def _show(line: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{line[:150]}")
    sys.stderr.flush()


def _say(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K")
    print(line, file=sys.stderr, flush=True)
