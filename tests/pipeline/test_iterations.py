"""The five iterations: command lines that compose, and labels that follow the model before."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.pipeline.phases import plan_phases
from synctalklip.pipeline.sweeps import IterationError, iteration_phases


def composed(config, overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, overrides)


def config(plan, *overrides):
    chosen = [
        "pipeline=pretrain",
        f"iterations={plan}",
        "data=grid",
        "data.prepared=/c/my grid",
        "run.name=all",
        "run.dir=x",
    ]
    return OmegaConf.to_container(composed("pipeline", [*chosen, *overrides]), resolve=True)


def planned(plan, *overrides):
    return {phase.name: phase for phase in plan_phases(config(plan, *overrides))}


PLANS = tuple(OmegaConf.load(CONFIGS / "pipeline" / "pretrain.yaml").plans)


@pytest.mark.parametrize("plan", PLANS)
def test_every_command_composes_with_its_script(plan):
    found = planned(plan)
    assert list(found) == [name for number in range(1, 6) for name in (f"cluster{number}", f"iteration{number}")]
    clusters, masks = [], []
    for name, phase in found.items():
        config = composed(phase.script, phase.overrides)
        assert (config.data.name, config.data.prepared) == ("grid", "/c/my grid")
        if name.startswith("cluster"):
            clusters.append(config.clusters)
            labels = config.name
        else:
            assert config.fairseq.task.labels == [labels]
            masks.append(config.fairseq.model.masking_type)
    assert clusters == sorted(clusters)
    assert masks == ["feature"] * 4 + ["input"], "the paper's iterations 1 to 4 hide features, the fifth hides input"


def test_published_clusters_and_layers():
    args = [phase.args for name, phase in planned("base").items() if name.startswith("cluster")]
    assert [one["clusters"] for one in args] == [100, 100, 500, 1000, 2000]
    assert [one.get("layer") for one in args] == [None, 9, 12, 12, 12]


def test_labels_come_from_the_model_before():
    found, warm = planned("base"), planned("tiny")
    for number in range(2, 6):
        before = f"outputs/all/iteration{number - 1}/checkpoints/checkpoint_best.pt"
        assert found[f"cluster{number}"].args["checkpoint"] == before
        assert "init_from" not in found[f"iteration{number}"].args, "published iterations begin from nothing"
        assert warm[f"iteration{number}"].args["init_from"] == before


def test_every_clustering_and_every_training_take_more_arguments():
    found = planned("tiny", "+shared.cluster={fit.fraction:0.1}", "+shared.train={fairseq.common.cpu:true}")
    for name, phase in found.items():
        cfg = composed(phase.script, phase.overrides)
        assert cfg.fit.fraction == 0.1 if name.startswith("cluster") else cfg.fairseq.common.cpu


def test_a_layer_for_mfcc_is_refused():
    wrong = config("tiny")
    wrong["plans"]["tiny"]["iterations"][0]["layer"] = 3
    with pytest.raises(IterationError, match="iteration 1 of 'tiny'"):
        iteration_phases(wrong)
    wrong = config("tiny")
    del wrong["plans"]["tiny"]["iterations"][1]["layer"]
    with pytest.raises(IterationError, match="iteration 2"):
        iteration_phases(wrong)
    with pytest.raises(IterationError, match="there is no plan 'huge'; choose from tiny, small, base, large"):
        iteration_phases(config("huge"))
