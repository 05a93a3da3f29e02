"""Follow one face through a video.

T frames, N faces of a frame. Frames are (H,W,3) uint8 BGR, boxes x1, y1, x2, y2.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import (
    MEAN_FACE,
    S3FD,
    STABLE_POINTS,
    FaceError,
    Geometry,
    apply,
    found_boxes,
    geometry,
    similarities,
)

LARGEST = "largest"
# Faces of nearly the same size are told apart by their place.
NEARLY_AS_LARGE = 0.8
SAME_FACE_OVERLAP = 0.3
# What scores less than this share of the best face is a pattern that looks like one.
CLEAR = 0.2
# A lost face may come back this many box sides away, and one side more for every second it was gone.
REACH = 1.0
REACH_GROWTH = 1 / 25


@dataclass(frozen=True)
class Track:
    """One face over time.

    Attributes:
        landmarks: (T,68,2) float32 in pixels of the frames; gaps are interpolated, the ends are held.
        detected: (T,) bool, frames in which the face was seen.
        boxes: (T,4) float32, what the detector found around the face; between two of its runs the box moves with the
            landmarks, gaps are filled as theirs are.
    """

    landmarks: np.ndarray
    detected: np.ndarray
    boxes: np.ndarray

    @property
    def share(self) -> float:
        """Share of the frames in which the face was seen."""
        return float(self.detected.mean())

    def cuts(self, crop_rule: str, width: int, height: int, window: int = 11) -> Geometry:
        """Face crops and mouth ROIs of the frames.

        Args:
            crop_rule: one of `geometry.CROP_RULES`.
            width: of the frames. height: of the frames.
            window: see `geometry`.

        Raises:
            FaceError: landmarks that fall on one point, or a face outside its frame.
        """
        cuts = geometry(self.landmarks, window)
        return found_boxes(cuts, self.boxes, width, height) if crop_rule == S3FD else cuts


def choose_face(faces: np.ndarray, width: int, height: int, rule: str | int = LARGEST) -> int | None:
    """The face of a first frame.

    Args:
        faces: (N,5) with scores.
        width: of the frame.
        height: of the frame.
        rule: "largest" (of several nearly as large, the most central), or the place of the face in the row from left
            to right, from 0. What scores far less than the best face does not count.

    Returns:
        Its index in `faces`, None without faces.

    Raises:
        FaceError: there are not so many faces.
    """
    if len(faces) == 0:
        return None
    clear = clear_faces(faces)
    candidates = faces[clear]
    if rule == LARGEST:
        areas = (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
        centres = (candidates[:, :2] + candidates[:, 2:4]) / 2
        away = np.hypot(*(centres - np.array([width, height]) / 2).T)
        away[areas < NEARLY_AS_LARGE * areas.max()] = np.inf
        place = away.argmin()
    elif isinstance(rule, int) and rule < len(candidates):
        place = np.argsort(candidates[:, 0] + candidates[:, 2], kind="stable")[rule]
    else:
        last = f" to {len(candidates) - 1}" if len(candidates) > 1 else ""
        raise FaceError(
            f"face={rule}, but the first frame with a face shows {len(candidates)}; they are counted from left to "
            f"right, from 0: choose 0{last}, or face={LARGEST}"
        )
    return int(clear[place])


def clear_faces(faces: np.ndarray) -> np.ndarray:
    """Indices of the faces, (N,5) with scores, that score about as the best of them."""
    best = faces[:, 4].max(initial=-np.inf)
    # With a negative threshold no face may score above 0; then all of them count.
    return np.flatnonzero(faces[:, 4] >= (CLEAR * best if best > 0 else -np.inf))


def overlaps(faces: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of each face (N,4 or more) with a box (4,), (N,)."""
    low, high = np.maximum(faces[:, :2], box[:2]), np.minimum(faces[:, 2:4], box[2:4])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas, area = np.prod(faces[:, 2:4] - faces[:, :2], axis=1), np.prod(box[2:4] - box[:2])
    return common / (areas + area - common)


