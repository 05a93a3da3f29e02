"""The command `synctalklip-generate`; `scripts/generate.py` is the same."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from synctalklip.cli import build, entry
from synctalklip.errors import SyncTalklipError

if TYPE_CHECKING:
    from synctalklip.inference.options import Job


def main() -> None:
    """Make what the command line asks for."""
    entry("generate", plain=("video", "audio", "output"))(generate)()


def generate(cfg: DictConfig) -> None:
    """Make one video, or each of a list.

    Raises:
        SyncTalklipError: not one of the three ways to say what is wanted, or as `Synthesizer.generate`.
    """
    jobs = jobs_of(cfg)

    from synctalklip.inference.synthesizer import Synthesizer, run_jobs
    from synctalklip.progress import Bar

    synthesizer = Synthesizer.from_pretrained(
        cfg.checkpoint, hub=cfg.hub, device=cfg.device, detector=build(cfg.detector), syncnet=cfg.syncnet
    )

    def make(job: "Job") -> None:
        report = synthesizer.make(job, Bar() if cfg.progress else None)
        print(report.sentence())

    if cfg.video:
        make(jobs[0])
    else:
        run_jobs(jobs, synthesizer.checkpoint, make, print)


def jobs_of(cfg: DictConfig) -> "list[Job]":
    """What the configuration asks for: one job, those of a list, or faces of a corpus that swap their speech."""
    from synctalklip.inference.options import Job, Options
    from synctalklip.inference.speech import read_speech
    from synctalklip.inference.synthesizer import read_jobs, swap_jobs

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
