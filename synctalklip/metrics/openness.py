"""How often the mouth is open, from landmarks on the faces: under silent sound it should be shut.

Legend: T video frames.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.tracking import track_face
from synctalklip.metrics.aperture import lip_opening


def mouth_aspect_ratio(landmarks: np.ndarray) -> np.ndarray:
    """Height of the opening between the lips over its width.

    Height is `aperture.lip_opening`, width the distance of the inner corners 60-64 (iBUG order, counted from 0).

    Args:
        landmarks: (T,68,2), any unit.

    Returns:
        (T,) float64; 0 where the lips touch.
    """
    points = np.asarray(landmarks, np.float64)
    return lip_opening(points) / np.linalg.norm(points[:, 60] - points[:, 64], axis=1)


def score_openness(faces: np.ndarray, detector: FaceDetector, scale: int, threshold: float) -> dict[str, int]:
    """Frames with an open mouth (KeySync 2025 calls their share under silent sound LipLeak).

    Args:
        faces: (T,96,96,3) uint8 BGR.
        detector: finds face and landmarks in every crop, as it would in a video.
        scale: crops are enlarged so many times first; finders of faces know no small ones.
        threshold: mouth aspect ratio from which a mouth is open.

    Returns:
        `open_frames`, and `open_counted`, the frames in which a face was found.
    """
    side = faces.shape[1] * scale

    def enlarged() -> Iterator[np.ndarray]:
        for face in faces:
            yield cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)

    try:
        track = track_face(enlarged(), detector)
    except FaceError:
        return {"open_frames": 0, "open_counted": 0}
    opened = mouth_aspect_ratio(track.landmarks[track.detected]) > threshold
    return {"open_frames": int(opened.sum()), "open_counted": len(opened)}
