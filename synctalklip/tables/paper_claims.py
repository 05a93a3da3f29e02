"""What a paper claims, held against what was measured: one line a claim, with its difference and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import paired_difference
from synctalklip.tables.columns import choose
from synctalklip.tables.markdown import table
from synctalklip.tables.runs import Run, check_comparable, parts_of


@dataclass(frozen=True)
class Claim:
    """One method is better than another in a column, or not much worse.

    Attributes:
        method: what the claim is about.
        other: what it is compared with.
        column: key of a column, see `columns.choose`.
        by: how much better it has to be, in the column's printed unit; below 0 it may be so much worse.
    """

    method: str
    other: str
    column: str
    by: float = 0.0


def claims_table(claims: Sequence[Claim], runs: Mapping[str, Sequence[Run]], samples: int, seed: int) -> str:
    """Markdown: each claim whose methods were both measured.

    Args:
        claims: what is claimed.
        runs: method -> its runs, one a seed.
        samples: bootstrap samples of the intervals.
        seed: of the bootstrap.

    Raises:
        MetricError: a column that does not exist, or runs that cannot be compared.
    """
    rows = [_row(claim, runs, samples, seed) for claim in claims if claim.method in runs and claim.other in runs]
    header = ["method", "against", "column", "method", "other", "difference [95 %]", "claimed", "holds"]
    note = (
        "Difference: method minus other, means over seeds, interval over resampled clips. Holds: the mean is on the "
        "claimed side; *clearly*: so is the whole interval."
    )
    return f"{table(header, rows)}\n\n{note}\n"


def _row(claim: Claim, runs: Mapping[str, Sequence[Run]], samples: int, seed: int) -> list[str]:
    ours, theirs = runs[claim.method], runs[claim.other]
    check_comparable([*ours, *theirs])
    readers = list(ours[0].summary.get("readers") or {})
    (metric,) = choose([claim.column], readers)
    names = [run.summary["name"] for run in (ours[0], theirs[0])]
    if not (ours[0].has(metric) and theirs[0].has(metric)):
        raise MetricError(f"claims: {' and '.join(names)} were not both measured in {claim.column!r}")
    ids = ours[0].ids
    a, b = parts_of(ours, metric, ids), parts_of(theirs, metric, ids)
    scale = 100.0 if metric.percent else 1.0
    difference, low, high = (scale * value for value in paired_difference(a, b, samples, seed))
    sign = 1.0 if metric.higher_is_better else -1.0
    bound = sign * claim.by
    holds = sign * difference > claim.by
    clearly = min(sign * low, sign * high) > claim.by
    digits = metric.digits
    return [
        names[0],
        names[1],
        metric.label,
        f"{scale * a.mean:.{digits}f}",
        f"{scale * b.mean:.{digits}f}",
        f"{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
        f"{'>' if metric.higher_is_better else '<'} {bound:+g}" if claim.by else ("higher" if sign > 0 else "lower"),
        ("clearly" if clearly else "yes") if holds else "**no**",
    ]
