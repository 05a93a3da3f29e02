"""The phases of a pipeline as command lines, from its configuration."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from synctalklip.cli import build
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, read_state


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
