"""Stage 1 clips: the same draws at any worker count, padding, frame labels, batches within a frame budget."""

import os
import shutil

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared

from synctalklip.data import clips as clips_module
from synctalklip.data import media
from synctalklip.data.augment import Augmentation, augment_rois, resample_roi
from synctalklip.data.clips import ClipReader
from synctalklip.data.dataset import (
    ANY_LENGTH,
    ClipDataset,
    Limits,
    clip_batches,
    collate,
    cut_to_shortest,
    frame_budget_batches,
    split_to_multiple,
    window_at,
)
from synctalklip.data.encode import MediaError
from synctalklip.data.features import normalize_roi
from synctalklip.data.manifest import DatasetError, ManifestError, label_line, read_labels, read_manifest, write_labels
from synctalklip.data.text import EOS, PAD, Tokenizer

ALL = Augmentation(random_crop=True, flip=0.5, resample=0.5, jitter=0.2)


def lines(labels):
    """Labels by clip as their file holds them."""
    return [label_line(name, row) for name, row in sorted(labels.items())]


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
    write_labels(tmp_path / "iter1", lines(labels), clusters=9, rate=rate)
    dataset = ClipDataset(clips, labels=[read_labels(tmp_path / "iter1")])
    for index, clip in enumerate(clips):
        item = dataset[index]
        assert item["labels"][0].tolist() == [label + 4 for label in labels[clip.id][::step]]
        assert len(item["labels"][0]) == item["video"].shape[0] == clip.frames


def test_short_labels_trim_the_clip_and_far_too_short_ones_drop_it(tmp_path, clips):
    labels = {clip.id: np.zeros(clip.frames - 1, np.int64) for clip in clips[:4]}
    labels[clips[4].id] = np.zeros(clips[4].frames - 5, np.int64)
    write_labels(tmp_path / "x", lines(labels), clusters=2, rate=25)
    dataset = ClipDataset(clips, labels=[read_labels(tmp_path / "x")])
    assert [clip.id for clip in dataset.clips] == [clip.id for clip in clips[:4]]
    assert dataset[0]["video"].shape[0] == dataset[0]["audio"].shape[1] == clips[0].frames - 1


def test_random_windows_keep_modalities_and_labels_together(tmp_path, clips):
    labels = {clip.id: np.arange(clip.frames) for clip in clips}
    write_labels(tmp_path / "x", lines(labels), clusters=20, rate=25)
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


def numbered(folder, clips, **settings):
    """A dataset whose labels are the numbers of the frames, so that a batch tells where it was cut."""
    write_labels(folder / "numbers", lines({clip.id: np.arange(clip.frames) for clip in clips}), clusters=20, rate=25)
    return ClipDataset(clips, labels=[read_labels(folder / "numbers")], **settings)


def test_batch_without_padding_is_cut_to_its_shortest_clip(tmp_path, clips):
    dataset = numbered(tmp_path, clips, limits=Limits(pad=False))
    indices = [0, 2, 4, 5]
    shortest = min(clips[index].frames for index in indices)
    starts = {index: set() for index in indices}
    for epoch in range(12):
        dataset.set_epoch(epoch)
        batch = dataset.collate([dataset[index] for index in indices])
        assert not batch["net_input"]["padding_mask"].any()
        assert batch["frames"].tolist() == [shortest] * 4
        for row, index in enumerate(indices):
            numbers = batch["labels"][0][row] - 4
            start = int(numbers[0])
            starts[index].add(start)
            assert numbers.tolist() == list(range(start, start + shortest))
            window = slice(start, start + shortest)
            assert torch.equal(batch["net_input"]["video"][row, 0], normalize_roi(dataset.reader.rois(index)[window]))
            assert torch.equal(batch["net_input"]["audio"][row], dataset.reader.logfbank(index)[window].T)
    spare = {index: clips[index].frames - shortest for index in indices}
    assert all(starts[index] <= set(range(spare[index] + 1)) for index in indices)
    assert {spare[index] > 0: len(starts[index]) > 1 for index in indices} == {False: False, True: True}


def test_cuts_are_the_same_at_any_worker_count(tmp_path, clips):
    def epochs(workers):
        dataset = numbered(tmp_path, clips, limits=Limits(pad=False, crop_frames=9), augmentation=ALL)
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            order = [[0, 1, 2], [5, 4]]
            loader = torch.utils.data.DataLoader(
                dataset, batch_sampler=order, collate_fn=dataset.collate, num_workers=workers
            )
            yield from ((batch["labels"][0], batch["net_input"]["video"]) for batch in loader)

    assert all(torch.equal(a, b) for one, same in zip(epochs(0), epochs(2)) for a, b in zip(one, same))


