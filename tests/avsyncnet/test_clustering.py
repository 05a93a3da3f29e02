"""Frame labels: right rate and length, reproducible, streamed."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from synctalklip.avsyncnet.clustering import ClusterError, KMeansSettings, _blocks, cluster, features_of, fit
from synctalklip.data.manifest import Clip, read_labels, read_manifest

SETTINGS = KMeansSettings(clusters=4, batch_frames=64, passes=1, fraction=1.0)


def test_mfcc_labels_fit_the_clips(prepared):
    labels = read_labels(prepared / "labels" / "iter1")
    assert (labels.clusters, labels.rate, labels.classes) == (6, 100, 10)
    for clip in read_manifest(prepared):
        assert labels.fits(clip)
        assert len(labels.targets(clip)) == clip.frames
        assert 4 <= labels.targets(clip).min() <= labels.targets(clip).max() < 10
    assert np.load(prepared / "labels" / "iter1" / "kmeans.npz")["centroids"].shape == (6, 39)


@pytest.mark.parametrize("source", ["pretrained", "fine_tuned"])
def test_model_labels_fit_the_clips_at_any_batch_size(prepared, tmp_path, request, source):
    path = request.getfixturevalue(source)
    clips = read_manifest(prepared)
    made = []
    for batch_frames in (13, 60):
        features, rate = features_of(2, str(path), 2, batch_frames)
        cluster(features, clips, SETTINGS, rate, tmp_path / str(batch_frames), seed=1)
        made.append(read_labels(tmp_path / str(batch_frames)))
    assert made[0].rate == 25
    assert all(len(made[0].labels[clip.id]) == clip.frames for clip in clips)
    same = [np.mean(made[0].labels[clip.id] == made[1].labels[clip.id]) for clip in clips]
    assert np.mean(same) > 0.99


def blobs(clips, progress):
    for clip in clips:
        rng = np.random.default_rng(int(clip.id))
        yield clip, (rng.integers(0, 4, 20)[:, None] * 10 + rng.standard_normal((20, 2))).astype(np.float32)


def test_one_pass_finds_clear_clusters_whatever_the_block(tmp_path):
    clips = [Clip(str(index), "train", 20, 12800) for index in range(30)]
    truth = np.concatenate([np.random.default_rng(index).integers(0, 4, 20) for index in range(30)])
    settings = KMeansSettings(clusters=4, batch_frames=90, passes=1, fraction=1.0)
    facts = cluster(blobs, clips, settings, 25, tmp_path, seed=1)
    labels = read_labels(tmp_path).labels
    found = np.concatenate([labels[clip.id] for clip in clips])
    assert adjusted_rand_score(truth, found) > 0.99
    assert facts["used_clusters"] == 4
    assert 3.9 < facts["perplexity"] <= 4


def test_blocks_lose_nothing():
    rows = [np.full((n, 1), n) for n in (3, 4, 5, 1, 2)]
    blocks = list(_blocks(iter(rows), 6))
    assert np.array_equal(np.concatenate(blocks), np.concatenate(rows))
    assert all(len(block) >= 6 for block in blocks)
    assert len(list(_blocks(iter(rows[:1]), 6))) == 1


def test_mistakes_are_explained(prepared):
    with pytest.raises(ClusterError, match="iteration=2"):
        features_of(1, "model.pt", None, 100)
    with pytest.raises(ClusterError, match="checkpoint"):
        features_of(2, None, 9, 100)
    clips = read_manifest(prepared, "train")[:1]
    features, _ = features_of(1, None, None, 100)
    with pytest.raises(ClusterError, match="500 clusters"):
        fit(features, clips, KMeansSettings(500, 10, 1, 1.0), seed=1)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_give_the_labels_of_one_run(prepared, tmp_path, workers):
    clips, whole, parts = read_manifest(prepared), tmp_path / "whole", tmp_path / "parts"
    features, rate = features_of(1, None, None, 100, workers)
    facts = cluster(features, clips, SETTINGS, rate, whole, 1)
    with pytest.raises(ClusterError, match="run shard=fit first"):
        cluster(features, clips, SETTINGS, rate, parts, 1, shard="1/2")
    for shard in ("fit", "2/3", "1/3"):
        assert cluster(features, clips, SETTINGS, rate, parts, 1, shard=shard) is None
        assert not (parts / "labels.txt").exists()
    read = []

    def counted(asked, progress):
        read.extend(clip.id for clip in asked)
        return features(asked, progress)

    assert cluster(counted, clips, SETTINGS, rate, parts, 1) == facts
    # What is left is the third part; nothing is fitted or labelled twice.
    assert sorted(read) == sorted(clip.id for clip in clips)[2::3]
    labels = {name: content for name, content in files_of(whole).items() if name != "kmeans.npz"}
    assert labels == {name: content for name, content in files_of(parts).items() if name != "kmeans.npz"}
    assert set(labels) == {"labels.txt", "info.json"}


def test_parts_of_other_settings_do_not_count(prepared, tmp_path):
    clips = read_manifest(prepared)
    features, rate = features_of(1, None, None, 100)
    for shard in ("fit", "1/2"):
        cluster(features, clips, SETTINGS, rate, tmp_path, 1, shard=shard)
    cluster(features, clips, SETTINGS, rate, tmp_path, 2)
    alone = tmp_path / "alone"
    cluster(features, clips, SETTINGS, rate, alone, 2)
    assert (tmp_path / "labels.txt").read_bytes() == (alone / "labels.txt").read_bytes()
    assert not list(tmp_path.glob("part.*"))