def same_face(faces: np.ndarray, box: np.ndarray, gap: int) -> int | None:
    """The face that continues a track: the one that overlaps most, else the nearest within reach.

    Args:
        faces: (N,5) with scores.
        box: (4,) where the face was.
        gap: frames since then.

    Returns:
        Its index, None when all are elsewhere or of another size.
    """
    if len(faces) == 0:
        return None
    overlap = overlaps(faces, box)
    if overlap.max() >= SAME_FACE_OVERLAP:
        return int(overlap.argmax())
    areas, area = np.prod(faces[:, 2:4] - faces[:, :2], axis=1), np.prod(box[2:] - box[:2])
    away = np.hypot(*((faces[:, :2] + faces[:, 2:4] - box[:2] - box[2:]) / 2).T)
    ratio = np.sqrt(areas / area)
    away[(ratio < 0.5) | (ratio > 2)] = np.inf
    nearest = int(away.argmin())
    return nearest if away[nearest] <= (REACH + REACH_GROWTH * gap) * np.sqrt(area) else None


class FaceFollower:
    """State of one track: the last box, how landmarks moved since it was found, the frames not yet confirmed.

    Args:
        detector: finds faces and landmarks.
        rule: which face of the first frame that shows one, see `choose_face`.
    """

    def __init__(self, detector: FaceDetector, rule: str | int):
        self.detector, self.rule = detector, rule
        self.landmarks: list[np.ndarray | None] = []
        self.boxes: list[np.ndarray | None] = []
        self._box: np.ndarray | None = None
        # Faces that were seen beside this one: it does not become one of them when it is gone.
        self._others = np.zeros((0, 4), np.float32)
        self._lost = 0
        self._waiting: list[tuple[int, np.ndarray]] = []

    def step(self, frame: np.ndarray) -> None:
        """Take the next frame."""
        if self._box is not None and not self._lost and len(self._waiting) + 1 < self.detector.every:
            self._waiting.append((len(self.landmarks), frame))
            self._follow(frame)
            return
        if self._detect(frame):
            self._waiting = []
            return
        # The face went at some frame since the last detection: look at those too.
        if self._waiting:
            self._recheck()

    @property
    def lost(self) -> int:
        """Frames since the face was last seen; 0 while it is."""
        return self._lost

    def finish(self) -> None:
        """Confirm the frames after the last detection; more may follow."""
        if self._waiting and self._seen(self._waiting[-1][1]) is None:
            self._recheck()
        self._waiting = []

    def skip(self, frames: int) -> None:
        """Take that many frames as ones without the face."""
        self.landmarks += [None] * frames
        self.boxes += [None] * frames
        self._lost += frames

    def track(self) -> Track | None:
        """What was followed so far, None where no face was seen."""
        detected = np.array([found is not None for found in self.landmarks])
        if not detected.any():
            return None
        return Track(_filled(self.landmarks, detected), detected, _filled(self.boxes, detected))

    def _seen(self, frame: np.ndarray) -> np.ndarray | None:
        """Box of the followed face in a frame, or of the chosen one when none is followed yet."""
        faces = self.detector.detect(frame)
        if self._box is None:
            index = choose_face(faces, frame.shape[1], frame.shape[0], self.rule)
        else:
            own = np.flatnonzero(~self._are_others(faces))
            place = same_face(faces[own], self._box, self._lost)
            index = None if place is None else own[place]
        if index is None:
            return None
        self._others = np.delete(faces, index, axis=0)[:, :4]
        return faces[index, :4]

    def _are_others(self, faces: np.ndarray) -> np.ndarray:
        """Which faces (N,5) continue one that was seen beside the followed one, (N,) bool; such are kept track of."""
        known = [overlaps(faces, other) for other in self._others]
        if not known or len(faces) == 0:
            return np.zeros(len(faces), bool)
        assert self._box is not None
        nearest = np.max(known, axis=0)
        other = (nearest >= SAME_FACE_OVERLAP) & (nearest > overlaps(faces, self._box))
        for number, overlap in enumerate(known):
            if overlap.max() >= SAME_FACE_OVERLAP and other[overlap.argmax()]:
                self._others[number] = faces[overlap.argmax(), :4]
        return other

    def _detect(self, frame: np.ndarray) -> bool:
        box = self._seen(frame)
        if box is None:
            self._append(None, None)
            self._lost += 1
            return False
        points = self.detector.landmarks(frame, box)
        self._box, self._lost = box, 0
        # What the box looks like from the mean face, to move it along with the landmarks.
        corners = np.asarray(box, np.float64).reshape(1, 2, 2)
        self._on_canvas = apply(_upright(points), corners)
        self._append(points, box)
        return True

    def _append(self, points: np.ndarray | None, box: np.ndarray | None) -> None:
        self.landmarks.append(points)
        self.boxes.append(box)

    def _follow(self, frame: np.ndarray) -> None:
        """Landmarks within the last box, moved and scaled as the landmarks did since it was found."""
        last = self.landmarks[-1]
        assert last is not None
        matrix = _upright(last)
        scale = matrix[:, 0, 0]
        corners = (self._on_canvas - matrix[:, None, :, 2]) / scale
        self._box = corners.reshape(4).astype(np.float32)
        self._append(self.detector.landmarks(frame, self._box), self._box)

    def _recheck(self) -> None:
        gone = False
        for place, frame in self._waiting:
            gone = gone or self._seen(frame) is None
            if gone:
                self.landmarks[place] = self.boxes[place] = None
                self._lost += 1
        self._waiting = []


