"""Rows in order: runs of one name make a method, methods of one corpus and setting make a block.

Rows that were printed elsewhere stand below them: numbers without clips, so without intervals and without bold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import Parts
from synctalklip.tables.columns import METRICS, OWN, Metric, judged_by
from synctalklip.tables.render import PAST, TWIN
from synctalklip.tables.runs import Run, check_comparable, check_judges, parts_of

GRADES = {
    "read": "read in the source",
    "quoted": "quoted second-hand",
}


@dataclass(frozen=True)
class PublishedRow:
    """One row of somebody else's table.

    Attributes:
        method: its name.
        corpus: name of the corpus, as in `data.name`.
        setting: evaluation setting.
        source: where it was printed, and in which protocol.
        grade: `read` or `quoted`, see `GRADES`.
        values: column key -> number in the unit of the column (percent where the heading says so).
    """

    method: str
    corpus: str
    source: str
    grade: str
    values: Mapping[str, float]
    setting: str = OWN

    @property
    def block(self) -> tuple[str, str]:
        return self.corpus, self.setting

    @property
    def citation(self) -> str:
        return f"{self.source}; {GRADES[self.grade]}"

    def value(self, metric: Metric) -> float:
        """As a share where the column prints a percentage; NaN where the source has no such number."""
        return float(self.values.get(metric.key, float("nan"))) / (100 if metric.percent else 1)


@dataclass(frozen=True)
class Method:
    """Runs of one name on one corpus in one setting."""

    name: str
    runs: tuple[Run, ...]

    @property
    def missing(self) -> list[str]:
        return sorted({name for run in self.runs for name in run.missing})

    @property
    def is_truth(self) -> bool:
        """Whether it is the recordings."""
        return self.runs[0].summary["kind"] == "ground_truth"

    @property
    def may_be_best(self) -> bool:
        """Ground truth is no method, and a method must not win by leaving clips out."""
        return not self.is_truth and not self.missing


@dataclass(frozen=True)
class Block:
    """Rows that may be compared with each other.

    Attributes:
        corpus, setting: what they share.
        methods: measured rows.
        published: rows of other papers on this corpus.
    """

    corpus: str
    setting: str
    methods: tuple[Method, ...]
    published: tuple[PublishedRow, ...]

    @property
    def heading(self) -> str:
        return self.corpus if self.setting == OWN else f"{self.corpus}, {self.setting}"

    @cached_property
    def ids(self) -> list[str]:
        """All clips, those that a method lacks included."""
        runs = [run for method in self.methods for run in method.runs]
        return sorted({name for run in runs for name in (*run.ids, *run.missing)})

    def parts(self, method: Method, metric: Metric) -> Parts:
        return parts_of(method.runs, metric, self.ids)

    def mark(self, method: Method, metric: Metric) -> str:
        """What warns of a value: `render.TWIN`, `render.PAST`, both or nothing."""
        judges = [judged_by(metric, run.summary) or {} for run in method.runs]
        twin = TWIN if any(judge.get("twin") for judge in judges) else ""
        # With another sound the recordings are no end of the scale: nobody in them says it.
        if not metric.ends_at_truth or method.is_truth or self.setting != OWN:
            return twin
        value = self.parts(method, metric).mean
        ends = [self.parts(other, metric).mean for other in self.methods if other.is_truth]
        past = any(value > end if metric.higher_is_better else value < end for end in ends)
        return twin + (PAST if past else "")


def group_by_name(runs: Sequence[Run]) -> tuple[Method, ...]:
    """Runs of one name together, in the order in which the names first come.

    Raises:
        MetricError: one generator stands in two runs, which would look like agreement between seeds.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.summary["name"], []).append(run)
    for name, members in groups.items():
        digests = [run.summary.get("generated_sha256") or str(run.path) for run in members]
        folders = [run.path.resolve() for run in members]
        if min(len(set(digests)), len(set(folders))) < len(members):
            raise MetricError(f"{members[0].path}: the same generator is listed twice as {name!r}; give one run a seed")
    return tuple(Method(name, tuple(members)) for name, members in groups.items())


def make_blocks(runs: Sequence[Run], published: Sequence[PublishedRow], rows: Sequence[str] | None) -> list[Block]:
    """Split into blocks, in the order of the runs; only the methods of `rows`, in that order, where it is given.

    Raises:
        MetricError: runs of one block that cannot be compared, judges that differ between the settings of a
            corpus, or no run at all that `rows` names.
    """
    keys = dict.fromkeys([*(run.block for run in runs), *(row.block for row in published)])
    for corpus in dict.fromkeys(corpus for corpus, _ in keys):
        check_judges([run for run in runs if run.summary["corpus"] == corpus])
    blocks = []
    for key in keys:
        members = [run for run in runs if run.block == key]
        if members:
            check_comparable(members)
        methods = group_by_name(members)
        if rows is not None:
            methods = tuple(method for name in rows for method in methods if method.name == name)
        blocks.append(Block(*key, methods, tuple(row for row in published if row.block == key)))
    if not any(block.methods for block in blocks):
        raise MetricError(
            f"rows: no run is named {' or '.join(rows or [])}; the runs are named "
            f"{', '.join(dict.fromkeys(run.summary['name'] for run in runs))}"
        )
    return blocks


def read_published(entries: Mapping[str, Mapping[str, Any]], readers: Sequence[str]) -> list[PublishedRow]:
    """The rows of `published` of `configs/table.yaml`, in order.

    Args:
        entries: any name -> fields of `PublishedRow`.
        readers: names of the lip readers of the table; a published WER belongs to one of them.

    Raises:
        MetricError: a field that is missing or unknown, a grade or a column that does not exist.
    """
    rows = []
    columns = [*(metric.key for metric in METRICS), *readers]
    for name, entry in entries.items():
        try:
            row = PublishedRow(**entry)
        except TypeError as error:
            reason = str(error).split("__init__() ")[-1]
            raise MetricError(f"published.{name}: {reason}; see configs/published/lrs2.yaml") from None
        if row.grade not in GRADES:
            raise MetricError(f"published.{name}.grade is {row.grade!r}; choose from {', '.join(GRADES)}")
        unknown = [key for key in row.values if key not in columns]
        if unknown:
            raise MetricError(f"published.{name}: there is no column {unknown[0]!r}; choose from {', '.join(columns)}")
        rows.append(row)
    return rows
