"""What is stated of the shipped weights: written down from the runs that made them, and measured again."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import WEIGHTS, file_hash, origins, reason_of, write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.claims import find_runs, in_printed_unit, metric_of
from synctalklip.tables.markdown import table
from synctalklip.tables.runs import Run


def state_shipped(config: Mapping[str, Any], root: Path) -> list[str]:
    """Write the figures of the shipped weights, and say of each folder where they come from.

    Figures are those of the run that a folder was made from, before its matrices were halved. A folder that other runs
    made keeps what was stated of it, unless its weights changed.

    Args:
        config: the composed `configs/pipeline/results.yaml` in plain containers.
        root: folder that places start at.

    Returns:
        A sentence a folder, Markdown.

    Raises:
        SyncTalklipError: the file of figures or an evaluation is damaged.
    """
    file = root / config["stated"]
    before = _read_stated(file) if file.is_file() else {}
    stated: dict[str, dict[str, Any]] = {}
    said = []
    for name, wanted in config["shipped"].items():
        folder = root / config["checkpoints"] / name
        if not (folder / WEIGHTS).is_file():
            said.append(f"`{name}` is not there.")
            continue
        weights, made_of = file_hash(folder), origins(folder)
        run = next((run for run in find_runs(wanted["row"], root) if _hash_in(run, wanted["as"]) in made_of), None)
        if run is not None:
            figures = {column: round(in_printed_unit(run, column), 6) for column in wanted["columns"]}
            place = Path(os.path.relpath(run.path, root)).as_posix()
            stated[name] = {"sha256": weights, "run": place, "clips": len(run.rows), "metrics": figures}
            shown = ", ".join(f"{metric_of([run], column).label} {value:.4g}" for column, value in figures.items())
            said.append(f"`{name}` ({weights[:8]}) was measured in {place} on {len(run.rows)} clips: {shown}.")
        elif before.get(name, {}).get("sha256") == weights:
            stated[name] = before[name]
            said.append(f"`{name}` ({weights[:8]}) was made by other runs than these; what they stated of it stays.")
        else:
            said.append(f"`{name}` ({weights[:8]}) was made by other runs than these; nothing is stated of it.")
    content = json.dumps(stated, indent=1) + "\n"
    write_atomically(file, lambda part: part.write_text(content, encoding="utf-8"))
    return said


def _hash_in(run: Run, role: str) -> str | None:
    """SHA-256 of the model that a run measured, or of its judge `syncnet` or `readers.<name>`."""
    if role == "model":
        return run.summary.get("generated_sha256")
    judge = functools.reduce(lambda node, key: node.get(key) or {}, role.split("."), run.summary)
    return judge.get("sha256")


def _read_stated(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(entry) for name, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SyncTalklipError(f"{path}: cannot be read ({reason_of(error)}); make grid-results writes it") from error


def read_stated(config: Mapping[str, Any], root: Path) -> dict[str, dict[str, Any]]:
    """The stated figures of every shipped folder, after a look at its weights.

    Args:
        config: the composed `configs/check_results.yaml` in plain containers.
        root: folder that places start at.

    Returns:
        Folder -> sha256, run, clips and metrics, as `state_shipped` wrote them.

    Raises:
        SyncTalklipError: nothing is stated of a folder, it is missing, or it holds other weights.
    """
    stated = _read_stated(root / config["stated"])
    for name in config["rows"]:
        folder = root / config["checkpoints"] / name
        if not {"sha256", "clips", "metrics"} <= set(stated.get(name) or {}):
            raise SyncTalklipError(f"{config['stated']}: states nothing of {name}; make grid-results writes it")
        if not (folder / WEIGHTS).is_file():
            raise SyncTalklipError(f"{folder}: holds no {WEIGHTS}; check it out again")
        if (found := file_hash(folder)) != stated[name]["sha256"]:
            raise SyncTalklipError(
                f"{folder}: its weights ({found[:8]}) are not those of the stated figures "
                f"({stated[name]['sha256'][:8]}); check them out again, or state new ones with make grid-results"
            )
    return {name: stated[name] for name in config["rows"]}


def compare(config: Mapping[str, Any], stated: Mapping[str, Mapping[str, Any]], root: Path) -> tuple[str, list[str]]:
    """Hold measured values against stated ones.

    Args:
        config: as for `read_stated`.
        stated: what it returned.
        root: folder that places start at.

    Returns:
        A Markdown table, and what is off, such as "generator_grid in PSNR face".

    Raises:
        SyncTalklipError: a row was not measured, or on other clips, or a column has no tolerance.
    """
    rows, off = [], []
    for name, entry in stated.items():
        runs = find_runs(config["rows"][name], root)
        if not runs:
            raise SyncTalklipError(f"{config['rows'][name]}: holds no evaluation of {name}; run this command again")
        run = runs[0]
        if len(run.rows) != entry["clips"]:
            raise SyncTalklipError(
                f"{run.path}: has {len(run.rows)} clips, the figures of {name} come from {entry['clips']}; "
                "prepare the whole corpus: scripts/prepare.py data=grid data.root=..."
            )
        for column, expected in entry["metrics"].items():
            if column not in config["tolerances"]:
                raise SyncTalklipError(f"tolerances: there is none for {column!r}; give one: +tolerances.{column}=...")
            tolerance = config["tolerances"][column]
            metric, value = metric_of([run], column), in_printed_unit(run, column)
            difference = value - expected
            # Negated, so that a value that is no number is off.
            bad = not abs(difference) <= tolerance
            off += [f"{name} in {metric.label}"] if bad else []
            shown = [f"{number:.{metric.digits + 1}f}" for number in (expected, value)]
            answer = "**no**" if bad else "yes"
            rows.append([name, metric.label, *shown, f"{difference:+.{metric.digits + 1}f}", f"{tolerance:g}", answer])
    return table(["weights", "column", "stated", "measured", "difference", "tolerance", "holds"], rows), off
