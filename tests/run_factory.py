"""Folders as `scripts/evaluate.py` writes them, from rows that are made up."""

import csv
import json
from pathlib import Path

from synctalklip.tables.runs import Run, load_run

READERS = {"WER": {"name": "reader", "sha256": "r", "decoding": "free", "beam": 1}}


def write_run(path: Path, rows: list[dict], name: str = "ours", kind: str = "generator", **summary) -> Run:
    """An evaluation of `rows`, one a clip; `summary` changes entries of its summary."""
    path.mkdir(parents=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "name": name, "kind": kind, "corpus": "toy", "split": "test", "setting": "reconstruction", "clips": len(rows),
        "protocol": "p",
    } | summary  # fmt: skip
    (path / "summary.json").write_text(json.dumps(summary))
    return load_run(path)
