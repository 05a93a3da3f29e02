"""Score one method on every clip of a split: picture quality, lip sync, intelligibility, lips and open mouths.

Clips are scored side by side in processes and written down one by one, so that a run that was killed goes on.
"""

import base64
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from synctalklip import checkpoint
from synctalklip.data import media
from synctalklip.data.manifest import read_manifest, write_jsonl
from synctalklip.data.workers import WorkerDied, run_in_workers
from synctalklip.device import choose_device, choose_precision, record_precision
from synctalklip.errors import MetricError
from synctalklip.evaluation.judges import SYNCNETS, describe_judges, load_judges
from synctalklip.evaluation.methods import IDENTITY_FRAME, Pair, Videos, open_method, pair_clips, write_jobs
from synctalklip.evaluation.scoring import ScoreCache, Scored, Scorer, digest, faces_path, pair_facts
from synctalklip.evaluation.strip import evenly, write_strips
from synctalklip.tables.render import write_rows
from synctalklip.tables.runs import load_run
from synctalklip.tables.table import markdown_table

log = logging.getLogger(__name__)

SOUNDS = {"reconstruction": "own sound", "cross": "sound of another clip", "silent": "digital silence as sound"}
PROTOCOL = (
    f"identity frame {IDENTITY_FRAME}, frames scored before any encoding of this evaluation; PSNR is a mean "
    "over the frames that differ from the truth."
)
CLIPS_PER_WORKER = 16
"""Fewer are not worth a process, which loads torch and the judges."""
MOST_WORKERS = 8

Group = tuple[list[Pair], list[bool]]


def make_task(cfg: DictConfig, roi_mode: str, full_frame: bool, alone: bool) -> Callable[[Group], list[Scored]]:
    """The task of a process, with its own method and judges: pairs and which of them are shown in, scores out.

    Args:
        cfg: the root config.
        roi_mode: of the clips.
        full_frame: see `Scorer`.
        alone: it has the machine for itself; otherwise it takes one thread, for there is a worker on every core.
    """
    if not alone:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    device = choose_device(cfg.device)
    method = open_method(cfg.generated, device, cfg.batch_size, roi_mode, cfg.precision)
    scorer = Scorer(cfg, method, load_judges(cfg, roi_mode, device), full_frame)
    return lambda group: scorer.score(*group)


