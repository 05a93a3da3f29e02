"""Entry of every script: Hydra composes, user errors become one line on stderr."""

import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from synctalklip.errors import SyncTalklipError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def entry(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` of a script.

    Resolves the configuration first, so that a missing value or a mistyped key ends the run before any
    heavy import, and writes it to `<run.dir>/config.yaml`.

    Args:
        config_name: root file in `configs/`, without its suffix.

    Raises:
        SystemExit: status 1 after a `SyncTalklipError`, whose sentence is printed.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        def guarded(cfg: DictConfig) -> None:
            try:
                OmegaConf.resolve(cfg)
                missing = sorted(OmegaConf.missing_keys(cfg))
                if missing:
                    raise SyncTalklipError(f"{config_name}: give a value for {', '.join(missing)} (as key=value)")
                directory = Path(cfg.run.dir)
                directory.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(cfg, directory / "config.yaml")
                main(cfg)
            except SyncTalklipError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None

        return hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded)

    return decorate
