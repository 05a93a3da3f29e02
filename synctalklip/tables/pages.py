"""RESULTS.md and the page of its commands, from the record of results and the templates beside this module.

A template holds words; every figure comes from the record. Which rows and columns a table shows is the part of
`configs/pipeline/results.yaml` that is called `tables` and `settings`. `what_ran` sets the composed configurations of
the models beside one another and beside that of the paper.
"""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2

from synctalklip.tables.claims import CLAIM_HEADER, HOLDS, TARGET_HEADER, Comparison
from synctalklip.tables.columns import METRICS, TABLE_2, Metric, choose
from synctalklip.tables.record import PAPER, Line, Record
from synctalklip.tables.render import SIGNIFICANT, Cell, Row, Table, bullets, markdown, pipe_table
from synctalklip.tables.table import best_of

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("synctalklip.tables", "."),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
NOT_MEASURED = "not measured"
MASKED_ACCURACY = (
    "Masked accuracy: share of hidden frames whose cluster was named, on validation clips, after the first epoch and "
    "at the end. Naming always the largest cluster would reach its share."
)
_GROUND_TRUTH = "ground_truth"


def results_page(record: Record, config: Mapping[str, Any]) -> str:
    """RESULTS.md.

    Args:
        record: of the results.
        config: the composed `configs/pipeline/results.yaml` in plain containers; of it `tables`, `settings`,
            `pictures`, `commands_page` and titles of strips are read.
    """
    tables = {name: _section(record, name, entry) for name, entry in config["tables"].items()}
    targets = [line for line in record.comparisons if line["kind"] == "target"]
    shown = {name: config["strips"]["files"][name]["title"] for name in record.facts["strips"]}
    return _TEMPLATES.get_template("results.md.j2").render(
        facts=record.facts,
        day=_day,
        tables={name: section for name, section in tables.items() if section},
        targets=pipe_table(TARGET_HEADER, map(_target_cells, targets)) if targets else "",
        met=[line["name"] for line in targets if line["verdict"] in ("yes", "clearly")],
        missed=[line["name"] for line in targets if line["verdict"] == "no"],
        unmeasured=[line["name"] for line in targets if line["verdict"] == NOT_MEASURED],
        count=len(targets),
        holds=HOLDS,
        settings=[what_ran(record, kind, entry, config["tables"]) for kind, entry in config["settings"].items()],
        iterations=_iterations(record.iterations),
        masked_accuracy=MASKED_ACCURACY,
        strips=shown,
        pictures=config["pictures"],
        commands=config["commands_page"],
        significant=SIGNIFICANT,
        costs=_costs(record.facts["runs"]),
    )


def commands_page(record: Record, config: Mapping[str, Any]) -> str:
    """The page of all commands behind RESULTS.md; arguments as for `results_page`."""
    return _TEMPLATES.get_template("commands.md.j2").render(facts=record.facts, day=_day, page=config["results"])


def _day(date: str | None) -> str:
    """2026-11-26 as 26 November 2026."""
    if not date:
        return "a day that was not noted"
    found = datetime.date.fromisoformat(date)
    return f"{found.day} {found:%B %Y}"


