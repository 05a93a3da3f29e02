"""Statistics and rules of the span masks and their substitutes."""

import numpy as np
import pytest
import torch

from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.benchmark.naive import runs


def test_public_settings_hide_the_measured_shares():
    generator = torch.Generator().manual_seed(0)
    shares = torch.zeros(3)
    for _ in range(40):
        masks = masking.draw_masks(AVHubertConfig(), (12, 100), None, generator)
        both = masking.union(masks, True, True)
        shares += torch.stack([mask.float().mean() for mask in (masks.audio, masks.video, both)])
    torch.testing.assert_close(shares / 40, torch.tensor([0.47, 0.22, 0.57]), atol=0.02, rtol=0)


def test_shares_equal_those_of_fairseq():
    oracle = pytest.importorskip("fairseq.data.data_utils")
    np.random.seed(0)  # noqa: NPY002 fairseq draws from the global generator
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((8,), 100)
    for probability, length in ((0.8, 10), (0.3, 5)):
        draw = (probability, length)
        found = [masking.span_mask(lengths, 100, *draw, equalize=True, generator=generator) for _ in range(150)]
        expected = [oracle.compute_mask_indices((8, 100), None, *draw, min_masks=2) for _ in range(150)]
        assert abs(torch.stack(found).float().mean() - np.mean(expected)) < 0.015


def test_equalised_rows_hide_equally_many_frames():
    lengths = torch.tensor([100, 60, 37, 100])
    draw = {"frames": 100, "probability": 0.8, "length": 10}
    mask = masking.span_mask(lengths, **draw, equalize=True, generator=torch.Generator().manual_seed(0))
    assert mask.sum(1).unique().numel() == 1
    assert not (mask & (torch.arange(100) >= lengths[:, None])).any()


def test_spans_stay_whole_without_equalising():
    lengths = torch.tensor([100, 60])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        mask = masking.span_mask(lengths, 100, 0.3, 5, equalize=False, generator=generator)
        for row, length in zip(mask, lengths):
            assert all(end - start + 1 >= 5 and end < length for start, end in runs(row))


def test_number_of_spans_is_rounded_at_random():
    generator = torch.Generator().manual_seed(0)
    # Spans of one frame: their number is the number of hidden frames, 12.5 on average.
    mask = masking.span_mask(torch.full((4000,), 25), 25, 0.5, 1, equalize=False, generator=generator)
    assert set(mask.sum(1).tolist()) == {12, 13}
    assert abs(mask.sum(1).float().mean() - 12.5) < 0.05


def test_clips_of_any_length_are_masked():
    for frames in range(1, 30):
        mask = masking.span_mask(torch.full((3,), frames), 30, 0.8, 10, equalize=True)
        assert (mask.sum(1) >= 1).all()
        assert not mask[:, frames:].any()


def test_the_same_generator_gives_the_same_masks():
    first, second = (
        masking.draw_masks(AVHubertConfig(), (3, 50), None, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_substitutes_come_from_the_same_clip_and_do_not_overlap():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([80, 50])
    for _ in range(50):
        mask = masking.span_mask(lengths, 80, 0.3, 5, equalize=True, generator=generator)
        source = masking.same_clip_sources(mask, lengths, generator)
        assert torch.equal(source[~mask], torch.arange(80).repeat(2, 1)[~mask])
        for row, places, length in zip(mask, source, lengths.tolist()):
            for start, end in runs(row):
                shown = places[start : end + 1]
                place = int(shown[0])
                size = end - start + 1
                assert place < max(0, start - size) or place > end
                assert torch.equal(shown, torch.arange(place, place + size).clamp(max=length - 1))


def test_every_allowed_place_is_drawn():
    mask = torch.zeros(2000, 12, dtype=torch.bool)
    mask[:, 5:7] = True
    source = masking.same_clip_sources(mask, torch.full((2000,), 12), torch.Generator().manual_seed(0))
    assert set(source[:, 5].tolist()) == {0, 1, 2, 7, 8, 9, 10, 11}


def test_a_clip_hidden_as_a_whole_starts_at_its_beginning():
    mask = torch.ones(1, 6, dtype=torch.bool)
    assert torch.equal(masking.same_clip_sources(mask, torch.tensor([6])), torch.arange(6)[None])


def test_hidden_video_frames_show_their_substitutes():
    video = torch.arange(6.0).view(1, 1, 6, 1, 1).repeat(2, 1, 1, 2, 2)
    source = torch.tensor([[0, 1, 4, 5, 4, 5], [3, 1, 2, 3, 4, 5]])
    shown = masking.mask_video(video, source)
    assert torch.equal(shown[:, 0, :, 0, 0], source.float())


def test_other_clips_fill_in_when_asked():
    video = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1).expand(2, 1, 4, 2, 2)
    mask = torch.tensor([[True, False, False, True]] * 2)
    shown = masking.mask_video_from_other(video, mask)[:, 0, :, 0, 0]
    assert shown.tolist() == [[2, 1, 1, 2], [1, 2, 2, 1]]
    assert masking.mask_video_from_other(video[:1], mask[:1])[0, 0, :, 0, 0].tolist() == [0, 1, 1, 0]
