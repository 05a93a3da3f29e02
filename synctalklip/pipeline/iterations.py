"""The iterations of eq. 3 as command lines, and what came of them as a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase
from synctalklip.pipeline.report import read_curves
from synctalklip.tables.pages import MASKED_ACCURACY
from synctalklip.tables.render import pipe_table

BEST = "checkpoints/checkpoint_best.pt"
ACCURACY = "valid/masked_accuracy"


class IterationError(SyncTalklipError):
    """Iterations that cannot follow one another."""


def names(number: int) -> tuple[str, str]:
    """Names of the two phases of an iteration, and of their folders."""
    return f"cluster{number}", f"iteration{number}"


def commands(
    name: str,
    iterations: Sequence[Mapping[str, Any]],
    warm_start: bool,
    corpus: str,
    out: str,
    cluster: str,
    train: str,
) -> dict[str, str]:
    """Command lines by phase, in order: frame labels, training, frame labels, ...

    Args:
        name: of the whole; labels are called `<name>_iter<number>`.
        iterations: clusters, layer (from the second on; of the model before) and train (overrides) of each.
        warm_start: begin each iteration with the weights of the one before, not from nothing.
        corpus: overrides that name the corpus.
        out: folder of the whole, `outputs/<run.name>`.
        cluster: more overrides of every clustering.
        train: more overrides of every training.

    Raises:
        IterationError: the first iteration names a layer, or a later one does not.
    """
    run = out.removeprefix("outputs/")
    found: dict[str, str] = {}
    for number, iteration in enumerate(iterations, 1):
        if (iteration.get("layer") is None) != (number == 1):
            raise IterationError(
                f"iteration {number} of {name!r}: the first one clusters MFCC and has no layer, all others need one"
            )
        clustering, training = names(number)
        labels = f"{name}_iter{number}"
        before = f"{out}/{names(number - 1)[1]}/{BEST}"
        source = f"checkpoint={before} layer={iteration['layer']}" if number > 1 else ""
        found[clustering] = (
            f"scripts/cluster.py {corpus} run.name={run}/{clustering} name={labels} iteration={number} "
            f"clusters={iteration['clusters']} {source} {cluster}"
        )
        start = f"init_from={before}" if warm_start and number > 1 else ""
        found[training] = (
            f"scripts/train_avsyncnet.py {corpus} run.name={run}/{training} {iteration['train']} "
            f"fairseq.task.labels=[{labels}] {start} {train}"
        )
    return found


def iteration_rows(out: str | Path, phases: Sequence[Phase]) -> list[dict[str, str]]:
    """What each iteration learned, as printed.

    Args:
        out: folder of the whole.
        phases: as `run_phases` returned them.

    Raises:
        SyncTalklipError: a run left no accuracy.
    """
    out = Path(out)
    seconds = {phase.name: phase.seconds for phase in phases}
    rows = []
    for number in range(1, len(phases) // 2 + 1):
        clustering, training = names(number)
        found = json.loads((out / clustering / "clusters.json").read_text())
        curve = read_curves(out / training / "tensorboard", [ACCURACY])[0]
        row = {"iteration": str(number), "clusters": str(found["clusters"]), "perplexity": f"{found['perplexity']:.1f}"}
        row |= {"largest_%": f"{100 * found['largest']:.1f}", "updates": str(curve.steps[-1])}
        row |= {"first_accuracy_%": f"{100 * curve.values[0]:.1f}", "last_accuracy_%": f"{100 * curve.values[-1]:.1f}"}
        rows.append(row | {"seconds": f"{seconds[clustering] + seconds[training]:.0f}"})
    return rows


def iteration_table(out: str | Path, phases: Sequence[Phase]) -> str:
    """`iteration_rows` as Markdown."""
    rows = iteration_rows(out, phases)
    table = pipe_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])
    return f"{table}\n\n{MASKED_ACCURACY}\n"
