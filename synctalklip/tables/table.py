"""Result tables: one row a method, one column a metric, one block a corpus and setting.

A value is a ratio of sums over the corpus, in float64; its interval comes from resampling clips. Runs of one name
are seeds of one method: mean and standard deviation in one row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import Parts, bootstrap, holm, paired_difference, permutation_test
from synctalklip.tables.blocks import Block, Method, PublishedRow, make_blocks
from synctalklip.tables.columns import Metric, choose, describe, judged_by
from synctalklip.tables.render import PAST, SIGNIFICANT, TWIN, Cell, Column, Row, Table, markdown
from synctalklip.tables.runs import Run, reader_names

_SHOWN = 5  # ids of missing clips that are spelled out
_UNITS = {"open_counted": "frames", "pairs": "frames", "unpaired_pairs": "pairs of frames"}


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
        tested: columns of the tests, a family of Holm's correction; None for those of the table.
    """

    title: str
    columns: Sequence[str] | None
    rows: Sequence[str] | None
    intervals: bool
    against: str | None
    permutations: int
    tested: Sequence[str] | None = None


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
        tested = metrics if layout.tested is None else choose(layout.tested, reader_names(runs))
        tables += _tests(blocks, tested, layout, samples, seed)
    return tables


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
        tuple(metric.column() for metric in metrics),
        tuple(made),
        tuple(footnotes(blocks, metrics, layout.rows, samples if layout.intervals else 0)),
    )


def _clips(method: Method) -> int:
    return min(len(run.rows) for run in method.runs)


def _cells(block: Block, metric: Metric, samples: int, seed: int) -> list[Cell]:
    """The column of a block: measured rows, then published ones."""
    cells = [score(block.parts(method, metric), samples, seed) for method in block.methods]
    marks = [block.mark(method, metric) for method in block.methods]
    candidates = [
        cell.value if method.may_be_best and not mark else math.nan
        for method, cell, mark in zip(block.methods, cells, marks)
    ]
    best = best_of(candidates, metric.higher_is_better)
    cells = [replace(cell, bold=row in best, mark=marks[row]) for row, cell in enumerate(cells)]
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
    # A column that only one method has cannot be tested.
    tested = [i for i in range(len(metrics)) if any(_filled(scored, i) > 1 for scored in named.values())]
    if not tested:
        return []
    named = {
        heading: {name: [parts[i] for i in tested] for name, parts in scored.items()}
        for heading, scored in named.items()
    }
    columns = [metrics[i].column(signed=True) for i in tested]
    return [difference_table(named, columns, layout.against or "", layout.permutations, samples, seed)]


def _filled(scored: Mapping[str, Sequence[Parts]], column: int) -> int:
    """Number of methods that have a value in a column."""
    return sum(bool(parts[column].denominator.any()) for parts in scored.values())


def difference_table(
    blocks: Mapping[str, Mapping[str, Sequence[Parts]]],
    columns: Sequence[Column],
    against: str,
    permutations: int,
    samples: int,
    seed: int,
) -> Table:
    """Differences to one method, with intervals and p values that are corrected over the whole table.

    Args:
        blocks: heading -> method -> what it scored, one a column.
        columns: of the table; signed.
        against: the method that is subtracted; in every block.
        permutations: of each test.
        samples: bootstrap samples.
        seed: of both.
    """
    pairs = [
        (heading, name, parts, methods[against])
        for heading, methods in blocks.items()
        for name, parts in methods.items()
        if name != against
    ]
    cells = [
        [_difference(one, other, permutations, samples, seed) for one, other in zip(parts, base, strict=True)]
        for _, _, parts, base in tqdm(pairs, "tests", unit="method", delay=2)
    ]
    corrected = iter(holm([cell.p for row in cells for cell in row]))
    done = [[replace(cell, p=p) for cell in row for p in [next(corrected)]] for row in cells]
    rows = [(heading, Row(name, (), tuple(row))) for (heading, name, *_), row in zip(pairs, done)]
    count = sum(not math.isnan(cell.p) for row in done for cell in row)
    return Table(
        f"Difference to {against}, clips paired",
        "method",
        (),
        tuple(columns),
        tuple((heading, tuple(row for place, row in rows if place == heading)) for heading in blocks),
        (
            f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips that both have.",
            "p: two-sided paired permutation tests that exchange the two methods' results clip by clip "
            f"({permutations} permutations, or all if they are fewer), with Holm's correction over the {count} tests "
            f"of this table; *: p < {SIGNIFICANT}.",
            "Runs of one name are averaged first: the tests are about these trained models, not about new seeds.",
        ),
    )


def _difference(ours: Parts, theirs: Parts, permutations: int, samples: int, seed: int) -> Cell:
    value, low, high = paired_difference(ours, theirs, samples, seed)
    return Cell(value, low, high, p=permutation_test(ours, theirs, permutations, seed))


