"""Write a trained model as a folder of safetensors, JSON and its card: source=... output=... card=..."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("ship")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from synctalklip.errors import SyncTalklipError
    from synctalklip.public_weights.convert import ship

    if not Path(cfg.card).is_file():
        raise SyncTalklipError(f"{cfg.card}: there is no such model card; write one, in Markdown")
    size = ship(cfg.source, cfg.output, Path(cfg.card).read_text(encoding="utf-8"))
    print(f"{cfg.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
