"""Preparation end to end on small real clips: good and bad ones, killed and resumed, and every corpus layout."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from media_factory import lrs_corpus, make_media, moving_face, picture, squeezed, tone
from omegaconf import OmegaConf
from worker_tasks import cannot_start, die_at_start, kill_on_three

from synctalklip.cli import CONFIGS, build
from synctalklip.data import media
from synctalklip.data.geometry import geometry
from synctalklip.data.layouts import LayoutError, SourceClip, grid, lrs2, lrs3, select, vox2
from synctalklip.data.manifest import read_manifest
from synctalklip.data.media import DiskError
from synctalklip.data.prepare import prepare
from synctalklip.data.prepare_clip import Settings, prepare_clip
from synctalklip.data.text import normalize_text
from synctalklip.data.workers import WorkerDied, part_of, run_in_workers
from synctalklip.errors import SyncTalklipError

ROOT = Path(__file__).resolve().parents[2]
GRID = ROOT.parent / "shared" / "grid"
LISTS = {"train": ("main", "train"), "val": ("main", "valid"), "test": ("main", "test")}
SETTINGS = Settings(crf=12, min_frames=5, max_frames=None, min_detected=0.8, roi_mode="landmark")
FACE = OmegaConf.to_container(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three good clips and one of every bad kind, in the LRS2 layout."""
    root = tmp_path_factory.mktemp("corpus")
    face = moving_face(12)
    hidden = [frame if number < 4 else picture((240, 220)) for number, frame in enumerate(face)]
    lrs_corpus(
        root,
        {
            "ann/good": ("train", face, tone(0.48, channels=2), "BIN BLUE AT F 2 NOW"),
            "ann/long_sound": ("train", face, tone(2.0), "SET RED"),
            "bob/short_sound": ("test", face, tone(0.2), "LAY GREEN"),
            "bob/silent": ("val", face, None, "LAY GREEN"),
            "bob/mixed_digits": ("val", face, tone(0.48), "THE 3RD TIME"),
            "bob/no_words": ("train", face, tone(0.48), ""),
            "bob/no_text": ("train", face, tone(0.48), None),
            "bob/no_face": ("train", [picture((240, 220))] * 6, tone(0.24), "LAY GREEN"),
            "bob/face_leaves": ("train", hidden, tone(0.48), "LAY GREEN"),
            "bob/one_frame": ("train", face[:1], tone(0.48), "LAY GREEN"),
            "bob/click": ("train", face, tone(0.02), "LAY GREEN"),
        },
    )
    whole = (root / "main/ann/good.mp4").read_bytes()
    (root / "main/bob/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "main/bob/cut.txt").write_text("Text:  LAY GREEN\n")
    with open(root / "train.txt", "a") as stream:
        stream.write("bob/cut\nbob/gone\n")
    (root / "main/bob/gone.txt").write_text("Text:  LAY GREEN\n")
    return root


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    counts = prepare(select(lrs2(corpus, LISTS), None, None), folder, SETTINGS, FACE, workers=2)
    return folder, counts


def test_good_clips_are_complete(prepared, corpus):
    folder, counts = prepared
    assert (counts.prepared, counts.kept, counts.rejected, counts.frames) == (3, 0, 10, 36)
    clips = read_manifest(folder)
    assert [clip.id for clip in clips] == ["ann/good", "ann/long_sound", "bob/short_sound"]
    assert [clip.split for clip in clips] == ["train", "train", "test"]
    clip = clips[0]
    assert (clip.text, clip.speaker, clip.frames) == ("bin blue at f two now", "ann", 12)
    assert clip.source == str(corpus / "main/ann/good.mp4")
    assert media.read_video(clip.faces).shape == (12, 96, 96, 3)
    assert media.read_gray(clip.rois).shape == (12, 96, 96)
    with np.load(clip.track) as track:
        assert track["landmarks"].shape == (12, 68, 2)
        assert track["detected"].all()
        assert track["source_size"].tolist() == [240, 220]
        cuts = geometry(track["landmarks"])
        for name in ("boxes", "transforms", "matrices"):
            assert np.array_equal(track[name], getattr(cuts, name))
        matrix = track["matrices"][6]
    # The stored matrix leads from the stored crop to the stored ROI.
    grey = cv2.cvtColor(media.read_video(clip.faces)[6], cv2.COLOR_BGR2GRAY)
    again, roi = cv2.warpAffine(grey, matrix, (96, 96)), media.read_gray(clip.rois)[6]
    assert np.abs(again[4:-4, 4:-4].astype(int) - roi[4:-4, 4:-4]).mean() < 8


def test_pixels_that_are_not_square_give_the_same_crops(tmp_path):
    face, aspect = moving_face(6), Fraction(2)
    for name, frames, shape in (("square", face, Fraction(1)), ("wide", [squeezed(f, aspect) for f in face], aspect)):
        make_media(tmp_path / f"{name}.mp4", frames, sound=tone(0.24), aspect=shape)
    clips = [SourceClip(id=name, split="train", video=tmp_path / f"{name}.mp4") for name in ("square", "wide")]
    for clip in clips:
        prepare_clip(clip, tmp_path, SETTINGS, build(FACE))
    tracks = [np.load(tmp_path / "tracks" / f"{clip.id}.npz") for clip in clips]
    assert tracks[1]["source_size"].tolist() == [240, 220]
    assert np.abs(tracks[0]["boxes"] - tracks[1]["boxes"]).max() < 6
    crops = [media.read_video(tmp_path / "faces" / f"{clip.id}.mp4").astype(int) for clip in clips]
    assert np.abs(crops[0] - crops[1]).mean() < 12


def test_long_sound_is_cut_and_short_sound_stays(prepared):
    clips = {clip.id: clip for clip in read_manifest(prepared[0])}
    for name, samples in (("ann/good", 7680), ("ann/long_sound", 7680), ("bob/short_sound", 3200)):
        assert clips[name].samples == len(media.read_audio(clips[name].wav))
        assert abs(clips[name].samples - samples) <= 2


def test_bad_clips_are_rejected_with_their_reason(prepared, corpus):
    lines = [json.loads(line) for line in (prepared[0] / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in lines}
    assert list(reasons) == sorted(reasons)
    assert lines[0]["source"].startswith(str(corpus))
    expected = {
        "bob/silent": "has no audio track",
        "bob/mixed_digits": "mixes digits and letters",
        "bob/no_words": "no words",
        "bob/no_text": "transcript is missing",
        "bob/no_face": "no face was found in 6 frames",
        "bob/face_leaves": "seen in 33% of the frames",
        "bob/one_frame": "has 1 frames, at least 5",
        "bob/click": "one window of 25 ms is needed",
        "bob/cut": "cut short",
        "bob/gone": "there is no such file",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert name in reasons[name]
    assert not (prepared[0] / "faces/bob/no_face.mp4").exists()


def test_a_second_run_keeps_everything(prepared, corpus):
    folder, _ = prepared
    before = hashes(folder)
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "faces").rglob("*.mp4")}
    counts = prepare(select(lrs2(corpus, LISTS), None, None), folder, SETTINGS, FACE, workers=1)
    assert (counts.prepared, counts.kept, counts.rejected) == (0, 3, 10)
    assert hashes(folder) == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_copied_corpus_is_not_prepared_again(prepared, corpus, tmp_path):
    folder, moved = shutil.copytree(prepared[0], tmp_path / "prepared"), shutil.copytree(corpus, tmp_path / "corpus")
    for number, file in enumerate(path for path in moved.rglob("*") if path.is_file()):
        os.utime(file, (number, number))
    before = hashes(folder / "faces")
    counts = prepare(select(lrs2(moved, LISTS), None, None), folder, SETTINGS, FACE, workers=1)
    # What was rejected is looked at again: the reason names the file.
    assert (counts.prepared, counts.kept, counts.rejected) == (0, 3, 10)
    assert hashes(folder / "faces") == before
    assert all(
        str(moved) in json.loads(line)["source"] for line in (folder / "manifest.jsonl").read_text().splitlines()
    )
    again = prepare(select(lrs2(moved, LISTS), None, None), folder, SETTINGS, FACE, workers=1)
    assert (again.prepared, again.kept, again.rejected) == (0, 3, 10)


def test_a_file_that_cannot_be_read_is_rejected_with_its_reason(tmp_path):
    (tmp_path / "video.mp4").symlink_to("/proc/self/mem")
    clips = [SourceClip("a", tmp_path / "video.mp4", "train", text="bin blue at f two now")]
    with pytest.raises(SyncTalklipError, match=r"video\.mp4: the file is empty"):
        prepare(clips, tmp_path / "out", SETTINGS, FACE, workers=1)


def test_missing_and_stale_files_are_made_again(prepared, corpus, tmp_path):
    clips = select(lrs2(corpus, LISTS), "test", None)
    first = prepare(clips, tmp_path, SETTINGS, FACE, workers=1)
    assert first.splits == {"test": 1}
    before = hashes(tmp_path)
    (tmp_path / "rois/bob/short_sound.mp4").unlink()
    assert prepare(clips, tmp_path, SETTINGS, FACE, workers=1).prepared == 1
    assert hashes(tmp_path) == before
    finer = Settings(**{**vars(SETTINGS), "crf": 2})
    assert prepare(clips, tmp_path, finer, FACE, workers=1).prepared == 1
    assert hashes(tmp_path)["faces/bob/short_sound.mp4"] != before["faces/bob/short_sound.mp4"]


def test_killed_and_restarted_gives_the_same_files(tmp_path):
    face = moving_face(16)
    clips = {f"ann/{number}": ("train", face, tone(0.8), "SET RED") for number in range(5)}
    root = lrs_corpus(tmp_path / "corpus", clips)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    prepare(lrs2(root, LISTS), straight, SETTINGS, FACE, workers=2)

    def command(folder):
        overrides = [f"data.root={root}", f"data.prepared={folder}", "workers=1", "min_frames=5"]
        return [sys.executable, str(ROOT / "scripts/prepare.py"), *overrides, f"hydra.run.dir={tmp_path / 'run'}"]

    run = subprocess.Popen(command(killed), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(killed.rglob("records/**/*.json"))) < 2 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (killed / "manifest.jsonl").exists()
    done = len(list(killed.rglob("records/**/*.json")))
    assert 2 <= done < 5
    again = subprocess.run(command(killed), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"{done} were there" in again.stdout or f"{done + 1} were there" in again.stdout
    assert hashes(killed) == hashes(straight)


def test_parts_make_the_same_files_as_one_run(tmp_path, corpus):
    clips = select(lrs2(corpus, LISTS), None, None)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = prepare(clips, whole, SETTINGS, FACE, workers=1)
    for shard in ("2/3", "1/3", "3/3"):
        counts = prepare(clips, parts, SETTINGS, FACE, workers=1, shard=shard)
        assert not (parts / "manifest.jsonl").exists()
        assert "the same command without shard" in counts.summary(parts)
    merged = prepare(clips, parts, SETTINGS, FACE, workers=1)
    assert (merged.prepared, merged.kept) == (0, expected.prepared)
    assert merged.rejected == expected.rejected
    assert hashes(parts) == hashes(whole)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "1/0"])
