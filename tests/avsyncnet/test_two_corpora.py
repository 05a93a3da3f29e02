"""Several corpora that train as one: labels, pre-training, fine-tuning, and the batches of SyncNet and stage 2."""

import pytest
from hydra import compose, initialize_config_dir
from prepared_factory import make_prepared
from stage1_factory import MICRO, PRETRAIN

from synctalklip import checkpoint
from synctalklip.avsyncnet.clustering import KMeansSettings, cluster, features_of
from synctalklip.avsyncnet.train import ConfigError, train
from synctalklip.cli import CONFIGS, read_arguments
from synctalklip.data.manifest import read_labels, read_manifest
from synctalklip.syncnet.train import train_syncnet

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Arguments that name two prepared folders with clips of the same names, three times as many of one."""
    root = tmp_path_factory.mktemp("corpora")
    named = ["data=[grid,synthetic]", f"data.prepared={root / 'both'}"]
    for seed, (name, count) in enumerate({"grid": 6, "synthetic": 2}.items()):
        make_prepared(root / name, {"train": count, "valid": 2}, frames=(22, 24), seed=seed)
        named.append(f"data.corpora.{name}.prepared={root / name}")
    return [*named, "data.weights={synthetic: 3}", f"data.tokenizer.path={root / 'grid' / 'tokenizer.model'}"]


def configure(script, words, folder, *more):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(script, read_arguments([*words, f"run.name={folder.name}", f"run.dir={folder}", *more]))


def test_stage_1_learns_from_both(words, tmp_path):
    cfg = configure("cluster", words, tmp_path / "cluster")
    features, rate = features_of(1, None, None, 100)
    settings = KMeansSettings(clusters=6, batch_frames=50, passes=1, fraction=1.0)
    folder = tmp_path / "both" / "labels" / "iter1"
    cluster(features, read_manifest(cfg.data), settings, rate, folder, seed=1)
    assert {name.split("/")[0] for name in read_labels(folder).labels} == {"grid", "synthetic"}
    assert len(read_labels(folder).labels) == 12

    own = [word for word in words if not word.startswith("data.prepared")]
    own = [*own, f"data.prepared={tmp_path / 'both'}", *MICRO, "fairseq.optimization.max_update=2"]
    saved = train(configure("train_avsyncnet", own, tmp_path / "pretrain", *PRETRAIN)) / "checkpoint_last.pt"
    task = checkpoint.load(saved)["cfg"]["task"]
    assert set(task["corpora"]) == {"grid", "synthetic"}
    start = f"init_from={saved}"
    train(configure("train_avsyncnet", own, tmp_path / "finetune", start))
    with pytest.raises(ConfigError, match=r"task\.weights\.synthetic=3"):
        train(configure("train_avsyncnet", own, tmp_path / "finetune", start, "data.weights={synthetic: 2}"))


def test_a_syncnet_learns_from_both(words, tmp_path):
    sizes = ["train.steps=1", "train.batch_size=2", "train.frames=20"]
    cfg = configure("train_syncnet", words, tmp_path / "syncnet", *sizes)
    drawn = [clip.corpus for clip in read_manifest(cfg.data, "train", draw=True)]
    assert drawn.count("grid") == drawn.count("synthetic") == 6
    assert train_syncnet(cfg)
