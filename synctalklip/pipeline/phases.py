"""The phases of a pipeline: command lines from its configuration, and what is known of them: which ran, when, and how
long those take that are still to run.
"""

import dataclasses
import functools
import heapq
import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from synctalklip.cli import build
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


@dataclass(frozen=True)
class Planned:
    """A phase that is to be run.

    Attributes:
        name: its name in the configuration.
        script: file in `scripts`, without its suffix.
        args: key -> value of its command line, `run.name` among them.
        needs: phases that it reads from.
        seconds: how long it takes on the reference machine; None where that is not known.
        least: share of `seconds` below which it is not expected on any machine; None for that of the pipeline.
        device: "cpu" where it computes there on every machine, else "auto".
        leaves: its last file, in its folder; None where none is named.
    """

    name: str
    script: str
    args: Mapping[str, Any]
    needs: tuple[str, ...]
    seconds: float | None = None
    least: float | None = None
    device: str = "auto"
    leaves: str | None = None

    @property
    def overrides(self) -> list[str]:
        """The arguments as Hydra reads them."""
        return [f"{key}={as_override(value)}" for key, value in self.args.items()]

    @property
    def command(self) -> str:
        """The command line, without the interpreter."""
        return shlex.join([f"scripts/{self.script}.py", *self.overrides])

    @property
    def folder(self) -> str:
        """Where it writes, from the root of the repository."""
        return f"outputs/{self.args['run.name']}"


_KEYS = {field.name for field in fields(Planned)} - {"name"} | {"shared", "run"}
_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"null", "true", "false", "nan", "inf"}


def as_override(value: Any) -> str:
    """A value in the grammar of Hydra's overrides; `hydra.core.override_parser` reads it back as it was.

    Raises:
        SyncTalklipError: a key of a mapping is not a plain word.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        for key in value:
            if not _PLAIN.fullmatch(str(key)):
                raise SyncTalklipError(
                    f"{key!r}: is no name that a command line can carry; use letters, digits, _ and -"
                )
        return "{" + ",".join(f"{key}:{as_override(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(as_override, value)) + "]"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return str(value)
    # Only backslashes before a quote are escapes.
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (r"\"" if found[2] else ""), value)
    return f'"{escaped}"'


def plan_phases(config: Mapping[str, Any]) -> list[Planned]:
    """The phases of a pipeline in order, without those that are `given`: what needs one of those needs what it needs.

    Args:
        config: a composed file of `configs/pipeline` in plain containers.

    Raises:
        SyncTalklipError: a phase lacks its script or has a setting that phases do not have, or arguments or phases are
            named that do not exist.
    """
    expand, given = config["expand"], config["given"]
    entries = build(expand)(config) if expand else config["phases"]
    for name in given:
        assert_known(name, entries, "given")
    needs = _needs(entries, given)
    return [_planned(name, entry, needs[name], config) for name, entry in entries.items() if name not in given]


def _needs(entries: Mapping[str, Mapping[str, Any]], given: Sequence[str]) -> dict[str, list[str]]:
    """What each phase needs that is not `given`."""
    names = list(entries)
    stated: dict[str, list[str]] = {}
    for name, entry in entries.items():
        needed = entry.get("needs")
        stated[name] = names[: names.index(name)] if needed is None else needed
    for name, needs in stated.items():
        for need in needs:
            assert_known(need, entries, f"phases.{name}.needs")
    found: dict[str, list[str]] = {}
    try:
        for name in TopologicalSorter(stated).static_order():
            instead = [found[need] if need in given else [need] for need in stated[name]]
            found[name] = list(dict.fromkeys(chain.from_iterable(instead)))
    except CycleError as error:
        raise SyncTalklipError(f"phases: {' needs '.join(reversed(error.args[1]))}") from None
    return found


def assert_known(name: str, known: Iterable[str], where: str) -> None:
    """Refuse the name of a phase that does not exist.

    Raises:
        SyncTalklipError: with `where` it was named and what could be.
    """
    if name not in known:
        raise SyncTalklipError(f"{where}: there is no phase {name!r}; choose from {', '.join(known)}")


def _planned(name: str, entry: Mapping[str, Any], needs: Sequence[str], config: Mapping[str, Any]) -> Planned:
    for key in sorted(set(entry) - _KEYS):
        raise SyncTalklipError(f"phases.{name}.{key}: is no setting of a phase; these are {', '.join(sorted(_KEYS))}")
    if not entry.get("script"):
        raise SyncTalklipError(f"phases.{name}: names no script")
    args: dict[str, Any] = {}
    for group in entry.get("shared", ()):
        if group not in config["shared"]:
            raise SyncTalklipError(f"phases.{name}.shared: there are no arguments {group!r} in shared")
        args |= config["shared"][group]
    args |= {"run.name": entry.get("run", f"{config['run']['name']}/{name}"), **entry.get("args", {})}
    rest = {key: entry[key] for key in ("seconds", "least", "device", "leaves") if key in entry}
    return Planned(name, entry["script"], args, tuple(needs), **rest)


def choose(plan: Sequence[Planned], only: Sequence[str] | None) -> list[Planned]:
    """The phases that `only` names, or all.

    Raises:
        SyncTalklipError: `only` names a phase that does not exist.
    """
    for name in only or ():
        assert_known(name, [phase.name for phase in plan], "only")
    return [phase for phase in plan if not only or phase.name in only]


def phase_command(config: Mapping[str, Any], name: str) -> str:
    """The command line of a phase, without the interpreter."""
    return _named(config, name).command


def _named(config: Mapping[str, Any], name: str) -> Planned:
    return next(phase for phase in plan_phases(config) if phase.name == name)


def unfinished(config: Mapping[str, Any], root: Path) -> list[str]:
    """Names of the phases whose last file is not there."""
    return [
        phase.name
        for phase in plan_phases(config)
        if phase.leaves and not (root / phase.folder / phase.leaves).is_file()
    ]


def recorded(config: Mapping[str, Any], name: str, root: Path) -> list[Phase]:
    """The phases of a phase that is a pipeline; any other one alone, if it ran."""
    inner = root / _named(config, name).folder / "state.json"
    if inner.is_file():
        return list(read_state(inner).values())
    outer = read_state(root / config["run"]["dir"] / "state.json")
    return [outer[name]] if name in outer else []
