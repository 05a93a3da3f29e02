"""Entry of every script: Hydra composes and builds, user errors become one line on stderr."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from synctalklip.errors import SyncTalklipError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def _missing(node: Any, path: str = "") -> Iterator[str]:
    """Keys that the config leaves to the user; keys that only refer to one of them are not named."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _missing(value, f"{path}[{index}]")
    elif node == "???":
        yield path


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
                missing = list(_missing(OmegaConf.to_container(cfg, resolve=False)))
                if missing:
                    raise SyncTalklipError(f"{config_name}: give a value for {', '.join(missing)} (as key=value)")
                OmegaConf.resolve(cfg)
                directory = Path(cfg.run.dir)
                directory.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(cfg, directory / "config.yaml")
                main(cfg)
            except SyncTalklipError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None

        return hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded)

    return decorate


def build(config: Any, **extra: Any) -> Any:
    """`hydra.utils.instantiate` of what a config names with `_target_`; a user error keeps its own sentence.

    Raises:
        SyncTalklipError: as raised by what is built.
    """
    try:
        return instantiate(config, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, SyncTalklipError):
            raise error.__cause__ from None
        raise
