"""Score ground truth, a still mouth, a generator or a folder of videos on every clip of a split."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("evaluate")
def main(cfg: DictConfig) -> None:
    from synctalklip.evaluation.evaluate import evaluate

    print(evaluate(cfg))


if __name__ == "__main__":
    main()
