"""Stage 1 clips: the same draws at any worker count, padding, frame labels, batches within a frame budget."""

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared

from synctalklip.data.dataset import (
    Augmentation,
    ClipDataset,
    Limits,
    augment_rois,
    collate,
    frame_budget_batches,
    resample_roi,
)
from synctalklip.data.features import normalize_roi
from synctalklip.data.labels import DatasetError, read_labels, write_labels
from synctalklip.data.manifest import read_manifest
from synctalklip.data.text import EOS, PAD, Tokenizer

ALL = Augmentation(random_crop=True, flip=0.5, resample=0.5, jitter=0.2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_prepared(tmp_path_factory.mktemp("prepared"), {"train": 6}, frames=(8, 10, 13))


@pytest.fixture(scope="module")
def clips(prepared):
    return read_manifest(prepared)


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return Tokenizer.load(prepared / "tokenizer.model")


def batches(dataset, workers):
    order = [[0, 1], [2, 3], [4, 5]]
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=order, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        yield [batch["net_input"]["video"] for batch in loader]


def test_draws_depend_on_seed_epoch_and_index_only(clips):
    def epochs(seed, workers):
        return list(batches(ClipDataset(clips, augmentation=ALL, seed=seed), workers))

    alone, helped, other = epochs(1, 0), epochs(1, 2), epochs(2, 0)
    for one, same in zip(alone, helped):
        assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not all(torch.equal(a, b) for a, b in zip(alone[0], alone[1]))
    assert not all(torch.equal(a, b) for a, b in zip(alone[0], other[0]))


def test_validation_takes_the_centre_of_every_frame(clips):
    dataset = ClipDataset(clips)
    assert torch.equal(dataset[0]["video"], normalize_roi(dataset.reader.rois(0)))
    assert torch.equal(dataset[0]["audio"], dataset.reader.logfbank(0).T)


def test_one_draw_for_all_frames_of_a_clip():
    rois = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 96, 96), dtype=np.uint8), 5, 0)
    video = augment_rois(rois, ALL, np.random.default_rng(3))
    assert all(torch.equal(frame, video[0]) for frame in video)


def test_switching_one_augmentation_off_leaves_the_others():
    rois = np.random.default_rng(0).integers(0, 256, (2, 96, 96), dtype=np.uint8)
    both = augment_rois(rois, Augmentation(random_crop=True, flip=1.0), np.random.default_rng(5))
    crop = augment_rois(rois, Augmentation(random_crop=True), np.random.default_rng(5))
    assert torch.equal(both.flip(-1), crop)


def test_resampling_softens_and_keeps_the_mean():
    rois = np.random.default_rng(0).integers(0, 256, (3, 96, 96), dtype=np.uint8)
    soft = resample_roi(rois, 1.93)
    assert soft.shape == rois.shape
    assert soft.std() < 0.6 * rois.std()
    assert abs(float(soft.mean()) - float(rois.mean())) < 1
    flat = np.full((2, 96, 96), 77, np.uint8)
    assert np.array_equal(resample_roi(flat, 1.93), flat)


def test_collate_pads_and_shifts(clips, tokenizer):
    dataset = ClipDataset(clips, tokenizer=tokenizer)
    batch = dataset.collate([dataset[0], dataset[5]])
    net_input = batch["net_input"]
    assert net_input["audio"].shape == (2, 104, 13)
    assert net_input["video"].shape == (2, 1, 13, 88, 88)
    assert net_input["padding_mask"].sum(1).tolist() == [5, 0]
    assert not net_input["video"][0, :, 8:].any()
    assert not net_input["audio"][0, :, 8:].any()
    assert torch.equal(net_input["video"][0, 0, :8], dataset[0]["video"])
    assert batch["target"][0].tolist() == tokenizer.encode(clips[0].text, eos=True)
    assert net_input["prev_tokens"][0].tolist() == [EOS, *batch["target"][0][:-1].tolist()]


def test_targets_of_different_length_are_padded(tokenizer):
    items = [
        {"id": i, "frames": 2, "audio": torch.zeros(104, 2), "video": None, "labels": [], "target": torch.tensor(ids)}
        for i, ids in enumerate([[5, 2], [5, 6, 7, 2]])
    ]
    batch = collate(items)
    assert batch["target"].tolist() == [[5, 2, PAD, PAD], [5, 6, 7, 2]]
    assert batch["net_input"]["prev_tokens"].tolist() == [[2, 5, PAD, PAD], [2, 5, 6, 7]]
    assert batch["net_input"]["video"] is None


