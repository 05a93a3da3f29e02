"""Pipelines that a few settings expand into many phases: the iterations of eq. 3, and variants times seeds.

What came of either is a table; that of a sweep has the claims that are held against it below.
"""

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase
from synctalklip.pipeline.report import read_curves
from synctalklip.tables.claims import Claim, claims_table
from synctalklip.tables.pages import MASKED_ACCURACY
from synctalklip.tables.render import pipe_table
from synctalklip.tables.runs import load_run

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


REFERENCES = ("ground_truth", "still_mouth")
"""Rows of the tables that need no training."""
TRAIN, EVALUATE, TABLE = "generator", "evaluate_generator", "table"
"""Phases that are run once for each variant and seed, and once for each table."""

Entry = dict[str, Any]


def sweep_phases(config: Mapping[str, Any]) -> dict[str, Entry]:
    """The phases behind the tables of a sweep, for `plan.plan_phases`.

    Args:
        config: the composed `configs/pipeline/ablation.yaml` in plain containers.

    Returns:
        The entries of `config["phases"]`, with those of variants, seeds and tables; what no table needs is left out.

    Raises:
        SyncTalklipError: a variant or an expert that does not exist, or no seed.
    """
    variants = _chosen(config)
    phases = dict(config["phases"])
    runs = [(variant, seed) for variant, entry in variants.items() for seed in _seeds(config, entry)]
    # The first seed of every variant comes before the second of any.
    for variant, seed in sorted(runs, key=itemgetter(1)):
        phases[f"{variant}_{seed}"] = _training(config, variant, seed)
        phases[f"evaluate_{variant}_{seed}"] = _evaluation(config, variant, seed)
    for table in _tables(config):
        _add_table(config, table, variants, phases)
    needed = _needed_by([table for table in _tables(config) if table in phases], phases)
    return {name: entry for name, entry in phases.items() if name in needed}


