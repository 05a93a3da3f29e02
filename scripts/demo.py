"""Walk through the whole pipeline on a small corpus and write a report: python scripts/demo.py [demo=grid]"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("demo")
def main(cfg: DictConfig) -> None:
    import logging
    from pathlib import Path

    from omegaconf import OmegaConf

    from synctalklip.phases import run_phases
    from synctalklip.report import write_report

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    root = Path(__file__).resolve().parent.parent
    directory = Path(cfg.run.dir).resolve()
    commands, needs = OmegaConf.to_container(cfg.phases), OmegaConf.to_container(cfg.needs)
    phases = run_phases(commands, directory, root, cfg.fresh, needs, cfg.at_once)
    report = write_report(directory, phases, OmegaConf.to_container(cfg.report), root)
    print(f"report: {report}")


if __name__ == "__main__":
    main()
