"""Write a picture strip of several evaluations: same clips, same frames, one row a run."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("compare")
def main(cfg: DictConfig) -> None:
    from synctalklip.evaluation.strip import compare

    compare(cfg)
    print(cfg.output)


if __name__ == "__main__":
    main()
