"""The report of a pipeline: table, pictures, loss curves, videos, seconds and the machine, as Markdown."""

import fnmatch
import logging
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, elapsed
from synctalklip.tables.render import pipe_table


class Curve(NamedTuple):
    """One scalar of a run over its steps."""

    name: str
    steps: list[int]
    values: list[float]


def read_curves(directory: str | Path, patterns: Sequence[str] = ("*",)) -> list[Curve]:
    """All TensorBoard scalars below `directory` whose name fits a pattern.

    A name is the tag, with the folder of its event file (relative to `directory`) in front where there is
    one, such as `valid/loss`. Event files of a resumed run are joined; a step that was run twice keeps its
    later value.

    Raises:
        SyncTalklipError: there is no event file below `directory`, or no scalar fits.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.WARNING)

    directory = Path(directory)
    folders = sorted({path.parent for path in directory.rglob("events.out.tfevents.*")})
    if not folders:
        raise SyncTalklipError(f"{directory}: holds no TensorBoard event file; has the run been started?")
    curves, names = [], []
    for folder in folders:
        events = EventAccumulator(str(folder), {"scalars": 0}, purge_orphaned_data=False).Reload()
        for tag in events.Tags()["scalars"]:
            name = (folder.relative_to(directory) / tag).as_posix()
            names.append(name)
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                ordered = sorted(events.Scalars(tag), key=lambda event: event.wall_time)
                points = {event.step: event.value for event in ordered}
                steps = sorted(points)
                curves.append(Curve(name, steps, [points[step] for step in steps]))
    if not curves:
        raise SyncTalklipError(f"{directory}: no curve is named {' or '.join(patterns)}; there are {', '.join(names)}")
    return curves


def plot_curves(runs: Mapping[str, Sequence[Curve]], path: str | Path) -> None:
    """Draw one panel a run, one line a curve, into a PNG."""
    from matplotlib.figure import Figure

    columns = min(3, max(1, len(runs)))
    rows = max(1, math.ceil(len(runs) / columns))
    figure = Figure(figsize=(5 * columns, 3.4 * rows), layout="constrained")
    for index, (title, curves) in enumerate(runs.items(), 1):
        axes = figure.add_subplot(rows, columns, index, title=title, xlabel="step")
        for curve in curves:
            axes.plot(curve.steps, curve.values, marker="." if len(curve.steps) < 30 else "", label=curve.name)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize="small")
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=100))


def describe_machine() -> dict[str, str]:
    """What the figures were measured on."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "GPU": ", ".join(gpus) or "none",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def report(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Write the report of a pipeline that has a `report`, see `write_report`, and say where it is.

    Args:
        config: the composed pipeline in plain containers.
        phases: what was run.
        root: folder that the paths of the report start at.
    """
    return f"report: {write_report(root / config['run']['dir'], phases, config['report'], root)}"


def write_report(directory: str | Path, phases: Sequence[Phase], content: Mapping[str, Any], root: Path) -> Path:
    """Write `directory/report.md` and the loss curves beside it.

    Args:
        directory: folder of the report.
        phases: what was run, with its seconds.
        content: title, note; tables: Markdown files; strips: globs of pictures; videos: globs of mp4 files;
            curves: {any name: {title, folder, names: patterns as for `read_curves`}}, an entry that is null is
            left out. Paths start at `root`.
        root: folder that the paths of `content` start at.

    Returns:
        The report.

    Raises:
        SyncTalklipError: a table, picture, video or run that the report should show is missing.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    runs = {
        entry["title"]: read_curves(root / entry["folder"], entry["names"])
        for entry in content["curves"].values()
        if entry
    }
    curves = directory / "curves.png"
    plot_curves(runs, curves)
    lines = [f"# {content['title']}", "", content["note"].strip(), "", "## Results"]
    for table, _ in _found(content["tables"], root, directory):
        lines += ["", table.read_text().strip()]
    if content["strips"]:
        lines += ["", "## Frames", ""]
        lines += [f"![{path.stem}]({link})\n" for path, link in _found(content["strips"], root, directory)]
    lines += ["", "## Curves", "", f"![curves]({curves.name})", "", _curve_table(runs)]
    if content["videos"]:
        lines += ["", "## Videos", ""]
        lines += [f"- [{link}]({link})" for _, link in _found(content["videos"], root, directory)]
    lines += ["", "## Seconds per phase", "", _phase_table(phases)]
    lines += ["", "## Machine", ""]
    lines += [f"- {name}: {value}" for name, value in describe_machine().items()]
    report = directory / "report.md"
    write_atomically(report, lambda part: part.write_text("\n".join(lines) + "\n"))
    return report


def _found(patterns: Iterable[str], root: Path, directory: Path) -> list[tuple[Path, str]]:
    """Files that fit the patterns, with their links as seen from `directory`."""
    found = []
    for pattern in patterns:
        paths = sorted(root.glob(pattern)) if not Path(pattern).is_absolute() else _absolute_glob(pattern)
        if not paths:
            raise SyncTalklipError(f"{pattern}: the report should show this file, but no phase wrote it")
        found += [(path, Path(os.path.relpath(path, directory)).as_posix()) for path in paths]
    return found


def _absolute_glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _curve_table(runs: Mapping[str, Sequence[Curve]]) -> str:
    rows = []
    for title, curves in runs.items():
        for curve in curves:
            values = (curve.values[0], curve.values[-1], min(curve.values), max(curve.values))
            rows.append([title, curve.name, str(curve.steps[-1]), *(f"{value:.4g}" for value in values)])
    return pipe_table(["run", "curve", "steps", "first", "last", "lowest", "highest"], rows)


def _phase_table(phases: Sequence[Phase]) -> str:
    rows = [[phase.name, f"{phase.seconds:.0f}", f"`python {phase.command}`"] for phase in phases]
    rows.append(["from start to end", f"{elapsed(phases):.0f}", "some phases ran side by side"])
    return pipe_table(["phase", "seconds", "command"], rows)