def test_a_part_that_is_none_is_named(shard):
    with pytest.raises(SyncTalklipError, match="write 3/16 for the third of sixteen parts"):
        part_of(range(5), shard)
    assert sorted(item for number in (1, 2) for item in part_of(range(5), f"{number}/2")) == [0, 1, 2, 3, 4]


def test_a_name_that_is_no_text_costs_one_clip(tmp_path):
    face = moving_face(12)
    root = lrs_corpus(tmp_path / "corpus", {"ann/1": ("train", face, tone(0.6), "SET RED")})
    good = lrs2(root, LISTS)
    odd = [replace(good[0], id=name, video=root / name) for name in (os.fsdecode(b"ann/\xff2"), "../ann", "n" * 300)]
    counts = prepare([*good, *odd], tmp_path / "out", SETTINGS, FACE, workers=1)
    assert (counts.prepared, counts.rejected) == (1, 3)
    assert [clip.id for clip in read_manifest(tmp_path / "out")] == ["ann/1"]
    assert "its name is no UTF-8" in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")


def test_a_worker_that_dies_costs_one_item():
    results = dict(run_in_workers(kill_on_three, range(6), workers=2))
    assert results == {0: 0, 1: 10, 2: 20, 3: WorkerDied(-9), 4: 40, 5: 50}


