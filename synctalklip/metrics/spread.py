"""Result tables over seeds: one row a method, the mean of its runs and how far they lie apart."""

import math
from collections.abc import Sequence

import numpy as np

from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.table import (
    METRICS,
    Metric,
    Run,
    aggregate,
    best_rows,
    bullets,
    check_comparable,
    footnotes,
    markdown,
    number,
)


def group_by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one name together, in the order in which the names first come.

    Raises:
        MetricError: one generator stands in two runs, which would look like agreement between seeds.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.summary["name"], []).append(run)
    for name, members in groups.items():
        digests = [run.summary.get("generated_sha256") or str(run.path) for run in members]
        if len(set(digests)) < len(digests):
            raise MetricError(f"{members[0].path}: the same generator is listed twice as {name!r}; give one run a seed")
    return groups


def mean_and_spread(runs: Sequence[Run], metric: Metric) -> tuple[float, float]:
    """Mean of the corpus values of some runs, and their standard deviation (n - 1); NaN for that of one run."""
    values = np.array([aggregate(run, metric) for run in runs], np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std(ddof=1))


def spread_table(runs: Sequence[Run]) -> str:
    """The table and its footnotes.

    Args:
        runs: of all methods and seeds; those of one name make one row.

    Raises:
        MetricError: no run, or the runs are not comparable (see `check_comparable`).
    """
    if not runs:
        raise MetricError("a table needs at least one run: runs=[folder,...]")
    check_comparable(runs)
    groups = group_by_name(runs)
    first = [members[0] for members in groups.values()]
    metrics = [metric for metric in METRICS if any(run.has(metric) for run in runs)]
    columns = []
    for metric in metrics:
        values = [mean_and_spread(members, metric) for members in groups.values()]
        best = best_rows(first, [mean for mean, _ in values], metric)
        columns.append([_cell(mean, spread, metric, row in best) for row, (mean, spread) in enumerate(values)])
    header = ["method", "runs", "clips", *(metric.heading + (" (%)" if metric.percent else "") for metric in metrics)]
    rows = [
        [name, str(len(members)), str(len(members[0].rows)), *cells]
        for (name, members), *cells in zip(groups.items(), *columns)
    ]
    note = "Mean ± standard deviation over runs that differ in their seed alone. Bold: best generated row."
    return markdown(header, rows) + "\n\n" + bullets([*footnotes(runs[0]), note]) + "\n"


def _cell(mean: float, spread: float, metric: Metric, best: bool) -> str:
    if math.isnan(mean):
        return "–"
    text = number(mean, metric)
    text = f"**{text}**" if best else text
    return text if math.isnan(spread) else f"{text} ± {number(spread, metric)}"
