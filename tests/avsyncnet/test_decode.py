"""Reading a split and reading arrays: the same words, counted as jiwer counts them."""

import json
from dataclasses import replace

import jiwer
import numpy as np
import pytest
import torch
from torch.nn import functional

from synctalklip.avsyncnet.decode import Generation, LipReader, open_reader, read_clips, write_hypotheses
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.avsyncnet.search import forced, greedy
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.data.text import EOS
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


def counting(prev_tokens, embeddings, padding_mask, state):
    """Logits of a decoder that always counts on from the token before, from 9 to the end of sentence."""
    following = torch.where(prev_tokens == EOS, 4, torch.where(prev_tokens == 9, EOS, prev_tokens + 1))
    return functional.one_hot(following, 12).float()


def test_forced_by_hand():
    embeddings, mask = torch.zeros(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    # Given 4 5 7: 4 and 5 are right, and after 5 comes 6. What the decoder takes for the end stands for no symbol,
    # it does not cut the rest off, and nothing is read beyond the reference.
    references = [[4, 5, 7], [8, 9, 5, 6], [], [4]]
    assert forced(counting, embeddings, mask, references) == [[4, 5, 6], [4, 9, 6], [], [4]]
    # Free, the first error would have been the last thing that the reference decides.
    assert greedy(counting, embeddings[:1], mask[:1], tokens_per_frame=9) == [[4, 5, 6, 7, 8, 9]]


def test_forced_along_its_own_reading_changes_nothing(expert):
    video, mask = torch.randn(3, 1, 9, 88, 88), torch.arange(9)[None] >= torch.tensor([9, 6, 8])[:, None]
    embeddings = expert.model.encode(None, video, mask)
    free = greedy(expert.model.decode, embeddings, mask)
    assert any(free)
    assert forced(expert.model.decode, embeddings, mask, free) == free


def test_forced_reading_is_as_long_as_the_transcript(fine_tuned, clips):
    reader = open_reader(fine_tuned, decoding="forced")
    arrays, texts = ClipReader(clips), [clip.text for clip in clips]
    rois = [arrays.rois(index) for index in range(len(clips))]
    read = reader.read(rois, texts)
    assert all(len(words.split()) <= 3 for words in read)
    reader.batch_frames = 13
    assert reader.read(rois[::-1], texts[::-1]) == read[::-1]
    assert reader.read(rois, [text.upper() + "!" for text in texts]) == read
    with pytest.raises(SyncTalklipError, match="1 given"):
        reader.read(rois, texts[:1])
    with pytest.raises(SyncTalklipError, match="decoding=free"):
        reader.read(rois)
    with pytest.raises(SyncTalklipError, match="decoding is 'guess'"):
        open_reader(fine_tuned, decoding="guess")