def test_workers_that_cannot_start_end_the_run():
    with pytest.raises(SyncTalklipError, match="the weights are missing"):
        list(run_in_workers(cannot_start, range(3), workers=1))
    with pytest.raises(SyncTalklipError, match=r"died before its first item \(exit code 7\)"):
        list(run_in_workers(die_at_start, range(3), workers=1))


def test_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path, corpus):
    clips = select(lrs2(corpus, LISTS), "test", None)
    with pytest.raises(DiskError, match="free some space"):
        prepare(clips, tmp_path, SETTINGS, {"_target_": "worker_tasks.faces_on_a_full_disk", "face": FACE}, workers=1)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    # Whole files or none, and no record that calls the clip done.
    assert left <= {"audio/bob/short_sound.wav", "rois/bob/short_sound.mp4"}
    assert prepare(clips, tmp_path, SETTINGS, FACE, workers=1).prepared == 1


def test_nothing_usable_is_an_error_with_the_first_reason(tmp_path, corpus):
    clips = [clip for clip in lrs2(corpus, LISTS) if clip.id == "bob/silent"]
    with pytest.raises(SyncTalklipError, match=r"none of 1 clips could be used.*has no audio track"):
        prepare(clips, tmp_path, SETTINGS, FACE, workers=1)
    assert (tmp_path / "rejected.jsonl").is_file()
    with pytest.raises(SyncTalklipError, match="no clip to prepare"):
        prepare([], tmp_path, SETTINGS, FACE, workers=1)


