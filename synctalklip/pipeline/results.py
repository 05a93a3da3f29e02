"""RESULTS.md and its page of commands, from the runs or again from the record that was made of them.

All places start at the root of the repository.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synctalklip.benchmark.timing import median_seconds
from synctalklip.checkpoint import write_atomically
from synctalklip.device import choose_device, choose_precision
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.collect import collect
from synctalklip.pipeline.phases import name_machine
from synctalklip.pipeline.report import plot_curves, read_curves
from synctalklip.tables.pages import commands_page, results_page
from synctalklip.tables.record import read_record, write_record


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


def unfinished(config: Mapping[str, Any], root: Path) -> list[str]:
    """Names of the phases whose last file is not there."""
    return [name for name, p in config["phases"].items() if not (root / p["folder"] / p["leaves"]).is_file()]


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


def write_results(config: Mapping[str, Any], root: Path) -> Path:
    """Collect what the runs left into the record, and write RESULTS.md and its page of commands from it.

    Args:
        config: the composed `configs/results.yaml` in plain containers.
        root: folder that all places start at.

    Returns:
        RESULTS.md. What is missing from it because a phase is not finished is named at its top.

    Raises:
        SyncTalklipError: a finished phase left out what should be shown, or its files are damaged.
    """
    missing = unfinished(config, root)
    record = collect(config, missing, root)
    record.facts["curves"], record.facts["strips"] = _pictures(config, missing, root)
    write_record(record, root / config["pictures"])
    return render_results(config, root)


def render_results(config: Mapping[str, Any], root: Path) -> Path:
    """Write RESULTS.md and its page of commands from the record alone; arguments and result as for `write_results`.

    Raises:
        SyncTalklipError: there is no whole record.
    """
    record = read_record(root / config["pictures"])
    pages = {config["results"]: results_page(record, config), config["commands_page"]: commands_page(record, config)}
    for name, text in pages.items():
        write_atomically(root / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
    return root / config["results"]


def _pictures(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> tuple[bool, list[str]]:
    """Write curves and strips below `config["pictures"]`; whether there are curves, and the names of the strips."""
    folder = root / config["pictures"]
    curves = {
        entry["title"]: read_curves(root / entry["folder"], entry["names"])
        for entry in config["curves"].values()
        if entry["phase"] not in missing
    }
    if curves:
        plot_curves(curves, folder / "curves.png")
    strips = {name: e for name, e in config["strips"]["files"].items() if e["phase"] not in missing}
    for name, entry in strips.items():
        shrink(root / entry["file"], folder / f"{name}.jpg", config["strips"]["width"], config["strips"]["quality"])
    return bool(curves), list(strips)


def shrink(source: Path, output: Path, width: int, quality: int) -> None:
    """Copy a picture as a JPEG of at most `width` pixels.

    Raises:
        SyncTalklipError: `source` is missing or no picture.
    """
    import cv2

    picture = cv2.imread(str(source)) if source.is_file() else None
    if picture is None:
        raise SyncTalklipError(f"{source}: should be shown, but is missing or no picture; run its phase again")
    factor = min(1.0, width / picture.shape[1])
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write_atomically(output, lambda part: part.write_bytes(encoded.tobytes()))
