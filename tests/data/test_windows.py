"""Windows, identity frames, batches of stage 2."""

import itertools

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared
from torch.utils.data import DataLoader

from synctalklip.data.clips import ClipReader
from synctalklip.data.features import audio_features
from synctalklip.data.manifest import read_manifest
from synctalklip.data.text import Tokenizer
from synctalklip.data.window_sampling import (
    ImageBudget,
    SilenceConfig,
    WindowConfig,
    identity_start,
    quiet_starts,
    window_starts,
)
from synctalklip.data.windows import WindowDataset, collate
from synctalklip.errors import SyncTalklipError

CONFIG = WindowConfig(frames=5, fraction=0.08, min_windows=2, max_windows=None, identity="window", min_gap=3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_prepared(tmp_path_factory.mktemp("windows"), {"train": 5, "valid": 2}, frames=(20, 31, 4))


def dataset(prepared, split="train", config=CONFIG, seed=1, tokenizer=True):
    reader = ClipReader(read_manifest(prepared, split), cache=True)
    tokens = Tokenizer.load(prepared / "tokenizer.model") if tokenizer else None
    return WindowDataset(reader, config, tokens, seed, train=split == "train")


@pytest.mark.parametrize("length", [1, 4, 5, 9, 10, 11, 75, 145])
def test_windows_are_disjoint_and_inside(length):
    for seed in range(20):
        count = CONFIG.count(length)
        frames = min(5, length)
        for rng in (np.random.default_rng(seed), None):
            starts = window_starts(length, count, frames, rng)
            assert len(starts) == count
            assert starts.min() >= 0
            assert starts.max() + frames <= length
            assert (np.diff(starts) >= frames).all()


def test_all_arrangements_of_windows_are_equally_likely():
    rng = np.random.default_rng(0)
    drawn = [tuple(window_starts(7, 2, 3, rng)) for _ in range(3000)]
    assert set(drawn) == {(0, 3), (0, 4), (1, 4)}
    assert min(drawn.count(pair) for pair in set(drawn)) > 900


def test_six_windows_of_a_clip_of_three_seconds():
    assert CONFIG.count(75) == 6
    assert CONFIG.images(75) == 30
    assert CONFIG.images(4) == 4


@pytest.mark.parametrize("length", [5, 8, 12, 20, 75])
def test_identity_keeps_its_distance_as_far_as_the_clip_allows(length):
    rng = np.random.default_rng(0)
    for start in range(length - 4):
        possible = [abs(other - start) - 5 for other in range(length - 4)]
        needed = min(3, max(possible))
        assert all(abs(identity_start(start, length, 5, 3, rng) - start) - 5 >= needed for _ in range(10))


def test_an_item_holds_what_belongs_together(prepared):
    data = dataset(prepared)
    item = data[0, 1]
    clip = data.reader.clips[1]
    frames, identity = data.sampled_frames(0, 1)
    np.testing.assert_array_equal(item["frames"], frames)
    np.testing.assert_array_equal(item["target"], data.reader.faces(1)[frames])
    np.testing.assert_array_equal(item["identity"], data.reader.faces(1)[identity])
    np.testing.assert_array_equal(item["matrices"], data.reader.matrices(1)[frames])
    assert item["audio"].shape == (clip.frames, 104)
    assert item["tokens"][-1] == 2
    assert data.tokenizer.decode(item["tokens"].tolist()) == clip.text
    assert not set(frames) & set(identity)


def test_frame_identity_holds_one_frame_for_a_window(prepared):
    config = WindowConfig(5, 0.08, 2, None, "frame", 3)
    _, identity = dataset(prepared, config=config).sampled_frames(0, 0)
    assert all(len(set(identity[i : i + 5])) == 1 for i in range(0, len(identity), 5))


def test_draws_depend_on_seed_epoch_and_clip_alone(prepared):
    data = dataset(prepared)
    first = [data.sampled_frames(epoch, 1) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], dataset(prepared, seed=2).sampled_frames(0, 1))


def test_validation_is_the_same_every_epoch_and_covers_every_clip(prepared):
    data = dataset(prepared, "valid")
    np.testing.assert_array_equal(data.sampled_frames(0, 0), data.sampled_frames(7, 0))
    batches = list(ImageBudget(data.images(), [20, 31], 10, 1, shuffle=False))
    assert sorted(index for batch in batches for _, index in batch) == [0, 1]


def loader(data, workers, skip=0):
    lengths = [clip.frames for clip in data.reader.clips]
    batches = ImageBudget(data.images(), lengths, 14, 3, shuffle=True, skip=skip)
    return DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=collate)


