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
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from synctalklip.checkpoint import write_atomically
from synctalklip.data import media
from synctalklip.data.clips import ClipReader, clip_mfcc
from synctalklip.data.manifest import Clip, Rejected, assert_one_corpus, read_manifest, write_jsonl, write_manifest
from synctalklip.device import choose_device
from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.syncnet.lse import LSE, load_syncnet, score_clip
from synctalklip.tables.render import pipe_table

SAMPLES = media.SAMPLE_RATE // media.FPS
KEPT, CORRECTED, REJECTED = OUTCOMES = "kept", "corrected", "rejected"
CAUSES = UNREADABLE, UNSURE, FAR, STUBBORN = "not measured", "low confidence", "offset too large", "not mended"
"""Kinds of rejection, as the report counts them: a clip too short or damaged, no sync at all, or an offset that is not
believed, or that is not gone or leaves no confidence once the sound is moved."""

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
        cause: of a rejection, one of `CAUSES`.
        reason: the same with its numbers, in a sentence.
    """

    id: str
    split: str
    outcome: str
    offset: int | None = None
    confidence: float | None = None
    left: int | None = None
    cause: str = ""
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


def judge(clip: Clip, measure: Measure, limits: Limits) -> tuple[Verdict, np.ndarray | None]:
    """What is to be done with a clip, and its sound (N,) int16 where that is to be corrected."""
    reader = ClipReader([clip])
    told: dict[str, Any] = {}

    def reject(cause: str, reason: str) -> tuple[Verdict, None]:
        return Verdict(clip.id, clip.split, REJECTED, **told, cause=cause, reason=reason), None

    try:
        wave, faces = reader.wave(0), reader.faces(0)
        found = measure(faces, wave)
    except SyncTalklipError as error:
        return reject(UNREADABLE, str(error))
    told |= {"offset": found.offset, "confidence": found.confidence}
    if found.confidence < limits.min_confidence:
        return reject(UNSURE, f"sync confidence {found.confidence:.3f} is below {limits.min_confidence:g}")
    if abs(found.offset) > limits.max_offset:
        return reject(FAR, f"an offset of {found.offset} frames is beyond {limits.max_offset}")
    if abs(found.offset) <= limits.tolerance:
        return Verdict(clip.id, clip.split, KEPT, **told), None
    # Sound that comes late has a negative offset, and has to come earlier by as much.
    moved = move_sound(wave, found.offset)
    after = measure(faces, moved)
    told["left"] = after.offset
    if abs(after.offset) > limits.tolerance:
        return reject(STUBBORN, f"offset {found.offset} frames, and still {after.offset} after the correction")
    # The next run measures what this one writes, and must not reject it.
    if after.confidence < limits.min_confidence:
        return reject(
            STUBBORN,
            f"offset {found.offset} frames, and after the correction a sync confidence of {after.confidence:.3f}, "
            f"below {limits.min_confidence:g}",
        )
    return Verdict(clip.id, clip.split, CORRECTED, **told), moved


def filter_clips(clips: Sequence[Clip], measure: Measure, limits: Limits, apply: bool) -> list[Verdict]:
    """Judge clips one after the other and, where `apply`, write corrected sound at once."""
    verdicts = []
    for clip in tqdm(clips, "sync", unit="clip"):
        verdict, corrected = judge(clip, measure, limits)
        if apply and corrected is not None:
            media.write_wav(clip.wav, corrected)
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


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict]:
    """By split: clips of each outcome, rejections of each cause, clips at each offset in frames before and after."""

    def of(split: str) -> dict:
        chosen = [verdict for verdict in verdicts if verdict.split == split]
        outcomes, causes = (Counter(getattr(verdict, name) for verdict in chosen) for name in ("outcome", "cause"))
        before = Counter(verdict.offset for verdict in chosen if verdict.offset is not None)
        after = Counter(
            verdict.left if verdict.outcome == CORRECTED else verdict.offset
            for verdict in chosen
            if verdict.outcome != REJECTED
        )
        return {
            **{outcome: outcomes[outcome] for outcome in OUTCOMES},
            "causes": {cause: causes[cause] for cause in CAUSES if causes[cause]},
            "before": dict(sorted(before.items())),
            "after": dict(sorted(after.items())),
        }

    return {split: of(split) for split in sorted({verdict.split for verdict in verdicts})}


def report(verdicts: Sequence[Verdict], applied: bool) -> str:
    """`summary` and every rejection with its reason, Markdown."""
    splits = summary(verdicts)
    outcomes = [[split, *(str(counts[outcome]) for outcome in OUTCOMES)] for split, counts in splits.items()]
    sides = [(split, side) for split in splits for side in ("before", "after")]
    found = sorted({offset for split, side in sides for offset in splits[split][side]})
    offsets = [
        [f"{offset:+d}", *(str(splits[split][side].get(offset, 0)) for split, side in sides)] for offset in found
    ]
    causes = [
        [cause, *(str(counts["causes"].get(cause, 0)) for counts in splits.values())]
        for cause in CAUSES
        if any(cause in counts["causes"] for counts in splits.values())
    ]
    parts = [
        "# Sync of a corpus",
        "" if applied else "Measured only; nothing was changed.\n",
        pipe_table(["split", *OUTCOMES], outcomes, padded=True),
        "",
        pipe_table(["offset, frames", *(f"{split} {side}" for split, side in sides)], offsets, padded=True),
        "",
        "Clips at each offset; a negative one is a sound that comes late.",
    ]
    if causes:
        parts += ["", pipe_table(["rejected for", *splits], causes, padded=True), ""]
    parts += [f"- {verdict.id}: {verdict.reason}" for verdict in verdicts if verdict.outcome == REJECTED]
    return "\n".join(parts) + "\n"


def filter_sync(cfg: DictConfig) -> str:
    """Run `configs/filter_sync.yaml`; writes `report.md`, `report.json` and `verdicts.jsonl` into `cfg.run.dir`.

    Returns:
        The report.

    Raises:
        SyncTalklipError: no such corpus or SyncNet, or every clip would be rejected.
    """
    assert_one_corpus(cfg.data)
    syncnet, _ = load_syncnet(cfg.syncnet.path, choose_device(cfg.device))
    clips = read_manifest(cfg.data.prepared, cfg.split)

    def measure(faces: np.ndarray, wave: np.ndarray) -> LSE:
        return score_clip(syncnet, faces, clip_mfcc(wave, len(faces)), cfg.max_shift, len(wave))

    limits = Limits(cfg.tolerance, cfg.max_offset, cfg.min_confidence)
    verdicts = filter_clips(clips, measure, limits, cfg.apply)
    text, folder = report(verdicts, cfg.apply), Path(cfg.run.dir)
    write_jsonl(folder / "verdicts.jsonl", (asdict(verdict) for verdict in verdicts))
    write_atomically(folder / "report.md", lambda part: part.write_text(text, encoding="utf-8"))
    counts = json.dumps({"applied": cfg.apply, "splits": summary(verdicts)}, indent=1)
    write_atomically(folder / "report.json", lambda part: part.write_text(counts + "\n", encoding="utf-8"))
    if cfg.apply:
        take_out(Path(cfg.data.prepared), verdicts)
    return text
