"""What ran: the composed configurations of the models beside one another and beside that of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from synctalklip.tables.record import PAPER, Record
from synctalklip.tables.render import bullets, pipe_table


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
