"""The manifest: what is written is read, and every bad line is named."""

import json

import numpy as np
import pytest

from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import (
    PREPARATION,
    Clip,
    ManifestError,
    assert_one_corpus,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def prepared(tmp_path):
    clips = [Clip(id=name, split=split, frames=3, samples=1920, words=(("bin", 0.0, 0.1),), root=tmp_path)
             for name, split in (("b/2", "test"), ("a/1", "train"))]  # fmt: skip
    for clip in clips:
        for file in clip.files():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    write_manifest(tmp_path / "manifest.jsonl", clips)
    return tmp_path


def append(folder, line):
    if isinstance(line, dict):
        line = json.dumps({"preparation": PREPARATION, **line})
    with open(folder / "manifest.jsonl", "ab") as stream:
        stream.write((line.encode() if isinstance(line, str) else line) + b"\n")


def test_round_trip_is_sorted_and_filtered(prepared):
    assert [clip.id for clip in read_manifest(prepared)] == ["a/1", "b/2"]
    (clip,) = read_manifest(prepared / "manifest.jsonl", "test")
    assert clip == Clip(id="b/2", split="test", frames=3, samples=1920, words=(("bin", 0.0, 0.1),))
    assert clip.faces == prepared / "faces" / "b/2.mp4"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "line 3"),
        (b'{"id": "\xff"}', "utf-8"),
        ({"id": ["c"], "split": "train", "frames": 1, "samples": 1}, "id=['c']"),
        ({"id": "c", "split": "train", "frames": 1, "samples": 1, "text": None}, "text=None"),
        ("[1]", "no JSON object"),
        ({"id": "c", "split": "train"}, "frames"),
        ({"id": "c", "split": "dev", "frames": 1, "samples": 1}, "split 'dev'"),
        ({"id": "c", "split": "train", "frames": 0, "samples": 1}, "frames=0"),
        ({"id": "c", "split": "train", "frames": 1, "samples": 1, "speed": 2}, "speed"),
        ({"id": "c", "split": "train", "frames": 1, "samples": 1, "words": [["bin", 0.1]]}, "words"),
        ({"id": "c", "split": "train", "frames": 1, "samples": 1, "words": [["bin", 0.2, 0.1]]}, "in order"),
        ({"id": "a/1", "split": "train", "frames": 1, "samples": 1}, "listed twice"),
        *(
            ({"id": name, "split": "train", "frames": 1, "samples": 1}, "within the prepared folder")
            for name in ("/etc/passwd", "../a/1", "a/../../1", "a//1", "a/.", "", "c" * 5000, "c\0d", "c\\d")
        ),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_lines_are_named(prepared, line, reason):
    append(prepared, line)
    with pytest.raises(ManifestError, match="line 3") as error:
        read_manifest(prepared)
    assert reason in str(error.value)


def test_folder_of_another_preparation_is_refused_with_the_command(prepared):
    manifest = prepared / "manifest.jsonl"
    current = manifest.read_text()
    old = [{k: v for k, v in json.loads(line).items() if k != "preparation"} for line in current.splitlines()]
    manifest.write_text("".join(json.dumps(record) + "\n" for record in old))
    with pytest.raises(ManifestError, match=r"version 1 .* scripts/prepare\.py data=NAME .* data\.prepared=") as error:
        read_manifest(prepared)
    assert str(prepared) in str(error.value)
    manifest.write_text(current.replace(f'"preparation": {PREPARATION}', f'"preparation": {PREPARATION + 1}'))
    with pytest.raises(ManifestError, match=f"version {PREPARATION + 1} .* version {PREPARATION} is needed"):
        read_manifest(prepared)


def test_file_that_is_gone_is_named(prepared):
    (prepared / "rois" / "a/1.mp4").unlink()
    with pytest.raises(ManifestError, match=r"rois/a/1\.mp4 of clip 'a/1' is gone"):
        read_manifest(prepared)
    assert read_manifest(prepared, "test")


def test_no_manifest_and_empty_split(prepared, tmp_path):
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="no clip of split valid"):
        read_manifest(prepared, "valid")


def write_track(clip, frames, **arrays):
    boxes, matrices = np.tile(np.float32([10, 10, 90, 90]), (frames, 1)), np.tile(np.eye(2, 3), (frames, 1, 1))
    np.savez(clip.track, **{"boxes": boxes, "matrices": matrices, **arrays})


def changed(array, place, value):
    array = np.array(array, np.float64)
    array[place] = value
    return array


