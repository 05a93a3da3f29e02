"""Data by sync: measure every clip of a prepared corpus with a SyncNet, correct offsets, reject what has none.

Sound is moved against the pictures by whole frames, so boxes, crops and lengths stay as they are. What is done to a
clip is done before it is noted, and a corrected clip measures as in sync: a run that was killed is run again, and a
second run changes nothing more.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from synctalklip.benchmark.timing import table
from synctalklip.checkpoint import write_atomically
from synctalklip.data import media
from synctalklip.data.clips import ClipReader, clip_mfcc
from synctalklip.data.manifest import Clip, Rejected, read_manifest, write_jsonl, write_manifest
from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.sync import LSE, load_syncnet, score_clip

SAMPLES = media.SAMPLE_RATE // media.FPS
KEPT, CORRECTED, REJECTED = "kept", "corrected", "rejected"

Measure = Callable[[np.ndarray, np.ndarray], LSE]
"""Faces (T,96,96,3) uint8 and sound (N,) int16 to their offset and confidence."""


@dataclass(frozen=True)
class Limits:
    """Which clips stay as they are, are corrected or go; see `configs/filter_sync.yaml`."""

    tolerance: int
    max_offset: int
    min_confidence: float


@dataclass(frozen=True)
class Verdict:
    """What was found in a clip and what is to be done.

    Attributes:
        id, split: of the clip.
        outcome: kept, corrected or rejected.
        offset: frames, see `LSE.offset`; None where it could not be measured.
        confidence: LSE-C.
        left: offset after the correction.
        reason: of a rejection.
    """

    id: str
    split: str
    outcome: str
    offset: int | None = None
    confidence: float | None = None
    left: int | None = None
    reason: str = ""


def move_sound(wave: np.ndarray, frames: int) -> np.ndarray:
    """Sound (N,) that comes `frames` later, or earlier where negative; as long as before, filled with silence."""
    moved = np.zeros_like(wave)
    samples = min(abs(frames) * SAMPLES, len(wave))
    if frames >= 0:
        moved[samples:] = wave[: len(wave) - samples]
    else:
        moved[: len(wave) - samples] = wave[samples:]
    return moved


def judge(clip: Clip, reader: ClipReader, index: int, measure: Measure, limits: Limits) -> tuple[Verdict, np.ndarray]:
    """What is to be done with a clip, and its sound after that."""
    wave, faces = reader.wave(index), reader.faces(index)
    try:
        found = measure(faces, wave)
    except MetricError as error:
        return Verdict(clip.id, clip.split, REJECTED, reason=str(error)), wave
    told = {"offset": found.offset, "confidence": found.confidence}

    def reject(reason: str, **more: int) -> tuple[Verdict, np.ndarray]:
        return Verdict(clip.id, clip.split, REJECTED, **told, **more, reason=reason), wave

    if found.confidence < limits.min_confidence:
        return reject(f"sync confidence {found.confidence:.3f} is below {limits.min_confidence:g}")
    if abs(found.offset) > limits.max_offset:
        return reject(f"an offset of {found.offset} frames is beyond {limits.max_offset}")
    if abs(found.offset) <= limits.tolerance:
        return Verdict(clip.id, clip.split, KEPT, **told), wave
    # Sound that comes late has a negative offset, and has to come earlier by as much.
    moved = move_sound(wave, found.offset)
    left = measure(faces, moved).offset
    if abs(left) > limits.tolerance:
        return reject(f"offset {found.offset} frames, and still {left} after the correction", left=left)
    return Verdict(clip.id, clip.split, CORRECTED, **told, left=left), moved


def filter_clips(clips: Sequence[Clip], measure: Measure, limits: Limits, apply: bool) -> list[Verdict]:
    """Judge clips one after the other and, where `apply`, write corrected sound at once."""
    verdicts = []
    for clip in tqdm(clips, "sync", unit="clip"):
        verdict, wave = judge(clip, ClipReader([clip]), 0, measure, limits)
        if apply and verdict.outcome == CORRECTED:
            media.write_wav(clip.wav, wave)
        verdicts.append(verdict)
    return verdicts


def take_out(prepared: Path, verdicts: Sequence[Verdict]) -> None:
    """Rewrite the manifest without rejected clips, and note these with their reasons; the first manifest is kept."""
    rejected = {verdict.id: verdict.reason for verdict in verdicts if verdict.outcome == REJECTED}
    if not rejected:
        return
    manifest, first, notes = (
        prepared / name for name in ("manifest.jsonl", "manifest.unfiltered.jsonl", "rejected.jsonl")
    )
    clips = read_manifest(manifest)
    kept = [clip for clip in clips if clip.id not in rejected]
    if not kept:
        raise MetricError(f"{manifest}: every clip would be rejected; look at the report, and lower min_confidence")
    if not first.exists():
        content = manifest.read_bytes()
        write_atomically(first, lambda part: part.write_bytes(content))
    lines = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()] if notes.is_file() else []
    lines = [line for line in lines if line["id"] not in rejected]
    lines += [asdict(Rejected(clip.id, clip.source, rejected[clip.id])) for clip in clips if clip.id in rejected]
    write_jsonl(notes, lines)
    write_manifest(manifest, kept)


def report(verdicts: Sequence[Verdict], applied: bool) -> str:
    """Counts by split, offsets before and after, reasons; Markdown."""
    splits = sorted({verdict.split for verdict in verdicts})
    counts = Counter((verdict.split, verdict.outcome) for verdict in verdicts)
    outcomes = (KEPT, CORRECTED, REJECTED)
    rows = [[split, *(str(counts[split, outcome]) for outcome in outcomes)] for split in splits]
    before = Counter(verdict.offset for verdict in verdicts if verdict.offset is not None)
    after = Counter(
        verdict.left if verdict.outcome == CORRECTED else verdict.offset
        for verdict in verdicts
        if verdict.outcome != REJECTED
    )
    offsets = [[f"{offset:+d}", str(before[offset]), str(after[offset])] for offset in sorted({*before, *after})]
    parts = [
        "# Sync of a corpus",
        "" if applied else "Measured only; nothing was changed.\n",
        table(["split", *outcomes], rows),
        "",
        table(["offset, frames", "clips before", "clips after"], offsets),
        "",
        "A negative offset is a sound that comes late.",
    ]
    parts += [f"- {verdict.id}: {verdict.reason}" for verdict in verdicts if verdict.outcome == REJECTED]
    return "\n".join(parts) + "\n"


def filter_sync(cfg: DictConfig) -> str:
    """Run `configs/filter_sync.yaml`; writes `report.md` and `verdicts.jsonl` into `cfg.run.dir`.

    Returns:
        The report.

    Raises:
        SyncTalklipError: no such corpus or SyncNet, or every clip would be rejected.
    """
    device = torch.device("cuda" if cfg.device == "auto" and torch.cuda.is_available() else "cpu")
    syncnet, _ = load_syncnet(cfg.syncnet.path, device)
    clips = read_manifest(cfg.data.prepared, cfg.split)

    def measure(faces: np.ndarray, wave: np.ndarray) -> LSE:
        return score_clip(syncnet, faces, clip_mfcc(wave, len(faces)), cfg.max_shift)

    limits = Limits(cfg.tolerance, cfg.max_offset, cfg.min_confidence)
    verdicts = filter_clips(clips, measure, limits, cfg.apply)
    text, folder = report(verdicts, cfg.apply), Path(cfg.run.dir)
    write_jsonl(folder / "verdicts.jsonl", (asdict(verdict) for verdict in verdicts))
    write_atomically(folder / "report.md", lambda part: part.write_text(text, encoding="utf-8"))
    if cfg.apply:
        take_out(Path(cfg.data.prepared), verdicts)
    return text
