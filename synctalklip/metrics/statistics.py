"""Intervals and tests for ratios of sums over clips: bootstrap, paired permutation, Holm.

Legend: R runs of one method (its seeds), N clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_AT_ONCE = 500  # permutations whose signs are held in memory together


@dataclass(frozen=True)
class Parts:
    """What a method scored in one column.

    A clip that does not count has zero in both arrays.

    Attributes:
        numerator: (R,N) float64.
        denominator: (R,N) float64.
        infinite: (R,) whether a run has no finite value but an infinite one (PSNR of identical pictures).
    """

    numerator: np.ndarray
    denominator: np.ndarray
    infinite: np.ndarray

    @classmethod
    def of(cls, numerator: np.ndarray, denominator: np.ndarray) -> "Parts":
        """Parts of one run, from two arrays (N,)."""
        return cls(*(np.asarray(a, np.float64)[None] for a in (numerator, denominator)), np.zeros(1, bool))

    @property
    def values(self) -> np.ndarray:
        """(R,) the corpus value of each run; NaN where nothing was counted."""
        total = self.denominator.sum(1)
        ratios = np.divide(self.numerator.sum(1), total, out=np.full(len(total), math.nan), where=total > 0)
        return np.where(self.infinite, math.inf, ratios)

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """Standard deviation (n - 1) over the runs; NaN for one run or a value that is not finite."""
        values = self.values
        return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def _draws(clips: int, samples: int, seed: int) -> np.ndarray:
    """How often each clip is drawn, (samples,N)."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=samples).astype(np.float64)


def _resampled(parts: Parts, samples: int, seed: int) -> np.ndarray:
    """The mean over runs for each resampled corpus, (samples,); the same clips for every run."""
    draws = _draws(parts.numerator.shape[1], samples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((draws @ parts.numerator.T) / (draws @ parts.denominator.T)).mean(1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return math.nan, math.nan
    low, high = np.percentile(finite, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def bootstrap(parts: Parts, samples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over runs, clips resampled with replacement (Efron 1979).

    Args:
        parts: of one method and column.
        samples: number of resampled corpora.
        seed: the same seed gives the same interval, and the same draws for every column and method.

    Returns:
        Lower and upper end; NaN when nothing can be computed.
    """
    return _interval(_resampled(parts, samples, seed))


def in_common(ours: Parts, theirs: Parts) -> tuple[Parts, Parts]:
    """Both without the clips that one of them lacks (in any of its runs)."""
    both = (ours.denominator > 0).all(0) & (theirs.denominator > 0).all(0)
    kept = [Parts(p.numerator * both, p.denominator * both, np.zeros(len(p.infinite), bool)) for p in (ours, theirs)]
    return kept[0], kept[1]


def paired_difference(ours: Parts, theirs: Parts, samples: int, seed: int) -> tuple[float, float, float]:
    """`ours` minus `theirs` over the clips that both have, with its 95 % interval over the same resampled clips.

    Returns:
        Difference, lower end, upper end; NaN without a common clip.
    """
    ours, theirs = in_common(ours, theirs)
    spread = _resampled(ours, samples, seed) - _resampled(theirs, samples, seed)
    return ours.mean - theirs.mean, *_interval(spread)


def permutation_test(ours: Parts, theirs: Parts, permutations: int, seed: int) -> float:
    """Two-sided p value of a paired randomisation test (Fisher 1935; Noreen 1989).

    Under the null hypothesis the two methods' results of a clip could be exchanged. Each permutation exchanges
    those of a random half of the clips; where every clip has weight one this flips the signs of the differences.
    Runs of one method are averaged clip by clip first, so the test is about these runs, not about new seeds.

    Args:
        ours, theirs: of the same N clips.
        permutations: random exchanges; all 2^N are tried where there are no more.
        seed: of the exchanges.

    Returns:
        Share of exchanges whose difference is at least as large; NaN without a common clip.
    """
    ours, theirs = in_common(ours, theirs)
    counted = ours.denominator.sum(0) > 0
    if not counted.any():
        return math.nan
    a, b, c, d = (
        part[:, counted].mean(0) for one in (ours, theirs) for part in (one.numerator, one.denominator)
    )  # fmt: skip
    observed = abs(a.sum() / b.sum() - c.sum() / d.sum())
    clips = len(a)
    exact = 2.0**clips <= permutations
    total = 2**clips if exact else permutations
    rng = np.random.default_rng(seed)
    reached = 0
    for start in range(0, total, _AT_ONCE):
        count = min(_AT_ONCE, total - start)
        if exact:
            swap = (np.arange(start, start + count)[:, None] >> np.arange(clips)) & 1
        else:
            swap = rng.integers(0, 2, (count, clips), dtype=np.int8)
        up, down = swap @ (c - a), swap @ (d - b)
        difference = (a.sum() + up) / (b.sum() + down) - (c.sum() - up) / (d.sum() - down)
        reached += int((np.abs(difference) >= observed * (1 - 1e-9) - 1e-12).sum())
    return reached / total if exact else (reached + 1) / (total + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p values that can be compared with 0.05 although many were tried.

    NaN stays NaN and is not counted as a test.
    """
    tried = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = list(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tried):
        largest = max(largest, min(1.0, (len(tried) - rank) * p))
        corrected[index] = largest
    return corrected
