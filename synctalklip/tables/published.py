"""Rows of a table that were printed elsewhere: numbers without clips, so without intervals and without bold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synctalklip.errors import MetricError
from synctalklip.tables.columns import METRICS, OWN, Metric

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
