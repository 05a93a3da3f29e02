"""The audio-visual distance of eqs. 5 and 11, and what teaches it."""

import math

import pytest
import torch
from torch.nn import functional

from synctalklip import losses
from synctalklip.distance import HEADS, AVDistance
from synctalklip.errors import SyncTalklipError


@pytest.mark.parametrize("head", HEADS)
def test_matrix_holds_the_pairwise_distances(head):
    torch.manual_seed(0)
    distance = AVDistance(8, head, tau=0.5)
    audio, video = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    matrix = distance.matrix(audio, video)[0]
    for i in range(5):
        for j in range(5):
            alone = distance(audio[:, i : i + 1], video[:, j : j + 1])
            torch.testing.assert_close(matrix[i, j], alone[0, 0], rtol=1e-4, atol=1e-5)


def test_distance_by_hand():
    a, v = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert AVDistance(2, normalize=False, tau=2.0)(a, v).item() == pytest.approx(10.0)
    assert AVDistance(2)(a, v).item() == pytest.approx(0.6 + 0.2, rel=1e-5)


def test_positive_head_keeps_the_sum_of_its_weights():
    distance = AVDistance(4, "positive", normalize=False)
    with torch.no_grad():
        distance.coordinate_logits.copy_(torch.tensor([5.0, 0.0, -3.0, 1.0]))
    ones = torch.ones(4)
    assert distance(ones, torch.zeros(4)).item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"head": "scalar"}, "degenerate"),
        ({"head": "conv", "shared": True, "kernels": (9, 5)}, "equal where shared"),
        ({"head": "conv", "shared": False, "kernels": (4, 5)}, "odd"),
        ({"head": "identity", "learn_tau": True}, "learn their scale"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(SyncTalklipError, match=sentence):
        AVDistance(4, **settings)


def test_linear_head_by_hand():
    """F doubles the second coordinate and drops the first; unit length makes what is left a sign."""
    distance = AVDistance(2, "linear", width=0.5, learn_tau=True, tau=3.0)
    with torch.no_grad():
        distance.audio_projection.layers[0].weight.copy_(torch.tensor([[[0.0], [2.0]]]))
        distance.audio_projection.layers[0].bias.zero_()
    assert distance.video_projection is None
    audio, video = torch.tensor([[[5.0, 1.0], [5.0, -1.0]]]), torch.tensor([[[-7.0, 0.5], [0.0, 0.25]]])
    assert distance.matrix(audio, video)[0].tolist() == [[0.0, 0.0], [pytest.approx(6.0)] * 2]


def test_conv_head_sees_its_kernel_and_no_further():
    torch.manual_seed(0)
    distance = AVDistance(6, "conv", width=0.5, shared=False, kernels=(5, 3))
    audio, video = torch.randn(1, 12, 6), torch.randn(1, 12, 6)
    changed = [x.clone() for x in (audio, video)]
    for x in changed:
        x[:, 6] += 1
    for modality, x, other, reach in (("audio", audio, changed[0], 2), ("video", video, changed[1], 1)):
        moved = (distance.project(x, modality) != distance.project(other, modality)).any(-1)[0].nonzero().flatten()
        assert moved.tolist() == list(range(6 - reach, 7 + reach))
        assert distance.project(x, modality).shape == (1, 12, 3)


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_padding_does_not_move_a_frame(head):
    torch.manual_seed(0)
    distance = AVDistance(6, head, shared=False, kernels=(5, 3), layers=2)
    audio, video = torch.randn(2, 1, 8, 6)
    junk = torch.randn(1, 4, 6)
    padding = torch.zeros(1, 12, dtype=torch.bool)
    padding[:, 8:] = True
    padded = distance(torch.cat([audio, junk], 1), torch.cat([video, junk], 1), padding)
    torch.testing.assert_close(padded[:, :8], distance(audio, video))


def test_frame_contrast_equals_a_loop_over_frames_and_directions():
    torch.manual_seed(0)
    distances = torch.rand(2, 4, 4) * 3
    padding = torch.tensor([[False] * 4, [False, False, False, True]])
    cross, hinge, frames = 0.0, 0.0, 0
    for table, length in zip(distances, (4, 3)):
        for rows in (table[:length, :length], table[:length, :length].T):
            for i in range(length):
                others = [j for j in range(length) if abs(i - j) >= 2]
                logits = torch.stack([-rows[i, i], *(-rows[i, j] for j in others)])
                cross += functional.cross_entropy(logits[None], torch.tensor([0])).item()
                short = [max(0.0, 1.5 + rows[i, i].item() - rows[i, j].item()) for j in others]
                hinge += sum(short) / max(1, len(short))
                frames += 1
    found = losses.frame_contrast(distances, padding, "cross_entropy", min_gap=2)
    assert found.item() == pytest.approx(cross / frames, rel=1e-5)
    found = losses.frame_contrast(distances, padding, "margin", min_gap=2, margin=1.5)
    assert found.item() == pytest.approx(hinge / frames, rel=1e-5)
    with pytest.raises(SyncTalklipError, match="triplet"):
        losses.frame_contrast(distances, padding, "triplet")


def test_frame_contrast_of_equal_distances_is_the_logarithm_of_the_choices():
    distances, padding = torch.full((1, 6, 6), 2.0), torch.zeros(1, 6, dtype=torch.bool)
    assert losses.frame_contrast(distances, padding).item() == pytest.approx(math.log(6), rel=1e-5)


@pytest.mark.parametrize("form", losses.CONTRASTS)
def test_negatives_teach_a_learned_f_what_belongs_together(form):
    """Sound is a rotation of the lips plus noise: a linear F a modality finds it, and not a constant."""
    torch.manual_seed(0)
    video = torch.randn(4, 20, 6)
    audio = video @ torch.linalg.qr(torch.randn(6, 6)).Q + 0.05 * torch.randn(4, 20, 6)
    distance = AVDistance(6, "linear", shared=False, learn_tau=True)
    padding = torch.zeros(4, 20, dtype=torch.bool)

    def found() -> float:
        own = distance.matrix(audio, video).argmin(2) == torch.arange(20)
        return own.float().mean().item()

    before = found()
    optimizer = torch.optim.Adam(distance.parameters(), 0.04)
    for _ in range(80):
        optimizer.zero_grad()
        losses.frame_contrast(distance.matrix(audio, video), padding, form).backward()
        optimizer.step()
    assert before < 0.3
    assert found() > 0.95
