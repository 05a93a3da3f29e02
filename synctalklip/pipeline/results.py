"""RESULTS.md: targets, remedies, tables, curves, pictures and costs of a list of runs.

Places of rows are explained in `targets.py`; all places start at the root of the repository.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, elapsed
from synctalklip.pipeline.plan import phase_command, recorded, unfinished
from synctalklip.pipeline.report import plot_curves, read_curves
from synctalklip.tables.check_results import state_shipped
from synctalklip.tables.claims import find_runs, judge
from synctalklip.tables.markdown import table
from synctalklip.tables.render import bullets, markdown
from synctalklip.tables.table import Layout, build_tables


def report(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Write the results, see `write_results`, and say where they are."""
    return f"results: {write_results(config, root)}"


def write_results(config: Mapping[str, Any], root: Path) -> Path:
    """Write RESULTS.md, the pictures that it shows and the figures of the shipped weights, from what the runs left.

    Args:
        config: the composed `configs/pipeline/results.yaml` in plain containers.
        root: folder that all places start at.

    Returns:
        RESULTS.md. What is missing from it because a phase is not finished is named at its top.

    Raises:
        SyncTalklipError: a finished phase left out what should be shown, or its files are damaged.
    """
    known = {"targets", "remedies", *config["tables"]}
    for topic in config["remarks"]:
        if topic not in known:
            raise SyncTalklipError(f"remarks: there is no section {topic!r}; choose from {', '.join(sorted(known))}")
    missing = unfinished(config, root)
    lines = [
        "# Results",
        "",
        "Written by `make grid-results GRID=folder` from what its runs left; see configs/pipeline/results.yaml.",
    ]
    if missing:
        lines += ["", f"**Not complete:** {', '.join(missing)} did not finish; what they have not written is missing."]
    lines += ["", "## Targets", "", *_targets(config, root), *_remarks(config, "targets")]
    lines += ["", "## Remedies for the word error rate", "", *_remedies(config, root), *_remarks(config, "remedies")]
    for topic, entry in config["tables"].items():
        if entry["phase"] not in missing:
            # The headings of a report stand below those of this one.
            text = re.sub(r"^#", "##", _text(root / entry["file"]), flags=re.MULTILINE)
            lines += ["", f"## {entry['title']}", "", text.strip(), *_remarks(config, topic)]
    lines += _pictures(config, missing, root)
    lines += ["", "## Shipped weights", "", bullets(state_shipped(config, root))]
    lines += ["", "## Hardware, seconds and commands", "", *_costs(config, missing, root)]
    results = root / config["results"]
    text = hide_paths("\n".join(lines) + "\n", config["data"]["root"], root)
    write_atomically(results, lambda part: part.write_text(text, encoding="utf-8"))
    return results


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SyncTalklipError(f"{path}: should be shown, but cannot be read ({error.strerror})") from error


def _remarks(config: Mapping[str, Any], topic: str) -> list[str]:
    said = config["remarks"].get(topic)
    return ["", " ".join(said)] if said else []


def _targets(config: Mapping[str, Any], root: Path) -> list[str]:
    targets = config["targets"]
    verdicts = [judge(target, root, config["bootstrap"]["samples"], config["seed"]) for target in targets]
    rows = [
        [f"{target['name']}: {verdict.how}", *verdict.cells()]
        if verdict
        else [target["name"], "–", "–", "–", "**not measured**"]
        for target, verdict in zip(targets, verdicts)
    ]
    header = ["target, and how it is measured", "value", "bound", "value − bound [95 %]", "met"]
    missed = [target["name"] for target, verdict in zip(targets, verdicts) if verdict and not verdict.met]
    open_ = [target["name"] for target, verdict in zip(targets, verdicts) if verdict is None]
    said = f"{len(targets) - len(missed) - len(open_)} of {len(targets)} targets are met."
    said += f" Missed: {'; '.join(missed)}." if missed else ""
    said += f" Not measured: {'; '.join(open_)}." if open_ else ""
    note = (
        "Intervals are over resampled clips, paired where two rows are compared. Met: the mean is on the wanted side; "
        "*clearly*: so is the whole interval."
    )
    return [said, "", table(header, rows), "", note]


def _remedies(config: Mapping[str, Any], root: Path) -> list[str]:
    wanted = config["remedies"]
    found = [(entry["change"], find_runs(entry["row"], root)) for entry in wanted["rows"]]
    runs = [run for _, row in found for run in row]
    absent = [entry["row"].rsplit("/", 1)[-1] for entry, (_, row) in zip(wanted["rows"], found) if not row]
    lines = []
    if runs:
        layout = Layout("", wanted["columns"], None, True, wanted["against"], config["permutations"])
        lines = [markdown(made) for made in build_tables(runs, layout, config["bootstrap"]["samples"], config["seed"])]
        lines += ["What was changed:", ""]
        lines += [f"- {row[0].summary['name']}: {change}." for change, row in found if row]
    return [*lines, *([f"\nNot measured: {', '.join(absent)}."] if absent else [])]


def _pictures(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> list[str]:
    """Sections of curves and strips, whose files are written below `config["pictures"]`."""
    folder, lines = root / config["pictures"], []
    place = os.path.relpath(folder, (root / config["results"]).parent)
    curves = {
        entry["title"]: read_curves(root / entry["folder"], entry["names"])
        for entry in config["curves"].values()
        if entry["phase"] not in missing
    }
    if curves:
        plot_curves(curves, folder / "curves.png")
        lines += ["", "## Curves", "", f"![curves]({place}/curves.png)"]
    strips = {name: e for name, e in config["strips"]["files"].items() if e["phase"] not in missing}
    if strips:
        lines += ["", "## Frames"]
    for name, entry in strips.items():
        shrink(root / entry["file"], folder / f"{name}.jpg", config["strips"]["width"], config["strips"]["quality"])
        lines += ["", f"{entry['title']}:", "", f"![{entry['title']}]({place}/{name}.jpg)"]
    return lines


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


def _costs(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> Iterator[str]:
    """One table a run; the lines are not aligned, since commands are long."""
    total = 0.0
    for name in config["phases"]:
        if name not in missing:
            phases = recorded(config, name, root)
            total += elapsed(phases)
            yield from [f"`python {phase_command(config, name)}`:", ""]
            yield from ["| phase | machine | seconds | command |", "|---|---|--:|---|"]
            for phase in phases:
                machine = phase.machine or "not noted"
                yield f"| {phase.name} | {machine} | {phase.seconds:.0f} | `python {phase.command}` |"
            yield from [f"| from start to end | | {elapsed(phases):.0f} | |", ""]
    yield f"All together: {total:.0f} s. Phases that ran side by side count once."


def hide_paths(text: str, corpus: str, root: Path) -> str:
    """Text without folders of this machine: the corpus is called GRID, paths of the repository start at its root."""
    text = re.sub(r"""'data\.root="[^"]*"'""", "data.root=GRID", text)
    for path, shown in ((corpus.rstrip("/"), "GRID"), (f"{root}/", "")):
        text = text.replace(path, shown) if Path(path).is_absolute() else text
    return text
