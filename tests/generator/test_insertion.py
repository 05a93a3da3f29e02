"""Painted faces in their mouth ROIs, in both ROI modes: values, gradients, and what must stay untouched."""

import numpy as np
import pytest
import torch
from torch import Tensor

from synctalklip import losses
from synctalklip.benchmark.naive import naive_insert, naive_sampled_contrastive
from synctalklip.data.features import normalize_roi
from synctalklip.data.geometry import ROI_MODES, Geometry, centre_rois, crop_face, crop_roi
from synctalklip.distance import AVDistance
from synctalklip.generator.objective import insert_faces

FRAME = 160


def smooth_frame(seed: int) -> np.ndarray:
    """A frame of slow colour waves, (160,160,3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:FRAME, :FRAME] / FRAME * 2 * np.pi
    waves = [np.sin(x * a + b) * np.cos(y * c + d) for a, b, c, d in rng.uniform(0.5, 2, (3, 4))]
    return (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def cuts_of(mode: str, boxes: np.ndarray) -> Geometry:
    """Cuts of frames: in `landmark` mode a turned and shrunk ROI, in `center88` the middle of the frame."""
    angles = 0.1 * np.arange(len(boxes))
    linear = 0.9 * np.stack(
        [np.stack([np.cos(angles), -np.sin(angles)], -1), np.stack([np.sin(angles), np.cos(angles)], -1)], 1
    )
    shift = 48 - linear @ np.array([82.0, 96.0])
    transforms = np.concatenate([linear, shift[:, :, None]], axis=2)
    pixel = ((boxes[:, 2:] - boxes[:, :2]) / 96)[:, :, None]
    corner = boxes[:, :2, None] + pixel / 2
    matrices = np.concatenate([linear * pixel[:, :1], linear @ corner + transforms[:, :, 2:]], axis=2)
    cuts = Geometry(*(array.astype(np.float32) for array in (boxes, transforms, matrices)))
    return centre_rois(cuts, FRAME, FRAME) if mode == "center88" else cuts


def case(mode: str, exact: bool = False):
    """Two clips of 6 and 4 frames, of each 3 painted: faces, ROIs and matrices that belong together."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(20, 50, (10, 2))
    sides = np.full((10, 1), 96.0) if exact else rng.uniform(60, 105, (10, 1))
    if exact:
        corners = corners.round() - 0.5
    boxes = np.concatenate([corners, corners + sides], axis=1)
    cuts = cuts_of(mode, boxes)
    frames = [smooth_frame(seed) for seed in range(10)]
    faces = np.stack([crop_face(frame, box) for frame, box in zip(frames, cuts.boxes)])
    rois = np.stack([crop_roi(frame, transform) for frame, transform in zip(frames, cuts.transforms)])
    stacked = torch.zeros(2, 6, 96, 96, dtype=torch.uint8)
    stacked[0], stacked[1, :4] = torch.from_numpy(rois[:6]), torch.from_numpy(rois[6:])
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    clip, frame = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([1, 2, 5, 0, 1, 3])
    rows = clip * 6 + frame
    real = torch.from_numpy(faces)[rows].permute(0, 3, 1, 2).float() / 255
    return real, torch.from_numpy(cuts.matrices)[rows], stacked, clip, frame, padding


@pytest.mark.parametrize("mode", ROI_MODES)
def test_insertion_equals_the_loop_with_its_gradients(mode):
    real, *rest = case(mode)
    torch.manual_seed(0)
    painted = (0.8 * real.flip(0) + 0.2 * torch.rand_like(real)).requires_grad_()
    looped = painted.detach().clone().requires_grad_()
    video, expected = insert_faces(painted, *rest), naive_insert(looped, *rest)
    assert video.shape == expected.shape == (2, 1, 6, 88, 88)
    assert (video - expected).abs().max() < 1e-4
    weights = torch.randn_like(video)
    (video * weights).sum().backward()
    (expected * weights).sum().backward()
    assert (painted.grad - looped.grad).abs().max() < 1e-3 * looped.grad.abs().max()


@pytest.mark.parametrize("mode", ROI_MODES)
def test_nothing_outside_the_painted_region_changes_or_teaches(mode):
    real, matrices, rois, clip, frame, padding = case(mode)
    painted = torch.rand_like(real).requires_grad_()
    video = insert_faces(painted, matrices, rois, clip, frame, padding)
    plain = normalize_roi(rois).masked_fill(padding[:, :, None, None], 0).unsqueeze(1)
    touched = torch.zeros(2, 6, dtype=torch.bool)
    touched[clip, frame] = True
    assert torch.equal(video[:, 0][~touched], plain[:, 0][~touched])
    # ROI pixels that lie outside the face crop, found by mapping the crop's corners.
    corners = torch.tensor([[0.0, 0, 1], [95, 0, 1], [0, 95, 1], [95, 95, 1]])
    mapped = torch.einsum("nij,kj->nki", matrices, corners) - 4
    outside = torch.zeros(len(clip), 88, 88, dtype=torch.bool)
    for n, box in enumerate(mapped):
        low, high = box.amin(0), box.amax(0)
        outside[n, : max(0, int(low[1]))] = True
        outside[n, int(high[1]) + 2 :] = True
    assert outside.any()
    torch.testing.assert_close(video[:, 0][clip, frame][outside], plain[:, 0][clip, frame][outside])
    (gradient,) = torch.autograd.grad(video[:, 0][clip, frame][outside].sum(), painted, retain_graph=True)
    assert not gradient.any()
    # Pixels of the face that the ROI does not show get no gradient either.
    (gradient,) = torch.autograd.grad(video.sum(), painted)
    seen = gradient.abs().sum(1) > 0
    assert seen.any()
    assert not seen.all()


