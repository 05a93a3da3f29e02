"""Any video or picture and any speech in, a talking video out.

Two passes over the source: the first follows the face and keeps landmarks only, the second paints. Memory
does not grow with the length of the video.

Letters: T frames of the source.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from synctalklip.data import media
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FACE_SIZE, FaceError, crop_face, geometry, paste_face
from synctalklip.data.tracking import track_face
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.fused import FusedGenerator, TalkingFace
from synctalklip.generator.stopwatch import Stopwatch, WatchedFaces
from synctalklip.generator.unet import UPPER_ROWS
from synctalklip.inference.options import Options, Report, make_statement, sidecar_of
from synctalklip.inference.ping_pong import PingPongReader
from synctalklip.inference.timeline import (
    SAMPLE_RATE,
    PlannedFrame,
    SpeechEmbeddings,
    fill_short_gaps,
    frame_plan,
    output_frames,
)
from synctalklip.inference.writing import write

T = TypeVar("T")


@dataclass(frozen=True)
class FacePlan:
    """What the first pass found.

    Attributes:
        boxes: (T,4) float32, face boxes of the frames within the speech.
        painted: (T,) bool, frames whose mouth is painted.
        identity: (96,96,3) uint8 BGR, the face that shows who it is.
        total: frames of the whole source, at least T.
    """

    boxes: np.ndarray
    painted: np.ndarray
    identity: np.ndarray
    total: int


def synthesize(
    model: TalkingFace,
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    options: Options,
    detector: FaceDetector,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Report:
    """Make the face in `video` say what is heard in `audio`.

    The painted region is the lower half of the face box; all else keeps the pixels of the source. The
    frame rate is the source's own, the sound is the speech. Beside the video, `<output>.json` states that
    it is generated, by which checkpoint and from which inputs; so does the comment in the video file.

    Args:
        model: the generator, in eval mode.
        video: a video in any container, or a picture.
        audio: anything with a sound track.
        output: mp4 file; appears when it is complete.
        options: see `Options`.
        detector: finds faces.
        checkpoint: file of the model, for the statement.
        device: where the model lives.

    Returns:
        Counts and times.

    Raises:
        SyncTalklipError: a file that cannot be read, holds no sound or shows no face.
    """
    watch = Stopwatch()
    if Path(output).resolve() in (Path(video).resolve(), Path(audio).resolve()):
        raise SyncTalklipError(f"{output}: is an input too and would be lost; name another output")
    media.assert_writable_kind(output)
    wave = media.read_audio(audio, audio_index=options.audio_track)
    shown, heard = media.probe(video), media.probe(audio, options.audio_track)
    fps = media.as_rate(shown.fps or options.still_fps)
    spoken = output_frames(len(wave), fps)
    faces = find_face(video, fps, spoken, detector, options, watch)
    # Faces are found in square pixels and painted in those of the file.
    faces = replace(faces, boxes=faces.boxes * np.tile(shown.stored_scale, 2).astype(np.float32))
    tracked = watch.total()

    plan = list(frame_plan(faces.total, len(wave), fps, options.tail, Fraction(options.audio_offset_ms) / 1000))
    source = PingPongReader(video, fps, faces.total, options.buffer_mb * 2**20)
    speech = SpeechEmbeddings(
        model.encode_speech, wave, options.speech_chunk, options.speech_context, options.sampling, device
    )
    fused = FusedGenerator(model, options.precision, device)
    frames = paint(fused, speech, zip(plan, watch.watch(source.read(), "decode")), faces, options, watch)
    statement = make_statement(video, audio, checkpoint, options)
    size = write(output, progress(frames, len(plan), "painting", options), fps, audio, shown, options, statement, watch)

    painted = sum(frame.time is not None and bool(faces.painted[frame.source]) for frame in plan)
    report = Report(
        output=str(output),
        frames=len(plan),
        fps=float(fps),
        seconds=float(len(plan) / fps),
        size=size,
        video_track=shown.video_track,
        audio_track=heard.audio_track,
        painted=painted,
        faces_missing=spoken - painted,
        speech_seconds=len(wave) / SAMPLE_RATE,
        precision=fused.precision.name,
        seconds_tracking=tracked,
        seconds_painting=watch.total() - tracked,
        seconds_by_phase=watch.seconds(),
    )
    sidecar = json.dumps({**statement, **asdict(report)}, indent=1) + "\n"
    media.write_bytes(sidecar_of(output), sidecar.encode())
    return report


def find_face(
    video: str | Path, fps: Fraction, spoken: int, detector: FaceDetector, options: Options, watch: Stopwatch
) -> FacePlan:
    """First pass: follow the face through the frames that the speech covers.

    Raises:
        FaceError: no frame shows a face, or the first that does shows too few.
    """
    frames = watch.watch(media.read_frames(video, fps), "decode")
    shown = progress(islice(frames, spoken), spoken, "tracking", options)
    try:
        track = track_face(shown, WatchedFaces(detector, watch), options.face)
    except FaceError as error:
        raise FaceError(f"{video}: {error}") from None
    tracked = len(track.landmarks)
    # What comes after the speech is only counted.
    total = tracked + sum(1 for _ in frames) if options.tail == "keep" else tracked
    boxes = geometry(track.landmarks, window=max(1, round(options.smoothing * fps))).boxes
    painted = fill_short_gaps(track.detected, int(options.longest_gap * fps))
    index = identity_frame(options.identity, track.landmarks, painted)
    frame = next(islice(watch.watch(media.read_frames(video, fps), "decode"), index, None))
    return FacePlan(boxes, painted, crop_face(frame, boxes[index]), total)


def identity_frame(rule: str | int, landmarks: np.ndarray, painted: np.ndarray) -> int:
    """Index of the frame that shows the model who speaks.

    Args:
        rule: see `Options.identity`.
        landmarks: (T,68,2).
        painted: (T,) bool, frames with a face.
    """
    usable = np.flatnonzero(painted)
    if rule == "first":
        return int(usable[0])
    if rule == "closed":
        opening = np.linalg.norm(landmarks[:, 61:64] - landmarks[:, 67:64:-1], axis=2).sum(1)
        eyes = np.linalg.norm(landmarks[:, 36] - landmarks[:, 45], axis=1)
        return int(usable[np.argmin((opening / eyes)[usable])])
    if not isinstance(rule, int) or rule not in usable:
        raise SyncTalklipError(
            f"identity={rule}: choose first, closed, or the index of a frame with a face (0 to {usable[-1]})"
        )
    return rule


def paint(
    fused: FusedGenerator,
    speech: SpeechEmbeddings,
    frames: Iterable[tuple[PlannedFrame, np.ndarray]],
    faces: FacePlan,
    options: Options,
    watch: Stopwatch,
) -> Iterator[np.ndarray]:
    """Second pass: the frames of the output, (H,W,3) uint8 BGR, in batches behind the scenes.

    Args:
        frames: each planned frame with its pixels, which are written into.
    """
    for batch in _batches(frames, options.batch_size, options.buffer_mb * 2**20):
        chosen = [
            place
            for place, (planned, _) in enumerate(batch)
            if planned.time is not None and faces.painted[planned.source]
        ]
        pixels = [frame for _, frame in batch]
        if chosen:
            boxes = [faces.boxes[batch[place][0].source] for place in chosen]
            with watch.phase("crop"):
                crops = np.stack([crop_face(pixels[place], box) for place, box in zip(chosen, boxes)])
            with watch.phase("speech"):
                embeddings = speech([batch[place][0].time for place in chosen])
            with watch.phase("network"):
                painted = fused(crops, faces.identity, embeddings)
            with watch.phase("paste"):
                for place, box, lower in zip(chosen, boxes, painted):
                    pixels[place] = paste_lower(pixels[place], box, lower, options)
        yield from pixels


def paste_lower(frame: np.ndarray, box: np.ndarray, painted: np.ndarray, options: Options) -> np.ndarray:
    """A frame with a painted lower half in its place.

    Args:
        frame: (H,W,3) uint8.
        box: (4,) x1, y1, x2, y2 of the face, of which the lower half is painted.
        painted: (48,96,3) uint8.
        options: `shape` and `feather` count.

    Returns:
        A new (H,W,3) uint8.
    """
    x1, y1, x2, y2 = box
    lower = np.array([x1, y1 + (y2 - y1) * UPPER_ROWS / FACE_SIZE, x2, y2], np.float32)
    return paste_face(frame, lower, painted, options.feather, face_shape() if options.shape == "face" else None)


@cache
def face_shape() -> np.ndarray:
    """How much of the painted half is shown: all of cheeks, mouth and chin, nothing of the corners below.

    The corners show collar, hair and background as they were in the identity frame, which lie elsewhere when the head
    has moved. The shape is that of the mean face and not of the source's jaw, whose movement is that of other words.

    Returns:
        (48,96) float32 in 0..1: a quarter-soft superellipse, 1 up to three quarters of the way to its edge.
    """
    rows = UPPER_ROWS + np.arange(FACE_SIZE - UPPER_ROWS) + 0.5
    columns = np.arange(FACE_SIZE) + 0.5
    x = np.abs(columns / FACE_SIZE - 0.5) / 0.44
    y = (rows - UPPER_ROWS) / (FACE_SIZE - UPPER_ROWS)
    radius = (x[None] ** 2.5 + y[:, None] ** 2.5) ** 0.4
    inwards = np.clip((1 - radius) / 0.25, 0, 1)
    return (inwards * inwards * (3 - 2 * inwards)).astype(np.float32)


def progress(items: Iterable[T], total: int, name: str, options: Options) -> Iterator[T]:
    """Show how far `items` are, with their rate and the time left."""
    return iter(tqdm(items, name, total, unit="frame", leave=False, disable=not options.progress))


def _batches(items: Iterable[tuple[PlannedFrame, np.ndarray]], size: int, budget: int) -> Iterator[list]:
    """Groups of `size`, or fewer where the frames of a group would not fit into `budget` bytes."""
    batch: list[tuple[PlannedFrame, np.ndarray]] = []
    for item in items:
        batch.append(item)
        if len(batch) >= min(size, budget // item[1].nbytes):
            yield batch
            batch = []
    if batch:
        yield batch
