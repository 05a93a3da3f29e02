"""The table of paired differences to one method, with intervals and corrected p values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tqdm import tqdm

from synctalklip.metrics.statistics import Parts, holm, paired_difference, permutation_test
from synctalklip.tables.render import Cell, Column, Row, Table

SIGNIFICANT = 0.05


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
    done = [[replace(cell, p=p, bold=p < SIGNIFICANT) for cell in row for p in [next(corrected)]] for row in cells]
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
            f"of this table. Bold: p < {SIGNIFICANT}.",
            "Runs of one name are averaged first: the tests are about these trained models, not about new seeds.",
        ),
    )


def _difference(ours: Parts, theirs: Parts, permutations: int, samples: int, seed: int) -> Cell:
    value, low, high = paired_difference(ours, theirs, samples, seed)
    return Cell(value, low, high, p=permutation_test(ours, theirs, permutations, seed))