def same(a, b):
    return a["clips"] == b["clips"] and all(
        torch.equal(value, b[name]) for name, value in a.items() if isinstance(value, torch.Tensor)
    )


def test_batches_are_the_same_at_any_number_of_workers_and_after_a_skip(prepared):
    data = dataset(prepared)
    alone = list(itertools.islice(loader(data, 0), 8))
    with_workers = list(itertools.islice(loader(data, 2), 8))
    skipped = list(itertools.islice(loader(data, 0, skip=5), 3))
    assert all(same(a, b) for a, b in zip(alone, with_workers, strict=True))
    assert all(same(a, b) for a, b in zip(alone[5:], skipped, strict=True))


def test_collated_frames_keep_their_places(prepared):
    data = dataset(prepared)
    items = [data[0, index] for index in range(3)]
    batch = collate(items)
    lengths = [clip.frames for clip in data.reader.clips[:3]]
    assert batch["rois"].shape == (3, max(lengths), 96, 96)
    assert batch["audio"].shape == (3, 104, max(lengths))
    np.testing.assert_array_equal((~batch["padding_mask"]).sum(1), lengths)
    for row, item in enumerate(items):
        mine = batch["clip"] == row
        assert torch.equal(batch["frame"][mine], item["frames"])
        assert torch.equal(batch["target"][mine], item["target"])
        assert torch.equal(batch["audio"][row, :, : lengths[row]].T, item["audio"])
        tokens = batch["tokens"][row]
        assert torch.equal(tokens[tokens != 1], item["tokens"])
        assert batch["prev_tokens"][row, 0] == 2
        assert torch.equal(batch["prev_tokens"][row, 1 : len(item["tokens"])], item["tokens"][:-1])


def test_every_epoch_has_every_clip_once_within_the_budget():
    rng = np.random.default_rng(0)
    lengths = rng.integers(15, 145, 50)
    images = [CONFIG.images(int(length)) for length in lengths]
    batches = ImageBudget(images, lengths, 40, 0, shuffle=True)
    orders = [batches.epoch(epoch) for epoch in (0, 1)]
    assert orders[0] != orders[1]
    for epoch, order in enumerate(orders):
        assert sorted(index for batch in order for _, index in batch) == list(range(50))
        assert all(drawn == epoch for batch in order for drawn, _ in batch)
        assert all(len(batch) == 1 or sum(images[index] for _, index in batch) <= 40 for batch in order)


def test_processes_share_an_epoch_and_take_as_many_steps():
    alone = ImageBudget([10] * 7, [20] * 7, 10, 0, shuffle=True)
    shares = [ImageBudget([10] * 7, [20] * 7, 10, 0, True, rank=rank, processes=2) for rank in (0, 1)]
    first = [list(itertools.islice(share, 4)) for share in shares]
    flat = [batch for pair in zip(*first, strict=True) for batch in pair]
    assert flat[:7] == alone.epoch(0)


def test_clips_without_words_are_named(prepared):
    reader = ClipReader(read_manifest(prepared, "valid"))
    object.__setattr__(reader.clips[1], "text", "")
    with pytest.raises(SyncTalklipError, match=f"1 clips have no transcript, '{reader.clips[1].id}'"):
        WindowDataset(reader, CONFIG, Tokenizer.load(prepared / "tokenizer.model"), 0, train=False)


def test_bad_settings_are_refused():
    with pytest.raises(SyncTalklipError, match=r"windows\.identity is 'other'"):
        WindowConfig(5, 0.08, 1, None, "other", 5)
    with pytest.raises(SyncTalklipError, match="min_windows start at 1"):
        WindowConfig(5, 0.08, 0, None, "window", 5)


@pytest.mark.parametrize("seed", range(30))
def test_windows_of_any_clip_hold_to_the_paper(prepared, seed):
    """5 consecutive frames, 8 % of the clip as starts, disjoint; identity frames a minimum gap away where they can."""
    rng = np.random.default_rng(seed)
    length, gap = int(rng.integers(5, 200)), int(rng.integers(0, 12))
    config = WindowConfig(5, 0.08, 1, None, "window", gap)
    data = dataset(prepared, config=config)
    object.__setattr__(data.reader.clips[0], "frames", length)
    try:
        target, identity = data.sampled_frames(int(rng.integers(100)), 0)
    finally:
        object.__setattr__(data.reader.clips[0], "frames", 20)
    windows, sources = target.reshape(-1, 5), identity.reshape(-1, 5)
    assert len(windows) == max(1, int(0.08 * length))
    assert (np.diff(windows, axis=1) == 1).all()
    assert (np.diff(sources, axis=1) == 1).all()
    assert (np.diff(windows[:, 0]) >= 5).all()
    for frames in (windows, sources):
        assert frames.min() >= 0
        assert frames.max() < length
    for window, source in zip(windows, sources, strict=True):
        possible = max(int(window[0]), length - int(window[-1]) - 1) - 5
        assert np.abs(source[:, None] - window).min() - 1 >= min(gap, possible)


