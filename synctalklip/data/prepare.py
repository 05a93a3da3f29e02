"""Prepare a corpus in parallel: resumable, one bad clip never ends the run."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from synctalklip.data.layouts import SourceClip
from synctalklip.data.manifest import Clip, Rejected, write_jsonl, write_manifest
from synctalklip.data.prepare_clip import Outcome, Settings, make_task
from synctalklip.data.workers import WorkerDied, part_of, run_in_workers
from synctalklip.errors import SyncTalklipError


@dataclass(frozen=True)
class Counts:
    """What a run did.

    Attributes:
        prepared: clips made by this run.
        kept: clips that an earlier run had made.
        rejected: clips that cannot be used, of any run.
        frames: of the clips made by this run.
        seconds: that it took.
        splits: usable clips of each split, None of a part of the corpus.
    """

    prepared: int
    kept: int
    rejected: int
    frames: int
    seconds: float
    splits: dict[str, int] | None

    def summary(self, prepared: str | Path) -> str:
        """The counts as one paragraph for the terminal."""
        if self.splits is None:
            manifest = "none yet: after the other parts, the same command without shard"
        else:
            manifest = ", ".join(f"{name} {count}" for name, count in sorted(self.splits.items()))
        rate = f"{self.frames} frames in {self.seconds:.1f} s, {self.frames / max(self.seconds, 1e-9):.0f} frames/s"
        note = f" (reasons in {Path(prepared) / 'rejected.jsonl'})" if self.rejected and self.splits is not None else ""
        return (
            f"{prepared}: {self.prepared} clips prepared ({rate}), {self.kept} were there, "
            f"{self.rejected} rejected{note}\nmanifest: {manifest}"
        )


def prepare(
    clips: Sequence[SourceClip],
    prepared: str | Path,
    settings: Settings,
    face: Mapping,
    workers: int | None = None,
    shard: str | None = None,
) -> Counts:
    """Prepare clips and write `manifest.jsonl` and `rejected.jsonl`.

    Clips whose files and record are there are kept; the result does not depend on how often the run was
    interrupted, nor on the number of workers. A clip whose worker died is rejected and tried again next time.

    Args:
        clips: what to prepare; the manifest will hold these and no others.
        prepared: output folder.
        settings: see `Settings`.
        face: config of the face detector, with `_target_`.
        workers: processes, None for one a core.
        shard: prepare this part of the clips only, see `part_of`, and write no manifest; the run without it, after the
            parts are done, finds them there.

    Raises:
        SyncTalklipError: no clip given, no clip usable, or a detector that cannot be built.
        DiskError: the disk is full; what was done stays.
    """
    if not clips:
        raise SyncTalklipError("there is no clip to prepare; check data.root")
    clips, prepared = part_of(clips, shard), Path(prepared)
    if not clips:
        raise SyncTalklipError(f"shard={shard}: holds no clip; take fewer parts")
    workers = workers or len(os.sched_getaffinity(0))
    task = partial(make_task, prepared.resolve(), settings, dict(face))
    outcomes: dict[int, Outcome] = {}
    started, frames = perf_counter(), 0
    with tqdm(total=len(clips), desc="prepare", unit="clip", smoothing=0.05) as bar:
        for index, outcome in run_in_workers(task, clips, workers):
            if isinstance(outcome, WorkerDied):
                outcome = Outcome(reason=f"{clips[index].video}: its worker died (exit code {outcome.code}); run again")
            outcomes[index] = outcome
            frames += 0 if outcome.kept else outcome.frames
            bar.set_postfix_str(f"{frames / (perf_counter() - started):.0f} frames/s", refresh=False)
            bar.update()
    ordered = [outcomes[index] for index in range(len(clips))]
    seconds = perf_counter() - started
    if shard is not None:
        return _count(ordered, seconds)
    return _finish(clips, ordered, prepared, settings.roi_mode, seconds)


def _count(outcomes: Sequence[Outcome], seconds: float, splits: Mapping[str, int] | None = None) -> Counts:
    good = [outcome for outcome in outcomes if outcome.reason is None]
    made = [outcome for outcome in good if not outcome.kept]
    return Counts(
        prepared=len(made),
        kept=len(good) - len(made),
        rejected=len(outcomes) - len(good),
        frames=sum(outcome.frames for outcome in made),
        seconds=seconds,
        splits=dict(splits) if splits is not None else None,
    )


def _finish(
    clips: Sequence[SourceClip], outcomes: Sequence[Outcome], prepared: Path, roi_mode: str, seconds: float
) -> Counts:
    good, bad = [], []
    for clip, outcome in zip(clips, outcomes, strict=True):
        if outcome.reason is not None:
            bad.append(Rejected(clip.id, str(clip.video), outcome.reason))
        else:
            good.append(
                Clip(
                    id=clip.id,
                    split=clip.split,
                    frames=outcome.frames,
                    samples=outcome.samples,
                    text=outcome.text,
                    speaker=clip.speaker,
                    source=str(clip.video),
                    roi_mode=roi_mode,
                    words=outcome.words,
                )
            )
    bad.sort(key=lambda rejected: rejected.id)
    write_jsonl(prepared / "rejected.jsonl", (vars(rejected) for rejected in bad))
    if not good:
        raise SyncTalklipError(
            f"{prepared}: none of {len(clips)} clips could be used, the first because: {bad[0].reason} "
            "(all reasons are in rejected.jsonl)"
        )
    write_manifest(prepared / "manifest.jsonl", good)
    return _count(outcomes, seconds, Counter(clip.split for clip in good))
