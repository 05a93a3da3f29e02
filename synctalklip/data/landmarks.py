"""Landmarks of face crops that hold still: one box a clip, the median of several readings of every frame.

The 68-point predictor answers to where its box lies. On crops of 96x96 pixels, with one box, its noise is as large as
the motion of the lips; enlarged crops and the median over boxes that differ a little take most of it away.

Legend: T video frames.
"""

import cv2
import numpy as np

from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.tracking import choose_face

SCALE = 3
"""Crops are enlarged so many times: face and landmark finders know no faces of 96 pixels."""
BORDER = 72
"""Pixels of repeated edge around an enlarged crop; a face finder wants to see what is beside a face."""
LOOKS = 5
"""Frames in which the face is looked for, evenly spread."""
SHIFT, GROWTH = 4.0, 0.05
"""How far the boxes of the other readings are moved, in enlarged pixels, and how much larger and smaller they are."""
READING = f"crops x {SCALE}, one box a clip, median of 7 boxes"
"""How landmarks are read, for footnotes."""


def face_box(faces: np.ndarray, detector: FaceDetector) -> np.ndarray:
    """The box that the landmarks of a clip are read in: the median of those that the detector finds.

    Args:
        faces: (T,96,96,3) uint8 BGR, of the recording: a generated face is read where the real one stands.
        detector: finds faces.

    Returns:
        (4,) float32 x1, y1, x2, y2 in pixels of the enlarged crop.

    Raises:
        FaceError: it finds no face in any of the frames that were looked at.
    """
    boxes = []
    for place in np.unique(np.linspace(0, len(faces) - 1, LOOKS).round().astype(int)):
        picture = enlarged(faces[place])
        found = detector.detect(picture)
        index = choose_face(found, picture.shape[1], picture.shape[0])
        if index is not None:
            boxes.append(found[index, :4])
    if not boxes:
        raise FaceError("no face is found in its face crops; use another detector, or aperture.measure=false")
    return np.median(boxes, axis=0).astype(np.float32)


def crop_landmarks(faces: np.ndarray, box: np.ndarray, detector: FaceDetector) -> np.ndarray:
    """Landmarks of every frame, each the median over seven boxes.

    Args:
        faces: (T,96,96,3) uint8 BGR.
        box: see `face_box`.
        detector: finds landmarks.

    Returns:
        (T,68,2) float64 x, y in pixels of the 96x96 crop.
    """
    boxes = _readings(np.asarray(box, np.float64))
    points = [
        np.median([detector.landmarks(picture, one) for one in boxes], axis=0) for picture in map(enlarged, faces)
    ]
    # Pixel centres lie at whole numbers, before and after the enlargement.
    return (np.asarray(points, np.float64) - BORDER + 0.5) / SCALE - 0.5


def enlarged(face: np.ndarray) -> np.ndarray:
    """The picture that is read: a crop (96,96,3) enlarged inside a border, (432,432,3) uint8."""
    large = cv2.resize(face, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)


def _readings(box: np.ndarray) -> list[np.ndarray]:
    """The box itself, moved to four sides, larger and smaller."""
    moves = [(0, 0), (SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT)]
    grown = (box[2:] - box[:2]).mean() * GROWTH / 2
    sizes = [np.array([-grown, -grown, grown, grown]), np.array([grown, grown, -grown, -grown])]
    return [box + np.array([x, y, x, y]) for x, y in moves] + [box + size for size in sizes]