def footnotes(
    blocks: Sequence[Block], metrics: Sequence[Metric], wanted: Sequence[str] | None, samples: int
) -> list[str]:
    """One sentence or two for each thing that a reader has to know.

    Args:
        blocks: of the table.
        metrics: of the table.
        wanted: names of the rows that the layout asks for; None where it takes all.
        samples: bootstrap samples; 0 where no interval is printed.
    """
    notes = what_was_measured(blocks, metrics)
    methods = [method for block in blocks for method in block.methods]
    if any(len(method.runs) > 1 for method in methods):
        notes.append("Mean ± standard deviation over seeds, which are the runs of one name.")
    if samples:
        notes.append(f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips.")
    notes.append("Bold: best generated row of the block that has all clips.")
    notes += [f"† {row.method}: published, {row.citation}." for block in blocks for row in block.published]
    if any(block.published for block in blocks):
        notes.append("† Published rows were measured by others in other protocols, and are never printed bold.")
    absent = [name for name in wanted or [] if name not in {method.name for method in methods}]
    if absent:
        notes.append(f"Without a run: {', '.join(absent)}.")
    return notes


def what_was_measured(blocks: Sequence[Block], metrics: Sequence[Metric]) -> list[str]:
    """Clips and protocol of each block, measure and judge of each column, and the clips that a method lacks."""
    notes = [_counts(block) for block in blocks if block.methods]
    missing = (note for block in blocks for note in _missing(block))
    return [*notes, *_columns(blocks, metrics), *missing, *_marks(blocks, metrics)]


def _marks(blocks: Sequence[Block], metrics: Sequence[Metric]) -> list[str]:
    """What the marks of some values mean, where there are such."""
    used = "".join(block.mark(method, metric) for block in blocks for method in block.methods for metric in metrics)
    meanings = {
        TWIN: "the judge has the structure and the training clips of the SyncNet that taught the model; never bold",
        PAST: "better than the recordings: from there on the judge rewards what no real mouth does; never bold",
    }
    return [f"{mark} {meaning}." for mark, meaning in meanings.items() if mark in used]


def _counts(block: Block) -> str:
    whole = max((run for method in block.methods for run in method.runs), key=lambda run: len(run.rows))
    if not block.corpus:  # Table 2 keeps clips and no more
        return f"{len(block.ids)} clips."
    summary, frames = whole.summary, int(whole.column("frames").sum())
    return (
        f"{block.corpus}, {summary['split']} split, setting {block.setting}: {len(block.ids)} clips, {frames} frames; "
        f"{summary['protocol'].rstrip('.')}."
    )


def _columns(blocks: Sequence[Block], metrics: Sequence[Metric]) -> list[str]:
    """Protocol and judge of each column; columns that share both share a note, blocks that differ have their own."""
    notes: dict[str, list[str]] = {}
    for metric in metrics:
        told: dict[str, list[str]] = {}
        for block in blocks:
            text = _describe(block, metric)
            if text:
                told.setdefault(text, []).append(block.heading)
        for text, where in told.items():
            place = f" ({', '.join(where)})" if len(told) > 1 else ""
            notes.setdefault(f"{text}{place}", []).append(metric.label)
    return [f"{', '.join(labels)}: {text}." for text, labels in notes.items()]


def _describe(block: Block, metric: Metric) -> str:
    """Empty where no run of the block has the column."""
    runs = [run for method in block.methods for run in method.runs if run.has(metric)]
    if not runs:
        return ""
    judged = {run.summary["name"]: judge["name"] for run in runs if (judge := judged_by(metric, run.summary))}
    text = describe(metric, runs[0].summary)
    usual = next(iter(judged.values()), "")
    text += "".join(f"; for {method}: {name}" for method, name in judged.items() if name != usual)
    if metric.kind == "mean":
        return text
    assert metric.weight is not None
    total = max(int(np.nansum(run.column(metric.weight))) for run in runs)
    unit = _UNITS.get(metric.weight, metric.weight.rsplit(".", 1)[-1])
    return f"{text}, over {total} {unit}"


def _missing(block: Block) -> list[str]:
    notes = []
    for method in block.methods:
        ids = method.missing
        if ids:
            named = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
            notes.append(
                f"{method.name} ({block.heading}): {len(ids)} of {len(block.ids)} clips are missing or unreadable "
                f"({named}); its values are over the others, and it is not printed bold."
            )
    return notes


def markdown_table(runs: Sequence[Run], samples: int, seed: int) -> str:
    """All that was measured as one Markdown table, with intervals, without tests; errors as for `build_tables`."""
    return markdown(build_tables(runs, MEASURED, samples, seed)[0])