def test_cutting_twice_reaches_every_place_alike():
    rng = np.random.default_rng(0)
    counts = np.zeros(93)
    for _ in range(20000):
        item = {"place": rng.random(), "frames": 60, "audio": None, "video": None}
        item["labels"] = [torch.arange(100)[window_at(item["place"], 100, 60)]]
        counts[cut_to_shortest([item, {**item, "frames": 8}])[0]["labels"][0][0]] += 1
    assert counts.min() > 0
    assert 0.7 < counts[:46].sum() / counts[47:].sum() < 1.4


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("c1 3 4", "line 1"),
        ("c1\t3 x", "line 1"),
        ("c1\t", "line 1"),
        ("c1\t7", r"outside 0\.\.4"),
        ("c1\t3\nc1\t4", "line 2 lists clip 'c1' a second time"),
    ],
)
def test_bad_label_line_is_named(tmp_path, line, complaint):
    write_labels(tmp_path, lines({}), clusters=5, rate=25)
    (tmp_path / "labels.txt").write_text(line + "\n")
    with pytest.raises(DatasetError, match=complaint):
        read_labels(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"clusters": 5}', b'{"clusters": "many", "rate": 25}', b"\xff"])
def test_damaged_labels_are_named(tmp_path, content):
    write_labels(tmp_path / "iter1", lines({"c1": np.zeros(5, np.int64)}), clusters=5, rate=25)
    (tmp_path / "iter1" / "info.json").write_bytes(content)
    with pytest.raises(DatasetError, match="iter1: damaged labels"):
        read_labels(tmp_path / "iter1")


def test_missing_labels_say_what_to_run(tmp_path):
    with pytest.raises(DatasetError, match=r"scripts/cluster\.py"):
        read_labels(tmp_path / "iter1")


def test_unusable_clips_are_counted(clips, tokenizer, caplog):
    silent = [type(clip)(**{**vars(clip), "text": text}) for clip, text in zip(clips, ("", " \t"))]
    dataset = ClipDataset([*silent, *clips[2:]], tokenizer=tokenizer, limits=Limits(max_frames=12))
    assert len(dataset) == 2
    assert "2 left out: no transcript" in caplog.text
    with pytest.raises(DatasetError, match="none of 2 clips"):
        ClipDataset(silent, tokenizer=tokenizer)
    with pytest.raises(DatasetError, match="crop_frames"):
        ClipDataset(clips, tokenizer=tokenizer, limits=Limits(crop_frames=5))
    with pytest.raises(DatasetError, match="pad"):
        ClipDataset(clips, tokenizer=tokenizer, limits=Limits(pad=False))
    with pytest.raises(DatasetError, match="smell"):
        ClipDataset(clips, modalities=["smell"])


def test_batches_stay_within_the_frame_budget():
    sizes = np.array([5, 30, 7, 12, 9, 100, 6])
    order = np.argsort(sizes)
    made = frame_budget_batches(sizes, order, 30)
    assert sorted(index for batch in made for index in batch) == list(range(7))
    assert all(len(batch) == 1 or sizes[batch].max() * len(batch) <= 30 for batch in made)
    assert all(len(batch) <= 2 for batch in frame_budget_batches(sizes, order, 10**6, max_clips=2))


