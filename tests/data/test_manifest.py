"""The manifest: what is written is read, and every bad line is named."""

import json

import numpy as np
import pytest

from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import PREPARATION, Clip, ManifestError, read_manifest, write_manifest


@pytest.fixture
def prepared(tmp_path):
    clips = [Clip(id=name, split=split, frames=3, samples=1920, root=tmp_path) for name, split in
             (("b/2", "test"), ("a/1", "train"))]  # fmt: skip
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
    assert clip == Clip(id="b/2", split="test", frames=3, samples=1920)
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
        ({"id": "a/1", "split": "train", "frames": 1, "samples": 1}, "listed twice"),
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


def write_track(clip, frames):
    np.savez(clip.track, boxes=np.zeros((frames, 4)), matrices=np.zeros((frames, 2, 3)))


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
