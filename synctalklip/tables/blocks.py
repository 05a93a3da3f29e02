"""Evaluations in order: runs of one name make a method, methods of one corpus and setting make a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import Parts
from synctalklip.tables.columns import OWN, Metric
from synctalklip.tables.published import PublishedRow
from synctalklip.tables.runs import Run, check_comparable, check_judges, parts_of


@dataclass(frozen=True)
class Method:
    """Runs of one name on one corpus in one setting."""

    name: str
    runs: tuple[Run, ...]

    @property
    def missing(self) -> list[str]:
        return sorted({name for run in self.runs for name in run.missing})

    @property
    def may_be_best(self) -> bool:
        """Ground truth is no method, and a method must not win by leaving clips out."""
        return self.runs[0].summary["kind"] != "ground_truth" and not self.missing


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
        if len(set(digests)) < len(digests):
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
