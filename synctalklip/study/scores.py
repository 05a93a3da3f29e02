"""Which raters count, what they gave, and how far they agree.

Legend: R raters, C clips, M methods, S bootstrap samples.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import krippendorff
import numpy as np
from omegaconf import DictConfig

from synctalklip.study.answers import SCALE, Answers

LEVEL = 0.95
Level = Literal["nominal", "ordinal", "interval", "ratio"]


@dataclass(frozen=True)
class Rater:
    """One participant after the checks.

    Attributes:
        answers: the file.
        failed: attention checks that were failed.
        median_seconds: median time from the end of a video to the answer.
        reasons: why nothing of it is counted; empty for raters who count.
    """

    answers: Answers
    failed: int
    median_seconds: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Mean of one method in one aspect, with standard deviation (n - 1) of the ratings and interval of the mean."""

    mean: float
    deviation: float = math.nan
    low: float = math.nan
    high: float = math.nan
    count: int | None = None


def judge_rater(answers: Answers, key: dict[str, Any], cfg: DictConfig) -> Rater:
    """Apply the rules of `cfg.exclude` to one participant; practice never counts.

    Args:
        answers: a checked file.
        key: key of the study.
        cfg: `exclude` and `swapped_check` of `configs/study.yaml`.
    """
    counted = [rating for rating in answers.ratings if key["items"][rating["item"]]["kind"] != "practice"]
    failed = sum(_fails(rating["answers"], key["items"][rating["item"]], cfg) for rating in counted)
    rated = [rating for rating in counted if key["items"][rating["item"]]["kind"] == "rated"]
    median = statistics.median(rating["decided_ms"] / 1000 for rating in rated)
    distinct = len({value for rating in rated for value in rating["answers"].values()})
    reasons = []
    if failed >= cfg.exclude.failed_checks:
        reasons.append(f"failed {failed} attention check{'s' if failed > 1 else ''}")
    if median < cfg.exclude.median_seconds:
        reasons.append(f"too fast: {median:.1f} s in the median from the end of a video to the answer")
    if distinct < cfg.exclude.distinct:
        reasons.append(f"no variance: {distinct} different value{'s' if distinct > 1 else ''} in all answers")
    return Rater(answers, failed, median, tuple(reasons))


def _fails(given: dict[str, int], item: dict[str, Any], cfg: DictConfig) -> bool:
    if item["kind"] == "instructed":
        return any(value != item["value"] for value in given.values())
    if item["kind"] == "swapped":
        return given[cfg.swapped_check.aspect] > cfg.swapped_check.highest
    return False


class Ratings:
    """The counted ratings as arrays, (M,A,R,C) float64 with NaN where a rater did not see a video; A aspects.

    Args:
        raters: those who count.
        key: key of the study.
    """

    def __init__(self, raters: Sequence[Rater], key: dict[str, Any]):
        self.methods, self.aspects = list(key["methods"]), list(key["aspects"])
        self.raters = [rater.answers.participant for rater in raters]
        rated = [item for item in key["items"].values() if item["kind"] == "rated"]
        self.clips = sorted({item["clip"] for item in rated})
        shape = len(self.methods), len(self.aspects), len(self.raters), len(self.clips)
        self.values = np.full(shape, np.nan)
        for number, rater in enumerate(raters):
            for rating in rater.answers.ratings:
                item = key["items"][rating["item"]]
                if item["kind"] == "rated":
                    place = self.methods.index(item["method"]), slice(None), number, self.clips.index(item["clip"])
                    self.values[place] = [rating["answers"][aspect] for aspect in self.aspects]

    def scores(self, samples: int, seed: int) -> dict[str, dict[str, Score]]:
        """Method -> aspect -> score.

        The interval resamples raters and clips at once, both with replacement (pigeonhole bootstrap, Owen 2007):
        it holds for other raters and other clips. One draw serves all methods, so their rows compare.

        Args:
            samples: number of resampled studies.
            seed: of the bootstrap.
        """
        rng = np.random.default_rng(seed)
        raters, clips = (_draws(len(side), samples, rng) for side in (self.raters, self.clips))
        return {
            method: {aspect: _score(self.values[m, a], raters, clips) for a, aspect in enumerate(self.aspects)}
            for m, method in enumerate(self.methods)
        }

    def agreement(self, level: Level) -> dict[str, float]:
        """Krippendorff's alpha of each aspect over all videos of all methods; NaN where it is not defined.

        Args:
            level: level of measurement, "ordinal" for ratings on a scale.
        """
        result = {}
        for number, aspect in enumerate(self.aspects):
            table = self.values[:, number].transpose(1, 0, 2).reshape(len(self.raters), -1)
            result[aspect] = agreement(table, level)
        return result


def agreement(table: np.ndarray, level: Level) -> float:
    """Krippendorff's alpha.

    Args:
        table: (R, videos), NaN where a rater did not see the video.
        level: level of measurement.

    Returns:
        1 for full agreement, 0 for chance, NaN when no video has two raters or all ratings are equal.
    """
    shared = table[:, np.isfinite(table).sum(axis=0) > 1]
    if len(np.unique(shared[np.isfinite(shared)])) < 2:
        return math.nan
    return float(krippendorff.alpha(shared, value_domain=list(SCALE), level_of_measurement=level))


def _draws(count: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` is drawn, (S,count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)


def _score(values: np.ndarray, raters: np.ndarray, clips: np.ndarray) -> Score:
    seen = np.isfinite(values)
    count = int(seen.sum())
    if count == 0:
        return Score(math.nan, count=0)
    filled = np.where(seen, values, 0.0)
    totals, weights = ((raters @ part * clips).sum(axis=1) for part in (filled, seen.astype(np.float64)))
    means = totals[weights > 0] / weights[weights > 0]
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    deviation = float(values[seen].std(ddof=1)) if count > 1 else math.nan
    return Score(float(filled.sum() / count), deviation, float(low), float(high), count)
