"""The phases of a sweep over variants and seeds, from templates."""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from synctalklip.errors import SyncTalklipError
from synctalklip.tables.claims import Claim, claims_table
from synctalklip.tables.runs import load_run

REFERENCES = ("ground_truth", "still_mouth")
"""Rows of the tables that need no training."""
JUDGES = ("lip_reader", "conformer", "syncnet")


def sweep_phases(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Command lines and what each needs, for `phases.run_phases`.

    Args:
        config: the composed `configs/ablation.yaml` in plain containers.

    Returns:
        name -> command, and name -> names it needs.

    Raises:
        SyncTalklipError: a variant that does not exist, or no seed.
    """
    variants = _chosen(config)
    shared = list(config["shared"])
    commands = {name: config["phases"][name] for name in shared}
    needs = {name: config["needs"].get(name, _before(shared, name)) for name in shared}
    for name in dict.fromkeys(teacher for entry in variants.values() for teacher in entry["teachers"]):
        commands[name] = config["teachers"][name]
        needs[name] = ["prepare", "train_tokenizer", "pretrain"]
    runs = [(variant, seed) for variant, entry in variants.items() for seed in _seeds(config, entry)]
    # The first seed of every variant comes before the second of any.
    for variant, seed in sorted(runs, key=itemgetter(1)):
        entry = variants[variant]
        train, evaluate = f"{variant}_{seed}", f"evaluate_{variant}_{seed}"
        fill = {"base": variant, **entry, "variant": variant, "seed": seed}
        commands[train] = config["train"].format_map(fill)
        needs[train] = ["prepare", *entry["teachers"], *entry.get("after", ())]
        commands[evaluate] = config["evaluate"].format_map(fill)
        needs[evaluate] = [train, *_judges(shared)]
    for table in config["tables"]:
        _add_table(config, table, variants, commands, needs)
    return commands, needs


def _chosen(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    names = list(config["sweep"] or config["variants"])
    unknown = [name for name in names if name not in config["variants"]]
    if unknown:
        raise SyncTalklipError(
            f"sweep: there is no variant '{unknown[0]}'; choose from {', '.join(config['variants'])}"
        )
    return {name: config["variants"][name] for name in names}


def _seeds(config: Mapping[str, Any], entry: Mapping[str, Any]) -> range:
    """The seeds that a variant is trained with: its own number of them, or that of all."""
    count = entry.get("seeds", config["seeds"])
    if count < 1:
        raise SyncTalklipError(f"seeds is {count}; give at least 1")
    return range(1, count + 1)


def _judges(shared: Iterable[str]) -> list[str]:
    """Phases that train what evaluations score with, those of them that the sweep has."""
    return [name for name in JUDGES if name in shared]


def _before(names: list[str], name: str) -> list[str]:
    return names[: names.index(name)]


def _add_table(
    config: Mapping[str, Any],
    table: str,
    variants: Mapping[str, Mapping[str, Any]],
    commands: dict[str, str],
    needs: dict[str, list[str]],
) -> None:
    """The phase of a table that has a trained row, and the evaluations on a second corpus that it wants."""
    wanted = config["tables"][table]
    trained = [row for row in wanted["rows"] if row in variants]
    if not trained:
        return
    references = [row for row in wanted["rows"] if row in REFERENCES]
    runs = [(row, seed) for row in trained for seed in _seeds(config, variants[row])]
    places = [*references, *(f"{row}/seed{seed}" for row, seed in runs)]
    phases = [f"evaluate_{row}" for row in references]
    phases += [f"evaluate_{row}_{seed}" for row, seed in runs]
    folders = [f"{config['out']}/evaluate/{place}" for place in places]
    if wanted["zero_shot"] and config["zero_shot"]:
        for row in references:
            commands[f"zero_shot_{row}"] = config["reference_zero_shot"].format_map({"row": row})
            needs[f"zero_shot_{row}"] = _judges(config["shared"])
        for row, seed in runs:
            fill = {**variants[row], "variant": row, "seed": seed}
            commands[f"zero_shot_{row}_{seed}"] = config["evaluate_zero_shot"].format_map(fill)
            needs[f"zero_shot_{row}_{seed}"] = [f"{row}_{seed}", *_judges(config["shared"])]
        folders += [f"{config['out']}/zero_shot/{place}" for place in places]
        phases += [phase.replace("evaluate", "zero_shot", 1) for phase in phases]
    fill = {"table": table, "layout": wanted["layout"], "runs": ",".join(folders)}
    commands[table], needs[table] = config["table"].format_map(fill), phases


def join_tables(config: Mapping[str, Any], commands: Mapping[str, str], root: Path) -> str:
    """The tables that a sweep wrote, one after the other, as Markdown.

    Args:
        config: as for `sweep_phases`.
        commands: what `sweep_phases` gave.
        root: folder that `out` is relative to.
    """
    parts = []
    for table in config["tables"]:
        if table in commands:
            text = (root / config["out"] / table / "table.md").read_text(encoding="utf-8")
            parts.append(f"## {table.replace('_', ' ').capitalize()}\n\n{text.strip()}\n")
    return "\n".join(parts)


def check_claims(config: Mapping[str, Any], root: Path) -> str:
    """The claims of `config` about the variants of the sweep, held against their evaluations, as Markdown.

    Args:
        config: as for `sweep_phases`.
        root: folder that `out` is relative to.
    """
    folder = root / config["out"] / "evaluate"
    runs = {
        variant: [load_run(folder / variant / f"seed{seed}") for seed in _seeds(config, entry)]
        for variant, entry in _chosen(config).items()
    }
    claims = [Claim(**claim) for claim in config["claims"]]
    return f"## Claims of the paper\n\n{claims_table(claims, runs, config['bootstrap']['samples'], config['seed'])}"