class Evaluation:
    """One method on the clips of a split.

    Args:
        cfg: the root config of `scripts/evaluate.py`.

    Raises:
        SyncTalklipError: a clip or checkpoint is missing or does not fit, or a judge was an expert of the method.
    """

    def __init__(self, cfg: DictConfig) -> None:
        if cfg.on_missing not in ("error", "report"):
            raise MetricError(f"on_missing={cfg.on_missing}: choose error or report")
        self.cfg, self.directory = cfg, Path(cfg.run.dir)
        clips = read_manifest(cfg.data, cfg.split)
        self.pairs = pair_clips(clips, cfg.setting)[: cfg.limit]
        self.roi_mode = clips[0].roi_mode
        device = choose_device(cfg.device)
        precision = choose_precision(cfg.precision, device)
        record_precision(precision, "precision", self.directory)
        # The processes that score do not choose again.
        cfg.precision = precision.name
        self.method = open_method(cfg.generated, device, cfg.batch_size, self.roi_mode, cfg.precision)
        self.name = cfg.name or self.method.name
        self.described = describe_judges(cfg, self.method)
        self.full_frame = self._has_sources()
        self._check_directory()
        self._check_videos()

    def run(self) -> None:
        """Score what no earlier run scored; write `clips.csv`, `curves.csv`, `summary.json`, strips and face crops."""
        if self.cfg.setting != "reconstruction":
            write_jobs(self.directory / "jobs.jsonl", self.pairs)
        shown = np.zeros(len(self.pairs), bool)
        if self.cfg.strip.clips:
            shown[evenly(len(self.pairs), self.cfg.strip.clips)] = True
        size = self.cfg.clips_at_once
        places = [range(start, min(start + size, len(self.pairs))) for start in range(0, len(self.pairs), size)]
        groups = [([self.pairs[i] for i in group], shown[list(group)].tolist()) for group in places]
        keys = [key for group in groups for key in self._keys(group)]
        cache = ScoreCache(self.directory / "progress.jsonl")
        cache.keep(keys)
        results: dict[int, Scored] = {
            i: known for i, key in enumerate(keys) if (known := cache.get(key)) and self._saved(self.pairs[i])
        }
        todo = [group for group in range(len(groups)) if not all(i in results for i in places[group])]
        kept = len(self.pairs) - sum(len(places[group]) for group in todo)
        with tqdm(total=len(self.pairs), initial=kept, desc=self.name, unit="clip") as bar:
            for number, scores in self._score([groups[group] for group in todo]):
                for i, scored in zip(places[todo[number]], scores, strict=True):
                    results[i] = scored
                    if scored.missing is None:
                        cache.add(keys[i], scored)
                bar.update(len(scores))
        self._write([results[i] for i in range(len(self.pairs))])

    def _score(self, groups: Sequence[Group]) -> Iterator[tuple[int, list[Scored]]]:
        """Number of the group and its scores, in any order."""
        if not groups:
            return
        count = self.cfg.workers
        if count is None:
            fitting = sum(len(pairs) for pairs, _ in groups) // CLIPS_PER_WORKER
            count = min(len(os.sched_getaffinity(0)), MOST_WORKERS, fitting)
        make = partial(make_task, self.cfg, self.roi_mode, self.full_frame)
        if count <= 1:
            task = make(alone=True)
            yield from ((number, task(group)) for number, group in enumerate(groups))
            return
        for number, scores in run_in_workers(partial(make, alone=False), groups, count):
            if isinstance(scores, WorkerDied):
                raise MetricError(
                    f"a process died over clip {groups[number][0][0].clip.id} (exit code {scores.code}): use fewer "
                    "workers or free some memory; clips that were scored are kept"
                )
            yield number, scores

    def _keys(self, group: Group) -> list[str]:
        """The key of each clip of a group: all that its scores depend on, and nothing else."""
        cfg, method = self.cfg, self.method
        pictures = [method.kind, checkpoint.file_hash(method.file) if method.file else None]
        pictures += [cfg.precision] if method.kind == "generator" else []
        judged = [
            _anonymous(self.described),
            [cfg[key].max_shift for key in SYNCNETS],
            self.full_frame,
            cfg.quality,
            cfg.openness,
        ]
        rest = [cfg.setting, cfg.faces, cfg.detector]
        facts = [OmegaConf.to_container(part) if isinstance(part, DictConfig) else part for part in judged + rest]
        pairs, shown = group
        together = [[pair_facts(pair), method.facts(pair.clip)] for pair in pairs]
        strips = [[self.name, cfg.strip.frames] if strip else None for strip in shown]
        return [digest(pictures, facts, together, place, strip) for place, strip in enumerate(strips)]

    def _saved(self, pair: Pair) -> bool:
        return not self.cfg.faces.save or faces_path(self.cfg, pair).is_file()

    def _has_sources(self) -> bool:
        """Whether full frames are compared."""
        wanted = self.cfg.full_frame
        if wanted not in ("auto", True, False):
            raise MetricError(f"full_frame={wanted}: choose auto, true or false")
        if not wanted or self.cfg.setting != "reconstruction":
            return False
        gone = [pair.clip.source for pair in self.pairs if not Path(pair.clip.source).is_file()]
        if gone and wanted is True:
            raise MetricError(f"full_frame=true needs the source videos, {gone[0]} is missing: put it back or say auto")
        if gone:
            log.warning("%d source videos are missing (%s): no full-frame columns", len(gone), gone[0])
        return not gone

    def _check_directory(self) -> None:
        """Another method's results must not be overwritten unseen."""
        summary = self.directory / "summary.json"
        if summary.is_file():
            before = json.loads(summary.read_text(encoding="utf-8"))
            if any(before.get(key) != self.cfg[key] for key in ("generated", "setting")):
                raise MetricError(
                    f"{self.directory} holds the results of {before.get('generated')} with setting="
                    f"{before.get('setting')}: give another run.name=..."
                )

    def _check_videos(self) -> None:
        """A video that is missing at the end of a split shall not cost the hours before it."""
        if isinstance(self.method, Videos) and self.cfg.on_missing == "error":
            for pair in self.pairs:
                self.method.path(pair.clip)

    def _write(self, results: Sequence[Scored]) -> None:
        rows = [result.row for result in results if result.missing is None]
        missing = [
            {"id": pair.clip.id, "reason": result.missing}
            for pair, result in zip(self.pairs, results)
            if result.missing is not None
        ]
        write_jsonl(self.directory / "missing.jsonl", missing)
        if not rows:
            raise MetricError(f"{self.cfg.generated}: no clip could be scored; the first: {missing[0]['reason']}")
        summary = {
            "name": self.name,
            "kind": self.method.kind,
            "generated": self.cfg.generated,
            "generated_sha256": checkpoint.file_hash(self.method.file) if self.method.file else None,
            "precision": self.cfg.precision if self.method.kind == "generator" else None,
            "corpus": self.cfg.data.name,
            "split": self.cfg.split,
            "setting": self.cfg.setting,
            "clips": len(rows),
            "frames": sum(row["frames"] for row in rows),
            "missing": [record["id"] for record in missing],
            "protocol": f"{SOUNDS[self.cfg.setting]}, {PROTOCOL}",
            **self.described,
        }
        curves = [
            {"id": result.row["id"], "shift": shift, "distance": distance}
            for result in results
            for shift, distance in result.curve
        ]
        write_rows(self.directory / "clips.csv", rows)
        if curves:
            write_rows(self.directory / "curves.csv", curves)
        encoded = (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
        media.write_bytes(self.directory / "summary.json", encoded)
        strips = [_decoded(result.strip) for result in results if result.strip]
        if strips:
            write_strips(self.directory / "strip.png", strips)


def _anonymous(node: Any) -> Any:
    """A description without names and paths, which change no score."""
    if not isinstance(node, dict):
        return node
    return {key: _anonymous(value) for key, value in node.items() if key not in ("name", "path")}


def _decoded(strip: str) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(strip), np.uint8), cv2.IMREAD_COLOR))


def evaluate(cfg: DictConfig) -> str:
    """Run the evaluation of `configs/evaluate.yaml`.

    Returns:
        The one-row Markdown table, also written to `<run.dir>/table.md`.

    Raises:
        SyncTalklipError: a clip, video or checkpoint is missing or does not fit.
    """
    if cfg.setting == "silent":
        # Nothing is said, so nobody can judge how well.
        silent = {key: {"path": None} for key in (*SYNCNETS, "avs")}
        cfg = cast(DictConfig, OmegaConf.merge(cfg, silent))
        cfg.readers = {}
    Evaluation(cfg).run()
    table = markdown_table([load_run(cfg.run.dir)], cfg.bootstrap.samples, cfg.seed)
    media.write_bytes(Path(cfg.run.dir) / "table.md", table.encode())
    return table
