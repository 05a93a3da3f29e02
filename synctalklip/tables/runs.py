"""Evaluations as tables read them, one row a clip, and the rows of results by their places.

A place is a folder of `scripts/evaluate.py`, a folder of such seeds, or `<folder of scripts/table2.py>#<model>`.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.metrics.statistics import Parts
from synctalklip.tables.columns import OWN, Metric, choose

_NEEDED = ("name", "kind", "corpus", "split", "setting", "clips", "protocol")
_LABELS = ("name", "path", "twin")  # of a judge: they may differ between runs, what it did may not


@dataclass(frozen=True)
class Run:
    """The results of one evaluation.

    Attributes:
        path: its folder.
        summary: `summary.json`.
        rows: `clips.csv`, one dictionary a clip.
    """

    path: Path
    summary: dict[str, Any]
    rows: list[dict[str, str]]

    @property
    def ids(self) -> list[str]:
        """Clips that were scored."""
        return [row["id"] for row in self.rows]

    @property
    def missing(self) -> list[str]:
        """Clips that should have been scored, but had no video that could be (`on_missing=report`)."""
        return list(self.summary.get("missing") or [])

    @property
    def block(self) -> tuple[str, str]:
        """Corpus and setting: runs that agree in both stand in one block of a table."""
        return self.summary["corpus"], self.summary["setting"]

    @property
    def readers(self) -> list[str]:
        """Names of the lip readers that scored it."""
        return list(self.summary.get("readers") or {})

    def column(self, key: str) -> np.ndarray:
        """(clips,) float64; NaN where the clip has no such value."""
        return np.array([self._number(row, key) for row in self.rows], dtype=np.float64)

    def _number(self, row: dict[str, str], key: str) -> float:
        try:
            return float(row.get(key) or "nan")
        except ValueError:
            raise MetricError(
                f"{self.path}/clips.csv: {key} of clip {row['id']} is {row[key]!r:.80}, no number: evaluate again"
            ) from None

    def has(self, metric: Metric) -> bool:
        """Whether the metric was measured and means something in this run's setting."""
        measured = any(row.get(metric.value) not in (None, "") for row in self.rows)
        return measured and self.summary["setting"] in metric.settings


