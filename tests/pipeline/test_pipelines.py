"""Every pipeline composes, and so does every command that it runs."""

import re
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import plan_phases

GRID = "/corpora/my grid"
PIPELINES = sorted(path.stem for path in (CONFIGS / "pipeline").glob("*.yaml"))
# Keys at the top of a configuration, whose values no group hangs on.
PLAIN = {
    "seed",
    "name",
    "generated",
    "checkpoint",
    "split",
    "setting",
    "iteration",
    "layer",
    "clusters",
    "workers",
    "runs",
    "init_from",
}
ON_GRID = {name for name in PIPELINES if "grid" in name or name == "results"}


@cache
def composed(name, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, list(overrides))


def config(name, *overrides):
    """A pipeline in plain containers; one seed a variant, the commands of the others differ by its number."""
    chosen = ["check_results", ["fresh=true"]] if name == "check_results" else ["pipeline", [f"pipeline={name}"]]
    chosen[1] += ["run.dir=x", *([f'data.root="{GRID}"'] if name in ON_GRID | {"check_results"} else [])]
    chosen[1] += ["seeds=1"] if name.startswith(("ablation", "grid")) else []
    return OmegaConf.to_container(composed(chosen[0], *chosen[1], *overrides), resolve=True)


def phases(name, *overrides):
    return {phase.name: phase for phase in plan_phases(config(name, *overrides))}


def commanded(phase):
    """The configuration that a phase's command composes with its script."""
    assert (CONFIGS.parent / "scripts" / f"{phase.script}.py").is_file(), phase.name
    return composed(phase.script, *phase.overrides)


def form_of(phase):
    """What decides whether a command composes: script, groups and keys; the values of the keys are plain."""
    words = (word.partition("=") for word in phase.overrides)
    return phase.script, *(key if "." in key or key in PLAIN else f"{key}={value}" for key, _, value in words)


@pytest.mark.parametrize("name", [*(name for name in PIPELINES if name != "grid"), "check_results"])
def test_commands_compose_and_write_apart_from_one_another(name):
    wanted = config(name)
    on_grid = name in ON_GRID | {"check_results"}
    runs, forms = set(), set()
    for phase in plan_phases(wanted):
        if form_of(phase) in forms:
            # As one before, with other values.
            runs.add(phase.folder.removeprefix("outputs/"))
            continue
        forms.add(form_of(phase))
        found = commanded(phase)
        runs.add(found.run.name)
        assert phase.folder == f"outputs/{found.run.name}"
        if "data" in found and phase.script != "pipeline":
            assert found.data.name in ("synthetic", "stage1", "rendered", "grid", "grid_raw", "grid_unseen")
        if "data.root" in phase.args:
            assert found.data.root == (GRID if on_grid else f"data/{found.data.name}")
    assert len(runs) == len(plan_phases(wanted))
    assert wanted["run"]["name"] not in runs


@pytest.mark.parametrize("name", PIPELINES)
def test_what_a_phase_reads_was_written_by_one_that_it_needs(name):
    """Paths below the pipeline's own folder belong to phases that end before."""
    wanted = config(name)
    plan = {phase.name: phase for phase in plan_phases(wanted)}

    def needed(name: str) -> set[str]:
        return {*plan[name].needs, *(far for need in plan[name].needs for far in needed(need))}

    for phase in plan.values():
        for path in re.findall(rf"outputs/{re.escape(wanted['run']['name'])}/[\w./-]+", phase.command):
            writers = [other.name for other in plan.values() if f"{path}/".startswith(f"{other.folder}/")]
            assert set(writers) & needed(phase.name), f"{phase.name} reads {path}, which {writers} writes"


def test_the_demo_of_make_starts_from_what_ships():
    plan = phases("demo")
    assert not {"train_tokenizer", "cluster", "pretrain"} & plan.keys()
    assert plan["finetune"].needs == plan["lip_reader"].needs == ("prepare",)
    starts = [commanded(plan[name]) for name in ("finetune", "lip_reader", "generator")]
    paths = [starts[0].init_from, starts[1].init_from, starts[2].init.generator]
    assert paths == [f"checkpoints/{name}_rendered" for name in ("avsyncnet", "reader", "generator")]
    assert all((CONFIGS.parent / path / "model.safetensors").is_file() for path in paths)


def test_make_names_pipelines_that_exist():
    named = re.findall(r"pipeline=(\w+)", (CONFIGS.parent / "Makefile").read_text())
    assert {"demo", "demo_grid", "stage1", "ablation", "results"} <= set(named) <= set(PIPELINES)


@pytest.mark.parametrize("name", ["demo", "demo_from_nothing", "demo_grid", "stage1", "stage1_grid", "results"])
def test_every_curve_is_that_of_a_run(name):
    wanted = config(name)
    folders = {phase.folder for phase in plan_phases(wanted)}
    curves = wanted["curves"] if name == "results" else wanted["report"]["curves"]
    for entry in filter(None, curves.values()):
        assert folders & {str(folder) for folder in Path(entry["folder"]).parents}, entry["folder"]


@pytest.mark.parametrize("name", sorted(ON_GRID))
def test_grid_needs_its_folder(name):
    assert OmegaConf.is_missing(composed("pipeline", f"pipeline={name}").data, "root")


def test_an_argument_is_changed_from_the_command_line():
    plan = phases("demo", "phases.generator.args={trainer.steps:7}", "+phases.syncnet.args={train.lr:0.5}")
    assert commanded(plan["generator"]).trainer.steps == 7
    assert commanded(plan["syncnet"]).train.lr == 0.5
    with pytest.raises(
        SyncTalklipError, match=r"phases\.table\.nedes: is no setting of a phase; these are args, device, least"
    ):
        phases("demo", "+phases.table.nedes=[]")


@pytest.mark.parametrize("name", ["demo", "demo_from_nothing", "demo_grid"])
def test_the_videos_of_a_report_are_where_it_looks_for_them(name):
    wanted = config(name)
    videos = commanded(phases(name)["generate"]).swap.folder
    assert wanted["report"]["videos"] == [f"{videos}/*.mp4"]