def test_script_says_in_one_line_what_is_wrong(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/prepare.py"), "data=grid", f"hydra.run.dir={tmp_path}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "data.root is not set" in run.stderr
    assert "Traceback" not in run.stderr


def clip_of(name: str, split: str) -> SourceClip:
    return SourceClip(name, Path(f"{name}.mp4"), split)


def test_select_keeps_the_shares_of_the_splits():
    clips = [clip_of(f"a{n:03}", "train") for n in range(80)]
    clips += [clip_of(f"b{n:03}", "test") for n in range(10)] + [clip_of(f"c{n:03}", "valid") for n in range(10)]
    kept = select(clips, None, 20)
    assert [sum(clip.split == split for clip in kept) for split in ("train", "test", "valid")] == [16, 2, 2]
    assert [clip.id for clip in kept] == sorted(clip.id for clip in kept)
    assert len(select(clips, "test", None)) == 10
    with pytest.raises(LayoutError, match="no clip of split test"):
        select(clips[:10], "test", None)
    with pytest.raises(LayoutError, match="'a000' occurs twice"):
        select([*clips, clips[0]], None, None)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_grid_layout_as_shipped_here(tmp_path):
    stems = [f"clip{n:02}" for n in range(12)]
    touch(*(tmp_path / "clips" / f"s1_{stem}.mp4" for stem in stems), tmp_path / "clips" / "s4_bbaf2n.mp4")
    touch(tmp_path / "raw" / "s1_clip00.mpg", tmp_path / "align" / "s4_bbaf2n.align")
    touch(tmp_path / "align" / "s1_clip03.align")
    rows = "".join(f"s1\t{stem}\t75\t2.9\tset red {stem}\n" for stem in stems[:-1])
    (tmp_path / "transcripts.tsv").write_text("speaker\tid\tframes\taudio_seconds\ttranscript\n" + rows)
    clips = {clip.id: clip for clip in grid(tmp_path, "clips", 10, ["s1"])}
    held = {name: clip.split for name, clip in clips.items() if clip.split != "train"}
    assert held == {"s1_clip00": "test", "s1_clip01": "valid", "s1_clip10": "test", "s1_clip11": "valid"}
    assert clips["s1_clip03"].text == "set red clip03"
    assert clips["s1_clip03"].transcript == tmp_path / "align" / "s1_clip03.align"
    assert (clips["s1_clip11"].text, clips["s1_clip11"].transcript) == ("", None)
    assert clips["s4_bbaf2n"].transcript == tmp_path / "align" / "s4_bbaf2n.align"
    assert clips["s4_bbaf2n"].speaker == "s4"
    assert [clip.video.suffix for clip in grid(tmp_path, "raw", 10, ["s1"])] == [".mpg"]
    assert sum(clip.split == "test" for clip in grid(tmp_path, "clips", 10, None)) == 3
    splits = {clip.id: clip.split for clip in grid(tmp_path, "clips", 10, None, unseen=["s4"])}
    assert splits["s4_bbaf2n"] == "unseen"
    assert sum(split == "test" for split in splits.values()) == 2


def test_a_table_with_a_byte_order_mark_and_line_signs_in_a_text(tmp_path):
    touch(tmp_path / "clips" / "s1_a.mp4", tmp_path / "clips" / "s1_b.mp4")
    table = "speaker\tid\ttranscript\r\ns1\ta\tset\u2028red\ns1\tb\tlay\x0cblue\n"
    (tmp_path / "transcripts.tsv").write_text(table, encoding="utf-8-sig", newline="")
    assert [normalize_text(clip.text) for clip in grid(tmp_path, "clips", 10, None)] == ["set red", "lay blue"]


def test_two_files_of_one_clip_are_named(tmp_path):
    touch(tmp_path / "clips" / "s1_a.mp4", tmp_path / "clips" / "s1_a.mkv")
    with pytest.raises(LayoutError, match=r"s1_a\.mkv and .*s1_a\.mp4 are one clip, s1_a"):
        grid(tmp_path, "clips", 10, None)


def test_grid_layout_as_distributed(tmp_path):
    touch(tmp_path / "s1" / "bbaf2n.mpg", tmp_path / "s10" / "video" / "mpg_6000" / "bbaf2n.mpg")
    touch(tmp_path / "align" / "s1" / "bbaf2n.align", tmp_path / "s10" / "align" / "bbaf2n.align")
    clips = {clip.id: clip for clip in grid(tmp_path, "clips", None, None)}
    assert clips.keys() == {"s1_bbaf2n", "s10_bbaf2n"}
    assert clips["s1_bbaf2n"].transcript == tmp_path / "align" / "s1" / "bbaf2n.align"
    assert clips["s10_bbaf2n"].transcript == tmp_path / "s10" / "align" / "bbaf2n.align"
    assert {clip.split for clip in clips.values()} == {"train"}


def test_lrs_layouts(tmp_path):
    (tmp_path / "train.txt").write_text("6330/00001\n\n6330/00002 NF\n")
    (tmp_path / "pretrain.txt").write_text("5535/00001\n")
    with pytest.raises(LayoutError, match="must hold the lists and main/"):
        lrs2(tmp_path, {"train": ("main", "train")})
    (tmp_path / "main").mkdir()
    (tmp_path / "pretrain").mkdir()
    clips = lrs2(tmp_path, {"train": ("main", "train"), "pretrain": ("pretrain", "train")})
    assert [clip.id for clip in clips] == ["6330/00001", "6330/00002", "pretrain/5535/00001"]
    assert clips[0].video == tmp_path / "main/6330/00001.mp4"
    assert clips[0].transcript == tmp_path / "main/6330/00001.txt"
    with pytest.raises(LayoutError, match=r"val\.txt: the list of split valid is missing"):
        lrs2(tmp_path, {"val": ("main", "valid")})

    (tmp_path / "pretrain").rmdir()
    for n in range(5):
        touch(tmp_path / "trainval" / "abc" / f"5000{n}.mp4", tmp_path / "trainval" / "abc" / f"5000{n}.txt")
    touch(tmp_path / "test" / "xyz" / "00001.mp4")
    clips = {clip.id: clip for clip in lrs3(tmp_path, {"trainval": "train", "test": "test"}, 4)}
    assert [clip.split for clip in clips.values()] == ["valid", "train", "train", "train", "valid", "test"]
    assert clips["trainval/abc/50001"].transcript.is_file()
    with pytest.raises(LayoutError, match=r"~data\.layout\.folders\.pretrain"):
        lrs3(tmp_path, {"pretrain": "train"}, None)


def test_vox_layout(tmp_path):
    touch(tmp_path / "dev/mp4/id1/vid/00001.mp4", tmp_path / "dev/mp4/id1/vid/00002.mp4")
    touch(tmp_path / "dev/aac/id1/vid/00002.m4a", tmp_path / "test/mp4/id2/vid/00001.mp4")
    clips = vox2(tmp_path, None)
    assert [(clip.id, clip.split, clip.speaker) for clip in clips] == [
        ("dev/id1/vid/00001", "train", "id1"),
        ("dev/id1/vid/00002", "train", "id1"),
        ("test/id2/vid/00001", "test", "id2"),
    ]
    assert [clip.audio is None for clip in clips] == [True, False, True]
    assert all(clip.text is None and clip.transcript is None for clip in clips)


@pytest.mark.parametrize("layout", ["grid", "lrs2", "lrs3", "vox2"])
def test_wrong_roots_are_explained(tmp_path, layout):
    cfg = OmegaConf.create({"data": OmegaConf.load(CONFIGS / "data" / f"{layout}.yaml")})
    with pytest.raises(LayoutError, match=r"data\.root is not set"):
        build(cfg.data.layout)
    cfg.data.root = str(tmp_path / "nowhere")
    with pytest.raises(LayoutError, match="there is no such folder"):
        build(cfg.data.layout)
    cfg.data.root = str(tmp_path)
    with pytest.raises(LayoutError, match=str(tmp_path)):
        build(cfg.data.layout)


def test_clip_without_transcripts_and_with_sound_beside_it(tmp_path):
    video = tmp_path / "dev/mp4/id1/vid/00001.mp4"
    video.parent.mkdir(parents=True)
    make_media(video, moving_face(8))
    sound = tmp_path / "dev/aac/id1/vid/00001.m4a"
    sound.parent.mkdir(parents=True)
    make_media(tmp_path / "sound.mp4", [picture((64, 48))] * 8, sound=tone(0.32))
    (tmp_path / "sound.mp4").rename(sound)
    prepare(vox2(tmp_path, None), tmp_path / "out", SETTINGS, FACE, workers=1)
    (clip,) = read_manifest(tmp_path / "out")
    assert (clip.text, clip.frames, clip.source) == ("", 8, str(video))
    assert np.abs(media.read_audio(clip.wav)).max() > 10000


@pytest.mark.skipif(not GRID.is_dir(), reason="the GRID clips are not beside the repository")
def test_grid_as_distributed_prepares(tmp_path):
    clips = select(grid(GRID, "raw", 10, ["s1"]), None, 2)
    counts = prepare(clips, tmp_path, SETTINGS, FACE, workers=2)
    assert counts.prepared == len(clips)
    for clip in read_manifest(tmp_path):
        assert clip.frames == 75
        assert abs(clip.samples - 47600) < 500
        assert len(clip.text.split()) == 6
        assert clip.id.startswith(clip.speaker + "_")