def _upright(points: np.ndarray) -> np.ndarray:
    """Scale and shift, no rotation, from a frame (68,2) to the mean face: (1,2,3)."""
    stable = points[None, STABLE_POINTS].astype(np.float64)
    matrix = similarities(stable, MEAN_FACE)
    scale = np.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
    linear = scale[:, None, None] * np.eye(2)
    shift = MEAN_FACE.mean(axis=0) - scale[:, None] * stable.mean(axis=1)
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def track_face(frames: Iterable[np.ndarray], detector: FaceDetector, rule: str | int = LARGEST) -> Track:
    """Find one face and its landmarks in every frame.

    The detector runs every `detector.every` frames; between two runs the box moves with the landmarks. When a
    face is lost, the frames since it was last found are looked at one by one, and so are the following ones
    until it is found again. Frames stream: at most `detector.every` of them are held.

    Args:
        frames: (H,W,3) uint8 BGR each.
        detector: finds faces and landmarks.
        rule: which face of the first frame that shows one, see `choose_face`.

    Raises:
        FaceError: no frames, no face in any of them, or not so many as `rule` asks for.
    """
    follower = FaceFollower(detector, rule)
    for frame in frames:
        follower.step(frame)
    follower.finish()
    if not follower.landmarks:
        raise FaceError("the video holds no frames")
    track = follower.track()
    if track is None:
        raise no_face(len(follower.landmarks))
    return track


def no_face(frames: int) -> FaceError:
    """What is said of a video whose `frames` frames show nobody."""
    looked = "the only frame" if frames == 1 else f"{frames} frames"
    return FaceError(f"no face was found in {looked}; a face must be seen from the front and not be too small")


def _filled(values: list[np.ndarray | None], detected: np.ndarray) -> np.ndarray:
    """An array for every frame (T,...) float32: gaps interpolated, the ends held."""
    seen = np.flatnonzero(detected)
    known = np.stack([value for value in values if value is not None])
    every = np.arange(len(values))
    columns = [np.interp(every, seen, column) for column in known.reshape(len(seen), -1).T]
    return np.stack(columns, axis=1).reshape(len(values), *known.shape[1:]).astype(np.float32)
