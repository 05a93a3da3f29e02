"""Prepare one clip: decode, follow the face, cut, write. No torch here: every worker process imports this.

T video frames at 25 Hz, N sound samples at 16 kHz.
"""

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synctalklip.cli import build
from synctalklip.data import media
from synctalklip.data.detectors import FaceDetector, assert_crop_rule
from synctalklip.data.geometry import (
    FACE_SIZE,
    LANDMARKS,
    ROI_MODES,
    ROI_SIZE,
    FaceError,
    centre_rois,
    crop_face,
    crop_roi,
)
from synctalklip.data.layouts import SourceClip
from synctalklip.data.manifest import PREPARATION, is_id, is_text
from synctalklip.data.text import (
    TextError,
    normalize_text,
    read_grid_transcript,
    read_lrs_transcript,
    read_word_times,
)
from synctalklip.data.tracking import Track, track_face
from synctalklip.errors import SyncTalklipError


@dataclass(frozen=True)
class Settings:
    """What preparation can be told; the values that hold by default are in `configs/prepare.yaml`.

    Attributes:
        crf: x264 quality of face crops and ROIs.
        min_frames: shorter clips are rejected.
        max_frames: longer clips are rejected, None for any length.
        min_detected: share of the frames that must show the face.
        roi_mode: how mouth ROIs are cut, one of `geometry.ROI_MODES`.
        crop_rule: how face crops are cut, one of `geometry.CROP_RULES`.
    """

    crf: float
    min_frames: int
    max_frames: int | None
    min_detected: float
    roi_mode: str
    crop_rule: str = LANDMARKS

    def __post_init__(self) -> None:
        if self.roi_mode not in ROI_MODES:
            raise SyncTalklipError(f"roi_mode is '{self.roi_mode}'; use one of {', '.join(ROI_MODES)}")


@dataclass(frozen=True)
class Outcome:
    """What became of a clip.

    Attributes:
        frames: T, 0 when rejected.
        samples: N, 0 when rejected.
        text: normalised transcript.
        words: see `manifest.Clip`.
        reason: why it was rejected, None when it is prepared.
        kept: it was done by an earlier run.
    """

    frames: int = 0
    samples: int = 0
    text: str = ""
    words: tuple[tuple[str, float, float], ...] = ()
    reason: str | None = None
    kept: bool = False


def record_path(prepared: Path, name: str) -> Path:
    """File that says what became of a clip; written last, so that a clip with a record is complete."""
    return prepared / "records" / f"{name}.json"


def output_paths(prepared: Path, name: str) -> dict[str, Path]:
    """The four files of a prepared clip."""
    return {
        "audio": prepared / "audio" / f"{name}.wav",
        "faces": prepared / "faces" / f"{name}.mp4",
        "rois": prepared / "rois" / f"{name}.mp4",
        "tracks": prepared / "tracks" / f"{name}.npz",
    }


def make_task(prepared: Path, settings: Settings, face: Mapping) -> Callable[[SourceClip], Outcome]:
    """The task of a worker process, with its own detector; one thread, for there is a worker on every core.

    Args:
        prepared: output folder.
        settings: see `Settings`.
        face: config of the detector, with `_target_`.
    """
    detector = build(dict(face))
    assert_crop_rule(settings.crop_rule, detector)
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return partial(
        _prepare_or_reject, prepared=prepared, settings=settings, detector=detector, recipe=_recipe(settings, face)
    )


def _recipe(settings: Settings, face: Mapping) -> str:
    # Where the network runs does not change what it is asked to do.
    face = {key: value for key, value in face.items() if key not in ("device", "compile")}
    # Clips that were prepared before there was a choice are cut by landmarks.
    said = {key: value for key, value in asdict(settings).items() if (key, value) != ("crop_rule", LANDMARKS)}
    return json.dumps([PREPARATION, said, face], sort_keys=True, default=str)


def _fingerprint(clip: SourceClip, recipe: str, stamp: Callable[[Path], Any]) -> str:
    """Changes when settings or the stamp of a source file do, so that stale outputs are made again."""
    stamps = [clip.text]
    for file in (clip.video, clip.audio, clip.transcript):
        stamps.append(stamp(file) if file is not None and file.is_file() else None)
    return hashlib.sha256(json.dumps([recipe, stamps]).encode()).hexdigest()


def _date(file: Path) -> list[int]:
    return [file.stat().st_size, file.stat().st_mtime_ns]


def _content(file: Path) -> str | None:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None  # who reads it next says what is wrong with it


