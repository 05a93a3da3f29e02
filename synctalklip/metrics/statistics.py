"""Intervals and tests for ratios of sums over clips: bootstrap, paired permutation, Holm.

Legend: R runs of one method (its seeds), N clips.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
DECIMALS = 12  # differences that agree in so many are equal: sums in another order differ in the last bits
_PLACES = 1_000_000  # of drawn clips that are held in memory together


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
        above, below = (np.asarray(a, np.float64)[None] for a in (numerator, denominator))
        return cls(above, below, np.zeros(1, bool))

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

    def at(self, places: np.ndarray) -> np.ndarray:
        """Mean over the runs of a corpus of other clips: places (...,N) -> (...); NaN where none of them counts."""
        return (self.numerator[:, places].sum(-1) / self.denominator[:, places].sum(-1)).mean(0)

    @property
    def spread(self) -> float:
        """Standard deviation (n - 1) over the runs; NaN for one run or a value that is not finite."""
        values = self.values
        return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], clips: int, samples: int, seed: int
) -> tuple[float, float]:
    """Ends of the percentile interval (Efron 1979) of a statistic over resampled clips.

    Args:
        statistic: places of clips (...,N) -> its values (...).
        clips: N.
        samples: number of resampled corpora; the ends are NaN for 0.
        seed: the same seed draws the same clips for every statistic.
    """
    if samples < 1:
        return math.nan, math.nan
    # A resample may hold no clip that counts; scipy would warn of each.
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        if clips < 2:
            return (float(statistic(np.arange(clips))),) * 2
        drawn = stats.bootstrap(
            (np.arange(clips),),
            lambda places, axis: statistic(places),
            n_resamples=samples,
            batch=max(1, _PLACES // clips),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    finite = drawn[np.isfinite(drawn)]
    if len(finite) == 0:
        return math.nan, math.nan
    low, high = np.percentile(finite, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def bootstrap(parts: Parts, samples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over runs, clips resampled with replacement (`scipy.stats.bootstrap`).

    Args:
        parts: of one method and column.
        samples: number of resampled corpora.
        seed: the same seed gives the same interval, and the same draws for every column and method.

    Returns:
        Lower and upper end; NaN when nothing can be computed.
    """
    return _interval(parts.at, parts.numerator.shape[1], samples, seed)


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
    ends = _interval(lambda places: ours.at(places) - theirs.at(places), ours.numerator.shape[1], samples, seed)
    return ours.mean - theirs.mean, *ends


def permutation_test(ours: Parts, theirs: Parts, permutations: int, seed: int) -> float:
    """Two-sided p value of a paired randomisation test (Fisher 1935; Noreen 1989), `scipy.stats.permutation_test`.

    Under the null hypothesis the two methods' results of a clip could be exchanged. Each permutation exchanges
    those of a random half of the clips; where every clip has weight one this flips the signs of the differences.
    Runs of one method are averaged clip by clip first, so the test is about these runs, not about new seeds.

    Args:
        ours, theirs: of the same N clips.
        permutations: random exchanges; all 2^N are tried where there are no more.
        seed: of the exchanges.

    Returns:
        Share of exchanges whose difference is at least as large; of random ones (reached + 1) / (total + 1), so that
        it is never 0. NaN without a common clip or a permutation.
    """
    ours, theirs = in_common(ours, theirs)
    counted = ours.denominator.sum(0) > 0
    clips = int(counted.sum())
    if not clips or permutations < 1:
        return math.nan
    # One row of 2 N places: the results of `ours`, then those of `theirs`. What is exchanged are places.
    numerator, denominator = (
        np.concatenate([getattr(one, name)[:, counted].mean(0) for one in (ours, theirs)])
        for name in ("numerator", "denominator")
    )

    def difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        a, b = (numerator[places].sum(axis) / denominator[places].sum(axis) for places in (one, other))
        return np.abs(a - b).round(DECIMALS)

    if clips == 1:  # scipy asks for two; both exchanges of one clip are as large
        return 1.0
    found = stats.permutation_test(
        (np.arange(clips), np.arange(clips, 2 * clips)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, _PLACES // clips),
        alternative="greater",  # of a size, which makes it two-sided
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


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
