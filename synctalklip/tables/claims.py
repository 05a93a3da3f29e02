"""Rows of results by their places, and targets that are held against them.

A place is a folder of `scripts/evaluate.py`, a folder of such seeds, or `<folder of scripts/table2.py>#<model>`; it
starts at the root of the repository. Values are in the unit in which they are printed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.table2 import COLUMNS
from synctalklip.metrics.statistics import Parts, bootstrap, paired_difference
from synctalklip.tables.columns import Metric, choose, describe
from synctalklip.tables.runs import Run, check_comparable, load_run, parts_of

_NOTES = {"words": "errors of all words, read from the lips alone", "pairs": "share of all frames"}
STAGE_ONE = {
    key: Metric(key, c.label, c.higher_is_better, key, _NOTES[weight], weight, "rate", c.digits, c.percent)
    for key, weight, c in COLUMNS
    if weight in _NOTES
}
"""Columns of Table 2 by the count of a clip that they sum."""


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
        summary = {"name": model, "setting": "reconstruction", "clips": len(rows), "generated_sha256": found["sha256"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SyncTalklipError(f"{file}: holds no {model!r} ({error}): run scripts/table2.py again") from error
    return [Run(folder, summary, rows)]


def metric_of(runs: Sequence[Run], column: str) -> Metric:
    """A column that all of the runs measured: a key of `STAGE_ONE` or of `columns.choose`.

    Raises:
        MetricError: there is no such column.
        SyncTalklipError: a run did not measure it.
    """
    metric = STAGE_ONE.get(column) or choose([column], list(runs[0].summary.get("readers") or {}))[0]
    for run in runs:
        if not run.has(metric):
            raise SyncTalklipError(f"{run.path}: was not measured in {column!r}; evaluate it with its judge")
    return metric


def in_printed_unit(run: Run, column: str) -> float:
    """The corpus value of a run in the unit in which it is printed; errors as for `metric_of`."""
    metric = metric_of([run], column)
    return (100.0 if metric.percent else 1.0) * parts_of([run], metric, run.ids).mean


@dataclass(frozen=True)
class Verdict:
    """A target held against what was measured, in the printed unit.

    Attributes:
        value: of the row.
        bound: what it is held against.
        gap: value minus bound with the ends of its 95 % interval.
        sign: 1 where higher is better, else -1.
        strict: the bound itself does not meet the target.
        digits: decimals printed.
        how: how it was measured, on what.
    """

    value: float
    bound: float
    gap: tuple[float, float, float]
    sign: int
    strict: bool
    digits: int
    how: str

    @property
    def met(self) -> bool:
        gain = self.sign * self.gap[0]
        return gain > 0 or (gain == 0 and not self.strict)

    @property
    def clearly(self) -> bool:
        """The whole interval meets it."""
        return self.met and min(self.sign * end for end in self.gap[1:]) >= 0

    def cells(self) -> list[str]:
        """Value, bound, gap and answer as they are printed."""
        relation = {(1, True): ">", (1, False): "≥", (-1, True): "<", (-1, False): "≤"}[self.sign, self.strict]
        # One decimal more, so that what just meets or misses a bound shows on which side it is.
        gap, low, high = (f"{value:+.{self.digits + 1}f}" for value in self.gap)
        answer = ("clearly" if self.clearly else "yes") if self.met else "**no**"
        value, bound = f"{self.value:.{self.digits}f}", f"{relation} {self.bound:.{self.digits}f}"
        return [value, bound, f"{gap} [{low}, {high}]", answer]


def judge(target: Mapping[str, Any], root: Path, samples: int, seed: int) -> Verdict | None:
    """Hold a target of `configs/pipeline/results.yaml` against its rows; None where a row is not measured.

    Args:
        target: row, column, and at_least, at_most or other (with share or within, or neither to be better).
        root: folder that places start at.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        SyncTalklipError: rows that cannot be compared, or that were not measured in the column.
    """
    ours = find_runs(target["row"], root)
    theirs = find_runs(target["other"], root) if "other" in target else []
    if not ours or ("other" in target and not theirs):
        return None
    metric = metric_of([*ours, *theirs], target["column"])
    scale, ids = 100.0 if metric.percent else 1.0, ours[0].ids
    a = parts_of(ours, metric, ids)
    if theirs:
        check_comparable([*ours, *theirs])
        b = parts_of(theirs, metric, ids)
        # A share of a ratio of sums is the ratio of as large a share of its numerator.
        b = Parts(target.get("share", 1.0) * b.numerator, b.denominator, b.infinite)
        sign = 1 if metric.higher_is_better else -1
        allowed = sign * target.get("within", 0.0)
        bound = scale * b.mean - allowed
        gap = tuple(scale * end + allowed for end in paired_difference(a, b, samples, seed))
    else:
        sign = 1 if "at_least" in target else -1
        bound = float(target["at_least" if sign > 0 else "at_most"])
        gap = tuple(scale * value - bound for value in (a.mean, *bootstrap(a, samples, seed)))
    how = f"{metric.label} of {ours[0].summary['name']}: {describe(metric, ours[0].summary)}; {len(ids)} clips"
    how += f", {len(ours)} seeds" if len(ours) > 1 else ""
    strict = bool(theirs) and not {"share", "within"} & set(target)
    return Verdict(scale * a.mean, bound, gap, sign, strict, max(1, metric.digits), how)