def test_batches_of_a_multiple_leave_no_clip_out():
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 60, 203)
    order = np.lexsort((rng.random(203), sizes // 10))
    made = frame_budget_batches(sizes, order, 500, multiple=8)
    assert sorted(index for batch in made for index in batch) == list(range(203))
    assert all(sizes[batch].max() * len(batch) <= 500 for batch in made)
    assert all(len(batch) % 8 == 0 or len(batch) < 8 for batch in made[:-1])
    assert frame_budget_batches(sizes[:3], np.arange(3), 500, multiple=8) == [[0, 1, 2]]


@pytest.mark.parametrize("multiple", [1, 4, 5, 16])
def test_epoch_is_filled_to_whole_updates(multiple):
    batches = [[0, 1, 2, 3, 4], [5], [6, 7], [8, 9, 10]]
    filled = split_to_multiple(batches, multiple)
    assert [index for batch in filled for index in batch] == list(range(11))
    assert len(filled) == {1: 4, 4: 4, 5: 5, 16: 11}[multiple], "eleven clips make eleven batches at most"
    assert batches[0] == [0, 1, 2, 3, 4]


def test_order_groups_lengths_and_changes_with_the_epoch(clips):
    dataset = ClipDataset(clips)
    for bucket in (1, 5):
        order = dataset.order(bucket, 1)
        assert sorted(order.tolist()) == list(range(len(clips)))
        assert (np.diff(dataset.sizes[order] // bucket) >= 0).all()
    assert any(dataset.order(100, 1).tolist() != dataset.order(100, epoch).tolist() for epoch in (2, 3))
    assert dataset.order(100, 1).tolist() == dataset.order(100, 1).tolist()


@pytest.fixture
def copied(prepared, tmp_path):
    """A prepared folder that a test may damage."""
    return read_manifest(shutil.copytree(prepared, tmp_path / "prepared", copy_function=shutil.copy2))


def no_decoding(path):
    raise AssertionError(f"{path} was decoded again")


def test_disk_cache_gives_the_same_clips_without_decoding(copied, monkeypatch):
    read = ClipReader(copied)
    plain = [(read.rois(index), read.faces(index)) for index in range(6)]
    for kept in (False, True):
        mapped = ClipReader(copied, cache=kept, disk_cache=True)
        for index, (rois, faces) in enumerate(plain):
            assert np.array_equal(mapped.rois(index), rois)
            assert np.array_equal(mapped.faces(index), faces)
        monkeypatch.setattr(clips_module.media, "read_gray", no_decoding)
        monkeypatch.setattr(clips_module.media, "read_video", no_decoding)
    dataset = ClipDataset(copied, augmentation=ALL, disk_cache=True)
    assert torch.equal(dataset[2]["video"], ClipDataset(copied, augmentation=ALL, disk_cache=True)[2]["video"])
    assert not list((copied[0].root / "cache").rglob(".*")), "no part is left behind"


def test_disk_cache_follows_the_video_and_mends_itself(copied):
    reader, path = ClipReader(copied, disk_cache=True), copied[0].root / "cache" / "rois" / f"{copied[0].id}.npy"
    rois = reader.rois(0).copy()
    for damage in (b"", path.read_bytes()[:1000], b"garbage"):
        stamp = path.stat().st_mtime_ns
        path.write_bytes(damage)
        os.utime(path, ns=(stamp, stamp))
        assert np.array_equal(reader.rois(0), rois)
    # The clip is prepared anew: another video of the same length.
    shutil.copyfile(copied[1].rois, copied[0].rois)
    os.utime(copied[0].rois, ns=(1, 1))
    assert np.array_equal(reader.rois(0), ClipReader(copied).rois(1))


def test_disk_cache_is_filled_by_several_workers_at_once(copied):
    plain = ClipDataset(copied)
    same = [0] * 8 + [3] * 8
    loader = torch.utils.data.DataLoader(
        ClipDataset(copied, disk_cache=True), batch_size=2, sampler=same, collate_fn=collate, num_workers=2
    )
    for batch in loader:
        index = int(batch["id"][0])
        assert torch.equal(batch["net_input"]["video"][0, 0], plain[index]["video"])
    assert len(list((copied[0].root / "cache").rglob("*.npy"))) == 2


def test_full_disk_names_the_cache(copied, monkeypatch):
    def refuse(file, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clips_module.np, "save", refuse)
    with pytest.raises(ManifestError, match=r"cannot be written \(No space left on device\).*disk_cache=false"):
        ClipReader(copied, disk_cache=True).rois(0)


def test_sound_is_what_the_decoder_reads(copied, monkeypatch):
    decoded = media.read_audio(copied[0].wav)
    whole = copied[0].wav.read_bytes()
    monkeypatch.setattr(clips_module.media, "read_audio", no_decoding)
    assert np.array_equal(ClipReader(copied).wave(0), decoded)
    monkeypatch.undo()
    # Anything but prepared sound is the decoder's business.
    for rate in (8000, 16000):
        media.write_wav(copied[1].wav, decoded, rate)
        assert np.array_equal(ClipReader(copied).wave(1), media.read_audio(copied[1].wav))
    for damage in (b"", whole[:30], whole[:2000], b"garbage"):
        copied[0].wav.write_bytes(damage)
        with pytest.raises(MediaError, match=copied[0].wav.name):
            ClipReader(copied).wave(0)


def test_sound_with_nan_and_lost_or_cut_files_are_named(copied):
    import soundfile

    wave = np.zeros(copied[0].samples, np.float32)
    wave[500:600] = np.nan
    soundfile.write(copied[0].wav, wave, 16000, subtype="FLOAT")
    copied[1].rois.unlink()
    copied[2].rois.write_bytes(copied[2].rois.read_bytes()[:500])
    shutil.copyfile(copied[3].rois, copied[4].rois)
    dataset = ClipDataset(copied)
    complaints = {
        0: f"{copied[0].wav.name}.*NaN or infinite",
        1: f"{copied[1].rois.name}.*no such file",
        2: f"{copied[2].rois.name}.*cut short",
        4: f"{copied[4].rois.name}: holds 10 frames, the manifest says 13",
    }
    for index, complaint in complaints.items():
        with pytest.raises((MediaError, ManifestError), match=complaint):
            dataset[index]
    for cached in (True, False):
        with pytest.raises(MediaError, match="no such file"):
            ClipDataset(copied, disk_cache=cached)[1]


def test_reading_clips_leaves_the_random_numbers_of_training_alone(clips):
    dataset = ClipDataset(clips, limits=ANY_LENGTH)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert sum(len(batch) for batch, _ in clip_batches(dataset, np.arange(len(clips)), 50, "read")) == len(clips)
    assert torch.equal(torch.get_rng_state(), before)
