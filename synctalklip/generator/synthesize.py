"""Any video or picture and any speech in, a talking video out.

Two passes over the source: the first follows the face and keeps landmarks only, the second paints. Memory
does not grow with the length of the video.

Letters: N painted frames of a batch, T frames of the source, D embedding.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from synctalklip.data import media
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FACE_SIZE, FaceError, crop_face, geometry, paste_face
from synctalklip.data.tracking import track_face
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.options import Options, make_statement, sidecar_of
from synctalklip.generator.playback import Playback
from synctalklip.generator.timeline import (
    SAMPLE_RATE,
    PlannedFrame,
    SpeechEmbeddings,
    fill_short_gaps,
    frame_plan,
    output_frames,
)
from synctalklip.generator.unet import UPPER_ROWS, generator_input

T = TypeVar("T")

AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class TalkingFace(Protocol):
    """What `synthesize` asks of a model; `TalkingFaceGenerator` is one."""

    def encode_speech(self, audio: Tensor, padding_mask: Tensor) -> Tensor:
        """(1,104,T), (1,T) -> (1,T,D)."""
        ...

    def __call__(self, faces: Tensor, speech: Tensor) -> Tensor:
        """(N,6,96,96) in 0..1, (N,D) -> (N,3,96,96) in 0..1."""
        ...


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        output: the video.
        frames: its length.
        fps: its rate.
        seconds: its length.
        size: (width, height).
        painted: frames whose mouth was painted.
        faces_missing: frames within the speech that stayed as they are because they show no face.
        speech_seconds: length of the speech.
        seconds_tracking: time spent on the first pass.
        seconds_painting: time spent on the second pass.
    """

    output: str
    frames: int
    fps: float
    seconds: float
    size: tuple[int, int]
    painted: int
    faces_missing: int
    speech_seconds: float
    seconds_tracking: float
    seconds_painting: float


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
    started = perf_counter()
    if Path(output).resolve() in (Path(video).resolve(), Path(audio).resolve()):
        raise SyncTalklipError(f"{output}: is an input too and would be lost; name another output")
    media.assert_writable_kind(output)
    wave = media.read_audio(audio)
    fps = media.as_rate(media.probe(video).fps or options.still_fps)
    spoken = output_frames(len(wave), fps)
    faces = find_face(video, fps, spoken, detector, options)
    tracked = perf_counter()

    plan = list(frame_plan(faces.total, len(wave), fps, options.tail, Fraction(options.audio_offset_ms) / 1000))
    playback = Playback(video, fps, faces.total, options.buffer_mb * 2**20)
    speech = SpeechEmbeddings(
        model.encode_speech, wave, options.speech_chunk, options.speech_context, options.sampling, device
    )
    frames = paint(model, speech, zip(plan, playback.play()), faces, options)
    statement = make_statement(video, audio, checkpoint, options)
    size = write(output, progress(frames, len(plan), "painting", options), fps, audio, options, statement)

    painted = sum(frame.time is not None and bool(faces.painted[frame.source]) for frame in plan)
    report = Report(
        output=str(output),
        frames=len(plan),
        fps=float(fps),
        seconds=float(len(plan) / fps),
        size=size,
        painted=painted,
        faces_missing=spoken - painted,
        speech_seconds=len(wave) / SAMPLE_RATE,
        seconds_tracking=tracked - started,
        seconds_painting=perf_counter() - tracked,
    )
    sidecar = json.dumps({**statement, **asdict(report)}, indent=1) + "\n"
    media.write_bytes(sidecar_of(output), sidecar.encode())
    return report


def find_face(video: str | Path, fps: Fraction, spoken: int, detector: FaceDetector, options: Options) -> FacePlan:
    """First pass: follow the face through the frames that the speech covers.

    Raises:
        FaceError: no frame shows a face.
    """
    frames = media.read_frames(video, fps)
    try:
        track = track_face(progress(islice(frames, spoken), spoken, "tracking", options), detector)
    except FaceError as error:
        raise FaceError(f"{video}: {error}") from None
    tracked = len(track.landmarks)
    # What comes after the speech is only counted.
    total = tracked + sum(1 for _ in frames) if options.tail == "keep" else tracked
    boxes = geometry(track.landmarks, window=max(1, round(options.smoothing * fps))).boxes
    painted = fill_short_gaps(track.detected, int(options.longest_gap * fps))
    index = identity_frame(options.identity, track.landmarks, painted)
    frame = next(islice(media.read_frames(video, fps), index, None))
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
    model: TalkingFace,
    speech: SpeechEmbeddings,
    frames: Iterable[tuple[PlannedFrame, np.ndarray]],
    faces: FacePlan,
    options: Options,
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
            crops = np.stack([crop_face(pixels[place], box) for place, box in zip(chosen, boxes)])
            times = [batch[place][0].time for place in chosen]
            painted = paint_faces(model, crops, faces.identity, speech(times), options.precision)
            for place, box, lower in zip(chosen, boxes, painted):
                pixels[place] = paste_face(pixels[place], lower_half(box), lower, options.feather)
        yield from pixels


@torch.inference_mode()
def paint_faces(
    model: TalkingFace, crops: np.ndarray, identity: np.ndarray, speech: Tensor, precision: str
) -> np.ndarray:
    """Paint the lower halves of face crops.

    Args:
        crops: (N,96,96,3) uint8 BGR.
        identity: (96,96,3) uint8 BGR.
        speech: (N,D), where the model lives.
        precision: "fp32" or "bf16".

    Returns:
        (N,48,96,3) uint8 BGR.
    """
    poses = torch.from_numpy(crops)
    inputs = generator_input(poses, torch.from_numpy(identity).expand_as(poses)).to(speech.device)
    with torch.autocast(speech.device.type, torch.bfloat16, enabled=precision == "bf16"):
        painted = model(inputs, speech)
    lower = painted[:, :, UPPER_ROWS:].float().clamp(0, 1) * 255
    return lower.round().byte().permute(0, 2, 3, 1).cpu().numpy()


def lower_half(box: np.ndarray) -> np.ndarray:
    """The part of a face box (4,) that is painted."""
    x1, y1, x2, y2 = box
    return np.array([x1, y1 + (y2 - y1) * UPPER_ROWS / FACE_SIZE, x2, y2], np.float32)


def write(
    output: str | Path,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    audio: str | Path,
    options: Options,
    statement: Mapping[str, Any],
) -> tuple[int, int]:
    """Encode the frames with the sound of `audio` in step; (width, height) of the video."""
    rate = sound_rate(media.probe(audio).sample_rate)
    sound = media.read_audio(audio, rate)
    frames = iter(frames)
    first = next(frames)
    size = first.shape[1], first.shape[0]
    comment = {"comment": json.dumps(statement)}
    with media.VideoWriter(output, fps, size, rate, options.crf, metadata=comment, threads=0) as writer:
        written = 0
        for count, frame in enumerate(chain([first], frames), 1):
            writer.write(frame)
            until = int(count / fps * rate)
            writer.write_audio(sound[written:until])
            written = until
        writer.write_audio(sound[written:])
    return size


def sound_rate(rate: int) -> int:
    """The rate of the written sound: the speech's own, or 48 kHz where AAC has no such rate."""
    return rate if rate in AAC_RATES else 48_000


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
