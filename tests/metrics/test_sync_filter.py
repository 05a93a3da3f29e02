"""Data by sync: offsets are found and mended, clips without sync go with their reason, twice changes nothing more."""

import json
import shutil

import numpy as np
import pytest
import torch

from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.data.media import write_wav
from synctalklip.metrics import sync_filter
from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.sync import LSE, lse
from synctalklip.metrics.sync_filter import Limits, filter_clips, move_sound, report, take_out

LIMITS = Limits(tolerance=0, max_offset=6, min_confidence=0.2)


def measure(faces: np.ndarray, wave: np.ndarray) -> LSE:
    """As a SyncNet that knows the toy corpus: its mouths (dark pixels of the lower half) open as the sound is loud."""
    dark = (faces[:, 56:84, 30:66].mean(-1) < 90).mean((1, 2))
    loud = np.abs(wave[: len(faces) * 640].astype(float)).reshape(len(faces), 640).mean(1)
    both = [(curve - curve.mean()) / curve.std() for curve in (dark, loud)]
    windows = [torch.from_numpy(curve).float().unfold(0, 5, 1) for curve in both]
    return lse(*windows, max_shift=10, ends="overlap")


@pytest.fixture
def corpus(toy_corpus, tmp_path):
    return shutil.copytree(toy_corpus, tmp_path / "toy")


def clips_of(corpus):
    return read_manifest(corpus, "test")


def shift(clip, frames: int) -> None:
    write_wav(clip.wav, move_sound(ClipReader([clip]).wave(0), frames))


def outcomes(verdicts) -> dict:
    return {verdict.id: (verdict.outcome, verdict.offset, verdict.left) for verdict in verdicts}


def test_sound_moves_by_whole_frames_and_keeps_its_length():
    wave = np.arange(1, 640 * 4 + 1, dtype=np.int16)
    assert (move_sound(wave, 1)[640:] == wave[:-640]).all()
    assert not move_sound(wave, 1)[:640].any()
    assert (move_sound(wave, -2)[: 640 * 2] == wave[640 * 2 :]).all()
    assert not move_sound(wave, -2)[640 * 2 :].any()
    assert not move_sound(wave, 9).any()


def test_offsets_are_mended_and_a_second_run_finds_nothing(corpus):
    one, two, three = clips_of(corpus)
    original = {clip.id: ClipReader([clip]).wave(0) for clip in (one, two)}
    shift(one, 3)  # the sound comes late
    shift(two, -2)
    first = filter_clips(clips_of(corpus), measure, LIMITS, apply=True)
    assert outcomes(first) == {
        one.id: ("corrected", -3, 0), two.id: ("corrected", 2, 0), three.id: ("kept", 0, None),
    }  # fmt: skip
    inner = slice(640 * 4, -640 * 4)
    for clip in (one, two):
        assert (ClipReader([clip]).wave(0)[inner] == original[clip.id][inner]).all()
    files = {path: path.read_bytes() for path in corpus.rglob("*.wav")}
    again = filter_clips(clips_of(corpus), measure, LIMITS, apply=True)
    assert {verdict.outcome for verdict in again} == {"kept"}
    assert all(path.read_bytes() == content for path, content in files.items())


def test_clips_without_sync_go_with_their_reason_and_nothing_is_lost(corpus):
    one, two, three = clips_of(corpus)
    write_wav(one.wav, ClipReader([three]).wave(0))
    shift(two, 8)
    before = (corpus / "manifest.jsonl").read_bytes()
    (corpus / "rejected.jsonl").write_text('{"id": "old", "source": "x", "reason": "no face"}\n')
    strict = Limits(tolerance=0, max_offset=6, min_confidence=1.5)
    verdicts = filter_clips(clips_of(corpus), measure, strict, apply=True)
    take_out(corpus, verdicts)
    assert [clip.id for clip in clips_of(corpus)] == [three.id]
    assert len(read_manifest(corpus, "train")) == 24
    noted = {entry["id"]: entry["reason"] for entry in map(json.loads, (corpus / "rejected.jsonl").open())}
    assert noted["old"] == "no face"
    assert "confidence" in noted[one.id]
    assert "-8 frames is beyond 6" in noted[two.id]
    assert (corpus / "manifest.unfiltered.jsonl").read_bytes() == before
    take_out(corpus, filter_clips(clips_of(corpus), measure, strict, apply=True))
    assert (corpus / "manifest.unfiltered.jsonl").read_bytes() == before
    assert len((corpus / "rejected.jsonl").read_text().splitlines()) == 3
    text = report(verdicts, applied=True)
    assert "| test  |    1 |         0 |        2 |" in text


def test_a_killed_run_leaves_a_corpus_that_the_next_run_finishes(corpus, monkeypatch):
    for clip in clips_of(corpus):
        shift(clip, 3)
    written = []

    def dies(path, wave):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_wav(path, wave)

    loose, clips = Limits(tolerance=1, max_offset=6, min_confidence=0.2), clips_of(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(sync_filter.media, "write_wav", dies)
        with pytest.raises(KeyboardInterrupt):
            filter_clips(clips, measure, loose, apply=True)
    found = [verdict.outcome for verdict in filter_clips(clips, measure, loose, apply=True)]
    assert found == ["kept", "corrected", "corrected"]


def test_looking_changes_nothing(corpus):
    shift(clips_of(corpus)[0], 3)
    files = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    verdicts = filter_clips(clips_of(corpus), measure, LIMITS, apply=False)
    assert verdicts[0].outcome == "corrected"
    assert "nothing was changed" in report(verdicts, applied=False)
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == files


def test_a_corpus_is_not_emptied(corpus):
    verdicts = filter_clips(read_manifest(corpus), measure, Limits(0, 6, 99.0), apply=True)
    with pytest.raises(MetricError, match="every clip would be rejected"):
        take_out(corpus, verdicts)
    assert len(read_manifest(corpus)) == 33