def test_quiet_starts_by_hand():
    """Frames 3 to 5 and 8 to 9 of ten are silent; windows of two."""
    loud = np.full(640, 1000, np.int16)
    wave = np.concatenate([loud * 0 if t in (3, 4, 5, 8, 9) else loud for t in range(10)])
    assert quiet_starts(wave, 10, 2, -40.0).tolist() == [3, 4, 8]
    # Sound that ends before the video is silent there; a hundredth of the amplitude is 40 dB below.
    assert quiet_starts(wave[:640], 4, 2, -40.0).tolist() == [1, 2]
    faint = np.concatenate([loud, loud // 100, loud // 50])
    assert quiet_starts(faint, 3, 1, -40.0).tolist() == [1]


def silent_dataset(prepared, probability, windows=2, **options):
    config = WindowConfig(5, 0.08, windows, windows, "window", 3, SilenceConfig(probability, -40.0))
    data = dataset(prepared, config=config, **options)
    wave = np.array(data.reader.wave(0))
    # The middle of the clip, frames 8 to 14 of 20, is silent but for its noise.
    wave[8 * 640 : 15 * 640] = np.random.default_rng(0).integers(-3, 4, 7 * 640)
    data.reader._cache["wave", 0] = wave
    data.reader._cache.pop(("logfbank", 0), None)
    return data


def test_silent_windows_lie_where_nobody_speaks_and_hear_nothing(prepared):
    data = silent_dataset(prepared, 1.0)
    wave, seen = data.reader.wave(0).copy(), set()
    for epoch in range(20):
        plan, item = data.plan(epoch, 0), data[epoch, 0]
        assert plan.silent.sum() == 1  # a second window would overlap the first
        (start,) = plan.starts[plan.silent]
        assert start in (8, 9, 10)
        seen.add(int(start))
        assert (np.diff(plan.starts) >= 5).all()
        assert item["silent"].reshape(-1, 5).all(1).tolist() == plan.silent.tolist()
        # Frames that hear only zeros are exactly zero after normalisation; the others are the clip's own.
        expected = wave.copy()
        expected[start * 640 : (start + 5) * 640] = 0
        assert torch.equal(item["audio"], audio_features(expected, 20))
        assert not item["audio"][start + 1 : start + 4].any()
    assert seen == {8, 9, 10}
    np.testing.assert_array_equal(data.reader.wave(0), wave)


def test_silence_comes_as_often_as_asked_only_in_training_and_where_there_is_some(prepared):
    data = silent_dataset(prepared, 0.25, windows=1)
    drawn = [data.plan(epoch, 0).silent.any() for epoch in range(400)]
    assert 0.18 < np.mean(drawn) < 0.32
    assert not any(data.plan(epoch, 1).silent.any() for epoch in range(20))
    valid = dataset(prepared, "valid", config=data.config)
    assert not valid.plan(0, 0).silent.any()
    plain = dataset(prepared)
    without = silent_dataset(prepared, 0.0)
    np.testing.assert_array_equal(plain.sampled_frames(3, 1)[0], without.sampled_frames(3, 1)[0])


def test_collated_frames_know_what_is_spoken_and_its_sound(prepared):
    data = silent_dataset(prepared, 1.0)
    data.sound = True
    items = [data[0, 0], data[0, 1]]
    batch = collate(items)
    assert batch["spoken_counts"] == [5, 10]
    assert torch.equal(batch["spoken"], torch.nonzero(~batch["silent"]).squeeze(1))
    assert batch["sound"].shape == (3, 13, 20)
    start = int(data.plan(0, 1).starts[0])
    assert torch.equal(batch["sound"][1], data.reader.mfcc(1)[4 * start : 4 * start + 20].T)


def test_bad_silence_is_refused():
    with pytest.raises(SyncTalklipError, match=r"windows\.silence"):
        SilenceConfig(1.5, -40.0)
    with pytest.raises(SyncTalklipError, match="threshold_db is below 0"):
        SilenceConfig(0.5, 3.0)
