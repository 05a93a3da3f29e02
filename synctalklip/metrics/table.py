"""Result tables: one row a method, one column a metric, from the per-clip rows of evaluation runs.

A value is always a ratio of sums over the corpus, in float64; its interval comes from resampling clips.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.metrics.errors import MetricError


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        key: column of `clips.csv`.
        label: heading.
        higher_is_better: direction of the arrow.
        weight: column of the weights of a mean; None weighs clips equally.
        ratio: `key` holds counts that are summed and divided by the summed `weight` (error rates).
        digits: decimals printed.
        percent: print a percentage.
        evaluator: whose judgement it is; names the entry of `summary.json` that two runs must share.
    """

    key: str
    label: str
    higher_is_better: bool
    weight: str | None = None
    ratio: bool = False
    digits: int = 2
    percent: bool = False
    evaluator: str | None = None

    @property
    def heading(self) -> str:
        return f"{self.label} {'↑' if self.higher_is_better else '↓'}"


METRICS = (
    Metric("psnr_face", "PSNR face", True, "frames"),
    Metric("psnr_lower", "PSNR lower", True, "frames"),
    Metric("ssim_face", "SSIM face", True, "frames", digits=3),
    Metric("ssim_lower", "SSIM lower", True, "frames", digits=3),
    Metric("lse_d", "LSE-D", False, digits=3, evaluator="syncnet"),
    Metric("lse_c", "LSE-C", True, digits=3, evaluator="syncnet"),
    Metric("lse_d_zero", "LSE-D at 0", False, digits=3, evaluator="syncnet"),
    Metric("in_sync", "offset ≤ 1", True, percent=True, digits=0, evaluator="syncnet"),
    Metric("word_errors", "WER", False, "words", ratio=True, percent=True, digits=1, evaluator="reader"),
    Metric("character_errors", "CER", False, "characters", True, percent=True, digits=1, evaluator="reader"),
)


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
        return [row["id"] for row in self.rows]

    def column(self, key: str) -> np.ndarray:
        """(clips,) float64; NaN where the clip has no such value."""
        return np.array([float(row.get(key) or "nan") for row in self.rows], dtype=np.float64)

    def has(self, metric: Metric) -> bool:
        return bool(self.rows) and any(row.get(metric.key) not in (None, "") for row in self.rows)


