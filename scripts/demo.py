"""Walk through the whole pipeline on a small corpus and write a report: python scripts/demo.py [demo=shipped|grid]"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("demo")
def main(cfg: DictConfig) -> None:
    import logging
    from pathlib import Path

    from synctalklip.pipeline.report import run_and_report

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    print(f"report: {run_and_report(cfg, Path(__file__).resolve().parent.parent)}")


if __name__ == "__main__":
    main()
