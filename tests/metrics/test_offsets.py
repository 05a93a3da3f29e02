"""Offsets and answers to a wrong mouth, worked out by hand, and with the needle the wrong way round."""

import math

import numpy as np
import pytest

from synctalklip.metrics.offsets import answer_counts, offset_counts, window_distances


def band(length: int, shift: int = 0) -> np.ndarray:
    """Lips j fit the sound j - shift: distance |j - i - shift|."""
    frames = np.arange(length)
    return np.abs(frames[None] - frames[:, None] - shift).astype(float)


def test_window_distances_are_means_along_the_diagonal():
    table = np.arange(16.0).reshape(4, 4)
    windows = window_distances(table, 2)
    assert windows.shape == (3, 3)
    assert windows[0, 0] == (table[0, 0] + table[1, 1]) / 2
    assert windows[0, 2] == (table[0, 2] + table[1, 3]) / 2
    assert windows[2, 1] == (table[2, 1] + table[3, 2]) / 2
    assert np.array_equal(window_distances(table, 1), table)
    with pytest.raises(ValueError, match="no window of 5"):
        window_distances(table, 5)


def test_offset_counts_by_hand():
    """Sounds 0 and 3 find their own lips, sound 1 those of the next frame, sound 2 those two before."""
    table = np.array(
        [
            [0.0, 1.0, 2.0, 3.0],
            [2.0, 1.0, 0.5, 3.0],
            [0.0, 4.0, 1.0, 0.5],
            [9.0, 9.0, 2.0, 1.0],
        ]
    )
    counts = offset_counts(table)
    assert (counts["found0"], counts["found1"], counts["sounds"]) == (2, 3, 4)
    assert (counts["offset_sum"], counts["near"]) == (1 - 2, 4)
    # Next lips farther than own: 0 < 1; 1 < 2 but not 1 < 0.5; 1 < 4 but not 1 < 0.5; 1 < 2.
    assert (counts["nearer"], counts["neighbours"]) == (4, 6)


@pytest.mark.parametrize("shift", [-1, 1])
def test_lips_that_come_a_frame_late_or_early_are_found_there(shift):
    aligned, shifted = offset_counts(band(20)), offset_counts(band(20, shift))
    assert aligned["found0"] == 20
    assert aligned["offset_sum"] == 0
    assert shifted["found0"] <= 1
    assert shifted["found1"] == 20
    # The frame at the end whose lips lie outside the clip finds its own.
    assert shifted["offset_sum"] == shift * 19
    windows = offset_counts(window_distances(band(20, shift), 5))
    assert windows["offset_sum"] / windows["near"] == pytest.approx(shift, abs=0.1)
    # Own lips against those of the frame they belong to: never nearer; against the other side, always.
    assert aligned["nearer"] == aligned["neighbours"]
    assert shifted["nearer"] == shifted["neighbours"] / 2


def test_a_distance_that_is_turned_round_finds_nothing():
    counts = offset_counts(-band(20))
    assert counts["found0"] == 0
    assert counts["nearer"] == 0


def test_answer_counts_by_hand():
    """Two sounds a clip of 4 frames: the mouth of frame 1 was wrong, and frame 2 saw something of it."""
    real = band(4)
    wrong = real.copy()
    wrong[:, 1] = [0.0, 3.0, 2.0, 2.0]
    wrong[2, 2] = 0.5
    counts = answer_counts(real, wrong, 1, 1)
    assert counts["inside"] == 1
    assert counts["farther"] == 1
    assert counts["entropy_real"] == pytest.approx(math.log(1 + 2 * math.exp(-1) + math.exp(-2)))
    assert counts["entropy_wrong"] == pytest.approx(3 + math.log(1 + math.exp(-3) + 2 * math.exp(-2)))
    assert counts["change_inside"] == 3
    assert counts["change_outside"] == pytest.approx(0.5 / 3)


def test_a_wrong_mouth_that_is_taken_for_a_better_one_does_not_count():
    real, wrong = band(6) + 1, band(6) + 1
    wrong[2, 2] = 0.0
    counts = answer_counts(real, wrong, 2, 1)
    assert counts["farther"] == 0
    assert counts["entropy_wrong"] < counts["entropy_real"]
    counts = answer_counts(wrong, real, 2, 1)
    assert counts["farther"] == 1
    assert counts["entropy_wrong"] > counts["entropy_real"]
