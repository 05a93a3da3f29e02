"""The row of a clip: all its scores, each face crop made and each array read once; and the cache of such rows.

Every row of a table takes this path, the ground truth included: face crops, then mouth ROIs made from them by
`faces_to_rois`, then the judges.

Legend: T video frames at 25 Hz.
"""

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from omegaconf import DictConfig

from synctalklip.checkpoint import REFUSED_WRITES, reason_of, write_atomically
from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import faces_to_rois
from synctalklip.data.manifest import Clip
from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.evaluation.judges import Judges
from synctalklip.evaluation.methods import Method, Pair, VideoError
from synctalklip.evaluation.strip import draw_strip
from synctalklip.metrics.avs import score_avs
from synctalklip.metrics.image import score_faces, score_frames
from synctalklip.metrics.intelligibility import character_counts, word_counts
from synctalklip.metrics.openness import score_openness
from synctalklip.syncnet.lse import LSE, score_clip

WHOLE_FRAME_SIDE = 224
"""What whole frames are resized to before a SyncNet sees them, as in the published scripts."""


@dataclass
class Scored:
    """What became of a clip; plain values, so that it can be written down.

    Attributes:
        row: its columns of `clips.csv`; empty if its video could not be used.
        curve: (shift in frames, distance) of `curves.csv`.
        strip: PNG of its picture strip, base64; "" if it is not shown.
        missing: why its video could not be used.
    """

    row: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    strip: str = ""
    missing: str | None = None


class Scorer:
    """Scores clips of one method.

    Args:
        cfg: the root config of `scripts/evaluate.py`.
        method: what is scored.
        judges: the models that score.
        full_frame: whether the source videos are there to compare full frames with.
    """

    def __init__(self, cfg: DictConfig, method: Method, judges: Judges, full_frame: bool) -> None:
        self.cfg, self.method, self.judges, self.full_frame = cfg, method, judges, full_frame
        self.own_sound = cfg.setting == "reconstruction"

    def score(self, pairs: Sequence[Pair], shown: Sequence[bool]) -> list[Scored]:
        """Score some clips; their lips are read together.

        Args:
            pairs: faces and sounds.
            shown: of which of them a strip is drawn.

        Raises:
            MetricError: a clip that cannot be scored; only a video that is unfit is no error where the config says
                `on_missing=report`.
        """
        results, waiting = [], []
        for pair, strip in zip(pairs, shown, strict=True):
            try:
                result, rois = self._score(pair, strip)
            except VideoError as error:
                if self.cfg.on_missing == "error":
                    raise
                result, rois = Scored(missing=str(error)), None
            except MetricError as error:
                raise MetricError(f"clip {pair.clip.id}: {error}") from error
            results.append(result)
            if rois is not None and pair.text:
                waiting.append((result, rois, pair.text))
        self._read_lips(waiting)
        return results

    def _score(self, pair: Pair, strip: bool) -> tuple[Scored, np.ndarray | None]:
        """Everything but the words, and the ROIs to read them from."""
        reader, judges = pair.reader(), self.judges
        faces = self.method.faces(reader, 0)
        result = Scored({"id": pair.clip.id, "frames": pair.clip.frames})
        if pair.sound is not None and not self.own_sound:
            result.row["sound"] = pair.sound.id
        if self.own_sound:
            result.row |= self._quality(reader, faces)
        for key, model in judges.syncnets.items():
            seen = self._seen(reader, faces, self.cfg[key].protocol)
            score = score_clip(model, seen, reader.mfcc(0), self.cfg[key].max_shift, len(reader.wave(0)))
            result.row |= sync_columns(score, "" if key == "syncnet" else f"{key}.")
            if key == "syncnet":
                result.curve = list(zip(score.shifts, score.curve, strict=True))
        rois = mouth_rois(reader, 0, faces, judges.device) if judges.readers or judges.avs is not None else None
        if judges.avs is not None and rois is not None:
            scores = score_avs(judges.avs, reader.rois(0), rois, reader.logfbank(0))
            # With another sound there are no real lips that say it.
            result.row |= scores if self.own_sound else {"avs_u": scores["avs_u"]}
        if judges.lips is not None:
            result.row |= judges.lips.score(pair, reader, faces)
        if judges.detector is not None:
            settings = self.cfg.openness
            result.row |= score_openness(faces, judges.detector, settings.scale, settings.threshold)
        if self.cfg.faces.save:
            save_faces(faces_path(self.cfg, pair), faces, reader.wave(0), self.cfg.faces.crf)
        if strip:
            rows = [("Ground truth", reader.faces(0)), (self.cfg.name or self.method.name, faces)]
            result.strip = _encoded(draw_strip(rows, self.cfg.strip.frames))
        return result, rois

    def _quality(self, reader: ClipReader, faces: np.ndarray) -> dict[str, float]:
        truth, device = reader.faces(0), self.judges.device
        scores = score_faces(faces, truth, device)
        if self.full_frame:
            scores |= score_frames(self.method.pairs(reader, 0, faces), device)
        if self.judges.lpips is not None:
            scores["lpips"] = self.judges.lpips(faces, truth)
        return scores

    def _seen(self, reader: ClipReader, faces: np.ndarray, protocol: str) -> np.ndarray:
        """What a SyncNet sees in its protocol, (T,H,W,3) uint8 BGR."""
        if protocol == "face_crop":
            return np.ascontiguousarray(faces)
        side = (WHOLE_FRAME_SIDE, WHOLE_FRAME_SIDE)
        return np.stack([cv2.resize(frame, side) for frame in self.method.frames(reader, 0, faces)])

    def _read_lips(self, waiting: Sequence[tuple[Scored, np.ndarray, str]]) -> None:
        for column, reader in self.judges.readers.items():
            texts = [text for _, _, text in waiting]
            hypotheses = reader.read([rois for _, rois, _ in waiting], texts) if waiting else []
            for (result, _, text), hypothesis in zip(waiting, hypotheses, strict=True):
                result.row["reference"] = text
                result.row |= {f"{column}.{name}": value for name, value in score_words(text, hypothesis).items()}


