"""What stands below a result table: clips, protocol and judge of every column, and how to read the marks."""

from collections.abc import Sequence

import numpy as np

from synctalklip.tables.blocks import Block
from synctalklip.tables.columns import Metric, describe, judged_by

_SHOWN = 5  # ids of missing clips that are spelled out


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
    notes = [_counts(block) for block in blocks if block.methods]
    notes += _columns(blocks, metrics)
    notes += [note for block in blocks for note in _missing(block)]
    methods = [method for block in blocks for method in block.methods]
    if any(len(method.runs) > 1 for method in methods):
        notes.append("Mean ± standard deviation over runs of one name, which differ in their seed alone.")
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


def _counts(block: Block) -> str:
    whole = max((run for method in block.methods for run in method.runs), key=lambda run: len(run.rows))
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
    total = max(int(np.nansum(run.column(metric.weight))) for run in runs)
    unit = {"open_counted": "frames"}.get(metric.weight, metric.weight.rsplit(".", 1)[-1])
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
