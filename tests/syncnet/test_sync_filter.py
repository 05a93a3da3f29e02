"""Data by sync: offsets are found and mended, clips without sync go with their reason, twice changes nothing more."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from synctalklip import checkpoint
from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader, clip_mfcc
from synctalklip.data.manifest import ManifestError, read_manifest, write_manifest
from synctalklip.data.media import write_wav
from synctalklip.errors import MetricError
from synctalklip.syncnet import filter as sync_filter
from synctalklip.syncnet.filter import Limits, Verdict, filter_clips, filter_sync, move_sound, report, take_out
from synctalklip.syncnet.lse import LSE, SyncNetInfo, build_syncnet, load_syncnet, lse, save_syncnet, score_clip

LIMITS = Limits(tolerance=0, max_offset=6, min_confidence=0.2)


def compared(faces: np.ndarray, loud: np.ndarray, max_shift: int = 10) -> LSE:
    """As a SyncNet that knows the toy corpus: its mouths (dark pixels of the lower half) open as the sound is loud."""
    dark = (faces[:, 56:84, 30:66].mean(-1) < 90).mean((1, 2))
    both = [(curve - curve.mean()) / curve.std() for curve in (dark, loud)]
    windows = [torch.from_numpy(curve).float().unfold(0, 5, 1) for curve in both]
    return lse(*windows, max_shift=max_shift, ends="overlap")


def measure(faces: np.ndarray, wave: np.ndarray) -> LSE:
    return compared(faces, np.abs(wave[: len(faces) * 640].astype(float)).reshape(len(faces), 640).mean(1))


@pytest.fixture
def corpus(toy_corpus, tmp_path):
    """Three clips to test and one to validate, free to be changed."""
    root, clips = tmp_path / "toy", read_manifest(toy_corpus)
    chosen = [clip for clip in clips if clip.split == "test" or clip.id == "valid_0"]
    for file in (file for clip in chosen for file in clip.files()):
        copy = root / file.relative_to(toy_corpus)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    write_manifest(root / "manifest.jsonl", chosen)
    return root


def config(corpus: Path, run: Path, *overrides: str) -> DictConfig:
    """The real config on the toy corpus."""
    where = [f"data.prepared={corpus}", "data.name=toy", f"run.dir={run}", "run.name=filter", "device=cpu"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("filter_sync", [*where, *overrides])


@pytest.fixture
def knowing(monkeypatch) -> None:
    """`filter_sync` whose SyncNet hears the loudness in the first of the MFCC, the log energy."""

    def score(model: None, faces: np.ndarray, mfcc: torch.Tensor, max_shift: int, samples: int) -> LSE:
        return compared(faces, mfcc[:, 0].double().exp().sqrt().reshape(len(faces), 4).mean(1).numpy(), max_shift)

    monkeypatch.setattr(sync_filter, "load_syncnet", lambda path, device: (None, None))
    monkeypatch.setattr(sync_filter, "score_clip", score)


@pytest.fixture
def untrained(tmp_path) -> Path:
    """A real SyncNet that knows nothing."""
    settings = {"structure": "small", "width": 8, "embedding": 8}
    torch.manual_seed(0)
    save_syncnet(tmp_path / "syncnet.pt", build_syncnet(**settings), settings, SyncNetInfo("small", "toy", 0))
    return tmp_path / "syncnet.pt"


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


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
    assert [clip.id for clip in read_manifest(corpus, "valid")] == ["valid_0"]
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
    assert "| low confidence   |    1 |" in text
    assert "| offset too large |    1 |" in text


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


@pytest.mark.parametrize("victim", ["write_jsonl", "write_manifest"])
def test_a_run_killed_while_it_takes_clips_out_is_finished_by_the_next(corpus, monkeypatch, victim):
    one, before = clips_of(corpus)[0], (corpus / "manifest.jsonl").read_bytes()
    verdicts = [Verdict(one.id, "test", "rejected", reason="no sync")]

    def dies(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sync_filter, victim, dies)
        with pytest.raises(KeyboardInterrupt):
            take_out(corpus, verdicts)
    assert (corpus / "manifest.jsonl").read_bytes() == before
    take_out(corpus, verdicts)
    assert one.id not in {clip.id for clip in read_manifest(corpus)}
    assert [json.loads(line)["id"] for line in (corpus / "rejected.jsonl").open()] == [one.id]
    assert (corpus / "manifest.unfiltered.jsonl").read_bytes() == before


def scripted(*found: tuple[int, float]) -> Callable[[np.ndarray, np.ndarray], LSE]:
    """Offset and confidence, the first measurement of a clip and the next."""
    answers = iter(found)

    def answer(faces: np.ndarray, wave: np.ndarray) -> LSE:
        offset, confidence = next(answers)
        return LSE(1.0, confidence, offset, 1.0, (1.0,))

    return answer


@pytest.mark.parametrize(
    ("after", "reason"), [((-4, 0.9), "still -4 after the correction"), ((0, 0.1), "confidence of 0.100, below 0.2")]
)
def test_what_the_next_run_would_reject_is_not_corrected(corpus, after, reason):
    one = clips_of(corpus)[0]
    before = one.wav.read_bytes()
    (verdict,) = filter_clips([one], scripted((-3, 0.9), after), LIMITS, apply=True)
    assert (verdict.outcome, verdict.cause, verdict.left) == ("rejected", "not mended", after[0])
    assert reason in verdict.reason
    assert one.wav.read_bytes() == before


def test_short_and_damaged_clips_are_counted_and_the_others_go_on(corpus):
    one, two, three = clips_of(corpus)
    one.faces.write_bytes(one.faces.read_bytes()[:200])

    def short(faces: np.ndarray, wave: np.ndarray) -> LSE:
        if (wave == ClipReader([two]).wave(0)).all():
            raise MetricError("sync scores need at least 5 frames and sound, got 4 frames")
        return measure(faces, wave)

    verdicts = filter_clips([one, two, three], short, LIMITS, apply=True)
    assert [verdict.cause for verdict in verdicts] == ["not measured", "not measured", ""]
    assert str(one.faces) in verdicts[0].reason
    assert "at least 5 frames" in verdicts[1].reason


def test_whole_run_mends_rejects_and_reports_and_twice_changes_nothing_more(corpus, tmp_path, knowing):
    one, two, three = clips_of(corpus)
    for clip, frames in ((one, 3), (two, -2), (three, 9)):
        shift(clip, frames)
    cfg = config(corpus, tmp_path / "run", "syncnet.path=x", "tolerance=0", "max_offset=6", "max_shift=12")
    text = filter_sync(cfg)
    assert (tmp_path / "run" / "report.md").read_text() == text
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == {
        "applied": True,
        "splits": {
            "test": {
                "kept": 0, "corrected": 2, "rejected": 1, "causes": {"offset too large": 1},
                "before": {"-9": 1, "-3": 1, "2": 1}, "after": {"0": 2},
            },
            "valid": {"kept": 1, "corrected": 0, "rejected": 0, "causes": {}, "before": {"0": 1}, "after": {"0": 1}},
        },
    }  # fmt: skip
    assert {clip.id for clip in read_manifest(corpus)} == {one.id, two.id, "valid_0"}
    assert all(len(ClipReader([clip]).wave(0)) == clip.samples for clip in read_manifest(corpus))
    files = contents(corpus)
    filter_sync(cfg)
    assert contents(corpus) == files
    assert json.loads((tmp_path / "run" / "report.json").read_text())["splits"]["test"]["kept"] == 2


def test_looking_with_a_real_network_changes_nothing(corpus, tmp_path, untrained):
    files = contents(corpus)
    text = filter_sync(config(corpus, tmp_path / "run", f"syncnet.path={untrained}", "apply=false", "split=test"))
    assert "nothing was changed" in text
    assert contents(corpus) == files
    model, _ = load_syncnet(untrained)
    noted = [json.loads(line) for line in (tmp_path / "run" / "verdicts.jsonl").open()]
    for clip, verdict in zip(clips_of(corpus), noted, strict=True):
        reader = ClipReader([clip])
        found = score_clip(model, reader.faces(0), clip_mfcc(reader.wave(0), clip.frames))
        assert (verdict["id"], verdict["offset"]) == (clip.id, found.offset)
        assert verdict["confidence"] == pytest.approx(found.confidence)


def test_what_cannot_be_run_is_said(tmp_path, untrained):
    with pytest.raises(ManifestError, match=r"run scripts/prepare\.py first"):
        filter_sync(config(tmp_path / "nowhere", tmp_path, f"syncnet.path={untrained}"))
    checkpoint.save(tmp_path / "other.pt", {"kind": "generator", "model": {}})
    with pytest.raises(checkpoint.CheckpointError, match=r"other.pt: is a 'generator' checkpoint; give the syncnet.pt"):
        filter_sync(config(tmp_path, tmp_path, f"syncnet.path={tmp_path / 'other.pt'}"))
    script = Path(__file__).resolve().parents[2] / "scripts" / "filter_sync.py"
    run = subprocess.run([sys.executable, script, f"run.dir={tmp_path}"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "error: filter_sync: give a value for syncnet.path (as key=value)\n"


def test_a_corpus_is_not_emptied(corpus):
    before = contents(corpus)
    with pytest.raises(MetricError, match="every clip would be rejected"):
        take_out(corpus, [Verdict(clip.id, clip.split, "rejected") for clip in read_manifest(corpus)])
    assert contents(corpus) == before
