"""A pipeline from its configuration: what it will do and how long that takes, its phases, its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from synctalklip.cli import build
from synctalklip.pipeline.expected import expectations
from synctalklip.pipeline.phases import Phase, read_state
from synctalklip.pipeline.plan import Planned, choose, plan_phases
from synctalklip.pipeline.runner import run_phases


def run_pipeline(cfg: DictConfig, root: Path) -> str:
    """Run the phases of a pipeline, skip what is finished, and write its report.

    Args:
        cfg: the composed `configs/pipeline.yaml`.
        root: folder from which the commands are run.

    Returns:
        What its report says of itself; "" where none is written.

    Raises:
        SyncTalklipError: the pipeline cannot be planned, a phase failed, or left out what the report should show.
    """
    config: Any = OmegaConf.to_container(cfg)
    plan = plan_phases(config)
    if config["only"] or not config["write"]:
        run_planned(config, choose(plan, config["only"]), root)
    if not config["finish"] or (config["only"] and not config["write"]):
        return ""
    known = read_state(Path(config["run"]["dir"]).resolve() / "state.json")
    return build(config["finish"])(config, [known[phase.name] for phase in plan if phase.name in known], root)


def run_planned(config: Mapping[str, Any], plan: Sequence[Planned], root: Path) -> list[Phase]:
    """Say how long phases will take, and run them.

    Args:
        config: the composed pipeline in plain containers.
        plan: the phases, all of its own or some.
        root: folder from which the commands are run.

    Raises:
        PhaseError: a phase failed.
    """
    seconds, told = expectations(config, plan, root)
    print(told, flush=True)
    return run_phases(
        {phase.name: phase.command for phase in plan},
        Path(config["run"]["dir"]).resolve(),
        root,
        fresh=config["fresh"],
        needs={phase.name: phase.needs for phase in plan},
        at_once=config["at_once"],
        keep_going=config["keep_going"],
        expected=seconds,
    )
