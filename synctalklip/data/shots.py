"""Follow faces through a video that may have cuts: every shot is tracked anew.

Frames are (H,W,3) uint8 BGR, N faces of a frame.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.tracking import FaceFollower, Track, clear_faces, no_face

ALL = "all"
THUMBNAIL = (32, 18)
# Mean difference of two thumbnails, in grey levels. Speakers of GRID stay below 1 from frame to frame; a cut to another
# of them in the same studio is 10 to 34, to a close-up of the same 41 to 63.
OTHER_PICTURE = 8.0
# A cut stands out from the movement of the frames before it by this factor.
ABOVE_MOVEMENT = 4.0
RECENT = 8
# What is shown for so few frames, until the picture before comes back, is a flash and no shot.
FLASH = 12
# A face that was gone so long, in a picture that has become another one, went by a dissolve or a pan.
PATIENCE = 12


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A small picture for comparison, (18,32,3) float32; its mean is taken away, as a flash or a fade is no cut."""
    small = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    return small - small.mean(axis=(0, 1))


def difference(first: np.ndarray | None, second: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails; 0 where there is no first."""
    return 0.0 if first is None else float(np.abs(first - second).mean())


class CutFinder:
    """Says of each frame whether a new shot begins with it."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    def step(self, picture: np.ndarray) -> bool:
        """Take the next thumbnail; True where it begins another shot than the first."""
        change = difference(self._last, picture)
        movement = sum(self._recent) / max(1, len(self._recent))
        self._last = picture
        self._recent.append(change)
        return change > max(OTHER_PICTURE, ABOVE_MOVEMENT * movement)


@dataclass(frozen=True)
class Shot:
    """One shot of a video.

    Attributes:
        start: its first frame.
        length: frames.
        tracks: each face that was asked for and that the shot shows, by its rule; of `ALL`, by its place from the left.
    """

    start: int
    length: int
    tracks: dict[str | int, Track]


@dataclass
class _OpenShot:
    """A shot that is being followed."""

    start: int
    detector: "_LookedOnce"
    rules: Sequence[str | int]
    length: int = 0
    followers: dict[str | int, FaceFollower] = field(default_factory=dict)
    places: range = range(0)
    """All faces, once they were seen."""
    picture: np.ndarray | None = None
    """The last frame."""
    seen: np.ndarray | None = None
    """The last frame that showed a face that is followed."""
    refused: FaceError | None = None

    def step(self, frame: np.ndarray, picture: np.ndarray) -> None:
        for rule in self._wanted(frame):
            if rule not in self.followers:
                self.followers[rule] = FaceFollower(self.detector, rule)
                self.followers[rule].skip(self.length)
            self._follow(rule, frame)
        self.length += 1
        self.picture = picture
        if any(follower.lost == 0 for follower in self.followers.values()):
            self.seen = picture

    def _wanted(self, frame: np.ndarray) -> Sequence[str | int]:
        if ALL in self.rules and not self.places:
            self.places = range(len(clear_faces(self.detector.detect(frame))))
        return [*self.places, *(rule for rule in self.rules if rule != ALL and rule not in self.places)]

    def _follow(self, rule: str | int, frame: np.ndarray) -> None:
        follower = self.followers[rule]
        try:
            follower.step(frame)
        except FaceError as error:
            # Not so many faces yet: others may enter.
            self.refused = self.refused or error
            follower.skip(1)

    def is_over(self, frame: np.ndarray, picture: np.ndarray) -> bool:
        """Whether the faces have long been gone, with the picture that showed them, and this frame shows a face."""
        gone = all(follower.lost >= PATIENCE for follower in self.followers.values())
        return gone and difference(self.seen, picture) > OTHER_PICTURE and len(self.detector.detect(frame)) > 0

    def skip(self, frames: int) -> None:
        self.length += frames
        for follower in self.followers.values():
            follower.skip(frames)

    def finish(self) -> None:
        for follower in self.followers.values():
            follower.finish()

    def closed(self) -> Shot:
        tracks = {rule: follower.track() for rule, follower in self.followers.items()}
        return Shot(self.start, self.length, {rule: track for rule, track in tracks.items() if track is not None})


class _LookedOnce:
    """A face detector that several followers ask about one frame."""

    def __init__(self, detector: FaceDetector):
        self.every, self.finder = detector.every, detector.finder
        self.landmarks, self._detector = detector.landmarks, detector
        self._frame: np.ndarray | None = None

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """See `FaceDetector.detect`."""
        if frame is not self._frame:
            self._frame, self._faces = frame, self._detector.detect(frame)
        return self._faces


def follow_shots(frames: Iterable[np.ndarray], detector: FaceDetector, rules: Sequence[str | int]) -> list[Shot]:
    """Find the shots of a video, and in each of them the faces that are asked for.

    A shot shows a face for as long as `track_face` would follow it. A picture that interrupts a shot for at most
    `FLASH` frames is part of it, without a face. Frames stream, as for `track_face`.

    Args:
        frames: (H,W,3) uint8 BGR each.
        detector: finds faces and landmarks.
        rules: which faces of each shot, see `choose_face`; `ALL` are those of its first frame that shows any.

    Returns:
        One or more, without gaps; a shot may show none of the faces.

    Raises:
        FaceError: no frames, or no shot shows one of the faces asked for.
    """
    looked, finder = _LookedOnce(detector), CutFinder()
    shots: list[_OpenShot] = []
    for index, frame in enumerate(frames):
        picture = thumbnail(frame)
        if finder.step(picture) or not shots or shots[-1].is_over(frame, picture):
            _turn(shots, _OpenShot(index, looked, rules), picture)
        shots[-1].step(frame, picture)
    if not shots:
        raise FaceError("the video holds no frames")
    shots[-1].finish()
    found = [shot.closed() for shot in shots]
    _assert_found(found, shots, rules)
    return found


def _turn(shots: list[_OpenShot], new: _OpenShot, picture: np.ndarray) -> None:
    """Begin a shot, or go on with the one before a flash."""
    if shots:
        shots[-1].finish()
    if len(shots) > 1 and shots[-1].length <= FLASH and difference(shots[-2].picture, picture) <= OTHER_PICTURE:
        shots[-2].skip(shots.pop().length)
    else:
        shots.append(new)


def _assert_found(found: Sequence[Shot], shots: Sequence[_OpenShot], rules: Sequence[str | int]) -> None:
    for rule in rules:
        if not any(shot.tracks if rule == ALL else rule in shot.tracks for shot in found):
            refused = [shot.refused for shot in shots if shot.refused is not None]
            raise refused[0] if refused else no_face(sum(shot.length for shot in found))
