"""The iterations of eq. 3 as phases of a pipeline, and what came of them as a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase
from synctalklip.pipeline.report import read_curves

BEST = "checkpoints/checkpoint_best.pt"
ACCURACY = "valid/masked_accuracy"


class IterationError(SyncTalklipError):
    """Iterations that cannot follow one another."""


def names(number: int) -> tuple[str, str]:
    """Names of the two phases of an iteration, and of their folders."""
    return f"cluster{number}", f"iteration{number}"


def iteration_phases(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The phases of a plan of iterations: frame labels, training, frame labels, ..., for `plan.plan_phases`.

    Args:
        config: the composed `configs/pipeline/pretrain.yaml` in plain containers. Labels are called
            `<name of the plan>_iter<number>`.

    Raises:
        IterationError: there is no such plan, its first iteration names a layer, or a later one does not.
    """
    name, out = config["iterations"], config["out"]
    if name not in config["plans"]:
        raise IterationError(f"iterations: there is no plan {name!r}; choose from {', '.join(config['plans'])}")
    plan = config["plans"][name]
    found: dict[str, dict[str, Any]] = {}
    for number, iteration in enumerate(plan["iterations"], 1):
        if (iteration.get("layer") is None) != (number == 1):
            raise IterationError(
                f"iteration {number} of {name!r}: the first one clusters MFCC and has no layer, all others need one"
            )
        clustering, training = names(number)
        labels = f"{name}_iter{number}"
        before = f"{out}/{names(number - 1)[1]}/{BEST}"
        clustered = {"name": labels, "iteration": number, "clusters": iteration["clusters"]}
        trained = {**iteration["args"], "fairseq.task.labels": [labels]}
        if number > 1:
            clustered |= {"checkpoint": before, "layer": iteration["layer"]}
        if number > 1 and plan["warm_start"]:
            trained |= {"init_from": before}
        seconds = iteration.get("seconds", (None, None))
        found[clustering] = {
            "script": "cluster",
            "shared": ["corpus", "cluster"],
            "args": clustered,
            "seconds": seconds[0],
        }
        found[training] = {
            "script": "train_avsyncnet",
            "shared": ["corpus", "train"],
            "args": trained,
            "seconds": seconds[1],
        }
    return found


def write_table(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Write what each iteration learned to `iterations.md`.

    Args:
        config: as for `iteration_phases`.
        phases: what was run.
        root: folder that `out` starts at.

    Returns:
        What was written, Markdown.
    """
    text = iteration_table(root / config["out"], phases)
    write_atomically(root / config["out"] / "iterations.md", lambda part: part.write_text(text, encoding="utf-8"))
    return text


def iteration_table(out: str | Path, phases: Sequence[Phase]) -> str:
    """What each iteration learned, as Markdown.

    Args:
        out: folder of the whole.
        phases: as `run_phases` returned them.

    Raises:
        SyncTalklipError: a run left no accuracy.
    """
    out = Path(out)
    seconds = {phase.name: phase.seconds for phase in phases}
    lines = [
        "| iteration | clusters | perplexity | largest % | updates | masked accuracy %: first | last | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for number in range(1, len(phases) // 2 + 1):
        clustering, training = names(number)
        found = json.loads((out / clustering / "clusters.json").read_text())
        curve = read_curves(out / training / "tensorboard", [ACCURACY])[0]
        total = seconds[clustering] + seconds[training]
        lines.append(
            f"| {number} | {found['clusters']} | {found['perplexity']:.1f} | {100 * found['largest']:.1f} "
            f"| {curve.steps[-1]} | {100 * curve.values[0]:.1f} | {100 * curve.values[-1]:.1f} | {total:.0f} |"
        )
    note = (
        "Masked accuracy: clusters of hidden frames named rightly, on validation clips, after the first epoch and at "
        "the end. Naming always the largest cluster would reach its share."
    )
    return "\n".join([*lines, "", note, ""])
