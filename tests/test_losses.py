"""Every equation against values worked out by hand, a naive loop or its defining property."""

import math

import pytest
import torch
from torch.nn import functional

from synctalklip import losses
from synctalklip.errors import SyncTalklipError


def test_cosine_logits_equal_the_broadcast_form():
    features, codebook = torch.randn(7, 5), torch.randn(4, 5)
    naive = functional.cosine_similarity(features[:, None], codebook[None], dim=-1) / 0.1
    torch.testing.assert_close(losses.cosine_logits(features, codebook), naive)


def test_masked_prediction_by_hand():
    uniform, target = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    loss = losses.masked_prediction(uniform, target, torch.zeros(2, 4), torch.tensor([3, 3]), alpha=0.5)
    assert loss.item() == pytest.approx(3 * math.log(4) + 0.5 * 2 * math.log(4))


def test_lip_reading_equals_a_loop_over_tokens():
    logits, targets = torch.randn(2, 3, 6), torch.tensor([[4, 5, 2], [3, 2, 1]])
    total = 0.0
    for row, symbols in zip(logits, targets):
        for scores, symbol in zip(row, symbols):
            if symbol == 1:
                continue
            log_p = scores.log_softmax(0)
            share = 0.1 / 5
            total += -(1 - 0.1 - share) * log_p[symbol] - share * log_p.sum()
    assert losses.lip_reading(logits, targets, 0.1, "sum").item() == pytest.approx(total.item(), rel=1e-5)
    assert losses.lip_reading(logits, targets, 0.1, "token_mean").item() == pytest.approx(total.item() / 5, rel=1e-5)
    assert losses.lip_reading(logits, targets, 0.1, "sentence_mean").item() == pytest.approx(total.item() / 2, rel=1e-5)


def test_lip_reading_without_smoothing_is_cross_entropy():
    logits, targets = torch.randn(2, 3, 6), torch.tensor([[4, 5, 2], [3, 2, 1]])
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=1)
    torch.testing.assert_close(losses.lip_reading(logits, targets, 0.0), expected)


def test_alignment_ignores_padding():
    distances = torch.tensor([[1.0, 3.0, 100.0], [2.0, 2.0, 2.0]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    assert losses.alignment(distances, padding).item() == pytest.approx(2.0)


def test_reconstruction_regions():
    target = torch.zeros(1, 3, 4, 4)
    generated = target.clone()
    generated[..., 2:, :] = 0.5
    assert losses.reconstruction(generated, target).item() == pytest.approx(0.25)
    assert losses.reconstruction(generated, target, "lower").item() == pytest.approx(0.5)
    with pytest.raises(SyncTalklipError, match="left_ear"):
        losses.reconstruction(generated, target, "left_ear")


def test_mouth_region_is_the_window_that_it_says():
    target = torch.zeros(1, 3, 96, 96)
    generated = torch.ones_like(target)
    generated[..., 54:90, 24:72] = 0
    assert losses.reconstruction(generated, target, "mouth").item() == 0
    generated[..., 53, :] = 0
    assert losses.reconstruction(1 - generated, target, "mouth").item() == 1


@pytest.mark.parametrize("form", ["non_saturating", "paper", "hinge", "lsgan"])
def test_adversarial_sides_pull_apart_and_stay_finite(form):
    low, high = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    assert losses.adversarial_generator(high, form) < losses.adversarial_generator(low, form)
    assert losses.adversarial_discriminator(high, low, form) < losses.adversarial_discriminator(low, high, form)
    for logit in (-100.0, 100.0):
        fake = torch.tensor([[logit]], requires_grad=True)
        losses.adversarial_discriminator(-fake, fake, form).backward()
        assert torch.isfinite(fake.grad).all()


def test_adversarial_by_hand_at_zero():
    zero = torch.zeros(2, 1)
    assert losses.adversarial_generator(zero).item() == pytest.approx(math.log(2))
    assert losses.adversarial_generator(zero, "paper").item() == pytest.approx(-math.log(2))
    assert losses.adversarial_discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_confident_discriminator_still_teaches():
    """Sigmoid and BCE read 100 with no gradient here; logits do not."""
    fake = torch.tensor([[-40.0]], requires_grad=True)
    losses.adversarial_generator(fake).backward()
    assert fake.grad.item() == pytest.approx(-1.0)


def test_contrastive_equals_the_printed_double_sum():
    distances = torch.rand(5, 5)
    expected = sum(
        distances[i, i] - sum(distances[i, j] for j in range(5) if j != i) / 4 for i in range(5)
    ) / 5  # fmt: skip
    torch.testing.assert_close(losses.cross_modal_contrastive(distances), expected)


def test_contrastive_skips_rows_without_negatives():
    distances = torch.tensor([[1.0, 5.0], [7.0, 2.0]])
    negatives = torch.tensor([[False, True], [False, False]])
    assert losses.cross_modal_contrastive(distances, negatives).item() == pytest.approx(1 - 5)
    assert losses.cross_modal_contrastive(distances, torch.zeros(2, 2, dtype=torch.bool)).item() == 0


def test_negatives_scope_gap_and_count():
    clips, frames = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 4, 9, 3])
    within = losses.negatives_of(clips, frames, "clip")
    assert within.tolist() == [
        [False, True, True, False],
        [True, False, True, False],
        [True, True, False, False],
        [False, False, False, False],
    ]
    assert losses.negatives_of(clips, frames, "clip", min_gap=5)[0].tolist() == [False, False, True, False]
    assert losses.negatives_of(clips, frames, "batch")[3].tolist() == [True, True, True, False]
    batch = losses.negatives_of(clips, frames, "batch")
    few = losses.sampled_negatives(batch, 1, generator=torch.Generator().manual_seed(0))
    assert few.sum(1).tolist() == [1, 1, 1, 1]
    assert not (few & ~batch).any()
    # The sounds of frames 3 to 5 of clip 0 and of frame 3 of clip 1.
    candidates = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 4, 5, 3])
    assert losses.negatives_of(clips, frames, candidates=candidates).tolist() == [
        [False, True, True, False],
        [True, False, True, False],
        [True, True, True, False],
        [False, False, False, False],
    ]


