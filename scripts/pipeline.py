"""Several commands as one, gone on with where it stopped: python scripts/pipeline.py pipeline=demo"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("pipeline")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from synctalklip.pipeline.run import run_pipeline

    print(run_pipeline(cfg, Path(__file__).resolve().parent.parent))


if __name__ == "__main__":
    main()