def load_run(path: str | Path) -> Run:
    """Read a folder written by `scripts/evaluate.py`.

    Raises:
        MetricError: the folder holds no complete evaluation, or a clip is listed twice.
    """
    path = Path(path)
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        with open(path / "clips.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, json.JSONDecodeError) as error:
        raise MetricError(f"{path} holds no finished evaluation ({error}): run scripts/evaluate.py") from error
    run = Run(path, summary, rows)
    if len(set(run.ids)) != len(rows) or len(rows) != summary.get("clips"):
        raise MetricError(
            f"{path}/clips.csv has {len(rows)} rows, {len(set(run.ids))} different clips, but "
            f"{summary.get('clips')} were evaluated: evaluate again"
        )
    return run


def check_comparable(runs: Sequence[Run]) -> None:
    """One table needs the same clips and the same judges in every row.

    Raises:
        MetricError: names the run and the clip or judge that differs.
    """
    first = runs[0]
    for run in runs[1:]:
        missing, extra = sorted(set(first.ids) - set(run.ids)), sorted(set(run.ids) - set(first.ids))
        if missing or extra:
            name, where = (missing[0], run.path) if missing else (extra[0], first.path)
            raise MetricError(
                f"{where} lacks clip {name} ({len(missing) + len(extra)} clips differ between {first.path} and "
                f"{run.path}): evaluate both on the same split and limit"
            )
        for judge in ("syncnet", "reader"):
            one, other = ((r.summary.get(judge) or {}).get("sha256") for r in (first, run))
            if one and other and one != other:
                raise MetricError(f"{first.path} and {run.path} were scored by different files as {judge}: use one")


def parts(run: Run, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of each clip, (clips,) float64 each.

    Clips without the value count zero in both. So do infinite ones (PSNR of identical pictures): a mean
    over the others stays finite, see `aggregate` for a run that is infinite everywhere.
    """
    value = run.column(metric.key)
    weight = run.column(metric.weight) if metric.weight else np.ones_like(value)
    counted = np.isfinite(value) & np.isfinite(weight)
    value, weight = np.where(counted, value, 0.0), np.where(counted, weight, 0.0)
    return value if metric.ratio else value * weight, weight


def aggregate(run: Run, metric: Metric) -> float:
    """The corpus value; infinite when all clips are, NaN when none has the value."""
    numerator, denominator = parts(run, metric)
    if denominator.sum() > 0:
        return float(numerator.sum() / denominator.sum())
    values = run.column(metric.key)
    return math.inf if np.isinf(values).any() else math.nan


def _resample(count: int, samples: int, seed: int) -> np.ndarray:
    """How often each clip is drawn, (samples, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return math.nan, math.nan
    low, high = np.percentile(finite, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _ratios(draws: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (draws @ numerator) / (draws @ denominator)


def bootstrap(
    numerator: np.ndarray, denominator: np.ndarray, samples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a ratio of sums, clips resampled with replacement (Efron 1979).

    Args:
        numerator: (clips,).
        denominator: (clips,).
        samples: number of resampled corpora.
        seed: the same seed gives the same interval, and the same draws for every metric and run.
        level: coverage.

    Returns:
        Lower and upper end; NaN when nothing can be computed.
    """
    return _percentiles(_ratios(_resample(len(numerator), samples, seed), numerator, denominator), level)


def paired_difference(
    run: Run, base: Run, metric: Metric, samples: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """`run` minus `base`, with the interval over the same resampled clips.

    Returns:
        Difference, lower end, upper end.

    Raises:
        MetricError: the runs do not hold the same clips.
    """
    check_comparable([base, run])
    order = {name: i for i, name in enumerate(run.ids)}
    index = np.array([order[name] for name in base.ids])
    draws = _resample(len(index), samples, seed)
    ours = _ratios(draws, *(part[index] for part in parts(run, metric)))
    theirs = _ratios(draws, *parts(base, metric))
    return aggregate(run, metric) - aggregate(base, metric), *_percentiles(ours - theirs, level)


def number(value: float, metric: Metric) -> str:
    """A value with the decimals of its metric."""
    if math.isinf(value):
        return "∞"
    return f"{100 * value if metric.percent else value:.{metric.digits}f}"


def _cell(value: float, interval: tuple[float, float], metric: Metric, best: bool) -> str:
    if math.isnan(value):
        return "–"
    text = number(value, metric)
    text = f"**{text}**" if best else text
    if any(math.isnan(end) for end in interval):
        return text
    return f"{text} [{number(interval[0], metric)}, {number(interval[1], metric)}]"


def best_rows(runs: Sequence[Run], values: Sequence[float], metric: Metric) -> set[int]:
    """Rows to print in bold: the best of at least two, ground truth not counted."""
    candidates = {
        i: v
        for i, (run, v) in enumerate(zip(runs, values))
        if run.summary.get("kind") != "ground_truth" and not math.isnan(v)
    }
    if len(candidates) < 2:
        return set()
    top = (max if metric.higher_is_better else min)(candidates.values())
    return {i for i, v in candidates.items() if v == top}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" + "--:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def markdown_table(runs: Sequence[Run], samples: int, seed: int, differences: bool = False) -> str:
    """The table, its footnotes, and if wanted the differences to the first row.

    Args:
        runs: one a row, in order.
        samples: bootstrap samples.
        seed: seed of the bootstrap.
        differences: add a table of paired differences to the first run.

    Raises:
        MetricError: no run, or the runs are not comparable (see `check_comparable`).
    """
    if not runs:
        raise MetricError("a table needs at least one run: runs=[folder,...]")
    check_comparable(runs)
    metrics = [metric for metric in METRICS if any(run.has(metric) for run in runs)]
    columns = []
    for metric in metrics:
        values = [aggregate(run, metric) for run in runs]
        best = best_rows(runs, values, metric)
        columns.append(
            [
                _cell(value, bootstrap(*parts(run, metric), samples, seed), metric, i in best)
                for i, (run, value) in enumerate(zip(runs, values))
            ]
        )
    header = ["method", "clips", *(metric.heading + (" (%)" if metric.percent else "") for metric in metrics)]
    rows = [[run.summary["name"], str(len(run.rows)), *cells] for run, *cells in zip(runs, *columns)]
    resampled = f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips. Bold: best generated row."
    text = markdown(header, rows) + "\n\n" + bullets([*footnotes(runs[0]), resampled])
    if differences and len(runs) > 1:
        text += "\n\n" + _difference_table(runs, metrics, samples, seed)
    return text + "\n"


def _difference_table(runs: Sequence[Run], metrics: Sequence[Metric], samples: int, seed: int) -> str:
    rows = []
    for run in runs[1:]:
        cells = [
            _cell(difference if math.isfinite(difference) else math.nan, (low, high), metric, False)
            for metric in metrics
            for difference, low, high in [paired_difference(run, runs[0], metric, samples, seed)]
        ]
        rows.append([run.summary["name"], *cells])
    title = f"Difference to {runs[0].summary['name']}, clips paired:\n\n"
    return title + markdown(["method", *(metric.heading for metric in metrics)], rows)


def footnotes(run: Run) -> list[str]:
    """What was measured, on which clips, by whom."""
    summary = run.summary
    frames = int(run.column("frames").sum())
    counts = f"{len(run.rows)} clips, {frames} frames"
    notes = [f"{summary['corpus']}, {summary['split']} split, {counts}; {summary['protocol']}"]
    if summary.get("syncnet"):
        notes.append(f"LSE by {summary['syncnet']['name']}; compare it within this table only.")
    if summary.get("reader"):
        words = int(np.nansum(run.column("words")))
        notes.append(f"WER and CER by {summary['reader']['name']}, over {words} words.")
    return notes


def bullets(notes: Sequence[str]) -> str:
    """The notes below a table."""
    return "\n".join(f"- {note}" for note in notes)