BOX, MAP = np.tile([10.0, 10, 90, 90], (3, 1)), np.tile(np.eye(2, 3), (3, 1, 1))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"boxes": changed(BOX, (1, 0), np.nan)}, "boxes of frame 1 cannot be"),
        ({"boxes": changed(BOX, (2, 3), np.inf)}, "boxes of frame 2 cannot be"),
        ({"boxes": changed(BOX, (0, 2), 1e30)}, "boxes of frame 0 cannot be"),
        ({"boxes": changed(BOX, (1, 2), 10)}, "boxes of frame 1 cannot be"),
        ({"boxes": np.zeros((3, 5))}, r"boxes are \(3, 5\) float64, \(3, 4\) numbers are needed"),
        ({"boxes": np.full((3, 4), "x")}, "boxes are .*numbers are needed"),
        ({"matrices": changed(MAP, (1, 0, 2), np.nan)}, "matrices of frame 1 cannot be"),
        ({"matrices": changed(MAP, (0, 0, 0), -np.inf)}, "matrices of frame 0 cannot be"),
        ({"matrices": changed(MAP, (2, 1, 1), 1e30)}, "matrices of frame 2 cannot be"),
        ({"matrices": changed(MAP, (2, 0), 0)}, "matrices of frame 2 cannot be"),
        ({"matrices": np.zeros((3, 3, 3))}, r"matrices are \(3, 3, 3\)"),
        ({"matrices": np.zeros(3)}, r"matrices are \(3,\)"),
        ({"matrices": np.float64(1)}, r"matrices are \(\)"),
    ],
)
def test_tracks_that_a_warp_would_crash_on_are_named(prepared, arrays, reason):
    clips = read_manifest(prepared)
    write_track(clips[0], 3, **arrays)
    with pytest.raises(ManifestError, match=rf"tracks/a/1\.npz: {reason}.*delete it and run"):
        ClipReader(clips).boxes(0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"garbage"])
def test_damaged_track_is_named(prepared, content):
    clips = read_manifest(prepared)
    clips[0].track.write_bytes(content)
    with pytest.raises(ManifestError, match=r"tracks/a/1\.npz: is damaged; delete it"):
        ClipReader(clips).boxes(0)


def test_file_of_another_length_than_the_manifest_says_is_named(prepared):
    clips = read_manifest(prepared)
    write_track(clips[0], 3)
    assert ClipReader(clips).boxes(0).shape == (3, 4)
    write_track(clips[0], 4)
    with pytest.raises(ManifestError, match="holds 4 frames, the manifest says 3"):
        ClipReader(clips).matrices(0)


@pytest.fixture
def two_corpora(tmp_path):
    """Two folders whose clips have the same names; as `cfg.data`."""
    corpora = {}
    for name, count in (("grid", 4), ("synthetic", 2)):
        splits = ["train"] * count + ["test"]
        clips = [Clip(f"s1/{number}", split, 3, 1920, root=tmp_path / name) for number, split in enumerate(splits)]
        for clip in clips:
            for file in clip.files():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        write_manifest(tmp_path / name / "manifest.jsonl", clips)
        corpora[name] = {"prepared": str(tmp_path / name)}
    return {"name": "grid+synthetic", "corpora": corpora, "weights": {}, "prepared": str(tmp_path / "both")}


def test_clips_of_one_name_in_two_corpora_stay_apart(two_corpora, tmp_path):
    clips = read_manifest(two_corpora)
    assert [clip.id for clip in clips] == [f"grid/s1/{n}" for n in range(5)] + [f"synthetic/s1/{n}" for n in range(3)]
    assert clips[5].faces == tmp_path / "synthetic/faces/s1/0.mp4"
    assert all(file.is_file() for clip in clips for file in clip.files())
    assert [clip.id for clip in read_manifest(two_corpora, "test")] == ["grid/s1/4", "synthetic/s1/2"]
    write_manifest(tmp_path / "again.jsonl", clips)
    assert "corpus" not in (tmp_path / "again.jsonl").read_text()


@pytest.mark.parametrize(
    ("weights", "times"),
    [
        ({}, {"grid": [1, 1, 1, 1], "synthetic": [1, 1]}),
        ({"synthetic": 2}, {"grid": [1, 1, 1, 1], "synthetic": [2, 2]}),
        ({"grid": 1.5}, {"grid": [1, 2, 1, 2], "synthetic": [1, 1]}),
        # Nothing is left out: the corpus with the least comes once.
        ({"grid": 0.25}, {"grid": [1, 1, 1, 1], "synthetic": [4, 4]}),
    ],
)
def test_weights_say_how_often_a_training_meets_a_corpus(two_corpora, weights, times):
    two_corpora["weights"] = weights
    for name, expected in times.items():
        drawn = [clip.id for clip in read_manifest(two_corpora, "train", draw=True)]
        assert [drawn.count(f"{name}/s1/{number}") for number in range(len(expected))] == expected
    assert len(read_manifest(two_corpora, "train")) == 6
    assert len(read_manifest(two_corpora, "test", draw=True)) == 2


@pytest.mark.parametrize("weights", [{"lrs3": 1}, {"grid": 0}, {"grid": "much"}, {"grid": True}])
def test_wrong_weights_are_named(two_corpora, weights):
    two_corpora["weights"] = weights
    with pytest.raises(ManifestError, match=r"data\.weights=.* to some of grid, synthetic"):
        read_manifest(two_corpora)


def test_a_split_that_no_corpus_has_is_named(two_corpora):
    with pytest.raises(ManifestError, match="grid, synthetic: no clip of split unseen"):
        read_manifest(two_corpora, "unseen")
    with pytest.raises(ManifestError, match="by itself, data=grid, data=synthetic"):
        assert_one_corpus(two_corpora)
    assert_one_corpus({"prepared": "x"})
