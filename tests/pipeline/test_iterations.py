"""The five iterations: command lines that compose, and labels that follow the model before."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.pipeline.iterations import IterationError, commands

PRESETS = sorted(path.stem for path in (CONFIGS / "iterations").glob("*.yaml"))


def composed(config, overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(config, overrides)


def plan(preset):
    overrides = [f"iterations={preset}", "data=grid", "data.prepared=/c/my grid", "run.name=all"]
    config = composed("pretrain_all", overrides)
    plain = OmegaConf.to_container(config.iterations)
    return commands(**plain, corpus=config.corpus, out=config.out, cluster=config.cluster, train=config.train)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_command_composes_with_its_script(preset):
    found = plan(preset)
    assert list(found) == [name for number in range(1, 6) for name in (f"cluster{number}", f"iteration{number}")]
    clusters, masks = [], []
    for name, line in found.items():
        script, *overrides = shlex.split(line)
        config = composed(script.removeprefix("scripts/").removesuffix(".py"), overrides)
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
    iterations = composed("pretrain_all", ["iterations=base"]).iterations.iterations
    assert [one.clusters for one in iterations] == [100, 100, 500, 1000, 2000]
    assert [one.get("layer") for one in iterations] == [None, 9, 12, 12, 12]


def test_labels_come_from_the_model_before():
    found = plan("base")
    for number in range(2, 6):
        before = f"outputs/all/iteration{number - 1}/checkpoints/checkpoint_best.pt"
        assert f"checkpoint={before}" in found[f"cluster{number}"]
        assert "init_from" not in found[f"iteration{number}"], "published iterations begin from nothing"
        assert f"init_from={before}" in plan("tiny")[f"iteration{number}"]


def test_a_layer_for_mfcc_is_refused():
    with pytest.raises(IterationError, match="iteration 1 of 'mine'"):
        commands("mine", [{"clusters": 5, "layer": 3, "train": ""}], True, "", "outputs/mine", "", "")
    with pytest.raises(IterationError, match="iteration 2"):
        commands("mine", [{"clusters": 5, "train": ""}, {"clusters": 5, "train": ""}], True, "", "outputs/mine", "", "")