def _chosen(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    names = list(config["sweep"] or config["variants"])
    unknown = [name for name in names if name not in config["variants"]]
    if unknown:
        raise SyncTalklipError(
            f"sweep: there is no variant '{unknown[0]}'; choose from {', '.join(config['variants'])}"
        )
    return {name: config["variants"][name] for name in names}


def _tables(config: Mapping[str, Any]) -> list[str]:
    """Names of the tables; a pipeline that extends another leaves one out by null."""
    return [name for name, wanted in config["tables"].items() if wanted]


def _seeds(config: Mapping[str, Any], entry: Mapping[str, Any]) -> range:
    """The seeds that a variant is trained with: its own number of them, or that of all."""
    count = entry.get("seeds", config["seeds"])
    if count < 1:
        raise SyncTalklipError(f"seeds is {count}; give at least 1")
    return range(1, count + 1)


def _training(config: Mapping[str, Any], variant: str, seed: int) -> Entry:
    """The phase that trains a variant with a seed."""
    template, entry = config["phases"][TRAIN], config["variants"][variant]
    if entry["expert"] not in config["experts"]:
        raise SyncTalklipError(
            f"variants.{variant}: there is no expert {entry['expert']!r}; choose from {', '.join(config['experts'])}"
        )
    args = template["args"] | {"variant": variant, "seed": seed, "expert.path": config["experts"][entry["expert"]]}
    for group in entry.get("shared", ()):
        args |= config["shared"][group]
    run = f"{config['run']['name']}/{variant}/seed{seed}"
    needs = [entry["expert"], *entry.get("needs", ())]
    return template | {"run": run, "args": args | entry.get("args", {}), "needs": needs}


def _evaluation(config: Mapping[str, Any], variant: str, seed: int) -> Entry:
    """The phase that evaluates a variant on its own corpus and with its own sound."""
    template = config["phases"][EVALUATE]
    own = {
        "name": config["variants"][variant]["name"],
        "generated": f"{config['out']}/{variant}/seed{seed}/checkpoints/generator.pt",
    }
    return template | {
        "run": f"{config['run']['name']}/evaluate/{variant}/seed{seed}",
        "args": template["args"] | own,
        "needs": [f"{variant}_{seed}" if need == TRAIN else need for need in template["needs"]],
    }


def _elsewhere(evaluation: Entry, kind: str, run: str) -> Entry:
    """The same evaluation with another sentence's sound ("cross"), or on the corpus of `zero_shot`."""
    if kind == "cross":
        return evaluation | {"run": run, "args": evaluation["args"] | {"setting": "cross"}}
    return evaluation | {
        "run": run,
        "shared": ["zero_shot" if group == "corpus" else group for group in evaluation["shared"]],
    }


def _add_table(
    config: Mapping[str, Any], table: str, variants: Mapping[str, Mapping[str, Any]], phases: dict[str, Entry]
) -> None:
    """Add the phase of a table that has a trained row, and the other evaluations that it wants as further blocks."""
    wanted, run = config["tables"][table], config["run"]["name"]
    trained = [row for row in wanted["rows"] if row in variants]
    if not trained:
        return
    references = [row for row in wanted["rows"] if row in REFERENCES]
    runs = [(row, seed) for row in trained for seed in _seeds(config, variants[row])]
    places = [*references, *(f"{row}/seed{seed}" for row, seed in runs)]
    names = [*references, *(f"{row}_{seed}" for row, seed in runs)]
    folders = ["evaluate"]
    folders += ["cross"] if wanted.get("cross") else []
    folders += ["zero_shot"] if wanted["zero_shot"] and config["shared"]["zero_shot"] else []
    for kind in folders[1:]:
        for name, place in zip(names, places, strict=True):
            phases[f"{kind}_{name}"] = _elsewhere(phases[f"evaluate_{name}"], kind, f"{run}/{kind}/{place}")
    phases[table] = phases[TABLE] | {
        "run": f"{run}/{table}",
        "args": {
            "layout": wanted["layout"],
            "runs": [f"{config['out']}/{folder}/{place}" for folder in folders for place in places],
            **wanted.get("args", {}),
        },
        "needs": [f"{folder}_{name}" for folder in folders for name in names],
    }


def _needed_by(names: Sequence[str], phases: Mapping[str, Entry]) -> set[str]:
    """The phases of these names and all that they need."""
    found, open_ = set[str](), list(names)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += [need for need in phases[name]["needs"] if need in phases] if name in phases else []
    return found


def write_tables(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Join the tables that a sweep wrote and its claims into `tables.md`.

    Args:
        config: as for `sweep_phases`.
        phases: what was run.
        root: folder that `out` starts at.

    Returns:
        What was written, Markdown.
    """
    text = f"{join_tables(config, [phase.name for phase in phases], root)}\n{check_claims(config, root)}"
    write_atomically(root / config["out"] / "tables.md", lambda part: part.write_text(text, encoding="utf-8"))
    return text


def join_tables(config: Mapping[str, Any], phases: Sequence[str], root: Path) -> str:
    """The tables that a sweep wrote, one after the other, as Markdown.

    Args:
        config: as for `sweep_phases`.
        phases: names of what was run.
        root: folder that `out` starts at.
    """
    parts = []
    for table in _tables(config):
        if table in phases:
            text = (root / config["out"] / table / "table.md").read_text(encoding="utf-8")
            parts.append(f"## {table.replace('_', ' ').capitalize()}\n\n{text.strip()}\n")
    return "\n".join(parts)


def check_claims(config: Mapping[str, Any], root: Path) -> str:
    """The claims of `config` about the variants of the sweep, held against their evaluations, as Markdown.

    Args:
        config: as for `sweep_phases`.
        root: folder that `out` starts at.
    """
    folder = root / config["out"] / "evaluate"
    runs = {
        variant: [load_run(folder / variant / f"seed{seed}") for seed in _seeds(config, entry)]
        for variant, entry in _chosen(config).items()
    }
    claims = [Claim(**claim) for claim in config["claims"]]
    return f"## Claims of the paper\n\n{claims_table(claims, runs, config['bootstrap']['samples'], config['seed'])}"
