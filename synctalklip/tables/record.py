"""The record of results: CSV and JSON files that hold all that RESULTS.md shows, one value a line.

`scores.csv` has the values of every model, `differences.csv` the paired tests, `comparisons.csv` the targets and the
claims, `iterations.csv` the iterations of eq. 3, `settings_<kind>.csv` the composed configurations, one column a model,
and `record.json` what is no number of a model: commands, machines, seconds, footnotes. Values stand in the unit in
which they are printed. Differences of one `family`, `tests` in number, were corrected together (Holm).
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.blocks import make_blocks
from synctalklip.tables.claims import Comparison
from synctalklip.tables.columns import choose
from synctalklip.tables.render import Table, write_rows
from synctalklip.tables.runs import Run, reader_names
from synctalklip.tables.table import Layout, build_tables, what_was_measured

Line = dict[str, Any]
PAPER = "paper"
"""Name of the column of the paper's configuration in `settings_<kind>.csv`."""


@dataclass
class Record:
    """What the files of a folder hold.

    Attributes:
        facts: `record.json`.
        scores, differences, comparisons, iterations: the lines of the files of those names.
        settings: kind of training -> run, as `<table>/<row>` or `PAPER` -> key of its configuration -> value.
    """

    facts: dict[str, Any]
    scores: list[Line] = field(default_factory=list)
    differences: list[Line] = field(default_factory=list)
    comparisons: list[Line] = field(default_factory=list)
    iterations: list[Line] = field(default_factory=list)
    settings: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)


_LINES = ("scores", "differences", "comparisons", "iterations")


def write_record(record: Record, folder: Path) -> None:
    """Write all files of a record; files of an earlier one are replaced."""
    for name in _LINES:
        write_rows(folder / f"{name}.csv", getattr(record, name))
    for old in folder.glob("settings_*.csv"):
        old.unlink()
    for kind, runs in record.settings.items():
        keys = dict.fromkeys(key for values in runs.values() for key in values)
        rows = [{"key": key} | {run: values.get(key, "") for run, values in runs.items()} for key in keys]
        write_rows(folder / f"settings_{kind}.csv", rows)
    text = json.dumps(record.facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "record.json", lambda part: part.write_text(text, encoding="utf-8"))


def read_record(folder: Path) -> Record:
    """The record that `write_record` wrote.

    Raises:
        SyncTalklipError: a file is missing or damaged.
    """
    try:
        record = Record(json.loads((folder / "record.json").read_text(encoding="utf-8")))
        for name in _LINES:
            setattr(record, name, _read_rows(folder / f"{name}.csv"))
        for file in sorted(folder.glob("settings_*.csv")):
            rows = _read_rows(file)
            names = [name for name in rows[0] if name != "key"]
            kind = file.stem.removeprefix("settings_")
            record.settings[kind] = {name: {row["key"]: row[name] for row in rows if row[name]} for name in names}
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise SyncTalklipError(f"{folder}: holds no whole record ({error}); make grid-results writes it") from error
    return record


def _read_rows(path: Path) -> list[Line]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(
    name: str, runs: Mapping[str, Sequence[Run]], entry: Mapping[str, Any], samples: int, permutations: int, seed: int
) -> tuple[list[Line], list[Line], list[str]]:
    """What stands in a table, from its runs.

    Args:
        name: of the table.
        runs: row -> its runs, one a seed; all of one corpus and setting.
        entry: columns to measure, `shown` among them, and the model `against` which the others are tested in the
            columns `tested`.
        samples: bootstrap samples.
        permutations: of each test.
        seed: of both.

    Returns:
        Lines of `scores.csv`, lines of `differences.csv`, footnotes of the columns that are shown.

    Raises:
        MetricError: runs that cannot be compared, or a column that does not exist.
    """
    every = [run for found in runs.values() for run in found]
    (block,) = make_blocks(every, (), None)
    layout = Layout("", entry["columns"], None, True, entry.get("against"), permutations, entry.get("tested"))
    main, *tests = build_tables(every, layout, samples, seed)
    rows = {found[0].summary["name"]: row for row, found in runs.items() if found}
    scores = []
    for method, line in zip(block.methods, main.blocks[0][1], strict=True):
        counted = min(len(run.rows) for run in method.runs)
        head: dict[str, Any] = {"table": name, "row": rows[method.name], "model": method.name}
        head |= {"kind": method.runs[0].summary["kind"], "seeds": len(method.runs), "clips": counted}
        scores += [head | cell for cell in _cells(main, line.cells, ("value", "low", "high", "spread", "mark"))]
    differences = []
    for table in tests:
        lines = table.blocks[0][1]
        count = sum(cell.p == cell.p for line in lines for cell in line.cells)
        for line in lines:
            head = {"table": name, "family": name, "tests": count, "model": line.name, "against": entry["against"]}
            differences += [head | cell for cell in _cells(table, line.cells, ("value", "low", "high", "p"))]
    shown = [metric for metric in choose(entry["shown"], reader_names(every)) if any(run.has(metric) for run in every)]
    return scores, differences, what_was_measured([block], shown)


def _cells(table: Table, cells: Sequence[Any], names: Sequence[str]) -> list[Line]:
    """One dictionary a cell that has a value."""
    found = []
    for column, cell in zip(table.columns, cells, strict=True):
        values = {name: getattr(cell, name) for name in names}
        if values["value"] == values["value"]:
            mark = {"mark": values.pop("mark")} if "mark" in values else {}
            shown = {name: value if name == "p" else column.scaled(value) for name, value in values.items()}
            found.append({"column": column.key} | {n: "" if v != v else repr(v) for n, v in shown.items()} | mark)
    return found


def comparison_line(kind: str, table: str, found: Comparison) -> Line:
    """A line of `comparisons.csv`; `kind` is target or claim."""
    value, low, high = found.gap
    other = "" if found.other_value != found.other_value else found.other_value
    return {
        "kind": kind, "table": table, "name": found.name, "model": found.model, "other": found.other,
        "column": found.column.key, "value": found.value, "other_value": other, "relation": found.relation,
        "bound": found.bound, "gap": value, "low": low, "high": high, "verdict": found.verdict,
    }  # fmt: skip
