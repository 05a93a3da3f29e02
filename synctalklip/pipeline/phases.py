"""What is known of the phases of a pipeline: which of them ran, when, and how long those take that are still to run."""

import dataclasses
import functools
import heapq
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from synctalklip.errors import SyncTalklipError


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


def seconds_to_go(
    left: Mapping[str, float], needs: Mapping[str, Collection[str]], at_once: int, running: Collection[str] = ()
) -> float:
    """Seconds until all phases have ended, when as many as allowed run side by side.

    Args:
        left: seconds that each unfinished phase still takes, in the order in which phases start.
        needs: names that each phase waits for.
        at_once: so many run side by side.
        running: those of `left` that run already.
    """
    ends = [(left[name], name) for name in running]
    heapq.heapify(ends)
    waiting = [name for name in left if name not in running]
    ended: set[str] = set()
    now = 0.0
    while ends or waiting:
        ready = [name for name in waiting if all(need in ended or need not in left for need in needs.get(name, ()))]
        for name in ready[: at_once - len(ends)]:
            waiting.remove(name)
            heapq.heappush(ends, (now + left[name], name))
        if not ends:
            break
        now, name = heapq.heappop(ends)
        ended.add(name)
    return now


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


def finished_phases(
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
