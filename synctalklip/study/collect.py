"""Read what the participants saved, decide what counts, and write Table 5."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from synctalklip.data.manifest import write_jsonl
from synctalklip.errors import MetricError
from synctalklip.study.answers import Answers, Unusable, load_key, read_answers
from synctalklip.study.scores import Rater, Ratings, Score, judge_rater
from synctalklip.tables.render import Cell, Column, Row, Table, write_rows, write_tables
from synctalklip.tables.table import best_of

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
