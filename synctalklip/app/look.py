"""What is known of a source before its video is made, and of the video after.

T frames at 25 Hz, K faces.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from synctalklip.data import media
from synctalklip.data.clips import clip_mfcc
from synctalklip.data.containers import opened, video_track
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import crop_face, geometry
from synctalklip.data.tracking import choose_face, clear_faces, no_face, track_face
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Report, Synthesizer
from synctalklip.metrics.openness import aperture
from synctalklip.syncnet.lse import score_clip

SECONDS = 30
"""Of a video are looked at."""
A_SECOND = 5
"""Frames of a second in which faces are looked for."""
MOST_FACES = 6
LINES = 480
"""Height of the copy of a source that browsers do not play."""
PLAYED = {"h264", "vp8", "vp9", "av1"}
"""Codecs that browsers play, in the containers mp4 (mov, m4v) and webm (Matroska)."""


@dataclass(frozen=True)
class Figures:
    """Of a result, over its first 30 seconds.

    Attributes:
        frames: of the whole result.
        painted: of them, with a painted mouth.
        offset: frames at 25 fps by which SyncNet finds lips and sound apart; None where the video is too short.
        distance: LSE-D.
        confidence: LSE-C.
        opening: mean aperture of the lips, as a share of the distance of the eyes; None where no face is found.
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
    """Sync and aperture of a result, of the face that speaks in the first shot that shows it."""
    rule = next((face for shot in report.shots for face in shot["faces"]), "largest")
    figures = Figures(report.frames, report.painted)
    try:
        track = track_face(islice(media.read_frames(report.output), SECONDS * media.FPS), synthesizer.detector, rule)
        opening = aperture(track.landmarks)
        figures = replace(figures, opening=float(opening.mean()), movement=float(opening.std()))
        boxes = geometry(track.landmarks).boxes
        faces = np.stack([crop_face(frame, box) for frame, box in zip(media.read_frames(report.output), boxes)])
        score = score_clip(synthesizer.judge, faces, clip_mfcc(media.read_audio(report.output), len(faces)))
    # A result may be shorter than the window of SyncNet, or show its face in a later shot only.
    except SyncTalklipError:
        return figures
    return replace(figures, offset=score.offset, distance=score.distance, confidence=score.confidence)


def faces_of(video: str, detector: FaceDetector) -> list[np.ndarray]:
    """The faces that a video shows within a second from the first of them, by place from the left.

    As with `Options.face`, the place of a face counts in the first frame that shows so many.

    Returns:
        K pictures (h,w,3) uint8 RGB, at most 6.

    Raises:
        SyncTalklipError: no frame of the first 30 seconds shows a face, or the file cannot be read.
    """
    faces: list[np.ndarray] = []
    looked, last = 0, SECONDS * A_SECOND
    for looked, frame in enumerate(media.read_frames(video, A_SECOND), 1):
        found = detector.detect(frame)
        for place in range(len(faces), min(MOST_FACES, len(clear_faces(found)))):
            faces.append(_cut(frame, found[choose_face(found, frame.shape[1], frame.shape[0], place)]))
        if faces:
            last = min(last, looked + A_SECOND)
        if looked >= last:
            break
    if not faces:
        raise no_face(looked)
    return faces


def _cut(frame: np.ndarray, face: np.ndarray) -> np.ndarray:
    """A square around a face, a third larger on each side, as far as the frame goes; RGB."""
    centre, reach = (face[:2] + face[2:4]) / 2, 0.83 * max(face[2] - face[0], face[3] - face[1])
    x1, y1 = np.maximum(centre - reach, 0).astype(int)
    x2, y2 = (centre + reach).astype(int)
    return np.ascontiguousarray(frame[y1:y2, x1:x2, ::-1])


def as_played(source: Path) -> Path:
    """A source as browsers show it: itself, or a copy beside it.

    Returns:
        Of a picture a png file; of a video that browsers do not play an mp4 of 30 seconds at most.

    Raises:
        SyncTalklipError: it cannot be read.
    """
    info = media.probe(source)
    frames = islice(media.read_frames(source), SECONDS * media.FPS)
    copy = source.with_name(f"shown-{source.name}")
    if info.fps is None:
        picture = cv2.imencode(".png", next(frames))[1]
        media.write_bytes(copy := copy.with_suffix(".png"), picture.tobytes())
        return copy
    with opened(source) as container:
        track = video_track(container)
        is_played = track is not None and track.codec_context.name in PLAYED
        if is_played and {"mp4", "webm"} & set(container.format.name.split(",")):
            return source
    scale = min(1.0, LINES / info.height)
    small = (cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in frames)
    wave = None if info.sample_rate is None else media.read_audio(source)[: SECONDS * media.SAMPLE_RATE]
    media.write_video(copy := copy.with_suffix(".mp4"), small, wave=wave)
    return copy
