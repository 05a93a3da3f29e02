"""Read what the participants saved, decide which raters count, what they gave and how far they agree; write Table 5.

Legend: R raters, C clips, M methods, S bootstrap samples.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import krippendorff
import numpy as np
from omegaconf import DictConfig

from synctalklip.data.manifest import write_jsonl
from synctalklip.errors import MetricError
from synctalklip.study.participants import SCALE, Answers, Unusable, load_key, read_answers
from synctalklip.tables.render import Cell, Column, Row, Table, write_rows, write_tables
from synctalklip.tables.table import best_of

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


PAPER = "the SyncTalklip paper (ACM MM 2024), Table 5, other raters and other clips"


@dataclass(frozen=True)
class Collected:
    """What `collect` wrote."""

    folder: Path
    table: str

    def __str__(self) -> str:
        return f"{self.table}\nwritten to {self.folder}: table5.md, table5.tex, table5.csv, ratings.csv, raters.csv"


def collect(cfg: DictConfig) -> Collected:
    """Write table5.md, .tex and .csv, ratings.csv, raters.csv and rejected.jsonl into `cfg.run.dir`.

    Files that cannot be used are rejected with their reason, raters who did not take care are excluded with
    theirs; the others are counted.

    Raises:
        MetricError: no key, no files, nobody left to count, or settings that do not fit the study.
    """
    key = load_key(cfg.key)
    if cfg.swapped_check.aspect not in key["aspects"]:
        raise MetricError(f"swapped_check.aspect={cfg.swapped_check.aspect} is none of {', '.join(key['aspects'])}")
    files, rejected = read_folder(Path(cfg.results), key)
    folder = Path(cfg.run.dir)
    write_jsonl(folder / "rejected.jsonl", rejected)
    raters = [judge_rater(answers, key, cfg) for answers in files]
    write_rows(folder / "raters.csv", _rater_rows(raters))
    counted = [rater for rater in raters if not rater.reasons]
    if not counted:
        why = [f"{rater.answers.participant} {', '.join(rater.reasons)}" for rater in raters]
        why += [f"{entry['file']} {entry['reason']}" for entry in rejected]
        raise MetricError(f"{cfg.results}: nobody is left to count ({'; '.join(why[:3])}); see {folder}/raters.csv")
    write_rows(folder / "ratings.csv", _rating_rows(counted, key))
    ratings = Ratings(counted, key)
    scores = ratings.scores(cfg.bootstrap.samples, cfg.seed)
    rows = _rows(key, scores) + (_published(key, cfg.published_scores) if cfg.add_published else [])
    columns = tuple(Column(aspect["short"], True, 2) for aspect in key["aspects"].values())
    notes = tuple(_notes(cfg, key, ratings, raters, rejected))
    table = Table("", "method", ("ratings",), columns, (("", tuple(rows)),), notes)
    return Collected(folder, write_tables([table], folder / "table5", ("md", "tex", "csv")))


def _rows(key: dict[str, Any], scores: dict[str, dict[str, Score]]) -> list[Row]:
    """One a method; the ground truth, which comes first, is never the best."""
    best = {
        aspect: best_of(
            [math.nan if name == key["methods"][0] else scores[name][aspect].mean for name in key["methods"]], True
        )
        for aspect in key["aspects"]
    }
    rows = []
    for place, name in enumerate(key["methods"]):
        found = [(scores[name][aspect], place in best[aspect]) for aspect in key["aspects"]]
        cells = (Cell(one.mean, one.low, one.high, one.deviation, bold=bold) for one, bold in found)
        rows.append(Row(name, (str(found[0][0].count),), tuple(cells)))
    return rows


def _published(key: dict[str, Any], scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    return [
        Row(name, ("–",), tuple(Cell(values.get(aspect, math.nan)) for aspect in key["aspects"]), PAPER)
        for name, values in scores.items()
    ]


def read_folder(folder: Path, key: dict[str, Any]) -> tuple[list[Answers], list[dict[str, str]]]:
    """All participants' files of a folder, and those that cannot be used, as {file, reason}.

    Of two files of one participant the one that was finished first counts.

    Raises:
        MetricError: the folder holds no JSON file.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise MetricError(f"{folder} holds no JSON file: put the participants' files there, or give results=folder")
    files, rejected = [], []
    for path in paths:
        try:
            files.append(read_answers(path, key))
        except Unusable as reason:
            rejected.append({"file": path.name, "reason": str(reason)})
    kept: dict[str, Answers] = {}
    for answers in sorted(files, key=lambda answers: (answers.finished, answers.path.name)):
        first = kept.setdefault(answers.participant, answers)
        if first is not answers:
            same = "is a copy of" if first.ratings == answers.ratings else "is a second file of this participant, after"
            rejected.append({"file": answers.path.name, "reason": f"{same} {first.path.name}"})
    return sorted(kept.values(), key=lambda answers: answers.participant), rejected


def _notes(
    cfg: DictConfig, key: dict[str, Any], ratings: Ratings, raters: Sequence[Rater], rejected: Sequence[dict[str, str]]
) -> list[str]:
    excluded = [rater for rater in raters if rater.reasons]
    alpha = ratings.agreement(cfg.agreement)
    values = (
        f"{key['aspects'][aspect]['short']} {'–' if math.isnan(a) else format(a, '.2f')}" for aspect, a in alpha.items()
    )
    notes = [
        f"Ratings from 1 to 5 by {len(ratings.raters)} participants on {len(ratings.clips)} clips, methods blinded and "
        f"shuffled; study {key['study']}.",
        "Mean ± standard deviation of the ratings, in brackets the 95 % interval of the mean from "
        f"{cfg.bootstrap.samples} bootstrap resamples of raters and clips. Bold: best generated row.",
        f"Agreement of the raters, Krippendorff's alpha ({cfg.agreement}): {', '.join(values)}.",
        f"{len(excluded)} participants excluded, {len(rejected)} files rejected.",
    ]
    notes += [f"Excluded: {rater.answers.participant}, {', '.join(rater.reasons)}." for rater in excluded]
    notes += [f"Rejected: {entry['file']} {entry['reason']}." for entry in rejected]
    if cfg.add_published:
        notes.append(f"† Published: {PAPER}.")
    return notes


def _rater_rows(raters: Sequence[Rater]) -> Iterable[dict[str, Any]]:
    for rater in raters:
        yield {
            "participant": rater.answers.participant,
            "file": rater.answers.path.name,
            "counted": not rater.reasons,
            "failed_checks": rater.failed,
            "median_seconds": round(rater.median_seconds, 2),
            "reasons": "; ".join(rater.reasons),
        }


def _rating_rows(raters: Sequence[Rater], key: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for rater in raters:
        for place, rating in enumerate(rater.answers.ratings, 1):
            item = key["items"][rating["item"]]
            if item["kind"] == "rated":
                yield {
                    "participant": rater.answers.participant,
                    "place": place,
                    "method": item["method"],
                    "clip": item["clip"],
                    **rating["answers"],
                    "plays": rating["plays"],
                    "seconds": rating["decided_ms"] / 1000,
                }
