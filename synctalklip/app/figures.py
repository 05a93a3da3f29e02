"""What is known of a face before, and of a result after it is made.

T frames at 25 Hz, K faces.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from synctalklip.data import media
from synctalklip.data.clips import clip_mfcc
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.encode import FPS
from synctalklip.data.geometry import FaceError, crop_face, geometry
from synctalklip.data.sound import read_audio
from synctalklip.data.tracking import clear_faces, track_face
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Report, Synthesizer
from synctalklip.metrics.openness import aperture
from synctalklip.syncnet.lse import score_clip

LOOKED_AT = 30 * FPS
"""Frames of a video in which faces are looked for and figures are taken."""


@dataclass(frozen=True)
class Figures:
    """Of a result, over its first 30 seconds.

    Attributes:
        frames: of the whole result.
        painted: of them, with a painted mouth.
        offset: frames at 25 fps by which SyncNet finds lips and sound apart; None where the video is too short.
        distance: LSE-D.
        confidence: LSE-C.
        opening: mean opening of the lips, as a share of the distance of the eyes; None where no face is found.
        movement: its standard deviation over time.
    """

    frames: int
    painted: int
    offset: int | None = None
    distance: float | None = None
    confidence: float | None = None
    opening: float | None = None
    movement: float | None = None


def measure(synthesizer: Synthesizer, report: Report) -> Figures:
    """Sync and lip opening of a result, of the face that speaks in its first shot."""
    rule = next((face for shot in report.shots for face in shot["faces"]), "largest")
    basis = {"frames": report.frames, "painted": report.painted}
    try:
        track = track_face(islice(media.read_frames(report.output), LOOKED_AT), synthesizer.detector, rule)
        opening = aperture(track.landmarks)
        lips = {"opening": float(opening.mean()), "movement": float(opening.std())}
    except SyncTalklipError:
        return Figures(**basis)
    boxes = geometry(track.landmarks).boxes
    faces = np.stack([crop_face(frame, box) for frame, box in zip(media.read_frames(report.output), boxes)])
    wave = read_audio(report.output)
    try:
        score = score_clip(synthesizer.judge, faces, clip_mfcc(wave, len(faces)))
    except SyncTalklipError:
        return Figures(**basis, **lips)
    return Figures(**basis, **lips, offset=score.offset, distance=score.distance, confidence=score.confidence)


def faces_of(video: str, detector: FaceDetector) -> list[np.ndarray]:
    """The faces of the first frame that shows any, from left to right, K x (h,w,3) uint8 RGB.

    Raises:
        SyncTalklipError: no frame of the first 30 seconds shows a face, or the file cannot be read.
    """
    for frame in islice(media.read_frames(video, 5), LOOKED_AT // 5):
        found = detector.detect(frame)
        clear = found[clear_faces(found)]
        if len(clear):
            return [_cut(frame, box) for box in clear[np.argsort(clear[:, 0])][:, :4]]
    raise FaceError(f"{video}: shows no face; give another video or picture")


def _cut(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A box and a third of it around, as far as the frame goes."""
    margin = 0.33 * (box[2] - box[0])
    x1, y1 = np.maximum(box[:2] - margin, 0).astype(int)
    x2, y2 = (box[2:] + margin).astype(int)
    return np.ascontiguousarray(frame[y1:y2, x1:x2, ::-1])
