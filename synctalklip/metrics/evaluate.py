"""Score one method on every clip of a split: picture quality, lip sync and intelligibility.

Every row of a table takes this path, the ground truth included: face crops, then mouth ROIs made from
them by `faces_to_rois`, then the judges.

Legend: T video frames at 25 Hz.
"""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from synctalklip import checkpoint
from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.face import faces_to_rois
from synctalklip.data.manifest import Clip, read_manifest
from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.image import psnr, ssim
from synctalklip.metrics.intelligibility import character_counts, word_counts
from synctalklip.metrics.sources import IDENTITY_FRAME, Source, open_source
from synctalklip.metrics.strip import draw_strip, evenly, write_strips
from synctalklip.metrics.sync import load_syncnet, score_clip
from synctalklip.metrics.table import load_run, markdown_table

PROTOCOL = (
    f"own sound, identity frame {IDENTITY_FRAME}, frames scored before any encoding of this evaluation; PSNR is a mean "
    "over the frames that differ from the truth."
)


class Reader(Protocol):
    """A lip reader; `synctalklip.avsyncnet.decode.LipReader` is one."""

    def read(self, rois: list[np.ndarray]) -> list[str]:
        """ROIs (T,96,96) uint8 grey -> one sentence a clip."""
        ...


@dataclass
class Judges:
    """The models that score, and what the summary says about them."""

    device: torch.device
    syncnet: torch.nn.Module | None = None
    reader: Reader | None = None
    described: dict[str, dict[str, str]] = field(default_factory=dict)


def score_images(faces: np.ndarray, truth: np.ndarray, device: torch.device) -> dict[str, float]:
    """PSNR and SSIM of a clip over the face crop and its lower half.

    Args:
        faces: (T,96,96,3) uint8 BGR.
        truth: same shape.
        device: where to compute.

    Returns:
        Means over frames. Frames that equal the truth have an infinite PSNR and are left out of its mean;
        it is infinite when all are equal.
    """
    ours, theirs = (
        torch.from_numpy(np.ascontiguousarray(a)).to(device).permute(0, 3, 1, 2).double() / 255 for a in (faces, truth)
    )
    half = ours.shape[2] // 2
    scores = {}
    for name, rows in (("face", slice(None)), ("lower", slice(half, None))):
        ratio = psnr(ours[:, :, rows], theirs[:, :, rows])
        differing = ratio[torch.isfinite(ratio)]
        scores[f"psnr_{name}"] = float(differing.mean()) if len(differing) else float("inf")
        scores[f"ssim_{name}"] = float(ssim(ours[:, :, rows], theirs[:, :, rows]).mean())
    return scores


def score_sync(judges: Judges, faces: np.ndarray, mfcc: torch.Tensor, max_shift: int) -> dict[str, float]:
    """LSE columns of a clip; empty without a SyncNet."""
    if judges.syncnet is None:
        return {}
    score = score_clip(judges.syncnet, np.ascontiguousarray(faces), mfcc, max_shift)
    return {
        "lse_d": score.distance,
        "lse_c": score.confidence,
        "lse_d_zero": score.distance_at_zero,
        "offset": score.offset,
        "in_sync": int(abs(score.offset) <= 1),
    }


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
        "reference": reference,
        "hypothesis": hypothesis,
    }


def expert_hash(generator: Path) -> str | None:
    """SHA-256 of the expert that supervised a generator: stored in its checkpoint, or the file that the
    config of its run names; None when neither is there.
    """
    stored = checkpoint.load(generator).get("expert_sha256")
    config = generator.parent.parent / "config.yaml"
    if stored or not config.is_file():
        return stored
    path = OmegaConf.select(OmegaConf.load(config), "expert.path")
    return checkpoint.file_hash(path) if path and Path(path).exists() else None


def supervisor_of(generator: Path, syncnet: str | Path) -> bool:
    """Whether a generator was trained under this very SyncNet."""
    stored = checkpoint.load(generator).get("syncnet_sha256")
    return stored is not None and Path(syncnet).is_file() and stored == checkpoint.file_hash(syncnet)


def load_judges(cfg: DictConfig, source: Source, roi_mode: str, device: torch.device) -> Judges:
    """The SyncNet and the lip reader of the config; either may be null.

    Raises:
        MetricError: the SyncNet or the reader is the generator's supervisor, or the reader was trained on other ROIs.
    """
    judges = Judges(device)
    if cfg.syncnet.path is not None:
        if source.kind == "generator" and supervisor_of(source.file, cfg.syncnet.path):
            raise MetricError(
                f"syncnet.path={cfg.syncnet.path} supervised {source.file}: its LSE would flatter the generator; give "
                "a SyncNet trained apart (scripts/train_syncnet.py seed=...)"
            )
        judges.syncnet, info = load_syncnet(cfg.syncnet.path, device)
        judges.described["syncnet"] = {
            "name": info.name, "path": str(cfg.syncnet.path), "sha256": checkpoint.file_hash(cfg.syncnet.path),
            "ends": judges.syncnet.ends,
        }  # fmt: skip
    if cfg.reader.path is not None:
        digest = checkpoint.file_hash(cfg.reader.path) if Path(cfg.reader.path).exists() else None
        if source.kind == "generator" and digest is not None and digest == expert_hash(source.file):
            raise MetricError(
                f"reader.path={cfg.reader.path} is the expert that supervised {source.file}: its WER would flatter the "
                "generator; give a lip reader trained apart"
            )
        judges.reader = load_reader(cfg, roi_mode, device)
        judges.described["reader"] = {
            "name": cfg.reader.name, "path": str(cfg.reader.path), "sha256": str(digest), "beam": cfg.reader.beam
        }  # fmt: skip
    return judges