def sync_columns(score: LSE, prefix: str = "") -> dict[str, float]:
    """LSE columns of a clip, their names beginning with `prefix`."""
    columns = {
        "lse_d": score.distance,
        "lse_c": score.confidence,
        "lse_d_zero": score.distance_at_zero,
        "offset": score.offset,
        "in_sync": int(abs(score.offset) <= 1),
    }
    return {f"{prefix}{name}": value for name, value in columns.items()}


def mouth_rois(reader: ClipReader, index: int, faces: np.ndarray, device: torch.device) -> np.ndarray:
    """The mouth ROIs that a lip reader sees when `faces` stand in the video, (T,96,96) uint8."""
    unit = torch.from_numpy(np.ascontiguousarray(faces)).to(device).permute(0, 3, 1, 2).float() / 255
    rois = torch.from_numpy(np.ascontiguousarray(reader.rois(index))).to(device).float() / 255
    matrices = torch.from_numpy(np.ascontiguousarray(reader.matrices(index))).to(device).float()
    return (faces_to_rois(unit, matrices, rois).clamp(0, 1) * 255).round().byte().cpu().numpy()


def score_words(reference: str, hypothesis: str) -> dict[str, int | str]:
    """Word and character edits of a clip; sums of them give the corpus rates."""
    words, characters = word_counts(reference, hypothesis), character_counts(reference, hypothesis)
    return {
        "words": words.length,
        "word_errors": words.errors,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "characters": characters.length,
        "character_errors": characters.errors,
        "hypothesis": hypothesis,
    }


def faces_path(cfg: DictConfig, pair: Pair) -> Path:
    """Where the face crops of a clip are saved."""
    return Path(cfg.run.dir) / "faces" / f"{pair.clip.id}.mp4"


def save_faces(path: Path, faces: np.ndarray, wave: np.ndarray, crf: float) -> None:
    """Write face crops with the sound that they say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_video(path, faces, wave=wave, crf=crf, pixel_format="yuv444p")


def _encoded(picture: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()


def digest(*facts: Any) -> str:
    """A short name for everything that some scores depend on; plain values, in order."""
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def pair_facts(pair: Pair) -> list[Any]:
    """Changes when the record of a clip, of its sound or one of their files does."""
    return [_clip_facts(clip) for clip in dict.fromkeys((pair.clip, pair.sound)) if clip] + [pair.sound is None]


def _clip_facts(clip: Clip) -> list[Any]:
    record = asdict(clip)
    del record["root"]
    return [record, [[file.stat().st_size, file.stat().st_mtime_ns] for file in clip.files()]]


def _line(key: str, scored: Scored) -> str:
    # The order of the columns is kept.
    return json.dumps({"key": key, **asdict(scored)}, ensure_ascii=False) + "\n"


class ScoreCache:
    """The clips that a run has scored so far by their key, safe against a kill: one line a clip, flushed as it comes.

    Args:
        path: a jsonl file; a line that a kill cut short is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Scored] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                key = record.pop("key")
                self._known[key] = Scored(**record)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue

    def get(self, key: str) -> Scored | None:
        """What was scored under this key, if anything."""
        return self._known.get(key)

    def keep(self, keys: Sequence[str]) -> None:
        """Forget all other keys; leaves a file of whole lines to go on from."""
        self._known = {key: self._known[key] for key in keys if key in self._known}
        text = "".join(_line(key, scored) for key, scored in self._known.items())
        write_atomically(self.path, lambda part: part.write_text(text, encoding="utf-8"))

    def add(self, key: str, scored: Scored) -> None:
        """Write down a clip before the next one is looked at.

        Raises:
            SyncTalklipError: the disk refused it.
        """
        self._known[key] = scored
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(_line(key, scored))
                stream.flush()
                os.fsync(stream.fileno())
        except REFUSED_WRITES as error:
            raise SyncTalklipError(f"{self.path}: cannot be written ({reason_of(error)}): free some space") from error
