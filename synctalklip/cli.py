"""Entry of every script: Hydra composes and builds, user errors become one line on stderr."""

import ctypes
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
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


PATH_KEYS = frozenset(
    (
        *("video", "audio", "output", "jobs", "checkpoint", "syncnet", "prepared", "folder"),
        *("dir", "root", "path", "weights", "init_from"),
    )
)
"""Last names of the keys whose values are names of files and folders."""

_KEY = re.compile(r"[+~]{0,2}([A-Za-z_][\w@/:-]*)(\.[\w@/:-]+)*")


def read_arguments(words: Sequence[str], plain: Sequence[str] = ()) -> list[str]:
    """What a user typed, as Hydra reads it: names of files are taken as they are, whatever signs they hold.

    Args:
        words: arguments of a script.
        plain: keys that may be given as plain words, all of them, in this order.

    Raises:
        SyncTalklipError: an argument that is no key=value; says how to quote it.
    """
    flags = {word for word in words if word.startswith("-")}
    if flags - {"-m", "--multirun"}:
        # Hydra's own options, some of which take a word.
        return list(words)
    names = [word for word in words if plain and not word.startswith(("-", "~")) and not _is_override(word, plain)]
    if names and len(names) != len(plain):
        raise SyncTalklipError(
            f"{' '.join(names)}: give {', '.join(plain)} in this order, or each as key=value; a name that holds = as "
            "./name"
        )
    # One file may stand for two of them, as a video that says its own sound.
    keys = iter(plain)
    read = [
        f"{next(keys)}={quote(word)}" if word in names else word if word in flags else _readable(word, bool(flags))
        for word in words
    ]
    return [each for word in read for each in _corpora(word)]


def _corpora(word: str) -> list[str]:
    """`data=[a,b]`, corpora that are read as one, in Hydra's own terms; any other argument as it is."""
    found = re.fullmatch(r"data=\[([\w, -]+)\]", word)
    if found is None:
        return [word]
    names = [name.strip() for name in found[1].split(",")]
    if len(set(names)) != len(names) or "" in names:
        raise SyncTalklipError(f"{word}: name each corpus once")
    return ["data=several", f"data.name={'+'.join(names)}", *(f"+data@data.corpora.{name}={name}" for name in names)]


def quote(value: str) -> str:
    """A text as a string in Hydra's grammar, where its signs mean nothing.

    Raises:
        SyncTalklipError: it holds ${, which OmegaConf takes for a reference wherever it stands.
    """
    if "${" in value:
        raise SyncTalklipError(f"{value}: holds ${{, which marks a reference in a configuration; rename it")
    # Backslashes count before a quote and at the end only.
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{text}'"


def _is_override(word: str, plain: Sequence[str]) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals and _KEY.fullmatch(key)) and (key in plain or not os.path.exists(word))


def _readable(word: str, sweep: bool) -> str:
    """One override; quoted where its value is a name and not a list, a string in quotes or a reference."""
    key, equals, value = word.partition("=")
    parsed = _parsed(word)
    if key.split(".")[-1] in PATH_KEYS and value not in ("", "null"):
        several = parsed is not None and (
            (sweep and parsed.is_sweep_override()) or isinstance(parsed.value(), list | dict)
        )
        written = parsed is not None and (value[0] == value[-1] in ("'", '"') or "${" in value)
        if os.path.exists(value) or not (several or written):
            return f"{key}={quote(value)}"
    if parsed is None or (parsed.is_sweep_override() and not sweep):
        reason = "cannot be read as key=value" if parsed is None else "has several values, which need -m"
        hint = f"; a text with such signs is written {_for_shell(f'{key}={quote(value)}')}" if equals else ""
        raise SyncTalklipError(f"{word}: {reason}{hint}")
    return word


def _for_shell(word: str) -> str:
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def entry(config_name: str, plain: Sequence[str] = ()) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` of a script.

    Reads the command line, see `read_arguments`. Resolves the configuration first, so that a missing value or a
    mistyped key ends the run before any heavy import, and writes it to `<run.dir>/config.yaml`, if it names one. Memory
    is kept from here on, see `keep_freed_memory`; a process that is spawned imports the script anew and comes here too.

    Args:
        config_name: root file in `configs/`, without its suffix.
        plain: see `read_arguments`.

    Raises:
        SystemExit: status 1 after a `SyncTalklipError`, whose sentence is printed.
    """

    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        # A name may hold bytes that are no text; where output is captured there is nothing to set.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")

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

        run = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded)

        def start() -> None:
            try:
                sys.argv[1:] = read_arguments(sys.argv[1:], plain)
            except SyncTalklipError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None
            run()

        return start

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
