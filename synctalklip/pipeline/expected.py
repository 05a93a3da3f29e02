"""How long the phases of a pipeline will take on this machine."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synctalklip.benchmark.timing import median_seconds
from synctalklip.device import choose_device, choose_precision
from synctalklip.pipeline.phases import name_machine
from synctalklip.pipeline.plan import unfinished


def expectations(config: Mapping[str, Any], names: Sequence[str], root: Path) -> str:
    """How long phases will take on this machine, from a probe of a second or two.

    Args:
        config: the composed `configs/results.yaml` in plain containers.
        names: the phases.
        root: folder that their places start at.
    """
    reference, left = config["reference"], unfinished(config, root)
    here = probe_seconds(choose_device(config["device"]))
    ratio = here / reference["probe"]
    expected = {
        name: max(phase.get("least", reference["least"]), ratio) * phase["seconds"]
        for name, phase in config["phases"].items()
        if name in names and name in left
    }
    lines = [
        f"{name_machine()}: {here:.3f} s for the probe, {reference['probe']:.3f} s on {reference['machine']}; "
        f"a phase takes about {ratio:.2f} times as long as there."
    ]
    lines += [f"  {name}: {_duration(expected[name]) if name in expected else 'done'}" for name in names]
    return "\n".join([*lines, f"  together: {_duration(sum(expected.values()))}"])


def probe_seconds(device: torch.device) -> float:
    """Seconds of one training step of a small conv net on `device`, in the precision that it computes in."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1)).to(device)
    images = torch.rand(4, 3, 96, 96, device=device)
    precision = choose_precision("auto", device)

    def step() -> None:
        with precision.autocast(device):
            net(images).square().mean().backward()

    return median_seconds(step, device, repeats=3)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"about {hours} h {minutes:02d} min" if hours else f"about {minutes} min"
