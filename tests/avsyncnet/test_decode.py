"""Reading a split and reading arrays: the same words, counted as jiwer counts them."""

import json
from dataclasses import replace

import jiwer
import numpy as np
import pytest

from synctalklip.avsyncnet.decode import Generation, LipReader, read_clips, write_hypotheses
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError


@pytest.fixture(scope="module")
def expert(fine_tuned):
    return load_expert(fine_tuned)


@pytest.fixture(scope="module")
def clips(prepared):
    return read_manifest(prepared)


def test_reading_does_not_depend_on_the_batch(expert, clips):
    made = [
        {reading.id: reading.hypothesis for reading in read_clips(expert, clips, Generation(), ["video"], budget)}
        for budget in (13, 500)
    ]
    assert made[0] == made[1]
    assert set(made[0]) == {clip.id for clip in clips}


@pytest.mark.parametrize("modalities", [["video"], ["audio"], ["audio", "video"]])
def test_beam_search_reads_any_modality(expert, clips, modalities):
    readings = list(read_clips(expert, clips, Generation(beam=3), modalities, 60))
    assert len(readings) == len(clips)


def test_hypotheses_and_counts(expert, clips, tmp_path):
    readings = list(read_clips(expert, clips, Generation(beam=2), ["video"], 100))
    scores = write_hypotheses(tmp_path / "hypotheses.jsonl", readings)
    lines = [json.loads(line) for line in (tmp_path / "hypotheses.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted(clip.id for clip in clips)
    oracle = jiwer.process_words([line["reference"] for line in lines], [line["hypothesis"] or " " for line in lines])
    assert scores["wer"] == pytest.approx(100 * oracle.wer)
    assert sum(scores[name] for name in ("substitutions", "deletions", "insertions")) == (
        oracle.substitutions + oracle.deletions + oracle.insertions
    )
    assert scores["words"] == 3 * len(clips)


def test_lip_reader_reads_arrays_as_it_reads_clips(expert, fine_tuned, clips):
    reader = LipReader(fine_tuned, batch_frames=30)
    arrays = ClipReader(clips)
    rois = [arrays.rois(index) for index in range(len(clips))]
    stored = {reading.id: reading.hypothesis for reading in read_clips(expert, clips, Generation(), ["video"], 500)}
    texts = reader.read(rois)
    assert texts == [stored[clip.id] for clip in clips]
    assert reader.read([(roi / 255).astype(np.float32) for roi in rois]) == texts
    assert reader.read([]) == []
    assert reader.roi_mode == "landmark"


def test_other_rois_are_refused(expert, clips):
    foreign = [replace(clips[0], roi_mode="center88")]
    with pytest.raises(SyncTalklipError, match="center88"):
        list(read_clips(expert, foreign, Generation(), ["video"], 100))
    with pytest.raises(SyncTalklipError, match="beam"):
        list(read_clips(expert, clips, Generation(beam=0), ["video"], 100))


def test_a_reader_without_a_tokenizer_is_refused(expert, clips):
    assert next(read_clips(replace_tokenizer(expert, expert.tokenizer), clips, Generation(), ["video"], 100)).id
    with pytest.raises(SyncTalklipError, match="has no tokenizer"):
        next(read_clips(replace_tokenizer(expert, None), clips, Generation(), ["video"], 100))


def replace_tokenizer(expert, tokenizer):
    return Expert(expert.model, tokenizer, expert.roi_mode)
