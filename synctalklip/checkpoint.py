"""Checkpoints of tensors and plain containers: written whole or not at all, loaded without running code."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from synctalklip.errors import SyncTalklipError

PLAIN = (type(None), bool, int, float, str, bytes, torch.Tensor)


# How Python, torch and safetensors report a disk that takes no more.
REFUSED_WRITES = (OSError, RuntimeError, SafetensorError)


class CheckpointError(SyncTalklipError):
    """A checkpoint that is missing, damaged, of another kind or of another size."""


def reason_of(error: Exception) -> str:
    """One of `REFUSED_WRITES` in one line; torch adds its C++ stack below."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0]


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it, so that no half-written file is ever seen.

    Raises:
        SyncTalklipError: the disk refused the file; what stood at `path` before still stands.
    """
    path = Path(path)
    # One name, so that runs that are killed again and again leave one part behind and not many.
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except REFUSED_WRITES as error:
        raise SyncTalklipError(f"{path}: cannot be written ({reason_of(error)}): free some space") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _assert_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _assert_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _assert_plain(item, f"{where}[{index}]")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain containers only")


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path` atomically.

    Raises:
        TypeError: an entry would need pickled code to be read back; its place in the state is named.
    """
    _assert_plain(state, "state")
    write_atomically(path, lambda part: torch.save(dict(state), part))


def load(path: str | Path, kind: str | None = None, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code that it may carry.

    Args:
        path: file written by `save` or by fairseq with plain containers.
        kind: if given, `state["kind"]` must equal it.

    Raises:
        CheckpointError: missing, cut short, carrying code, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        carries_code = "weights_only" in str(error).lower() or "Unsupported global" in str(error)
        reason = (
            "it holds pickled objects, which could run code; convert it first"
            if carries_code
            else "it is damaged or no torch checkpoint; train or copy it again"
        )
        raise CheckpointError(f"{path}: refused, {reason}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint of this project")
    if kind is not None and state.get("kind") != kind:
        raise CheckpointError(f"{path}: is a {state.get('kind', 'foreign')!r} checkpoint, a {kind!r} one is needed")
    return state


def load_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Load `weights` into `module`, all names and shapes equal.

    Raises:
        CheckpointError: names what is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unexpected" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source}: does not fit the configured model: {'; '.join(problems[:3])}{more}; "
            "choose the size it was trained with"
        )
    module.load_state_dict(weights)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