@pytest.mark.parametrize("rate", [100, 25])
def test_frame_labels_are_aligned_to_video(tmp_path, clips, rate):
    step = rate // 25
    rng = np.random.default_rng(0)
    labels = {clip.id: rng.integers(0, 9, clip.frames * step - (step > 1)) for clip in clips}
    write_labels(tmp_path / "iter1", labels, clusters=9, rate=rate)
    dataset = ClipDataset(clips, labels=[read_labels(tmp_path / "iter1")])
    for index, clip in enumerate(clips):
        item = dataset[index]
        assert item["labels"][0].tolist() == [label + 4 for label in labels[clip.id][::step]]
        assert len(item["labels"][0]) == item["video"].shape[0] == clip.frames


def test_short_labels_trim_the_clip_and_far_too_short_ones_drop_it(tmp_path, clips):
    labels = {clip.id: np.zeros(clip.frames - 1, np.int64) for clip in clips[:4]}
    labels[clips[4].id] = np.zeros(clips[4].frames - 5, np.int64)
    write_labels(tmp_path / "x", labels, clusters=2, rate=25)
    dataset = ClipDataset(clips, labels=[read_labels(tmp_path / "x")])
    assert [clip.id for clip in dataset.clips] == [clip.id for clip in clips[:4]]
    assert dataset[0]["video"].shape[0] == dataset[0]["audio"].shape[1] == clips[0].frames - 1


def test_random_windows_keep_modalities_and_labels_together(tmp_path, clips):
    labels = {clip.id: np.arange(clip.frames) for clip in clips}
    write_labels(tmp_path / "x", labels, clusters=20, rate=25)
    dataset = ClipDataset(clips, labels=[read_labels(tmp_path / "x")], limits=Limits(crop_frames=6))
    assert set(dataset.sizes) == {6}
    starts = set()
    for epoch in range(5):
        dataset.set_epoch(epoch)
        item = dataset[2]
        start = int(item["labels"][0][0]) - 4
        starts.add(start)
        assert item["labels"][0].tolist() == list(range(start + 4, start + 10))
        assert torch.equal(item["video"], normalize_roi(dataset.reader.rois(2))[start : start + 6])
    assert len(starts) > 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("c1 3 4", "line 1"), ("c1\t3 x", "line 1"), ("c1\t", "line 1"), ("c1\t7", r"outside 0\.\.4")],
)
def test_bad_label_line_is_named(tmp_path, line, complaint):
    write_labels(tmp_path, {}, clusters=5, rate=25)
    (tmp_path / "labels.txt").write_text(line + "\n")
    with pytest.raises(DatasetError, match=complaint):
        read_labels(tmp_path)


def test_missing_labels_say_what_to_run(tmp_path):
    with pytest.raises(DatasetError, match=r"scripts/cluster\.py"):
        read_labels(tmp_path / "iter1")


def test_unusable_clips_are_counted(clips, tokenizer, caplog):
    silent = [type(clip)(**{**vars(clip), "text": ""}) for clip in clips[:2]]
    dataset = ClipDataset([*silent, *clips[2:]], tokenizer=tokenizer, limits=Limits(max_frames=12))
    assert len(dataset) == 2
    assert "2 left out: no transcript" in caplog.text
    with pytest.raises(DatasetError, match="none of 2 clips"):
        ClipDataset(silent, tokenizer=tokenizer)
    with pytest.raises(DatasetError, match="crop_frames"):
        ClipDataset(clips, tokenizer=tokenizer, limits=Limits(crop_frames=5))
    with pytest.raises(DatasetError, match="smell"):
        ClipDataset(clips, modalities=["smell"])


def test_batches_stay_within_the_frame_budget():
    sizes = np.array([5, 30, 7, 12, 9, 100, 6])
    order = np.argsort(sizes)
    made = frame_budget_batches(sizes, order, 30)
    assert sorted(index for batch in made for index in batch) == list(range(7))
    assert all(len(batch) == 1 or sizes[batch].max() * len(batch) <= 30 for batch in made)
    assert all(len(batch) <= 2 for batch in frame_budget_batches(sizes, order, 10**6, max_clips=2))


def test_order_groups_lengths_and_changes_with_the_epoch(clips):
    dataset = ClipDataset(clips)
    for bucket in (1, 5):
        order = dataset.order(bucket, 1)
        assert sorted(order.tolist()) == list(range(len(clips)))
        assert (np.diff(dataset.sizes[order] // bucket) >= 0).all()
    assert any(dataset.order(100, 1).tolist() != dataset.order(100, epoch).tolist() for epoch in (2, 3))
    assert dataset.order(100, 1).tolist() == dataset.order(100, 1).tolist()