@pytest.mark.parametrize("mode", ROI_MODES)
def test_an_identity_generator_gives_back_the_rois(mode):
    """In centre mode with boxes of 96 whole pixels nothing is resampled, and only grey levels are rounded."""
    real, matrices, rois, clip, frame, padding = case(mode, exact=True)
    video = insert_faces(real, matrices, rois, clip, frame, padding)
    plain = normalize_roi(rois).masked_fill(padding[:, :, None, None], 0).unsqueeze(1)
    levels = (video - plain).abs() * 0.165 * 255
    assert levels.max() < (0.6 if mode == "center88" else 4)
    assert levels.mean() < 0.3


def test_centre_rois_are_those_of_the_public_recipe():
    """The 88x88 middle of the ROI is rows and columns 36 to 123 of a 160x160 frame, as in TalkLip."""
    cuts = cuts_of("center88", np.array([[30.0, 40.0, 120.0, 130.0]]))
    frame = np.random.default_rng(0).integers(0, 256, (FRAME, FRAME, 3)).astype(np.uint8)
    roi = crop_roi(frame, cuts.transforms[0])[4:92, 4:92]
    grey = frame[36:124, 36:124] @ np.array([0.114, 0.587, 0.299])
    assert np.abs(roi - grey).max() < 1
    # Twice the size: every ROI pixel covers two by two of the frame, and a wide frame is cut to its middle square.
    wide = centre_rois(cuts, 400, 320)
    np.testing.assert_allclose(wide.transforms[0], [[0.5, 0, (0.5 - 40) / 2 - 32.5], [0, 0.5, 0.25 - 32.5]])


def naive_contrastive(audio: Tensor, video: Tensor, negatives: Tensor) -> Tensor:
    """Equations 11 and 12 on unit embeddings (N,D), pair by pair; `negatives` (N,N) bool."""
    audio = audio / audio.norm(dim=1, keepdim=True)
    video = video / video.norm(dim=1, keepdim=True)
    rows = []
    for i in range(len(audio)):
        others = [(audio[i] - video[j]).abs().sum() for j in range(len(video)) if negatives[i, j]]
        if others:
            rows.append((audio[i] - video[i]).abs().sum() - torch.stack(others).mean())
    return torch.stack(rows).mean()


def naive_audio_infonce(audio: Tensor, video: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """TalkLip's contrastive loss, cross-entropy with other sounds as the negatives of a sound, row by row."""
    audio = audio / audio.norm(dim=1, keepdim=True)
    video = video / video.norm(dim=1, keepdim=True)
    rows = []
    for i in range(len(audio)):
        logits = [audio[i] @ video[i]] + [audio[i] @ audio[j] for j in range(len(audio)) if negatives[i, j]]
        rows.append(-(torch.stack(logits) / temperature).log_softmax(0)[0])
    return torch.stack(rows).mean()


def test_contrastive_forms_equal_their_loops():
    torch.manual_seed(1)
    audio, video = torch.randn(2, 7, 5)
    clips, frames = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 9, 0, 1, 5])
    for scope in ("clip", "batch"):
        negatives = losses.negatives_of(clips, frames, scope, min_gap=2)
        table = AVDistance(5).matrix(audio, video)
        expected = naive_contrastive(audio, video, negatives)
        torch.testing.assert_close(losses.cross_modal_contrastive(table, negatives), expected)
        similar = losses.audio_negatives(audio, video)
        expected = naive_audio_infonce(audio, video, negatives, 0.07)
        torch.testing.assert_close(losses.infonce(similar, negatives, 0.07), expected)


def test_sampled_negatives_give_what_the_public_loop_gives_with_its_gradients():
    torch.manual_seed(2)
    pair = [torch.randn(9, 6, requires_grad=True) for _ in range(2)]
    expected, drawn = naive_sampled_contrastive(*pair, count=4)
    negatives = torch.zeros(9, 9, dtype=torch.bool).scatter_(1, drawn, True)
    found = losses.cross_modal_contrastive(AVDistance(6).matrix(*pair).T, negatives)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, pair), torch.autograd.grad(expected, pair)):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
