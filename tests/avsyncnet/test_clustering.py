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
