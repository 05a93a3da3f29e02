"""Who says what in the three settings."""

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared

from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import Clip, read_manifest
from synctalklip.errors import MetricError
from synctalklip.evaluation.methods import Pair, pair_clips, write_jobs
from synctalklip.inference.command import read_jobs
from synctalklip.inference.options import Options


def clips(lengths: list[int], texts: list[str]) -> list[Clip]:
    return [Clip(f"c{i}", "test", n, 640 * n, text) for i, (n, text) in enumerate(zip(lengths, texts))]


def sounds(pairs: list[Pair]) -> dict[str, str]:
    return {pair.clip.id: pair.sound.id for pair in pairs}


def test_crossed_clips_change_sounds_with_the_next_in_length_that_says_something_else():
    some = clips([50, 20, 51, 21, 52, 22], ["a", "b", "a", "c", "d", "b"])
    expected = {"c1": "c3", "c3": "c1", "c5": "c0", "c0": "c5", "c2": "c4", "c4": "c2"}
    assert sounds(pair_clips(some, "cross")) == expected
    assert sounds(pair_clips(some[::-1], "cross")) == expected


def test_every_sound_is_heard_and_none_with_its_own_sentence():
    rng = np.random.default_rng(0)
    some = clips(rng.integers(20, 90, 61).tolist(), [str(word) for word in rng.integers(0, 9, 61)])
    pairs = pair_clips(some, "cross")
    assert [pair.clip for pair in pairs] == some
    assert all(pair.text != pair.clip.text for pair in pairs)
    # Of an odd number one sound serves twice.
    assert len(set(sounds(pairs).values())) >= 60
    cut = [max(0, pair.sound.frames - pair.clip.frames) for pair in pairs]
    assert np.mean(cut) < 5


def test_settings_that_cannot_be():
    with pytest.raises(MetricError, match="no other clip of the split says something else than c0"):
        pair_clips(clips([20, 30], ["a", "a"]), "cross")
    with pytest.raises(MetricError, match="setting=croos: choose reconstruction, cross, silent"):
        pair_clips(clips([20], ["a"]), "croos")
    assert sounds(pair_clips(clips([20, 30], ["", ""]), "cross")) == {"c0": "c1", "c1": "c0"}


def test_the_sound_is_cut_or_filled_and_features_follow_it(tmp_path):
    short, long = read_manifest(make_prepared(tmp_path, {"test": 2}, frames=(20, 25)), "test")
    own = [ClipReader([clip]).wave(0) for clip in (short, long)]
    cut, filled = Pair(short, long).reader(), Pair(long, short).reader()
    np.testing.assert_array_equal(cut.wave(0), own[1][: 20 * 640])
    np.testing.assert_array_equal(filled.wave(0), np.pad(own[0], (0, 5 * 640)))
    assert cut.logfbank(0).shape == (20, 104)
    # Sound that lies whole in the clip has the features it has at home, up to the last window.
    torch.testing.assert_close(filled.mfcc(0)[:70], ClipReader([short]).mfcc(0)[:70])
    np.testing.assert_array_equal(filled.faces(0), ClipReader([long]).faces(0))
    np.testing.assert_array_equal(Pair(short, short).reader().wave(0), own[0])
    silent = Pair(short, None).reader()
    assert not silent.wave(0).any()
    assert torch.isfinite(silent.logfbank(0)).all()


def test_videos_are_made_from_the_same_pairs(tmp_path):
    pairs = pair_clips(clips([20, 30], ["a", "b"]), "cross")
    write_jobs(tmp_path / "jobs.jsonl", pairs)
    jobs = read_jobs(tmp_path / "jobs.jsonl", Options.default())
    assert [job.output for job in jobs] == [tmp_path / "videos" / "c0.mp4", tmp_path / "videos" / "c1.mp4"]
    assert [job.audio.name for job in jobs] == ["c1.wav", "c0.wav"]
    write_jobs(tmp_path / "jobs.jsonl", pair_clips(clips([20, 30], ["a", "b"]), "silent"))
    silence = {job.audio for job in read_jobs(tmp_path / "jobs.jsonl", Options.default())}
    assert silence == {tmp_path / "silence.wav"}
    assert (tmp_path / "silence.wav").stat().st_size == 44 + 2 * 30 * 640