def test_nearest_negatives_are_the_hardest_that_are_allowed():
    distances = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 1.0, 4.0]])
    allowed = torch.tensor([[False, True, False, True], [True, False, True, True]])
    assert losses.nearest_negatives(distances, allowed, 2).tolist() == [
        [False, True, False, True],
        [False, False, True, True],
    ]
    assert losses.nearest_negatives(distances, allowed, 1).tolist() == [
        [False, False, False, True],
        [False, False, True, False],
    ]


def test_forms_with_more_candidates_than_anchors():
    """Two mouths, three sounds; their own are the last and the first."""
    distances = torch.tensor([[4.0, 2.0, 1.0], [1.0, 3.0, 7.0]])
    own, negatives = torch.tensor([2, 0]), torch.tensor([[True, True, False], [False, True, False]])
    assert losses.cross_modal_contrastive(distances, own=own).item() == pytest.approx(((1 - 3) + (1 - 5)) / 2)
    assert losses.cross_modal_contrastive(distances, negatives, own).item() == pytest.approx(((1 - 3) + (1 - 3)) / 2)
    expected = [math.log(1 + math.exp(1 - 4) + math.exp(1 - 2)), math.log(1 + math.exp(1 - 3))]
    assert losses.frame_cross_entropy(distances, negatives, own).item() == pytest.approx(sum(expected) / 2)
    assert losses.infonce(-distances, negatives, 1.0, own).item() == pytest.approx(sum(expected) / 2)


def test_infonce_of_equal_similarities_is_the_logarithm_of_the_choices():
    assert losses.infonce(torch.zeros(6, 6)).item() == pytest.approx(math.log(6))


def test_weighted_sum_by_hand_and_mismatch():
    terms = {"rec": torch.tensor(2.0), "lip": torch.tensor(3.0)}
    assert losses.weighted_sum(terms, {"rec": 1.0, "lip": 0.5}).item() == pytest.approx(3.5)
    with pytest.raises(SyncTalklipError, match="lamda"):
        losses.weighted_sum(terms, {"rec": 1.0, "lamda": 0.5})


def test_negatives_are_limited_by_number_and_by_share():
    clips, frames = torch.zeros(10, dtype=torch.long), torch.arange(10)
    for limits, expected in (((9,), 9), ((3,), 3), ((9, 0.5), 5), ((100, 0.5), 5)):
        allowed = losses.negatives_of(clips, frames, "batch")
        chosen = losses.sampled_negatives(allowed, *limits, generator=torch.Generator().manual_seed(0))
        assert (chosen.sum(1) == expected).all()
        assert not chosen.diagonal().any()