def load_reader(cfg: DictConfig, roi_mode: str, device: torch.device) -> Reader:
    """The lip reader of `cfg.reader`."""
    from synctalklip.avsyncnet.decode import Generation, LipReader

    reader = LipReader(cfg.reader.path, device, Generation(beam=cfg.reader.beam))
    if reader.roi_mode != roi_mode:
        raise MetricError(
            f"{cfg.reader.path} reads {reader.roi_mode!r} mouth ROIs, the clips have {roi_mode!r}: "
            "prepare the clips or train the reader with the other mode"
        )
    return reader


class Evaluation:
    """One method on one list of clips.

    Args:
        cfg: the root config of `scripts/evaluate.py`.
        clips: the clips.
        source: the method.
        judges: the models that score.
    """

    def __init__(self, cfg: DictConfig, clips: list[Clip], source: Source, judges: Judges) -> None:
        self.cfg, self.clips, self.source, self.judges = cfg, clips, source, judges
        self.directory = Path(cfg.run.dir)
        self.name = cfg.name or source.name
        self.rows: list[dict[str, Any]] = []
        self._waiting: list[tuple[dict[str, Any], np.ndarray]] = []

    def run(self) -> None:
        """Score all clips; write `clips.csv`, `summary.json`, `strip.png` and the face crops."""
        self._check_directory()
        shown = set(evenly(len(self.clips), self.cfg.strip.clips).tolist()) if self.cfg.strip.clips else set()
        strips = []
        for index, clip in enumerate(tqdm(self.clips, self.name, unit="clip")):
            reader = ClipReader([clip], cache=True)  # each array is read once, and only this clip is held
            faces = self.source.faces(reader, 0)
            self._score(clip, reader, faces)
            if self.cfg.faces.save:
                self._save_faces(clip, reader, faces)
            if index in shown:
                rows = [("Ground truth", reader.faces(0)), (self.name, faces)]
                strips.append(draw_strip(rows, self.cfg.strip.frames))
        self._read_lips()
        self._write()
        if strips:
            write_strips(self.directory / "strip.png", strips)

    def _check_directory(self) -> None:
        """Another method's results must not be overwritten unseen."""
        summary = self.directory / "summary.json"
        if summary.is_file():
            before = json.loads(summary.read_text(encoding="utf-8")).get("generated")
            if before != self.cfg.generated:
                raise MetricError(f"{self.directory} holds the results of {before}: give another run.name=...")

    def _score(self, clip: Clip, reader: ClipReader, faces: np.ndarray) -> None:
        try:
            row = {"id": clip.id, "frames": clip.frames}
            row |= score_images(faces, reader.faces(0), self.judges.device)
            row |= score_sync(self.judges, faces, reader.mfcc(0), self.cfg.syncnet.max_shift)
        except MetricError as error:
            raise MetricError(f"clip {clip.id}: {error}") from error
        self.rows.append(row)
        if self.judges.reader is not None and clip.text:
            self._waiting.append((row, mouth_rois(reader, 0, faces, self.judges.device)))
            if len(self._waiting) >= self.cfg.reader.clips_at_once:
                self._read_lips()

    def _read_lips(self) -> None:
        """Read the clips that wait, in one call, so that the lip reader can batch them."""
        if not self._waiting:
            return
        texts = {clip.id: clip.text for clip in self.clips}
        hypotheses = self.judges.reader.read([rois for _, rois in self._waiting])
        for (row, _), hypothesis in zip(self._waiting, hypotheses, strict=True):
            row |= score_words(texts[row["id"]], hypothesis)
        self._waiting.clear()

    def _save_faces(self, clip: Clip, reader: ClipReader, faces: np.ndarray) -> None:
        path = self.directory / "faces" / f"{clip.id}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write_video(path, faces, wave=reader.wave(0), crf=self.cfg.faces.crf, pixel_format="yuv444p")

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        summary = {
            "name": self.name,
            "kind": self.source.kind,
            "generated": self.cfg.generated,
            "generated_sha256": checkpoint.file_hash(self.source.file) if self.source.file else None,
            "corpus": self.cfg.data.name,
            "split": self.cfg.split,
            "clips": len(self.rows),
            "frames": sum(row["frames"] for row in self.rows),
            "protocol": PROTOCOL,
            **self.judges.described,
        }
        encoded = (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
        media.write_bytes(self.directory / "clips.csv", text.getvalue().encode())
        media.write_bytes(self.directory / "summary.json", encoded)


def evaluate(cfg: DictConfig) -> str:
    """Run the evaluation of `configs/evaluate.yaml`.

    Returns:
        The one-row Markdown table, also written to `<run.dir>/table.md`.

    Raises:
        SyncTalklipError: a clip, video or checkpoint is missing or does not fit.
    """
    cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu" if cpu else "cuda")
    clips = read_manifest(cfg.data.prepared, cfg.split)[: cfg.limit]
    roi_mode = clips[0].roi_mode
    source = open_source(cfg.generated, device, cfg.batch_size, roi_mode)
    judges = load_judges(cfg, source, roi_mode, device)
    Evaluation(cfg, clips, source, judges).run()
    table = markdown_table([load_run(cfg.run.dir)], cfg.bootstrap.samples, cfg.seed)
    media.write_bytes(Path(cfg.run.dir) / "table.md", table.encode())
    return table
