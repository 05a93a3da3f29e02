"""RESULTS.md and its page of commands, from the runs or again from the record that was made of them.

`collect` goes from the folders of runs to the record: what was measured, with which settings, where and how long. All
places start at the root of the repository; those of rows are explained in `tables/runs.py`.
"""

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synctalklip.checkpoint import write_atomically, write_text
from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, elapsed, plan_phases, read_state, recorded, unfinished
from synctalklip.pipeline.report import plot_curves, read_curves
from synctalklip.pipeline.sweeps import iteration_rows
from synctalklip.tables.claims import Claim, judge_claims, judge_target
from synctalklip.tables.pages import NOT_MEASURED, commands_page, results_page
from synctalklip.tables.record import PAPER, Line, Record, comparison_line, measure, read_record, write_record
from synctalklip.tables.runs import Run, find_runs
from synctalklip.tables.shipped import state_shipped

SAVED = "Settings are those that the runs saved."


def collect(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> Record:
    """All that RESULTS.md shows of the runs that are there.

    Args:
        config: the composed `configs/pipeline/results.yaml` in plain containers.
        missing: phases that are not finished.
        root: folder that all places start at.

    Raises:
        SyncTalklipError: the files of a run are damaged, or runs that stand in one table cannot be compared.
    """
    samples, permutations, seed = config["bootstrap"]["samples"], config["permutations"], config["seed"]
    record = Record({})
    notes = {}
    found: dict[str, dict[str, list[Run]]] = {}
    for name, entry in config["tables"].items():
        rows = (row for group in entry["groups"].values() for row in group)
        runs = {row: made for row in rows if (made := find_runs(f"{entry['places']}{row}", root))}
        found[name] = runs
        if not runs:
            continue
        scores, differences, notes[name] = measure(name, runs, entry, samples, permutations, seed)
        record.scores += scores
        record.differences += differences
        claims = [Claim(**claim) for claim in config["claims"]] if entry.get("claims") else []
        record.comparisons += [comparison_line("claim", name, one) for one in judge_claims(claims, runs, samples, seed)]
    record.comparisons = [*_targets(config, root, samples, seed), *record.comparisons]
    record.settings = {
        kind: settings for kind, entry in config["settings"].items() if (settings := _settings(entry, found, root))
    }
    record.iterations = [line for name in config["iterations"] for line in _iterations(config, name, root)]
    costs = list(_costs(config, missing, root))
    machines = dict.fromkeys(phase["machine"] for run in costs for phase in run["phases"] if phase["machine"])
    record.facts = {
        "recorded": datetime.date.today().isoformat(),
        "machines": list(machines) or ["not noted"],
        "settings_from": SAVED,
        "bootstrap": samples,
        "permutations": permutations,
        "missing": list(missing),
        "notes": notes,
        "shipped": state_shipped(config, root),
        "runs": costs,
        "seconds": sum(run["seconds"] for run in costs),
    }
    return _without_paths(record, config["data"]["root"], root)


def _targets(config: Mapping[str, Any], root: Path, samples: int, seed: int) -> Iterator[Line]:
    for target in config["targets"]:
        comparison = judge_target(target, root, samples, seed)
        if comparison:
            yield comparison_line("target", "", comparison)
        else:
            yield {"kind": "target", "table": "", "name": target["name"], "verdict": NOT_MEASURED}


def _settings(
    entry: Mapping[str, Any], found: Mapping[str, Mapping[str, Sequence[Run]]], root: Path
) -> dict[str, dict[str, str]]:
    """Configurations of the models of one kind of training, and that of the paper beside them; empty where none ran."""
    settings = {}
    for table in entry["tables"]:
        for row, runs in found[table].items():
            saved = [one for run in runs if (one := saved_settings(run, root))]
            if saved:
                # Seeds of a model agree in all but the seed; where they do not, all their values are shown.
                keys = dict.fromkeys(key for one in saved for key in one)
                values = {key: dict.fromkeys(one.get(key, "–") for one in saved) for key in keys}
                settings[f"{table}/{row}"] = {key: " / ".join(each) for key, each in values.items()}
    if settings:
        settings[PAPER] = flat_settings(compose_settings(entry["paper"]["script"], entry["paper"]["overrides"]))
    return settings


def saved_settings(run: Run, root: Path) -> dict[str, str]:
    """The configuration that the training of a run's model saved; empty for rows that need none.

    Raises:
        SyncTalklipError: the file is damaged.
    """
    model = root / str(run.summary.get("generated") or "")
    file = next((folder / "config.yaml" for folder in model.parents if (folder / "config.yaml").is_file()), None)
    if not model.is_file() or file is None:
        return {}
    try:
        return flat_settings(OmegaConf.to_container(OmegaConf.load(file)))
    except (OSError, ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        raise SyncTalklipError(f"{file}: cannot be read ({error}); train this model again") from error


def flat_settings(config: Any, name: str = "") -> dict[str, str]:
    """Dotted key -> value as text, without the names and folders of the run itself."""
    found: dict[str, str] = {}
    for key, value in config.items():
        path = f"{name}.{key}" if name else str(key)
        if path == "run":
            continue
        if isinstance(value, Mapping) and value:
            found |= flat_settings(value, path)
        else:
            found[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def compose_settings(script: str, overrides: Sequence[str]) -> Any:
    """The configuration of a script, composed as its command line would."""
    overrides = [*overrides, "run.dir=unused"]
    if GlobalHydra.instance().is_initialized():
        config = compose(script, overrides)
    else:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(script, overrides)
    return OmegaConf.to_container(config, resolve=True)


def _iterations(config: Mapping[str, Any], name: str, root: Path) -> Iterator[Line]:
    folder = root / config["iterations"][name]
    for row in iteration_rows(folder, list(read_state(folder / "state.json").values())):
        yield {"corpus": name} | row


def _costs(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> Iterator[dict[str, Any]]:
    """Every run with its phases."""
    for phase in plan_phases(config):
        if phase.name not in missing:
            phases = recorded(config, phase.name, root)
            facts = {"name": phase.name, "command": phase.command, "seconds": elapsed(phases)}
            yield facts | {"phases": [_phase(one) for one in phases]}


def _phase(phase: Phase) -> dict[str, Any]:
    date = datetime.datetime.fromtimestamp(phase.started).date().isoformat()
    facts = {"name": phase.name, "machine": phase.machine, "date": date}
    return facts | {"seconds": round(phase.seconds, 1), "command": phase.command}


def _without_paths(record: Record, corpus: str, root: Path) -> Record:
    """The record without folders of this machine: the corpus is GRID, paths of the repository start at its root."""
    folders = {corpus.rstrip("/"): "GRID", f"{root}{os.sep}": ""}
    shown = {path: new for path, new in folders.items() if Path(path).is_absolute()}

    def hidden(node: Any) -> Any:
        if isinstance(node, str):
            for path, new in shown.items():
                node = node.replace(f"'data.root=\"{path}\"'", f"data.root={new}").replace(path, new)
            return node
        if isinstance(node, dict):
            return {key: hidden(value) for key, value in node.items()}
        return [hidden(value) for value in node] if isinstance(node, list) else node

    record.facts, record.settings = hidden(record.facts), hidden(record.settings)
    return record


def report(config: Mapping[str, Any], phases: Sequence[Phase], root: Path) -> str:
    """Write the results, see `write_results`, or again from the record alone, and say where they are."""
    write = write_results if config["collect"] else render_results
    return f"results: {write(config, root)}"


def write_results(config: Mapping[str, Any], root: Path) -> Path:
    """Collect what the runs left into the record, and write RESULTS.md and its page of commands from it.

    Args:
        config: the composed `configs/pipeline/results.yaml` in plain containers.
        root: folder that all places start at.

    Returns:
        RESULTS.md. What is missing from it because a phase is not finished is named at its top.

    Raises:
        SyncTalklipError: a finished phase left out what should be shown, or its files are damaged.
    """
    missing = unfinished(config, root)
    record = collect(config, missing, root)
    record.facts["curves"], record.facts["strips"] = _pictures(config, missing, root)
    write_record(record, root / config["pictures"])
    return render_results(config, root)


def render_results(config: Mapping[str, Any], root: Path) -> Path:
    """Write RESULTS.md and its page of commands from the record alone; arguments and result as for `write_results`.

    Raises:
        SyncTalklipError: there is no whole record.
    """
    record = read_record(root / config["pictures"])
    pages = {config["results"]: results_page(record, config), config["commands_page"]: commands_page(record, config)}
    for name, text in pages.items():
        write_text(root / name, text)
    return root / config["results"]


def _pictures(config: Mapping[str, Any], missing: Sequence[str], root: Path) -> tuple[bool, list[str]]:
    """Write curves and strips below `config["pictures"]`; whether there are curves, and the names of the strips."""
    folder = root / config["pictures"]
    curves = {
        entry["title"]: read_curves(root / entry["folder"], entry["names"])
        for entry in config["curves"].values()
        if entry["phase"] not in missing
    }
    if curves:
        plot_curves(curves, folder / "curves.png")
    strips = {name: e for name, e in config["strips"]["files"].items() if e["phase"] not in missing}
    for name, entry in strips.items():
        shrink(root / entry["file"], folder / f"{name}.jpg", config["strips"]["width"], config["strips"]["quality"])
    return bool(curves), list(strips)


def shrink(source: Path, output: Path, width: int, quality: int) -> None:
    """Copy a picture as a JPEG of at most `width` pixels.

    Raises:
        SyncTalklipError: `source` is missing or no picture.
    """
    import cv2

    picture = cv2.imread(str(source)) if source.is_file() else None
    if picture is None:
        raise SyncTalklipError(f"{source}: should be shown, but is missing or no picture; run its phase again")
    factor = min(1.0, width / picture.shape[1])
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write_atomically(output, lambda part: part.write_bytes(encoded.tobytes()))
