"""The opening between the lips: by hand, each needle the right way, and a real mouth that is held open or shut."""

from pathlib import Path

import numpy as np
import pytest

from synctalklip.data import media
from synctalklip.data.detectors import DlibFaces
from synctalklip.data.geometry import crop_face, geometry
from synctalklip.data.tracking import track_face
from synctalklip.errors import MetricError
from synctalklip.metrics.openness import (
    aperture,
    closures,
    compare_apertures,
    landmark_distance,
    mouth_aspect_ratio,
    score_openness,
)

TIME = np.arange(60)


def mouths(openings: np.ndarray) -> np.ndarray:
    """(T,68,2) faces whose eyes are 100 apart and whose inner lips are as far apart as `openings` says."""
    points = np.zeros((len(openings), 68, 2))
    points[:, 45, 0] = 100
    points[:, 60:65] = [[30, 50], [40, 50], [50, 50], [60, 50], [70, 50]]
    points[:, 65:68] = [[60, 50], [50, 50], [40, 50]]
    points[:, 65:68, 1] += np.asarray(openings)[:, None]
    return points


def speech(seed: int) -> np.ndarray:
    """An aperture that moves as lips do: slow random waves, never below 0."""
    rng = np.random.default_rng(seed)
    knots = np.interp(TIME / 4, np.arange(17), rng.random(17))
    return np.convolve(np.pad(knots, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")


def test_aperture_by_hand():
    points = mouths(np.array([0.0, 10.0]))
    assert aperture(points).tolist() == [0.0, 0.1]
    points[1, 66] += (0, 6)  # one of three pairs further apart
    assert aperture(points)[1] == pytest.approx(0.12)
    assert np.allclose(aperture(3 * points + 7), aperture(points))
    with pytest.raises(MetricError, match="eyes fall on one point"):
        aperture(np.zeros((2, 68, 2)))


def test_own_lips_correlate_and_those_of_another_sentence_do_not():
    ours, theirs = speech(0), speech(1)
    assert compare_apertures(ours, ours, 10).correlation == pytest.approx(1)
    assert abs(compare_apertures(ours, theirs, 10).correlation) < 0.6
    # An open mouth where the recording's is shut is worse than one that has nothing to do with it.
    assert compare_apertures(-ours, ours, 10).correlation == pytest.approx(-1)
    noisy = ours + np.random.default_rng(2).normal(0, 0.1, 60)
    assert compare_apertures(noisy, ours, 10).correlation == pytest.approx(np.corrcoef(noisy, ours)[0, 1])


@pytest.mark.parametrize("late", [-4, -1, 0, 3])
def test_late_lips_have_a_positive_lag(late):
    real = speech(0)
    moved = compare_apertures(np.roll(real, late)[10:50], real[10:50], 10)
    assert moved.lag == late
    assert (moved.correlation == pytest.approx(1)) == (late == 0)


def test_spread_says_how_far_lips_move():
    real = speech(3)
    half = compare_apertures(0.4 + 0.5 * real, real, 10)
    assert (half.correlation, half.spread) == (pytest.approx(1), pytest.approx(0.5))


def test_still_lips_follow_nothing_and_a_still_recording_is_no_measure():
    still = compare_apertures(np.full(60, 0.3), speech(0), 10)
    assert (still.correlation, still.lag, still.spread) == (0, 0, pytest.approx(0))
    assert compare_apertures(speech(0), np.full(60, 0.3), 10) is None
    with pytest.raises(MetricError, match="of one length"):
        compare_apertures(speech(0), speech(0)[1:], 10)


def test_landmark_distance_counts_the_mouth_alone():
    real = mouths(speech(0))
    ours = real.copy()
    ours[:, 48:] += (3, 4)
    ours[:, :48] += 50
    assert landmark_distance(ours, real) == pytest.approx(5)
    assert landmark_distance(real, real) == 0


def test_closures_by_hand():
    lips = np.full(50, 0.1)
    lips[[19, 20, 21]] = 0.01
    at_20, at_40 = (20.2 / 25, 21.8 / 25), (40.2 / 25, 41.8 / 25)
    assert closures(lips, lips, [at_20, at_40]) == (1, 2)
    # Shut in the frame before the sound is soon enough, shut in the one after it is too late.
    assert closures(lips, lips, [(22.2 / 25, 23 / 25), (23.2 / 25, 24 / 25), (17.2 / 25, 18.8 / 25)]) == (1, 3)
    # A sound after the end is not counted.
    assert closures(lips, lips, [(60 / 25, 61 / 25)]) == (0, 0)
    # The needle reversed: open where it was shut.
    assert closures(0.11 - lips, lips, [at_20]) == (0, 1)
    assert closures(np.full(50, 0.1), lips, [at_20]) == (0, 1)
    assert closures(np.full(50, 0.01), lips, [at_20, at_40]) == (2, 2)


def test_closed_is_relative_to_the_persons_own_range():
    lips = speech(0)
    lips[30] = lips.min()
    sound = [(30.2 / 25, 30.8 / 25)]
    assert closures(lips, lips, sound) == (1, 1)
    # Lips that never meet in the landmarks are closed at their own least opening.
    assert closures(lips + 0.5, lips + 0.5, sound) == (1, 1)
    assert closures(lips + 0.5, lips, sound) == (0, 1)


GRID = Path(__file__).resolve().parents[3] / "shared" / "grid"


def mouth(height: float) -> np.ndarray:
    """Landmarks (68,2) whose inner lips are 40 wide and `height` apart at the three pairs, 0.5, 1 and 1.5 times."""
    points = np.random.default_rng(0).random((68, 2)) * 100
    points[60], points[64] = (0, 0), (40, 0)
    for upper, lower, x, part in ((61, 67, 10, 0.5), (62, 66, 20, 1.0), (63, 65, 30, 1.5)):
        points[upper], points[lower] = (x, -height * part / 2), (x, height * part / 2)
    return points


def test_ratio_by_hand_and_in_any_pose():
    points = np.stack([mouth(0), mouth(10), mouth(20)])
    assert mouth_aspect_ratio(points) == pytest.approx([0, 0.25, 0.5])
    turn = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    assert mouth_aspect_ratio(points @ turn * 3 + 7) == pytest.approx([0, 0.25, 0.5])


class Scripted:
    """Finds a face and a mouth as the grey level of the picture says: none in black ones."""

    every = 1

    def detect(self, frame: np.ndarray) -> np.ndarray:
        assert frame.shape == (192, 192, 3)
        box = [[20, 20, 170, 170, 1]] if frame.any() else np.zeros((0, 5))
        return np.array(box, np.float32)

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        return mouth(float(frame[0, 0, 0])).astype(np.float32)


def test_frames_without_a_face_do_not_count():
    faces = np.zeros((6, 96, 96, 3), np.uint8)
    faces[1:5] = np.array([9, 11, 200, 1])[:, None, None, None]
    assert score_openness(faces, Scripted(), scale=2, threshold=0.25) == {"open_frames": 2, "open_counted": 4}
    assert score_openness(faces[:1], Scripted(), 2, 0.25) == {"open_frames": 0, "open_counted": 0}


@pytest.mark.skipif(not GRID.is_dir(), reason="the GRID clips are not beside the repository")
def test_a_real_mouth_that_is_held_open_or_shut():
    frames = media.read_video(GRID / "clips" / "s1_lwik9s.mp4")[10:50]
    detector = DlibFaces(every=5, upsample=1, max_side=640, threshold=0.0)
    landmarks = track_face(frames, detector).landmarks
    crops = np.stack([crop_face(frame, box) for frame, box in zip(frames, geometry(landmarks).boxes)])
    ratios = mouth_aspect_ratio(landmarks)
    halfway = (ratios.min() + ratios.max()) / 2
    shares = {}
    for name, index in (("open", ratios.argmax()), ("shut", ratios.argmin())):
        faces = crops[::4].copy()
        faces[:, 48:] = crops[index, 48:]
        shares[name] = score_openness(faces, detector, scale=2, threshold=halfway)
    assert shares["open"]["open_frames"] >= 7
    assert shares["open"]["open_counted"] == 10
    assert shares["shut"] == {"open_frames": 0, "open_counted": 10}
