"""A page for video + speech -> video, on this machine: python scripts/app.py port=7860"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("app")
def main(cfg: DictConfig) -> None:
    from synctalklip.app.page import run

    run(cfg)


if __name__ == "__main__":
    main()
