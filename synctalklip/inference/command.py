"""The command `synctalklip-generate` (`scripts/generate.py` is the same): one video, or a list that goes on where it
stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from synctalklip.cli import build, entry
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError
from synctalklip.inference.options import Job, Options, make_statement, sidecar_of
from synctalklip.inference.speech import read_speech
from synctalklip.progress import Bar

JOB_KEYS = ("video", "audio", "output")


def main() -> None:
    """Make what the command line asks for."""
    entry("generate", plain=("video", "audio", "output"))(generate)()


def generate(cfg: DictConfig) -> None:
    """Make one video, or each of a list.

    Raises:
        SyncTalklipError: not one of the three ways to say what is wanted, or as `Synthesizer.generate`.
    """
    jobs = jobs_of(cfg)

    # After the settings were looked at: it loads torch.
    from synctalklip.inference.synthesizer import Synthesizer

    synthesizer = Synthesizer.from_pretrained(
        cfg.checkpoint, hub=cfg.hub, device=cfg.device, detector=build(cfg.detector), syncnet=cfg.syncnet
    )

    def make(job: Job) -> None:
        report = synthesizer.make(job, Bar() if cfg.progress else None)
        print(report.sentence())

    if cfg.video:
        make(jobs[0])
    else:
        run_jobs(jobs, synthesizer.checkpoint, make, print)


def jobs_of(cfg: DictConfig) -> list[Job]:
    """What the configuration asks for: one job, those of a list, or faces of a corpus that swap their speech."""
    options = Options.from_config(cfg)
    single = [cfg.video, cfg.audio, cfg.output]
    ways = [any(single), cfg.jobs is not None, cfg.swap.prepared is not None]
    if ways.count(True) != 1 or any(single) != all(single):
        raise SyncTalklipError("give video, audio and output; or jobs; or swap.prepared")
    if cfg.jobs:
        return read_jobs(cfg.jobs, options)
    if cfg.swap.prepared:
        return swap_jobs(**cfg.swap, options=options)
    audio = OmegaConf.to_container(cfg.audio) if OmegaConf.is_config(cfg.audio) else cfg.audio
    return [Job(Path(cfg.video), read_speech(audio), Path(cfg.output), options)]


def read_jobs(path: str | Path, options: Options) -> list[Job]:
    """Read a list of jobs.

    Args:
        path: jsonl; each line holds video, audio, output (paths start at the list's folder) and, where a job
            differs from the rest, options by name. Audio is a file, or a list of the parts of several faces, each with
            face, audio and, where wanted, from and to.
        options: of all jobs.

    Raises:
        SyncTalklipError: no such file, a line that is no job, or two jobs with one output.
    """
    path = Path(path)
    if not path.is_file():
        raise SyncTalklipError(f"{path}: there is no such list of jobs")
    jobs: dict[Path, Job] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            video, audio, output = (entry.pop(key) for key in JOB_KEYS)
            video, output = path.parent / video, path.parent / output
            job = Job(video, read_speech(audio, path.parent), output, options.replace(**entry))
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SyncTalklipError(
                f"{path}, line {number}: is no job ({error}); write an object with {', '.join(JOB_KEYS)}"
            ) from error
        except SyncTalklipError as error:
            raise SyncTalklipError(f"{path}, line {number}: {error}") from error
        if output in jobs:
            raise SyncTalklipError(f"{path}, line {number}: {output} is the output of an earlier line too")
        jobs[output] = job
    if not jobs:
        raise SyncTalklipError(f"{path}: holds no job; write one a line, with {', '.join(JOB_KEYS)}")
    return list(jobs.values())


def swap_jobs(prepared: str | Path, split: str, count: int, folder: str | Path, options: Options) -> list[Job]:
    """Faces of a corpus that say what others of it say.

    Args:
        prepared: folder of a prepared corpus; its raw videos are the inputs.
        split: of this split.
        count: so many jobs, the faces spread evenly over the split.
        folder: where the videos go.
        options: of all jobs.

    Raises:
        SyncTalklipError: the split holds less than two clips.
    """
    clips = read_manifest(Path(prepared) / "manifest.jsonl", split)
    if len(clips) < 2:
        raise SyncTalklipError(f"{prepared}: split {split} holds {len(clips)} clips; two are needed to swap speech")
    jobs = []
    for number in range(min(count, len(clips))):
        place = number * len(clips) // min(count, len(clips))
        face, speech = clips[place], clips[(place + len(clips) // 2) % len(clips)]
        name = f"{face.id}_says_{speech.id}.mp4".replace("/", "_")
        jobs.append(Job(Path(face.source), Path(speech.source), Path(folder) / name, options))
    return jobs


def is_done(job: Job, checkpoint: str | Path | None) -> bool:
    """Whether the output of `job` stands, made from these very inputs, options and checkpoint."""
    sidecar = sidecar_of(job.output)
    if not (job.output.is_file() and sidecar.is_file()):
        return False
    try:
        stated: dict[str, Any] = json.loads(sidecar.read_text())
    except ValueError:
        return False
    wanted = make_statement(job.video, job.audio, checkpoint, job.options)
    return all(stated.get(key) == value for key, value in wanted.items())


def run_jobs(
    jobs: Sequence[Job], checkpoint: str | Path | None, make: Callable[[Job], None], say: Callable[[str], None]
) -> None:
    """Make each job that is not done; one that fails does not stop the others.

    Raises:
        SyncTalklipError: after the last job, if some failed; their reasons were said.
    """
    failed = 0
    for number, job in enumerate(jobs, 1):
        title = f"[{number}/{len(jobs)}] {job.output}"
        try:
            if is_done(job, checkpoint):
                say(f"{title}: done before")
                continue
            make(job)
        except SyncTalklipError as error:
            failed += 1
            say(f"{title}: failed, {error}")
    if failed:
        raise SyncTalklipError(f"{failed} of {len(jobs)} jobs failed, see above; run the same command for these again")
