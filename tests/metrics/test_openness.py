"""Open mouths: the ratio by hand, frames without a face, and a real mouth that is held open or shut."""

from pathlib import Path

import numpy as np
import pytest

from synctalklip.data import media
from synctalklip.data.detectors import DlibFaces
from synctalklip.data.face import crop_face, geometry, track_face
from synctalklip.metrics.openness import mouth_aspect_ratio, score_openness

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
