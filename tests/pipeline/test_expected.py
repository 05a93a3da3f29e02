"""How long a pipeline will take."""

import json
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.pipeline import run
from synctalklip.pipeline.phases import plan_phases


def config(*overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        chosen = ["run.dir=outputs/it", "run.name=it", "reference.probe=0.5", "reference.least=0.1", *overrides]
        return OmegaConf.to_container(compose("pipeline", chosen), resolve=True)


def pipeline(**phases) -> dict:
    entries = {name: {"script": name, **entry} for name, entry in phases.items()}
    return config("~pipeline") | {"phases": entries, "at_once": 2}


@pytest.fixture
def probe(monkeypatch):
    """A machine on which the probe takes `probe.append(seconds)`."""
    seconds = [0.5]
    monkeypatch.setattr(run, "probe_seconds", lambda device: seconds[-1])
    return seconds


def test_expected_times_follow_the_probe_and_the_schedule(tmp_path, probe):
    wanted = pipeline(
        a={"seconds": 60}, b={"seconds": 600, "needs": ["a"]}, c={"seconds": 60, "needs": ["a"]}, d={"seconds": 4}
    )
    probe.append(1.0)  # twice as long as on the reference machine
    seconds, text = run.expectations(wanted, plan_phases(wanted), tmp_path)
    assert seconds == {"a": 120, "b": 1200, "c": 120, "d": 8}
    rows = dict(line.split(maxsplit=1) for line in text.splitlines()[1:-1])
    assert rows == {"a": "2 min", "b": "20 min", "c": "2 min", "d": "8 s"}
    assert re.search(r"Probe: 1000 ms on CPU .* in (fp32|bf16); 500 ms on the reference machine", text)
    # a, then b beside c, then d: 1328 s.
    assert text.splitlines()[-1].split(maxsplit=2)[2] == "23 min, up to 2 side by side"


def test_no_phase_is_expected_below_its_least_share(tmp_path, probe):
    wanted = pipeline(a={"seconds": 1000}, b={"seconds": 1000, "least": 0.02})
    probe.append(0.005)
    seconds, _ = run.expectations(wanted, plan_phases(wanted), tmp_path)
    assert seconds == {"a": 100, "b": 20}


def test_what_computes_on_the_cpu_is_not_expected_to_gain_from_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "choose_device", lambda wanted: torch.device("cpu" if wanted == "cpu" else "meta"))
    monkeypatch.setattr(run, "probe_seconds", lambda device: 0.5 if device.type == "cpu" else 0.1)
    wanted = pipeline(a={"seconds": 100}, b={"seconds": 100, "device": "cpu"})
    seconds, _ = run.expectations(wanted, plan_phases(wanted), tmp_path)
    assert seconds == {"a": pytest.approx(20), "b": 100}


def test_finished_phases_take_no_time_and_unknown_ones_are_named(tmp_path, probe):
    wanted = pipeline(a={"seconds": 100}, b={"seconds": 100}, c={})
    plan = plan_phases(wanted)
    folder = tmp_path / "outputs" / "it"
    folder.mkdir(parents=True)
    done = [{"name": "a", "command": plan[0].command, "started": 0.0, "seconds": 7.0}]
    (folder / "state.json").write_text(json.dumps(done))
    seconds, text = run.expectations(wanted, plan, tmp_path)
    assert seconds == {"b": 100}
    assert [line.split(maxsplit=1)[1] for line in text.splitlines()[1:]] == [
        "done", "2 min", "not known", "all  not known, up to 2 side by side",
    ]  # fmt: skip
    again, _ = run.expectations(wanted | {"fresh": True}, plan, tmp_path)
    assert again == {"a": 100, "b": 100}


def test_a_pipeline_in_a_pipeline_adds_up_its_own(tmp_path, probe):
    wanted = config("pipeline=stage1")
    seconds, _ = run.expectations(wanted, plan_phases(wanted), tmp_path)
    inner = config("pipeline=pretrain", "iterations=tiny", "run.name=it/pretrain", "run.dir=outputs/it/pretrain")
    plan = plan_phases(inner)
    assert len(plan) == 10
    assert seconds["pretrain"] == pytest.approx(sum(phase.seconds for phase in plan))


@pytest.mark.parametrize(
    "name",
    [
        *("demo", "demo_from_nothing", "demo_grid", "stage1", "stage1_grid", "ablation"),
        *("ablation_grid", "results sweep_recipe=grid", "results sweep_recipe=grid_gpu"),
    ],
)
def test_the_time_of_all_that_make_runs_is_known(name, tmp_path):
    wanted = config(
        f"pipeline={name.split()[0]}", "data.root=corpus" if "grid" in name else "seed=1", *name.split()[1:]
    )
    plan = plan_phases(wanted)
    left = run.seconds_left(wanted, plan, tmp_path, {"auto": 1.0, "cpu": 1.0})
    assert [phase for phase, seconds in left.items() if seconds is None] == []
    assert run.seconds_in_all(left, plan, wanted["at_once"]) > max(left.values())


def test_the_probe_takes_time():
    assert 0 < run.probe_seconds(torch.device("cpu")) < 60