def _section(record: Record, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A table of models with its footnotes, the table of its tests and that of its claims; empty where nothing ran."""
    lines = [line for line in record.scores if line["table"] == name]
    if not lines:
        return {}
    table = _score_table(lines, entry)
    measured = {line["row"] for line in lines}
    rows = [row for group in entry["groups"].values() for row in group]
    tests = [line for line in record.differences if line["family"] == name]
    claims = [line for line in record.comparisons if line["kind"] == "claim" and line["table"] == name]
    return {
        "title": entry["title"],
        "table": markdown(table).strip(),
        "notes": bullets(record.facts["notes"].get(name, [])),
        "absent": [row for row in rows if row not in measured],
        "tests": _test_table(tests, entry["tested"]) if entry.get("show_tests") and tests else "",
        "tested": tests[0]["tests"] if tests else "",
        "against": entry.get("against"),
        "claims": pipe_table(CLAIM_HEADER, map(_claim_cells, claims)) if claims else "",
    }


def _metrics(lines: Iterable[Line], wanted: Sequence[str]) -> list[Metric]:
    """The wanted columns that some line has; names that are none of ours are those of lip readers."""
    have = dict.fromkeys(line["column"] for line in lines)
    ours = {metric.key for metric in (*METRICS, *TABLE_2)}
    readers = dict.fromkeys(key.split(".")[0] for key in have if key not in ours)
    # A reader of which no line is left is no error here: the column is not shown.
    asked = [key for key in wanted if key in have or key.startswith("readers")]
    return [metric for metric in choose(asked, list(readers)) if metric.key in have]


def _score_table(lines: Sequence[Line], entry: Mapping[str, Any]) -> Table:
    """Rows in the order of the groups; those that no group names come last."""
    metrics = _metrics(lines, entry["shown"])
    models: dict[str, dict[str, Line]] = {}
    for line in lines:
        models.setdefault(line["row"], {})[line["column"]] = line
    grouped = {title: [row for row in rows if row in models] for title, rows in entry["groups"].items()}
    named = {row for rows in grouped.values() for row in rows}
    grouped["others"] = [row for row in models if row not in named]
    order = [row for rows in grouped.values() for row in rows]
    clips = max(int(line["clips"]) for line in lines)
    bold = set()
    for metric in metrics:
        # As printed: of two rows that look alike none is best alone.
        values = [_printed(models[row].get(metric.key), metric, clips) for row in order]
        bold |= {(order[place], metric.key) for place in best_of(values, metric.higher_is_better)}
    blocks = []
    for title, rows in grouped.items():
        made = []
        for row in rows:
            first = next(iter(models[row].values()))
            cells = (_cell(models[row].get(metric.key), metric, (row, metric.key) in bold) for metric in metrics)
            made.append(Row(first["model"], (first["seeds"],), tuple(cells)))
        if made:
            blocks.append((title, tuple(made)))
    return Table("", "model", ("seeds",), tuple(metric.column() for metric in metrics), tuple(blocks), ())


def _printed(line: Line | None, metric: Metric, clips: int) -> float:
    """The value with as many digits as are shown; NaN for rows that cannot be best."""
    if line is None or line["kind"] == _GROUND_TRUTH or int(line["clips"]) < clips or line.get("mark"):
        return math.nan
    return round(float(line["value"]), metric.digits)


def _cell(line: Line | None, metric: Metric, bold: bool = False) -> Cell:
    """Value and deviation, without the interval."""
    if line is None:
        return Cell()
    value, spread = _share(line["value"], metric), _share(line["spread"], metric)
    return Cell(value, spread=spread, bold=bold, mark=line.get("mark") or "")


def _share(text: str, metric: Metric) -> float:
    return float(text or "nan") / (100 if metric.percent else 1)


def _test_table(lines: Sequence[Line], tested: Sequence[str]) -> str:
    metrics = _metrics(lines, tested)
    models: dict[str, dict[str, Line]] = {}
    for line in lines:
        models.setdefault(line["model"], {})[line["column"]] = line
    rows = tuple(
        Row(name, (), tuple(_test_cell(found.get(m.key), m) for m in metrics)) for name, found in models.items()
    )
    columns = tuple(metric.column(signed=True) for metric in metrics)
    return markdown(Table("", "model", (), columns, (("", rows),), ())).strip()


def _test_cell(line: Line | None, metric: Metric) -> Cell:
    if line is None:
        return Cell()
    value, low, high = (_share(line[name], metric) for name in ("value", "low", "high"))
    return Cell(value, low, high, p=float(line["p"] or "nan"))


def _comparison(line: Line) -> Comparison:
    readers = [] if line["column"] in {metric.key for metric in (*METRICS, *TABLE_2)} else [line["column"]]
    (metric,) = choose([line["column"]], readers)
    sign, strict = (1 if line["relation"] in ">≥" else -1), line["relation"] in "<>"
    names = ("value", "bound", "other_value", "gap", "low", "high")
    value, bound, other, middle, low, high = (float(line[name] or "nan") for name in names)
    column, gap = metric.column(), (middle, low, high)
    return Comparison(line["model"], column, value, bound, gap, sign, strict, line["other"], other, line["name"])


def _target_cells(line: Line) -> list[str]:
    if line["verdict"] == NOT_MEASURED:
        return [line["name"], *["–"] * (len(TARGET_HEADER) - 2), NOT_MEASURED]
    return [*_comparison(line).target_cells()[:-1], line["verdict"]]


def _claim_cells(line: Line) -> list[str]:
    return [*_comparison(line).claim_cells()[:-1], line["verdict"]]


def _iterations(lines: Sequence[Line]) -> dict[str, str]:
    """Corpus -> its table."""
    columns = [name for name in (lines[0] if lines else ()) if name != "corpus"]
    header = [name.replace("_", " ") for name in columns]
    return {
        corpus: pipe_table(header, [[line[name] for name in columns] for line in lines if line["corpus"] == corpus])
        for corpus in dict.fromkeys(line["corpus"] for line in lines)
    }


def _costs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in runs:
        machines = dict.fromkeys(phase["machine"] or "not noted" for phase in run["phases"])
        rows.append([run["name"], "; ".join(machines), str(len(run["phases"])), f"{run['seconds']:.0f}"])
    return pipe_table(["run", "machines", "phases", "seconds"], rows)


def what_ran(record: Record, kind: str, entry: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """What stands about one kind of training.

    Args:
        record: of the results.
        kind: of training.
        entry: its part of `settings` of `configs/pipeline/results.yaml`.
        tables: the part `tables` of it.

    Returns:
        `title`; `table` of the chosen settings of all models; `apart`: title of a table -> what else distinguishes its
        models from the `reference`; `paper`: a table of what else distinguishes the references from the paper's
        configuration; `file` that has all settings. Texts are empty where there is nothing to say.
    """
    runs = record.settings.get(kind, {})
    names = {(line["table"], line["row"]): line["model"] for line in record.scores}
    shown = entry["columns"]
    rows: list[list[str]] = []
    apart: dict[str, list[str]] = {}
    references, named = {}, ""
    for table in entry["tables"]:
        found = {row: runs[f"{table}/{row}"] for at, row in names if at == table and f"{table}/{row}" in runs}
        if not found:
            continue
        title = tables[table]["title"]
        rows += _group(title, {names[table, row]: values for row, values in found.items()}, shown)
        reference = found.get(entry["reference"])
        if reference:
            references[title], named = reference, names[table, entry["reference"]]
            told = {row: _apart(values, reference, shown, entry["ignored"]) for row, values in found.items()}
            apart[title] = [f"{names[table, row]}: {keys}." for row, keys in told.items() if keys]
    paper = runs.get(PAPER, {})
    rows += _group("beside them", {"the paper's configuration": paper}, shown) if paper else []
    hidden = [*entry["ignored"], *entry["ignored_beside_paper"]]
    return {
        "title": entry["title"],
        "reference": named,
        "table": pipe_table(["model", *shown], rows) if rows else "",
        "apart": {title: bullets(told) for title, told in apart.items() if told},
        "paper": _beside_paper(references, paper, shown, hidden),
        "file": f"settings_{kind}.csv",
    }


def _group(title: str, runs: Mapping[str, Mapping[str, str]], shown: Mapping[str, Any]) -> list[list[str]]:
    """A heading and a line a model."""
    heading = [f"*{title}*", *[""] * len(shown)]
    return [heading, *([model, *_setting_cells(values, shown)] for model, values in runs.items())]


def _setting_cells(values: Mapping[str, str], shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [column["between"].join(_short(values.get(key, "–")) for key in column["keys"]) for column in shown.values()]


def _hidden(key: str, shown: Mapping[str, Mapping[str, Any]], ignored: Sequence[str]) -> bool:
    in_table = any(key in column["keys"] for column in shown.values())
    return in_table or any(key == name or key.startswith(f"{name}.") for name in ignored)


def _apart(
    values: Mapping[str, str], reference: Mapping[str, str], shown: Mapping[str, Any], ignored: Sequence[str]
) -> str:
    """The keys whose values are not those of the reference, beside those that the table shows."""
    told = [
        f"`{key}` {_short(values.get(key, '–'))} ({_short(reference.get(key, '–'))})"
        for key in dict.fromkeys([*reference, *values])
        if values.get(key) != reference.get(key) and not _hidden(key, shown, ignored)
    ]
    return "; ".join(told)


def _beside_paper(
    references: Mapping[str, Mapping[str, str]],
    paper: Mapping[str, str],
    shown: Mapping[str, Any],
    ignored: Sequence[str],
) -> str:
    """A table of the keys in which a reference is not as the paper's configuration."""
    rows = [
        [f"`{key}`", *(_short(one.get(key, "–")) for one in references.values()), _short(value)]
        for key, value in paper.items()
        if any(one.get(key) != value for one in references.values()) and not _hidden(key, shown, ignored)
    ]
    return pipe_table(["setting", *references, "the paper's"], rows) if rows and references else ""


def _short(value: str) -> str:
    """A checkpoint by the run that made it."""
    return value.removeprefix("outputs/").split("/checkpoints/")[0]