def load_run(path: str | Path) -> Run:
    """Read a folder written by `scripts/evaluate.py`.

    Raises:
        MetricError: the folder holds no complete evaluation, a damaged one, or a clip is listed twice.
    """
    path = Path(path)
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        with open(path / "clips.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise MetricError(f"{path} holds no finished evaluation ({error}): run scripts/evaluate.py") from error
    if not isinstance(summary, dict) or any(row.get("id") is None or None in row for row in rows):
        raise MetricError(f"{path}: summary.json or clips.csv is damaged: evaluate again")
    lacking = [key for key in _NEEDED if key not in summary]
    if lacking:
        raise MetricError(f"{path}/summary.json does not say {lacking[0]!r}: evaluate again with this version")
    run = Run(path, summary, rows)
    if len(set(run.ids)) != len(rows) or len(rows) != summary["clips"]:
        raise MetricError(
            f"{path}/clips.csv has {len(rows)} rows, {len(set(run.ids))} different clips, but "
            f"{summary['clips']} were evaluated: evaluate again"
        )
    return run


def check_comparable(runs: Sequence[Run]) -> None:
    """The rows of one block need the same clips, setting, protocol and judges.

    A clip that a run reports as missing counts as one of its clips.

    Raises:
        MetricError: names the two runs and the clip or judge that differs.
    """
    for run in runs[1:]:
        _check_clips(runs[0], run)
        for key in ("setting", "split", "protocol"):
            one, other = runs[0].summary[key], run.summary[key]
            if one != other:
                raise MetricError(f"{runs[0].path} and {run.path} differ in {key} ({one!r}, {other!r}): evaluate alike")
    check_judges(runs)


def _check_clips(first: Run, run: Run) -> None:
    one, other = ({*r.ids, *r.missing} for r in (first, run))
    missing, extra = sorted(one - other), sorted(other - one)
    if missing or extra:
        name, where = (missing[0], run.path) if missing else (extra[0], first.path)
        raise MetricError(
            f"{where} lacks clip {name} ({len(missing) + len(extra)} clips differ between {first.path} and "
            f"{run.path}): evaluate both on the same split and limit"
        )


def _judges(run: Run) -> dict[str, dict[str, Any]]:
    """Judges by name: SyncNets, the expert, the lips' geometry and one entry a lip reader."""
    found = {key: run.summary.get(key) for key in ("syncnet", "syncnet2", "avs", "lips")} | dict(
        run.summary.get("readers") or {}
    )
    return {name: judge for name, judge in found.items() if judge}


def check_judges(runs: Sequence[Run]) -> None:
    """A judge that two runs share by name has to be the same file in the same protocol.

    Raises:
        MetricError: names the two runs, the judge and what differs.
    """
    seen: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        for name, judge in _judges(run).items():
            first, known = seen.setdefault(name, (run, judge))
            for key in sorted((known.keys() & judge.keys()) - set(_LABELS)):
                if known[key] != judge[key]:
                    what = "different files" if key == "sha256" else f"different {key} ({known[key]}, {judge[key]})"
                    raise MetricError(f"{first.path} and {run.path} were scored by {what} as {name}: use one")


def parts_of(runs: Sequence[Run], metric: Metric, ids: Sequence[str]) -> Parts:
    """Numerators and denominators of a metric, (runs,clips) each, in the order of `ids`.

    Clips without the value count zero in both. So do infinite ones (PSNR of identical pictures): a mean over the
    others stays finite; a run that is infinite everywhere is marked so.
    """
    made = [_one_run(run, metric, ids) for run in runs]
    return Parts(*(np.array(part) for part in zip(*made)))


def _one_run(run: Run, metric: Metric, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, bool]:
    value = run.column(metric.value) if run.has(metric) else np.full(len(run.rows), np.nan)
    weight = run.column(metric.weight) if metric.weight else np.ones_like(value)
    counted = np.isfinite(value) & np.isfinite(weight) & (weight > 0)
    infinite = bool(np.isinf(value).any()) and not counted.any()
    value, weight = np.where(counted, value, 0.0), np.where(counted, weight, 0.0)
    if metric.kind == "mean":
        value = value * weight
    elif metric.kind == "clip_rate":
        value, weight = np.divide(value, weight, out=np.zeros_like(value), where=counted), counted.astype(np.float64)
    place = {name: index for index, name in enumerate(run.ids)}
    numerator, denominator = np.zeros(len(ids)), np.zeros(len(ids))
    for index, name in enumerate(ids):
        if name in place:
            numerator[index], denominator[index] = value[place[name]], weight[place[name]]
    return numerator, denominator, infinite


def aggregate(run: Run, metric: Metric) -> float:
    """The corpus value; infinite when all clips are, NaN when none has the value."""
    return parts_of([run], metric, run.ids).mean


def find_runs(place: str, root: Path) -> list[Run]:
    """The evaluations of a row, one a seed; none where nothing is finished.

    Args:
        place: of the row.
        root: folder that it starts at.

    Raises:
        MetricError: the evaluation is damaged.
        SyncTalklipError: the file of Table 2 is damaged, or does not hold the model.
    """
    path, _, model = place.partition("#")
    folder = root / path
    if not model:
        alone = (folder / "summary.json").is_file()
        folders = [folder] if alone else [file.parent for file in sorted(folder.glob("seed*/summary.json"))]
        return [load_run(found) for found in folders]
    file = folder / "table2.json"
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[model]
        rows = [{key: str(value) for key, value in clip.items()} for clip in found["clips"]]
        summary = {
            "name": model,
            "kind": "expert",
            "generated": found["checkpoint"],
            "generated_sha256": found["sha256"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SyncTalklipError(f"{file}: holds no {model!r} ({error}): run scripts/table2.py again") from error
    shared = {"corpus": "", "split": "", "setting": OWN, "protocol": "", "clips": len(rows)}
    return [Run(folder, summary | shared, rows)]


def reader_names(runs: Sequence[Run]) -> list[str]:
    """Names of all lip readers, in order."""
    return list(dict.fromkeys(name for run in runs for name in run.readers))


def metric_of(runs: Sequence[Run], column: str) -> Metric:
    """A column that all of the runs measured, see `columns.choose`.

    Raises:
        MetricError: there is no such column, or a run did not measure it.
    """
    (metric,) = choose([column], runs[0].readers)
    for run in runs:
        if not run.has(metric):
            raise MetricError(f"{run.path}: was not measured in {column!r}; evaluate it with its judge")
    return metric


def in_printed_unit(run: Run, column: str) -> float:
    """The corpus value of a run in the unit in which it is printed; errors as for `metric_of`."""
    metric = metric_of([run], column)
    return metric.column().scaled(aggregate(run, metric))
