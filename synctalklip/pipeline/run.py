"""A pipeline from its configuration: what it will do, how long that takes on this machine, its phases, its report."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from synctalklip.cli import CONFIGS, build
from synctalklip.device import choose_device, choose_precision, describe_device
from synctalklip.pipeline.phases import (
    Phase,
    Planned,
    as_override,
    choose,
    finished_phases,
    name_machine,
    plan_phases,
    read_state,
    seconds_to_go,
)
from synctalklip.pipeline.runner import run_phases

PROBES = 10


def probe_seconds(device: torch.device) -> float:
    """Seconds of one training step of a small conv net on `device`, in the precision that it computes in.

    The fastest of `PROBES`, so that what else runs on the machine counts little.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1)).to(device)
    images = torch.rand(4, 3, 96, 96, device=device)
    precision = choose_precision("auto", device)

    def step() -> None:
        with precision.autocast(device):
            loss = net(images).square().mean()
        loss.backward()

    return min(_seconds_of(step, device) for _ in range(PROBES))


def _seconds_of(step: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def seconds_left(
    config: Mapping[str, Any], plan: Sequence[Planned], root: Path, ratios: Mapping[str, float]
) -> dict[str, float | None]:
    """Seconds that each phase will take which is not finished; None where that is not known.

    Args:
        config: the composed pipeline in plain containers.
        plan: its phases.
        root: folder that the folders of phases start at.
        ratios: how many times as long as on the reference machine a computation takes here, by device of phases.
    """
    known = {} if config["fresh"] else read_state(root / config["run"]["dir"] / "state.json")
    done = finished_phases(
        known, {phase.name: phase.command for phase in plan}, {phase.name: phase.needs for phase in plan}
    )
    return {phase.name: _seconds(phase, config, root, ratios) for phase in plan if phase.name not in done}


def _seconds(phase: Planned, config: Mapping[str, Any], root: Path, ratios: Mapping[str, float]) -> float | None:
    if phase.script == "pipeline":
        return _pipeline_seconds(phase, root, ratios)
    if phase.seconds is None:
        return None
    least = config["reference"]["least"] if phase.least is None else phase.least
    return max(least, ratios[phase.device]) * phase.seconds


def _pipeline_seconds(phase: Planned, root: Path, ratios: Mapping[str, float]) -> float | None:
    """Seconds from start to end of a phase that is a pipeline itself."""
    overrides = [*phase.overrides, f"run.dir={as_override(phase.folder)}"]
    if GlobalHydra.instance().is_initialized():
        composed = compose("pipeline", overrides)
    else:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("pipeline", overrides)
    config: Any = OmegaConf.to_container(composed, resolve=True)
    plan = plan_phases(config)
    return seconds_in_all(seconds_left(config, plan, root, ratios), plan, config["at_once"])


def seconds_in_all(left: Mapping[str, float | None], plan: Sequence[Planned], at_once: int) -> float | None:
    """Seconds from start to end of all phases of `left`; None where one of them is not known."""
    known = {name: seconds for name, seconds in left.items() if seconds is not None}
    if len(known) < len(left):
        return None
    return seconds_to_go(known, {phase.name: phase.needs for phase in plan}, at_once)


def expectations(config: Mapping[str, Any], plan: Sequence[Planned], root: Path) -> tuple[dict[str, float], str]:
    """How long phases will take on this machine, from a probe of a second or two.

    Args:
        config: the composed pipeline in plain containers.
        plan: the phases that will be run.
        root: folder that their folders start at.

    Returns:
        Seconds by phase, as far as they are known, and the same for a reader.
    """
    reference = config["reference"]
    devices = {name: choose_device(name) for name in ("cpu", config["device"])}
    probes = {device: probe_seconds(device) for device in dict.fromkeys(devices.values())}
    ratios = {name: probes[device] / reference["probe"] for name, device in devices.items()}
    left = seconds_left(config, plan, root, {"auto": ratios[config["device"]]} | ratios)
    took = ", ".join(
        f"{1000 * seconds:.0f} ms on {describe_device(device)} in {choose_precision('auto', device).name}"
        for device, seconds in probes.items()
    )
    lines = [
        f"{name_machine()}. Probe: {took}; {1000 * reference['probe']:.0f} ms on the reference machine, "
        f"{reference['machine']}. Expected:"
    ]
    width = max(len(phase.name) for phase in plan)
    lines += [f"  {phase.name:{width}}  {_told(left[phase.name]) if phase.name in left else 'done'}" for phase in plan]
    together = _told(seconds_in_all(left, plan, config["at_once"])) if left else "done"
    side = f", up to {config['at_once']} side by side" if config["at_once"] > 1 else ""
    lines.append(f"  {'in all':{width}}  {together}{side}")
    return {name: seconds for name, seconds in left.items() if seconds is not None}, "\n".join(lines)


def _told(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


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
