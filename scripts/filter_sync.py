"""Correct the offset between sound and lips of a prepared corpus, and reject clips without any sync."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("filter_sync")
def main(cfg: DictConfig) -> None:
    from synctalklip.syncnet.filter import filter_sync

    print(filter_sync(cfg))


if __name__ == "__main__":
    main()
