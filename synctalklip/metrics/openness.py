"""The opening between the lips, from landmarks: a judge without a network.

A SyncNet or an audio-visual expert scores what it has learned, and a generator that was trained by its like can please
it without moving the lips as people do. The opening between the lips is geometry: here it is compared with that of a
recording of the same sound, and counted where it is open: under silent sound the mouth should be shut.

Legend: T video frames at 25 Hz, K sounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.tracking import track_face
from synctalklip.errors import MetricError

FPS = 25
MOUTH = slice(48, 68)
"""Outer and inner lip, iBUG order counted from 0."""
EYES = (36, 45)
"""Outer corners of the eyes."""
RANGE = (2.0, 98.0)
"""Percentiles of a recording's aperture that count as its closed and its open mouth."""
CLOSED = 0.3
"""A mouth is closed in the lowest so much of that range: landmarks do not meet where lips do."""
BEFORE = 1
"""Frames before a sound in which its closure counts too: the lips of a plosive are shut before it is heard."""
STILL = 1e-9
"""Standard deviation of an aperture that does not move but for rounding."""


@dataclass(frozen=True)
class Movement:
    """How the lips of a clip move beside those of a recording.

    Attributes:
        correlation: Pearson's, of the two apertures frame by frame, -1..1; 0 for lips that do not move.
        lag: frames by which the lips come late: the shift at which they correlate best.
        spread: standard deviation of the aperture over the recording's; 1 is as much motion as real.
    """

    correlation: float
    lag: int
    spread: float


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Mean distance of the inner-lip points 61-67, 62-66 and 63-65 (iBUG order, counted from 0).

    Args:
        landmarks: (T,68,2), any unit.

    Returns:
        (T,) float64 in that unit; 0 where the lips touch.
    """
    points = np.asarray(landmarks, np.float64)
    return np.linalg.norm(points[:, 61:64] - points[:, 67:64:-1], axis=2).mean(axis=1)


def aperture(landmarks: np.ndarray) -> np.ndarray:
    """Opening between the lips as a share of the distance of the outer eye corners.

    The eyes are the unit because no generator paints them, and their median over the clip because they do not move.

    Args:
        landmarks: (T,68,2), any unit.

    Returns:
        (T,) float64; 0 where the lips touch.

    Raises:
        MetricError: eyes that fall on one point.
    """
    points = np.asarray(landmarks, np.float64)
    unit = np.median(np.linalg.norm(points[:, EYES[0]] - points[:, EYES[1]], axis=1))
    if not unit > 0:
        raise MetricError("the landmarks of the eyes fall on one point; use another detector")
    return lip_opening(points) / unit


def compare_apertures(ours: np.ndarray, theirs: np.ndarray, max_lag: int) -> Movement | None:
    """How one aperture follows another; None where the recording's lips do not move.

    Args:
        ours: (T,) of the generated mouth.
        theirs: (T,) of the recording.
        max_lag: largest lag looked at; a short clip keeps at least half of its frames.

    Raises:
        MetricError: the lengths differ.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or len(ours) == 0:
        raise MetricError(f"two apertures of one length are needed, got {ours.shape} and {theirs.shape}")
    if not theirs.std() > STILL:
        return None
    reach = min(max_lag, len(ours) // 2)
    # The smallest of equal ones: lips that do not move at all are not late.
    lag = max(range(-reach, reach + 1), key=lambda shift: (_shifted(ours, theirs, shift), -abs(shift)))
    return Movement(_correlation(ours, theirs), lag, float(ours.std() / theirs.std()))


def _shifted(ours: np.ndarray, theirs: np.ndarray, lag: int) -> float:
    """Correlation of lips that come `lag` frames late."""
    count = len(ours) - abs(lag)
    return _correlation(ours[max(0, lag) :][:count], theirs[max(0, -lag) :][:count])


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    if min(ours.std(), theirs.std()) <= STILL:
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])


def landmark_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """LMD (Chen et al. 2018, https://arxiv.org/abs/1803.10404): mean distance of the 20 mouth points over frames.

    Args:
        ours: (T,68,2).
        theirs: same shape and unit.

    Returns:
        In the unit of the landmarks.
    """
    apart = np.asarray(ours, np.float64)[:, MOUTH] - np.asarray(theirs, np.float64)[:, MOUTH]
    return float(np.linalg.norm(apart, axis=2).mean())


def closures(ours: np.ndarray, recording: np.ndarray, spans: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """How often the lips close where a sound asks for it (p, b, m).

    Closed is relative to the range of the same person's recording, so that thick lips, or landmarks that never meet, do
    not count as open. A mouth that never opens closes at every sound: read this beside the spread.

    Args:
        ours: (T,) aperture of the mouth that is judged.
        recording: (any) aperture of a recording of that person.
        spans: K of (start, end) in seconds.

    Returns:
        sounds at which the lips close in at least one frame, and sounds counted: those that begin inside the clip.
    """
    low, high = np.percentile(recording, RANGE)
    limit = low + CLOSED * (high - low)
    closed = counted = 0
    for start, end in spans:
        if not 0 <= start * FPS < len(ours):
            continue
        first, last = max(0, int(start * FPS) - BEFORE), int(np.ceil(end * FPS))
        counted += 1
        closed += bool(ours[first : max(last, first + 1)].min() <= limit)
    return closed, counted


def mouth_aspect_ratio(landmarks: np.ndarray) -> np.ndarray:
    """Height of the opening between the lips over its width.

    Height is `lip_opening`, width the distance of the inner corners 60-64 (iBUG order, counted from 0).

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
