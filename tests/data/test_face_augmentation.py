"""Changes of the face crops of stage 2: what the expert sees of them stays where it was."""

import cv2
import numpy as np
import pytest
import torch

from synctalklip.data.augment import FaceAugmentation
from synctalklip.data.features import BGR_TO_GREY, faces_to_rois

ALL = FaceAugmentation(probability=1.0, mirror=0.5, shift=0.05, scale=0.1, stretch=0.08, rotate=8.0, colour=0.0)


def smooth_face(seed: int) -> np.ndarray:
    """A crop (1,96,96,3) without fine detail, so that drawing it again costs little."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (96, 96), interpolation=cv2.INTER_CUBIC)[None]


@pytest.mark.parametrize("seed", range(8))
def test_the_expert_sees_the_same_mouth_in_a_changed_crop(seed):
    face = smooth_face(seed)
    change = ALL.draw(96, np.random.default_rng(seed))
    # The middle of the crop fills the ROI, so that nothing comes from outside the changed crop.
    matrix = np.array([[[2.2, 0, -57.0], [0, 2.2, -57.0]]], np.float32)
    rois = torch.zeros(1, 96, 96)

    def seen(faces: np.ndarray, matrices: np.ndarray) -> torch.Tensor:
        pictures = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255
        return faces_to_rois(pictures, torch.from_numpy(matrices), rois)

    before = seen(face, matrix)
    after = seen(change.faces(face, np.ones(3)), change.matrices(matrix))
    assert float((before - after).abs().mean()) < 0.01
    # The unchanged map would show another place.
    assert float((before - seen(change.faces(face, np.ones(3)), matrix)).abs().mean()) > 0.02


def test_a_mirror_turns_the_crop_about_its_middle_column():
    mirror = FaceAugmentation(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0).draw(96, np.random.default_rng(0))
    face = smooth_face(1)
    np.testing.assert_array_equal(mirror.faces(face, np.ones(3)), face[:, :, ::-1])


def test_a_tint_keeps_the_mean_grey():
    tinted = FaceAugmentation(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3).draw(96, np.random.default_rng(2))
    face = (smooth_face(3) * 0.6).astype(np.uint8)
    changed = tinted.faces(face, tinted.tint(face))
    weights = np.array(BGR_TO_GREY)
    assert abs((changed.mean(axis=(0, 1, 2)) * weights).sum() - (face.mean(axis=(0, 1, 2)) * weights).sum()) < 0.5
    assert np.abs(changed.mean(axis=(0, 1, 2)) - face.mean(axis=(0, 1, 2))).max() > 3


def test_probability_is_how_many_clips_are_changed():
    half = FaceAugmentation(0.5, 0.0, 0.05, 0.1, 0.08, 8.0, 0.1)
    drawn = [half.draw(96, np.random.default_rng(seed)) for seed in range(400)]
    assert 160 < sum(change is not None for change in drawn) < 240
