"""Train AV-SyncNet: `experiment=avsyncnet/pretrain_tiny`, `experiment=avsyncnet/finetune_tiny`, ..."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("train_avsyncnet")
def main(cfg: DictConfig) -> None:
    from synctalklip.avsyncnet.train import train

    folder = train(cfg)
    print(f"checkpoints: {folder}")


if __name__ == "__main__":
    main()
