"""Train the SyncNet that measures lip sync (LSE-D, LSE-C) on a prepared corpus."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("train_syncnet")
def main(cfg: DictConfig) -> None:
    from synctalklip.syncnet.train import train_syncnet

    scores = train_syncnet(cfg)
    print(
        f"{cfg.run.dir}/syncnet.pt: offset found within one frame on {scores['offset_accuracy']:.0%} of held-out clips"
    )


if __name__ == "__main__":
    main()
