"""RESULTS.md and its page of commands, from the runs or again from the record that was made of them.

All places start at the root of the repository.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically, write_text
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.collect import collect
from synctalklip.pipeline.phases import Phase
from synctalklip.pipeline.plan import unfinished
from synctalklip.pipeline.report import plot_curves, read_curves
from synctalklip.tables.pages import commands_page, results_page
from synctalklip.tables.record import read_record, write_record


def report(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Write the results, see `write_results`, or again from the record alone, and say where they are."""
    write = write_results if config["collect"] else render_results
    return f"results: {write(config, root)}"


def write_results(config: Mapping[str, Any], root: Path) -> Path:
    """Collect what the runs left into the record, and write RESULTS.md and its page of commands from it.

    Args:
        config: the composed `configs/pipeline/results.yaml` in plain containers.
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
        write_text(root / name, text)
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
