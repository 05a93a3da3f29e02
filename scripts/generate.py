"""Make a face speak: python scripts/generate.py face.mp4 speech.wav out.mp4 checkpoint=...

The three names may also be given as video=, audio= and output=.

Many at once: jobs=list.jsonl, or swap.prepared=folder of a prepared corpus, in place of video, audio and output.
"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("generate", plain=("video", "audio", "output"))
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from synctalklip.errors import SyncTalklipError
    from synctalklip.inference.jobs import Job, read_jobs, run_jobs, swap_jobs
    from synctalklip.inference.options import Options

    options = Options.from_config(cfg)
    single = [cfg.video, cfg.audio, cfg.output]
    if [any(single), cfg.jobs is not None, cfg.swap.prepared is not None].count(True) != 1 or any(single) != all(
        single
    ):
        raise SyncTalklipError("give video, audio and output; or jobs; or swap.prepared")
    if cfg.jobs:
        jobs = read_jobs(cfg.jobs, options)
    elif cfg.swap.prepared:
        jobs = swap_jobs(**cfg.swap, options=options)
    else:
        jobs = [Job(Path(cfg.video), Path(cfg.audio), Path(cfg.output), options)]

    import torch

    from synctalklip.cli import build
    from synctalklip.generator.model import load_generator
    from synctalklip.inference.synthesize import synthesize

    device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_generator(cfg.checkpoint, device)
    detector = build(cfg.detector)

    def make(job: Job) -> None:
        report = synthesize(model, job.video, job.audio, job.output, job.options, detector, cfg.checkpoint, device)
        print(report.sentence())

    if any(single):
        make(jobs[0])
    else:
        run_jobs(jobs, cfg.checkpoint, make, print)


if __name__ == "__main__":
    main()
