"""Learn the distance of eqs. 5 and 11 on a frozen AV-SyncNet: `learn_distance.py checkpoint=... distance=conv`."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("learn_distance")
def main(cfg: DictConfig) -> None:
    from synctalklip.avsyncnet.distance_training import DistanceTrainer

    trainer = DistanceTrainer(cfg)
    trainer.run()
    print(f"{trainer.folder / 'checkpoint_best.pt'}: loss {trainer.best:.3f} on held-out clips")


if __name__ == "__main__":
    main()
