"""Whole evaluations of real small models: settings, kills, workers, bad videos, and judges that were experts."""

import csv
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from prepared_factory import make_prepared
from stage2_factory import SIZES, write_expert

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest, write_manifest
from synctalklip.data.media import read_video, write_video
from synctalklip.errors import MetricError
from synctalklip.evaluation import evaluate as module
from synctalklip.evaluation.evaluate import evaluate
from synctalklip.evaluation.methods import Generator, StillMouth, VideoError, Videos
from synctalklip.evaluation.scoring import Scorer
from synctalklip.generator.model import TalkingFaceGenerator, save_generator
from synctalklip.inference.timeline import SpeechEmbeddings
from synctalklip.syncnet.lse import SyncNetInfo, build_syncnet, save_syncnet

ENCODER = {key: value for key, value in SIZES.items() if not key.startswith("decoder_")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Four test clips of three lengths with their source videos, an expert, a second reader, a SyncNet, a generator."""
    root = make_prepared(tmp_path_factory.mktemp("prepared"), {"test": 4})
    clips = []
    for clip in read_manifest(root):
        with np.load(clip.track) as stored:
            track = dict(stored)
        frames = np.full((clip.frames, 160, 160, 3), 90, np.uint8)
        for frame, face, (left, top, right, bottom) in zip(
            frames, ClipReader([clip]).faces(0), track["boxes"].round().astype(int)
        ):
            frame[top:bottom, left:right] = face[: 160 - top]
        source = root / "sources" / f"{clip.id}.mp4"
        source.parent.mkdir(parents=True, exist_ok=True)
        write_video(source, frames, crf=4, pixel_format="yuv444p")
        np.savez(clip.track, **track, source_size=np.array((160, 160)))
        clips.append(replace(clip, source=str(source)))
    write_manifest(root / "manifest.jsonl", clips)
    write_expert(root / "expert.pt", root, "landmark")
    state = checkpoint.load(root / "expert.pt")
    checkpoint.save(root / "reader.pt", state | {"other": 1})
    settings = {"structure": "small", "embedding": 16, "width": 4}
    torch.manual_seed(0)
    save_syncnet(root / "syncnet.pt", build_syncnet(**settings), settings, SyncNetInfo("small", "toy", 0))
    sizes = OmegaConf.to_container(OmegaConf.load(CONFIGS / "generator" / "tiny.yaml")) | {"width": 0.0625}
    model = TalkingFaceGenerator(AVHubertConfig(**ENCODER), "landmark", **sizes)
    digests = [checkpoint.file_hash(root / name) for name in ("expert.pt", "syncnet.pt")]
    save_generator(root / "generator.pt", model.eval(), 1, digests[0])
    save_generator(root / "wav2lip.pt", model, 1, *digests)
    return root


def config(corpus: Path, run: Path, *overrides: str) -> DictConfig:
    fixed = [f"data.prepared={corpus}", "data.name=toy", "bootstrap.samples=20", "faces.save=false", "strip.clips=1"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose("evaluate", [*fixed, f"run.dir={run}", "run.name=test", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


def judges(corpus: Path) -> list[str]:
    return [f"syncnet.path={corpus}/syncnet.pt", f"+readers={{WER1:{{path:{corpus}/reader.pt}}}}"]


def rows_of(run: Path, file: str = "clips.csv") -> list[dict[str, str]]:
    with open(run / file, newline="") as stream:
        return list(csv.DictReader(stream))


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def assert_same_rows(run: Path, other: Path) -> None:
    """Words and counts are equal, numbers up to the order of a sum."""
    for ours, theirs in zip(rows_of(run), rows_of(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            if "." in value and key != "reference" and not key.endswith("hypothesis"):
                assert float(value) == pytest.approx(float(theirs[key]), abs=1e-4), key
            else:
                assert value == theirs[key], key


def test_all_columns_of_a_generator_in_its_own_sound(corpus, tmp_path):
    others = [f"+readers.WER3.path={corpus}/reader.pt", "+readers.WER3.decoding=forced", f"avs.path={corpus}/expert.pt"]
    evaluate(config(corpus, tmp_path, f"generated={corpus}/generator.pt", *judges(corpus), *others))
    rows, summary = rows_of(tmp_path), summary_of(tmp_path)
    assert all(float(row["psnr_face"]) < float(row["psnr_frame"]) for row in rows)
    assert all(float(row["ssim_lower"]) < float(row["ssim_frame"]) < 1 for row in rows)
    assert all(-1 <= float(row[key]) <= 1 for row in rows for key in ("avs_u", "avs_m", "avs_v"))
    assert all(row["WER1.words"] == row["WER3.words"] == "3" for row in rows)
    assert all(len(row["WER3.hypothesis"].split()) <= 3 for row in rows)
    assert "open_frames" not in rows[0]
    assert summary["readers"]["WER3"]["decoding"] == "forced"
    assert (summary["setting"], summary["missing"]) == ("reconstruction", [])
    assert summary["syncnet"]["protocol"] == "face_crop"
    # AVS may be measured by the expert of this generator, but says so.
    assert "was an expert of this generator" in summary["avs"]["name"]
    curve = [row for row in rows_of(tmp_path, "curves.csv") if row["id"] == rows[0]["id"]]
    best = min(curve, key=lambda row: float(row["distance"]))
    assert float(best["distance"]) == pytest.approx(float(rows[0]["lse_d"]))
    assert int(best["shift"]) == -int(rows[0]["offset"])


def test_crossed_sounds_are_judged_by_their_own_sentence(corpus, tmp_path):
    overrides = ["setting=cross", f"avs.path={corpus}/expert.pt", *judges(corpus)]
    evaluate(config(corpus, tmp_path, "generated=ground_truth", *overrides))
    said = {clip.id: clip.text for clip in read_manifest(corpus)}
    for row in rows_of(tmp_path):
        assert row["sound"] != row["id"]
        assert row["reference"] == said[row["sound"]] != said[row["id"]]
        assert row["lse_d"]
        assert "avs_u" in row
        assert not {"psnr_face", "ssim_frame", "psnr_legacy", "avs_v"} & row.keys()
    assert len((tmp_path / "jobs.jsonl").read_text().splitlines()) == 4


def test_silence_is_judged_by_the_mouth_alone(corpus, tmp_path, monkeypatch):
    class Never:
        every = 5

        def detect(self, frame: np.ndarray) -> np.ndarray:
            return np.zeros((0, 5), np.float32)

    monkeypatch.setattr("synctalklip.evaluation.judges.build", lambda _: Never())
    evaluate(config(corpus, tmp_path, f"generated={corpus}/generator.pt", "setting=silent", *judges(corpus)))
    expected = {"id", "frames", "open_frames", "open_counted"}
    assert all(row.keys() == expected and row["open_counted"] == "0" for row in rows_of(tmp_path))
    assert "syncnet" not in summary_of(tmp_path)


def test_a_killed_run_goes_on_and_gives_the_same_table(corpus, tmp_path, monkeypatch):
    overrides = ["generated=still_mouth", "workers=1", *judges(corpus)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    evaluate(config(corpus, whole, *overrides))
    scored, score = [], Scorer.score

    def counted(self, pairs, shown):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.extend(pair.clip.id for pair in pairs)
        return score(self, pairs, shown)

    monkeypatch.setattr(Scorer, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(corpus, killed, *overrides))
    assert not (killed / "clips.csv").exists()
    # The kill came in the middle of a line.
    with open(killed / "progress.jsonl", "a") as stream:
        stream.write('{"key": "abc", "row": {"id"')
    first = list(scored)
    monkeypatch.setattr(Scorer, "score", score)
    monkeypatch.setattr(Scorer, "_score", spied(Scorer._score, scored := []))
    evaluate(config(corpus, killed, *overrides))
    assert sorted(first + scored) == [clip.id for clip in read_manifest(corpus)]
    for name in ("clips.csv", "curves.csv", "summary.json", "table.md", "strip.png"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    # Nothing is left to do, and another judge or shift makes all of it anew.
    scored.clear()
    evaluate(config(corpus, killed, *overrides))
    assert scored == []
    evaluate(config(corpus, killed, *overrides, "syncnet.max_shift=9"))
    assert len(scored) == 4


def spied(score, seen: list[str]):
    def spy(self, pair, strip):
        seen.append(pair.clip.id)
        return score(self, pair, strip)

    return spy


def test_workers_and_batches_change_nothing(corpus, tmp_path):
    overrides = [f"generated={corpus}/generator.pt", *judges(corpus)]
    evaluate(config(corpus, tmp_path / "one", *overrides, "workers=1"))
    evaluate(config(corpus, tmp_path / "two", *overrides, "workers=2", "batch_size=7", "clips_at_once=2", "limit=3"))
    evaluate(config(corpus, tmp_path / "same", *overrides, "workers=1", "limit=3"))
    assert (tmp_path / "two" / "table.md").read_text() == (tmp_path / "same" / "table.md").read_text()
    assert_same_rows(tmp_path / "two", tmp_path / "same")
    assert rows_of(tmp_path / "one")[:3] == rows_of(tmp_path / "same")


def write_videos(corpus: Path, folder: Path) -> None:
    for clip in read_manifest(corpus):
        path = folder / f"{clip.id}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip.source, path)


def test_unfit_videos_are_counted_or_refused(corpus, tmp_path):
    folder, run = tmp_path / "videos", tmp_path / "run"
    write_videos(corpus, folder)
    names = [clip.id for clip in read_manifest(corpus)]
    paths = [folder / f"{name}.mp4" for name in names]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:2000])
    write_video(paths[2], read_video(paths[2], fps=None)[:, :150, :150])
    evaluate(config(corpus, run, f"generated={folder}", "on_missing=report"))
    assert [row["id"] for row in rows_of(run)] == names[3:]
    assert float(rows_of(run)[0]["psnr_frame"]) == np.inf
    assert summary_of(run)["missing"] == names[:3]
    reasons = [json.loads(line)["reason"] for line in (run / "missing.jsonl").read_text().splitlines()]
    assert "is missing" in reasons[0]
    assert str(paths[1]) in reasons[1]
    assert "frames of 150x150, the source has 160x160" in reasons[2]
    # What is mended is scored by the next run; the error names what is not.
    for good, bad in zip(paths[1:3], (paths[1], paths[2])):
        shutil.copy(read_manifest(corpus)[paths.index(good)].source, bad)
    evaluate(config(corpus, run, f"generated={folder}", "on_missing=report"))
    assert summary_of(run)["missing"] == names[:1]
    with pytest.raises(VideoError, match=rf"{names[0]}\.mp4 is missing"):
        evaluate(config(corpus, tmp_path / "strict", f"generated={folder}"))
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(MetricError, match="no clip could be scored; the first"):
        evaluate(config(corpus, tmp_path / "none", f"generated={folder}", "on_missing=report"))


@pytest.mark.parametrize("key", ["readers.WER.path", "+readers.WER2.path"])
def test_no_judge_may_be_an_expert_of_the_generator(corpus, tmp_path, key):
    for name in ("copy.pt", "folder"):
        judge = tmp_path / name
        if name == "folder":
            # A converted folder says which file it was made from.
            source = {"sha256": checkpoint.file_hash(corpus / "expert.pt")}
            checkpoint.save_folder(judge, {"w": torch.ones(1)}, {"kind": "avsyncnet", "source": source})
        else:
            shutil.copy(corpus / "expert.pt", judge)
        with pytest.raises(MetricError, match=f"{name} was an expert of .*generator.pt: its WER2? would flatter"):
            evaluate(config(corpus, tmp_path / "run", f"generated={corpus}/generator.pt", f"{key}={judge}"))
    run = tmp_path / "run"
    with pytest.raises(MetricError, match=r"syncnet\.path=.* was an expert of .*wav2lip\.pt: its LSE would flatter"):
        evaluate(config(corpus, run, f"generated={corpus}/wav2lip.pt", f"syncnet.path={corpus}/syncnet.pt"))


def test_typing_errors_are_named(corpus, tmp_path):
    for override, message in {
        "+readers.WER1.pth=a.pt": r"readers\.WER1 has a key that readers do not have.*pth",
        "+readers={W-1:{path:a.pt}}": "name the column by letters",
        "on_missing=skip": "choose error or report",
        "openness.measure=maybe": "choose auto, true or false",
        "full_frame=maybe": "choose auto, true or false",
    }.items():
        with pytest.raises(MetricError, match=message):
            evaluate(config(corpus, tmp_path, "generated=ground_truth", override))


def test_speech_reaches_the_frame_it_belongs_to_as_in_generate(corpus):
    """Zero shift: evaluation and inference embed the same sound for the same frame."""
    clips = read_manifest(corpus)
    reader = ClipReader(clips)
    source = Generator(corpus / "generator.pt", torch.device("cpu"), 64, "landmark", "fp32")
    for index, clip in enumerate(clips):
        speech = SpeechEmbeddings(source.model.encode_speech, reader.wave(index), 500, 50, "linear")
        times = [Fraction(t, 25) for t in range(clip.frames)]
        painted = reader.faces(index).copy()
        painted[:, 48:] = source.paint(reader.faces(index), reader.faces(index)[0].copy(), speech(times))
        np.testing.assert_array_equal(source.faces(reader, index), painted)


def test_full_frames_change_within_the_lower_half_of_the_box_alone(corpus, tmp_path):
    reader = ClipReader(read_manifest(corpus))
    source = StillMouth()
    pasted = np.stack(list(source.frames(reader, 0, source.faces(reader, 0))))
    recorded = read_video(reader.clips[0].source)
    box = reader.boxes(0)
    for frame, truth, (left, top, right, bottom) in zip(pasted, recorded, box):
        outside = np.ones(frame.shape[:2], bool)
        outside[int((top + bottom) / 2) : int(bottom) + 2, int(left) : int(right) + 2] = False
        assert (frame == truth)[outside].all()
    assert (pasted[5] != recorded[5]).any()
    # A video of those frames, not encoded by us, gives the same face crops back inside the soft edge.
    path = tmp_path / f"{reader.clips[0].id}.mp4"
    path.parent.mkdir(parents=True)
    write_video(path, pasted, crf=0, pixel_format="yuv444p")
    cropped = Videos(tmp_path).faces(reader, 0)
    inner = np.s_[:, 60:84, 20:76]
    difference = np.abs(cropped[inner].astype(int) - source.faces(reader, 0)[inner])
    assert difference.mean() < 6


def test_default_workers_follow_the_number_of_clips(corpus, tmp_path, monkeypatch):
    asked = []

    def fake(make, groups, count):
        asked.append(count)
        task = make()
        yield from ((number, task(group)) for number, group in enumerate(groups))

    monkeypatch.setattr(module, "run_in_workers", fake)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: range(3))
    evaluate(config(corpus, tmp_path / "few", "generated=still_mouth"))
    assert asked == []
    monkeypatch.setattr(module, "CLIPS_PER_WORKER", 2)
    evaluate(config(corpus, tmp_path / "many", "generated=still_mouth"))
    assert asked == [2]
