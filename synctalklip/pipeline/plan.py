"""The phases of a pipeline, from its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, read_state


def chosen_phases(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Commands and needs of the phases of `only`, or of all, for `phases.run_phases`.

    Raises:
        SyncTalklipError: `only` names a phase that does not exist.
    """
    phases, only = config["phases"], config["only"] or list(config["phases"])
    for name in only:
        if name not in phases:
            raise SyncTalklipError(f"only: there is no phase {name!r}; choose from {', '.join(phases)}")
    chosen = {name: phase for name, phase in phases.items() if name in only}
    return {name: p["command"] for name, p in chosen.items()}, {name: p["needs"] for name, p in chosen.items()}


def phase_command(config: Mapping[str, Any], name: str) -> str:
    """The command line of a phase, without the interpreter."""
    return " ".join(config["phases"][name]["command"].split())


def unfinished(config: Mapping[str, Any], root: Path) -> list[str]:
    """Names of the phases whose last file is not there."""
    return [name for name, p in config["phases"].items() if not (root / p["folder"] / p["leaves"]).is_file()]


def recorded(config: Mapping[str, Any], name: str, root: Path) -> list[Phase]:
    """The phases of a run that has some itself; else the run as a phase of this one."""
    inner = root / config["phases"][name]["folder"] / "state.json"
    if inner.is_file():
        return list(read_state(inner).values())
    outer = read_state(root / config["run"]["dir"] / "state.json")
    return [outer[name]] if name in outer else []
