"""Entry of every script: Hydra composes and builds, user errors become one line on stderr."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from synctalklip.errors import SyncTalklipError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# Options of glibc's mallopt(3), in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors, for this process and those that it forks.

    glibc gives large blocks back to the system at once, so that every training step asks for the same pages anew:
    `benchmark.py stage1` measures what that costs.

    Returns:
        Whether the C library has such settings; where it is not glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No trimming of the heap below the highest number that fits, and no block outside of it.
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_M_MMAP_MAX, 0))


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


RENAMED = {
    "trainer.images": "trainer.batch_size",
    "expert.align": "expert.distance",
    "loss.head": "distance.head",
    "loss.normalize": "distance.normalize",
    "loss.tau": "distance.tau",
    "trainer.frozen_mb": "trainer.feature_cache_mb",
    "loss.adversarial.critic_start": "loss.adversarial.discriminator_start",
    "tail": "shorter",
}
"""Keys of earlier versions, which a user's own config file may still set, and what they are called."""


def refuse_renamed(cfg: DictConfig) -> None:
    """Refuse a configuration that sets a key of an earlier version, which nothing would read.

    Raises:
        SyncTalklipError: names the key and what it is called.
    """
    for old, name in RENAMED.items():
        if OmegaConf.select(cfg, old) is not None:
            raise SyncTalklipError(f"{old} is called {name}: rename it where it is set")


def entry(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` of a script.

    Resolves the configuration first, so that a missing value or a mistyped key ends the run before any
    heavy import, and writes it to `<run.dir>/config.yaml`, if it names one. Memory is kept from here on, see
    `keep_freed_memory`; a process that is spawned imports the script anew and comes here too.

    Args:
        config_name: root file in `configs/`, without its suffix.

    Raises:
        SystemExit: status 1 after a `SyncTalklipError`, whose sentence is printed.
    """

    keep_freed_memory()

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        def guarded(cfg: DictConfig) -> None:
            try:
                refuse_renamed(cfg)
                missing = list(_missing(OmegaConf.to_container(cfg, resolve=False)))
                if missing:
                    raise SyncTalklipError(f"{config_name}: give a value for {', '.join(missing)} (as key=value)")
                OmegaConf.resolve(cfg)
                if cfg.run.dir is not None:
                    Path(cfg.run.dir).mkdir(parents=True, exist_ok=True)
                    OmegaConf.save(cfg, Path(cfg.run.dir) / "config.yaml")
                main(cfg)
            except SyncTalklipError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None

        return hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded)

    return decorate


def to_dict(config: Any, resolve: bool = False) -> dict[str, Any]:
    """A mapping of a configuration in plain containers.

    Args:
        config: a node of OmegaConf that is a mapping.
        resolve: replace references by the values they refer to.
    """
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


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