def _prepare_or_reject(
    clip: SourceClip, prepared: Path, settings: Settings, detector: FaceDetector, recipe: str
) -> Outcome:
    if not (is_id(clip.id) and is_text(str(clip.video))):
        return Outcome(reason=f"{clip.video}: its name is no UTF-8, too long, or leads out of its folder; rename it")
    record, key = record_path(prepared, clip.id), _fingerprint(clip, recipe, _date)
    done, known = _finished(record, output_paths(prepared, clip.id).values())
    if done is not None and known.get("key") == key:
        return done
    try:
        # A corpus that was copied has other dates and the same content.
        content = _fingerprint(clip, recipe, _content)
        same = done is not None and done.reason is None and known.get("content") == content
        outcome = done if done is not None and same else prepare_clip(clip, prepared, settings, detector)
    except media.DiskError:
        raise
    except SyncTalklipError as error:
        outcome = Outcome(reason=str(error))
    except Exception as error:
        # One strange file must not end a run of days; no record, so that the next run tries again.
        return Outcome(reason=f"{clip.video}: {type(error).__name__}: {error}; please report this file")
    kept = {name: value for name, value in asdict(outcome).items() if name != "kept"}
    media.write_bytes(record, json.dumps({"key": key, "content": content, **kept}, sort_keys=True).encode())
    return outcome


def _finished(record: Path, outputs: Iterable[Path]) -> tuple[Outcome | None, dict[str, str]]:
    """Outcome of an earlier run, if its files are there, and the fingerprints that it had."""
    try:
        stored = json.loads(record.read_bytes())
        known = {name: stored.pop(name) for name in ("key", "content") if name in stored}
        words = tuple(tuple(word) for word in stored.pop("words", ()))
        outcome = Outcome(**stored, words=words, kept=True)
    except (OSError, ValueError, TypeError, AttributeError):
        return None, {}
    there = outcome.reason is not None or all(path.is_file() for path in outputs)
    return (outcome if there else None), known


def read_text(clip: SourceClip) -> str:
    """Normalised transcript, "" for a corpus without transcripts.

    Raises:
        TextError: the transcript is missing, empty or cannot be normalised.
    """
    if clip.text is None and clip.transcript is not None:
        read = read_grid_transcript if clip.transcript.suffix == ".align" else read_lrs_transcript
        return read(clip.transcript)
    if clip.text is None:
        return ""
    text = normalize_text(clip.text)
    if not text:
        raise TextError(f"{clip.video}: its transcript is empty; add it or remove the clip")
    return text


def prepare_clip(clip: SourceClip, prepared: Path, settings: Settings, detector: FaceDetector) -> Outcome:
    """Write the four files of a clip.

    Sound that outlasts the video is cut; sound that is shorter stays as it is, features are padded later.

    Args:
        clip: where video, sound and transcript are.
        prepared: output folder.
        settings: see `Settings`.
        detector: finds faces.

    Raises:
        SyncTalklipError: the clip cannot be used; the message is the reason.
        DiskError: the disk refused a file.
    """
    text = read_text(clip)
    words = read_word_times(clip.transcript) if clip.transcript is not None else ()
    wave = media.read_audio(clip.audio or clip.video)
    # Two passes: the frames of a long clip are never held.
    try:
        track = track_face(_counted(clip.video, settings.max_frames), detector)
    except FaceError as error:
        raise FaceError(f"{clip.video}: {error}") from None
    frames = len(track.landmarks)
    if frames < settings.min_frames:
        raise SyncTalklipError(f"{clip.video}: has {frames} frames, at least {settings.min_frames} are needed")
    if track.share < settings.min_detected:
        raise FaceError(
            f"{clip.video}: the face is seen in {track.share:.0%} of the frames, {settings.min_detected:.0%} are needed"
        )
    wave = wave[: frames * media.SAMPLE_RATE // media.FPS]
    if len(wave) < media.SAMPLE_RATE // 40:
        raise SyncTalklipError(
            f"{clip.audio or clip.video}: has {len(wave)} samples of sound, one window of 25 ms is needed"
        )
    outputs = output_paths(prepared, clip.id)
    media.write_wav(outputs["audio"], wave)
    _write_crops(clip.video, track, outputs, settings)
    return Outcome(frames, len(wave), text, words)


def _counted(video: Path, max_frames: int | None) -> Iterator[np.ndarray]:
    for count, frame in enumerate(media.read_frames(video)):
        if max_frames is not None and count >= max_frames:
            raise SyncTalklipError(f"{video}: has more than {max_frames} frames; raise max_frames or cut it")
        yield frame


def _write_crops(video: Path, track: Track, outputs: dict[str, Path], settings: Settings) -> None:
    height, width = next(iter(media.read_frames(video))).shape[:2]
    cuts, crf = track.cuts(settings.crop_rule, width, height), settings.crf
    if settings.roi_mode == "center88":
        cuts = centre_rois(cuts, width, height)
    with (
        media.VideoWriter(
            outputs["faces"], media.FPS, (FACE_SIZE, FACE_SIZE), crf=crf, pixel_format="yuv444p"
        ) as faces,
        media.VideoWriter(outputs["rois"], media.FPS, (ROI_SIZE, ROI_SIZE), crf=crf) as rois,
    ):
        for frame, box, transform in zip(media.read_frames(video), cuts.boxes, cuts.transforms, strict=True):
            faces.write(crop_face(frame, box))
            rois.write(crop_roi(frame, transform))
    memory = io.BytesIO()
    np.savez(
        memory,
        boxes=cuts.boxes,
        transforms=cuts.transforms,
        matrices=cuts.matrices,
        landmarks=track.landmarks,
        detected=track.detected,
        source_size=np.array((width, height)),
    )
    media.write_bytes(outputs["tracks"], memory.getvalue())
