"""Result tables: one row a method, one column a metric, one block a corpus and setting.

A value is a ratio of sums over the corpus, in float64; its interval comes from resampling clips. Runs of one name
are seeds of one method: mean and standard deviation in one row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import Parts, bootstrap
from synctalklip.tables.blocks import Block, Method, make_blocks
from synctalklip.tables.columns import Metric, choose
from synctalklip.tables.differences import difference_table
from synctalklip.tables.footnotes import footnotes
from synctalklip.tables.published import PublishedRow
from synctalklip.tables.render import Cell, Column, Row, Table, markdown
from synctalklip.tables.runs import Run, check_comparable, load_run

__all__ = ["Layout", "best_of", "build_tables", "check_comparable", "load_run", "markdown_table", "score"]


@dataclass(frozen=True)
class Layout:
    """What a table shows; a file of `configs/layout`.

    Attributes:
        title: caption.
        columns: see `columns.choose`; None for all that was measured.
        rows: names of methods in order; None for all, in the order of the runs.
        intervals: print 95 % bootstrap intervals.
        against: name of the method that the others are tested against; None for no tests.
        permutations: of each test.
    """

    title: str
    columns: Sequence[str] | None
    rows: Sequence[str] | None
    intervals: bool
    against: str | None
    permutations: int


MEASURED = Layout("", columns=None, rows=None, intervals=True, against=None, permutations=0)


def build_tables(
    runs: Sequence[Run], layout: Layout, samples: int, seed: int, published: Sequence[PublishedRow] = ()
) -> list[Table]:
    """The table of a layout and, where it names a method to test against, the table of the tests.

    Args:
        runs: those of one name make one row.
        layout: what to show.
        samples: bootstrap samples.
        seed: of bootstrap and permutations.
        published: rows that were printed elsewhere.

    Raises:
        MetricError: no run, runs that are not comparable (see `runs.check_comparable`), or a column that does not
            exist.
    """
    if not runs:
        raise MetricError("a table needs at least one run: runs=[folder,...]")
    blocks = make_blocks(runs, published, layout.rows)
    shown = [run for block in blocks for method in block.methods for run in method.runs]
    metrics = [
        metric
        for metric in choose(layout.columns, reader_names(runs))
        if any(run.has(metric) for run in shown) or any(metric.key in row.values for row in published)
    ]
    tables = [_main_table(blocks, metrics, layout, samples, seed)]
    if layout.against:
        tables += _tests(blocks, metrics, layout, samples, seed)
    return tables


def reader_names(runs: Sequence[Run]) -> list[str]:
    """Names of all lip readers, in order."""
    return list(dict.fromkeys(name for run in runs for name in run.summary.get("readers") or {}))


def _main_table(blocks: Sequence[Block], metrics: Sequence[Metric], layout: Layout, samples: int, seed: int) -> Table:
    several = any(len(method.runs) > 1 for block in blocks for method in block.methods)
    made = []
    for block in blocks:
        columns = [_cells(block, metric, samples if layout.intervals else 0, seed) for metric in metrics]
        names = [(m.name, (str(len(m.runs)), str(_clips(m))), "") for m in block.methods]
        names += [(row.method, ("–", "–"), row.citation) for row in block.published]
        cells = zip(*columns) if columns else [()] * len(names)
        rows = tuple(
            Row(name, counts if several else counts[1:], row, source)
            for (name, counts, source), row in zip(names, cells, strict=True)
        )
        made.append((block.heading if len(blocks) > 1 else "", rows))
    return Table(
        layout.title,
        "method",
        ("runs", "clips") if several else ("clips",),
        tuple(column_of(metric) for metric in metrics),
        tuple(made),
        tuple(footnotes(blocks, metrics, layout.rows, samples if layout.intervals else 0)),
    )


def _clips(method: Method) -> int:
    return min(len(run.rows) for run in method.runs)


def column_of(metric: Metric, signed: bool = False) -> Column:
    """How a metric is printed."""
    return Column(metric.label, metric.higher_is_better, metric.digits, metric.percent, signed)


def _cells(block: Block, metric: Metric, samples: int, seed: int) -> list[Cell]:
    """The column of a block: measured rows, then published ones."""
    cells = [score(block.parts(method, metric), samples, seed) for method in block.methods]
    candidates = [cell.value if method.may_be_best else math.nan for method, cell in zip(block.methods, cells)]
    best = best_of(candidates, metric.higher_is_better)
    cells = [replace(cell, bold=row in best) for row, cell in enumerate(cells)]
    return [*cells, *(Cell(row.value(metric)) for row in block.published)]


def score(parts: Parts, samples: int, seed: int) -> Cell:
    """Value, spread over runs and 95 % interval (none for 0 samples)."""
    low, high = bootstrap(parts, samples, seed) if samples else (math.nan, math.nan)
    return Cell(parts.mean, low, high, parts.spread)


def best_of(values: Sequence[float], higher_is_better: bool) -> set[int]:
    """Rows to print in bold: the best of at least two; NaN stands for a row that does not take part."""
    taking_part = {row: value for row, value in enumerate(values) if not math.isnan(value)}
    if len(taking_part) < 2:
        return set()
    top = (max if higher_is_better else min)(taking_part.values())
    return {row for row, value in taking_part.items() if value == top}


def _tests(blocks: Sequence[Block], metrics: Sequence[Metric], layout: Layout, samples: int, seed: int) -> list[Table]:
    """The table of tests; none where no block holds both the method of `layout.against` and another one."""
    named = {}
    for block in blocks:
        against = next((method for method in block.methods if method.name == layout.against), None)
        if against is not None and len(block.methods) > 1:
            scored = {m.name: [block.parts(m, metric) for metric in metrics] for m in block.methods}
            named[block.heading if len(blocks) > 1 else ""] = scored
    if not named:
        return []
    # A column that only one method has cannot be tested.
    shown = [i for i in range(len(metrics)) if any(_filled(scored, i) > 1 for scored in named.values())]
    columns = [column_of(metrics[i], signed=True) for i in shown]
    named = {
        heading: {name: [parts[i] for i in shown] for name, parts in scored.items()}
        for heading, scored in named.items()
    }
    return [difference_table(named, columns, layout.against or "", layout.permutations, samples, seed)]


def _filled(scored: Mapping[str, Sequence[Parts]], column: int) -> int:
    """Number of methods that have a value in a column."""
    return sum(bool(parts[column].denominator.any()) for parts in scored.values())


def markdown_table(runs: Sequence[Run], samples: int, seed: int) -> str:
    """All that was measured as one Markdown table, with intervals, without tests; errors as for `build_tables`."""
    return markdown(build_tables(runs, MEASURED, samples, seed)[0])
