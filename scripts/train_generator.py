"""Train the talking-face generator (stage 2).

python scripts/train_generator.py expert.path=outputs/.../checkpoint_best.pt experiment=generator/synctalklip data=lrs2
"""

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("train_generator")
def main(cfg: DictConfig) -> None:
    """Train; the same command goes on where a run stopped."""
    from synctalklip.generator.trainer import Trainer

    trainer = Trainer(to_dict(cfg, resolve=True))
    print(f"generator: {trainer.run()}")


if __name__ == "__main__":
    main()
