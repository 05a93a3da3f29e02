"""Pre-train and fine-tune AV-SyncNet with and without its parts, and write what each is worth."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("stage1_report")
def main(cfg: DictConfig) -> None:
    import logging
    from pathlib import Path

    from synctalklip.pipeline.report import run_and_report

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    print(f"report: {run_and_report(cfg, Path(__file__).resolve().parent.parent)}")


if __name__ == "__main__":
    main()
