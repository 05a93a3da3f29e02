"""Table 2: WER beside alignment accuracy, for the same clips and several checkpoints."""

import csv
import json

import pytest
import torch

from synctalklip.avsyncnet.decode import Generation, read_clips
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import normalize_roi
from synctalklip.data.manifest import read_manifest
from synctalklip.evaluation.table2 import compare, measure, tables, write


@pytest.fixture
def clips(prepared):
    return [clip for clip in read_manifest(prepared, "valid") if clip.text]


def test_counts_equal_reading_and_a_loop_over_clips(fine_tuned, clips):
    expert = load_expert(fine_tuned)
    rows = measure(expert, clips, Generation(), batch_frames=40)
    assert [row["id"] for row in rows] == [clip.id for clip in clips]
    reader = ClipReader(clips)
    read = {one.id: one.counts.errors for one in read_clips(expert, clips, Generation(), ["video"], 1000)}
    for index, row in enumerate(rows):
        audio = reader.logfbank(index).T[None]
        video = normalize_roi(reader.rois(index))[None, None]
        with torch.inference_mode():
            heard, seen = expert.encode(audio, None)[0], expert.encode(None, video)[0]
            nearest = [
                min(range(len(seen)), key=lambda j: float(expert.distance(a[None], seen[j][None]))) for a in heard
            ]
        assert row["errors"] == read[row["id"]]
        assert row["pairs"] == clips[index].frames
        assert row["aligned0"] == sum(i == j for i, j in enumerate(nearest))
        assert row["aligned1"] == sum(abs(i - j) <= 1 for i, j in enumerate(nearest))


def test_table_has_a_row_a_model_and_its_sums(fine_tuned, clips, tmp_path):
    results = compare({"one": fine_tuned, "two": fine_tuned}, clips, Generation(), 100, "cpu")
    made = tables(results, "corpus", samples=50, permutations=100, seed=1)
    table = write(results, made, tmp_path, ["md", "tex", "csv"])
    first, second = table.split("Difference to one")
    rows = {line.split("|")[1].strip(): line for line in first.splitlines() if line.startswith("| ")}
    counts = results["one"]["clips"]
    wer = 100 * sum(row["errors"] for row in counts) / sum(row["words"] for row in counts)
    share = 100 * sum(row["aligned0"] for row in counts) / sum(row["pairs"] for row in counts)
    assert f"| **{wer:.1f}** [" in rows["one"]
    assert f"| **{share:.1f}** [" in rows["one"]
    assert rows["one"].replace("one", "two") == rows["two"]
    assert "| two | +0.0 [+0.0, +0.0] p = 1.000 |" in second
    with open(tmp_path / "table2.csv", newline="") as file:
        assert [float(row["WER (%)"]) for row in csv.DictReader(file)] == pytest.approx([wer, wer])
    assert json.loads((tmp_path / "table2.json").read_text())["two"]["sha256"] == results["one"]["sha256"]
