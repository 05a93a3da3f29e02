"""What is claimed or aimed at, held against what was measured: one line each, with its margin and a verdict.

Values are in the unit in which they are printed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalklip.metrics.statistics import Parts, bootstrap, paired_difference
from synctalklip.tables.render import Column, bullets, pipe_table
from synctalklip.tables.runs import Run, check_comparable, find_runs, metric_of, parts_of

HOLDS = (
    "Intervals are over resampled clips, paired where two rows are compared. A statement holds (yes) where the mean is "
    "on the stated side, and clearly where the whole interval is."
)
_RELATIONS = {(1, True): ">", (1, False): "≥", (-1, True): "<", (-1, False): "≤"}


def verdict(gain: float, worst: float = math.nan, strict: bool = False) -> str:
    """Whether a statement holds.

    Args:
        gain: how far the mean is on the stated side.
        worst: the same of the end of its interval that is farthest on the other side; NaN without an interval.
        strict: a gain of 0 is not enough.

    Returns:
        "clearly", "yes" or "no", which is also said of a gain that is no number.
    """

    def good(value: float) -> bool:
        return value > 0 or (value == 0 and not strict)

    if not good(gain):
        return "no"
    return "clearly" if good(worst) else "yes"


@dataclass(frozen=True)
class Comparison:
    """A value held against a bound.

    Attributes:
        model: whose value it is.
        column: of the value.
        value: what was measured.
        bound: what it is held against.
        gap: value minus bound with the ends of its 95 % interval.
        sign: 1 where the value has to be above the bound, -1 below it.
        strict: the bound itself is not enough.
        other: the model that the bound comes from; empty for a fixed one.
        other_value: what was measured of it.
        name: of a target.
    """

    model: str
    column: Column
    value: float
    bound: float
    gap: tuple[float, float, float]
    sign: int
    strict: bool
    other: str = ""
    other_value: float = math.nan
    name: str = ""

    @property
    def relation(self) -> str:
        return _RELATIONS[self.sign, self.strict]

    @property
    def verdict(self) -> str:
        return verdict(self.sign * self.gap[0], min(self.sign * end for end in self.gap[1:]), self.strict)

    def target_cells(self) -> list[str]:
        """Target, model, column, value, bound, gap and verdict as they are printed."""
        digits = self.column.digits or 1
        # One decimal more, so that what just meets or misses a bound shows on which side it is.
        gap = _with_ends(self.gap, digits + 1)
        value, bound = f"{self.value:.{digits}f}", f"{self.relation} {self.bound:.{digits}f}"
        return [self.name, self.model, self.column.label, value, bound, gap, self.verdict]

    def claim_cells(self) -> list[str]:
        """Model, other, column, both values, difference, margin and verdict as they are printed."""
        digits, by = self.column.digits, self.bound - self.other_value
        values = [f"{value:.{digits}f}" for value in (self.value, self.other_value)]
        difference = _with_ends([end + by for end in self.gap], digits)
        claimed = "higher" if self.sign > 0 else "lower"
        if margin := round(by, 6):  # bound and value differ in their last bits
            claimed = f"{self.relation} {margin:+g}".replace("-", "−")
        return [self.model, self.other, self.column.label, *values, difference, claimed, self.verdict]


TARGET_HEADER = ("target", "model", "column", "value", "bound", "value − bound [95 %]", "met")
CLAIM_HEADER = ("model", "against", "column", "model", "other", "difference [95 %]", "claimed", "holds")


def _with_ends(gap: Sequence[float], digits: int) -> str:
    value, low, high = (f"{end:+.{digits}f}".replace("-", "−") for end in gap)
    return f"{value} [{low}, {high}]"


def hold_against(
    ours: Sequence[Run], column: str, bound: float, sign: int, samples: int, seed: int, name: str = ""
) -> Comparison:
    """Hold a method against a fixed bound, which is enough itself.

    Args:
        ours: runs of the method, one a seed.
        column: see `columns.choose`.
        bound: in the printed unit.
        sign: 1 for at least, -1 for at most.
        samples: bootstrap samples.
        seed: of the bootstrap.
        name: of the target.

    Raises:
        MetricError: a run was not measured in the column.
    """
    metric = metric_of(ours, column)
    shown, parts = metric.column(), parts_of(ours, metric, ours[0].ids)
    ends = (shown.scaled(value) for value in (parts.mean, *bootstrap(parts, samples, seed)))
    value, low, high = ends
    gap = (value - bound, low - bound, high - bound)
    return Comparison(ours[0].summary["name"], shown, value, bound, gap, sign, False, name=name)


def compare(
    ours: Sequence[Run],
    theirs: Sequence[Run],
    column: str,
    samples: int,
    seed: int,
    by: float = 0.0,
    share: float = 1.0,
    strict: bool = True,
    name: str = "",
) -> Comparison:
    """Hold a method against another one on the same clips.

    Args:
        ours, theirs: runs of either, one a seed.
        column: see `columns.choose`.
        samples: bootstrap samples.
        seed: of the bootstrap.
        by: how much better it has to be, in the printed unit; below 0 it may be so much worse.
        share: of the other's value that has to be reached.
        strict: reaching it is not enough.
        name: of the target.

    Raises:
        MetricError: runs that cannot be compared or were not measured in the column.
    """
    check_comparable([*ours, *theirs])
    metric = metric_of([*ours, *theirs], column)
    shown, ids = metric.column(), ours[0].ids
    sign = 1 if metric.higher_is_better else -1
    a, b = parts_of(ours, metric, ids), parts_of(theirs, metric, ids)
    # A share of a ratio of sums is the ratio of as large a share of its numerator.
    shared = Parts(share * b.numerator, b.denominator, b.infinite)
    middle, low, high = (shown.scaled(end) - sign * by for end in paired_difference(a, shared, samples, seed))
    value, bound = shown.scaled(a.mean), shown.scaled(shared.mean) + sign * by
    one, other = (runs[0].summary["name"] for runs in (ours, theirs))
    gap = middle, low, high
    return Comparison(one, shown, value, bound, gap, sign, strict, other, shown.scaled(b.mean), name)


def judge_target(target: Mapping[str, Any], root: Path, samples: int, seed: int) -> Comparison | None:
    """Hold a target of `configs/pipeline/results.yaml` against its rows; None where a row is not measured.

    Args:
        target: name, row, column, and at_least, at_most or other (with share or within, or neither to be better).
        root: folder that places start at.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        MetricError: rows that cannot be compared, or that were not measured in the column.
    """
    ours, name, column = find_runs(target["row"], root), target["name"], target["column"]
    if "other" in target:
        theirs = find_runs(target["other"], root)
        if not ours or not theirs:
            return None
        strict = not {"share", "within"} & set(target)
        by, share = -target.get("within", 0.0), target.get("share", 1.0)
        return compare(ours, theirs, column, samples, seed, by, share, strict, name)
    if not ours:
        return None
    sign = 1 if "at_least" in target else -1
    bound = float(target["at_least" if sign > 0 else "at_most"])
    return hold_against(ours, column, bound, sign, samples, seed, name)


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


def judge_claims(
    claims: Sequence[Claim], runs: Mapping[str, Sequence[Run]], samples: int, seed: int
) -> list[Comparison]:
    """Each claim whose methods were both measured.

    Args:
        claims: what is claimed.
        runs: method -> its runs, one a seed.
        samples: bootstrap samples of the intervals.
        seed: of the bootstrap.

    Raises:
        MetricError: a column that does not exist or was not measured, or runs that cannot be compared.
    """
    return [
        compare(runs[claim.method], runs[claim.other], claim.column, samples, seed, claim.by)
        for claim in claims
        if runs.get(claim.method) and runs.get(claim.other)
    ]


def claims_table(claims: Sequence[Claim], runs: Mapping[str, Sequence[Run]], samples: int, seed: int) -> str:
    """`judge_claims` as Markdown."""
    rows = [found.claim_cells() for found in judge_claims(claims, runs, samples, seed)]
    return f"{pipe_table(CLAIM_HEADER, rows)}\n\n{bullets([HOLDS, 'Values are means over seeds.'])}\n"
