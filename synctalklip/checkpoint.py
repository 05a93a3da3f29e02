"""Checkpoints of tensors and plain containers, and the folder that a run resumes from.

Both are written whole or not at all, and loaded without running code.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from synctalklip.errors import SyncTalklipError

PLAIN = (type(None), bool, int, float, str, bytes, torch.Tensor)
WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "spm.model", "README.md"
"""Files of a checkpoint that is a folder; a tokenizer where the model reads or writes text, a card where it ships."""


# How Python, torch and safetensors report a disk that takes no more.
REFUSED_WRITES = (OSError, RuntimeError, SafetensorError)


class CheckpointError(SyncTalklipError):
    """A checkpoint that is missing, damaged, of another kind or of another size."""


def reason_of(error: Exception) -> str:
    """One of `REFUSED_WRITES` in one line; torch adds its C++ stack below."""
    return getattr(error, "strerror", None) or str(error).split("\n")[0]


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
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


def write_text(path: str | Path, text: str) -> None:
    """Write a text as `write_atomically` does."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


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


def save_folder(
    path: str | Path,
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    tokenizer: bytes | None = None,
    card: str | None = None,
) -> None:
    """Write a checkpoint as a folder: safetensors, JSON and, when it has them, a sentencepiece model and a card.

    Args:
        path: the folder; one that was written so before is replaced as a whole.
        weights: tensors by name.
        config: what JSON can hold; `kind` says what it is.
        tokenizer: bytes of a sentencepiece model.
        card: its model card, Markdown.

    Raises:
        SyncTalklipError: the folder holds other files, or the disk refused a file.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    known = {WEIGHTS, CONFIG, TOKENIZER, CARD}
    strangers = {file.name for file in path.iterdir()} - known if path.is_dir() else set()
    if strangers or path.is_file():
        raise CheckpointError(
            f"{path}: holds other files ({', '.join(sorted(strangers)[:3]) or 'it is one'}); "
            "choose another name for the folder to write"
        )
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        # Tensors that share memory would be refused.
        save_file({name: value.detach().clone().contiguous() for name, value in weights.items()}, part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        if tokenizer is not None:
            (part / TOKENIZER).write_bytes(tokenizer)
        if card is not None:
            (part / CARD).write_text(card)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    except REFUSED_WRITES as error:
        raise SyncTalklipError(f"{path}: cannot be written ({reason_of(error)}): free some space") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(path: str | Path, kind: str | None = None, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code that it may carry.

    Args:
        path: file written by `save` or by fairseq with plain containers, or folder written by `save_folder`.
        kind: if given, `state["kind"]` must equal it.

    Returns:
        What was saved; of a folder its configuration, its weights as `model` and, if any, its `tokenizer`.

    Raises:
        CheckpointError: missing, cut short, carrying code, or of another kind.
    """
    path = Path(path)
    state = _load_folder(path, map_location) if path.is_dir() else _load_file(path, map_location)
    if kind is not None and state.get("kind") != kind:
        raise CheckpointError(f"{path}: is a {state.get('kind', 'foreign')!r} checkpoint, a {kind!r} one is needed")
    return state


def _load_folder(path: Path, map_location: str | torch.device) -> dict[str, Any]:
    if not (path / CONFIG).is_file() or not (path / WEIGHTS).is_file():
        raise CheckpointError(
            f"{path}: is a folder without {CONFIG} and {WEIGHTS}; give a checkpoint file, or a folder that "
            "scripts/convert_checkpoint.py wrote"
        )
    try:
        state = json.loads((path / CONFIG).read_text())
        state["model"] = load_file(path / WEIGHTS, device=str(map_location))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: refused, it is damaged ({error}); convert or copy it again") from error
    if (path / TOKENIZER).is_file():
        state["tokenizer"] = (path / TOKENIZER).read_bytes()
    return state


def _load_file(path: Path, map_location: str | torch.device) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        carries_code = "weights_only" in str(error).lower() or "Unsupported global" in str(error)
        reason = (
            "it holds pickled objects, which could run code; convert it first with scripts/convert_checkpoint.py"
            if carries_code
            else "it is damaged or no torch checkpoint; train or copy it again"
        )
        raise CheckpointError(f"{path}: refused, {reason}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint of this project")
    return state


def load_weights(
    module: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    source: str | Path,
    hint: str = "choose the size it was trained with",
) -> None:
    """Load `weights` into `module`, all names and shapes equal; `hint` ends the message where they are not.

    Raises:
        CheckpointError: names what is missing, unexpected, of another shape or not finite.
    """
    assert_fits(module, weights, source, hint)
    broken = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise CheckpointError(
            f"{source}: refused, {', '.join(broken[:3])}{more} hold NaN or infinite weights: the training diverged, or "
            "the file is damaged; take an earlier checkpoint or copy it again"
        )
    module.load_state_dict(weights)


def assert_fits(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str | Path, hint: str) -> None:
    """Raise as `load_weights` does, without loading; `module` may be on the meta device."""
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
        raise CheckpointError(f"{source}: does not fit the configured model: {'; '.join(problems[:3])}{more}; {hint}")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a checkpoint, as hexadecimal digits; of a folder, that of its weights."""
    path = Path(path)
    with open(path / WEIGHTS if path.is_dir() else path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def origins(path: str | Path) -> set[str]:
    """SHA-256 of a checkpoint and of the files it was made from.

    A shipped or converted folder names one; what only added to a model (`made_of`), all those of that model.
    """
    path = Path(path)
    found = {file_hash(path)}
    if path.is_dir():
        made = json.loads((path / CONFIG).read_text()).get("source") or {}
        found |= {made["sha256"]} if made.get("sha256") else set()
    else:
        try:
            made = load(path, map_location="meta")
        except CheckpointError:
            made = {}
    return found | set(made.get("made_of") or ())


STATE_FILE = "state.json"
CHECKSUMS = "sha256"


class StateFolder:
    """`path` holds the last complete state of a run; a kill at any moment leaves one to go on from.

    Args:
        path: the folder; `<name>.new` and `<name>.old` beside it are used while it is replaced.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._new = self.path.with_name(self.path.name + ".new")
        self._old = self.path.with_name(self.path.name + ".old")

    def write(self, fill: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Replace the state.

        Args:
            fill: writes its files into the folder it is given.
            state: plain values, written last as `state.json`, with a checksum of each file.

        Raises:
            SyncTalklipError: the disk refused a file; the state before is still there.
        """
        try:
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir(parents=True)
            fill(self._new)
            (self._new / STATE_FILE).unlink(missing_ok=True)
            plain = json.loads(json.dumps(state))
            stated = {**plain, CHECKSUMS: {**_checksums(self._new), STATE_FILE: _digest(plain)}}
            (self._new / STATE_FILE).write_text(json.dumps(stated, indent=1))
            shutil.rmtree(self._old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(self._old)
            self._new.rename(self.path)
            shutil.rmtree(self._old, ignore_errors=True)
        except REFUSED_WRITES as error:
            raise SyncTalklipError(
                f"{self.path}: cannot be written ({reason_of(error)}): free some space and run again"
            ) from error

    def read(self) -> dict[str, Any] | None:
        """What was written as `state`, or None where no state was ever completed.

        Raises:
            CheckpointError: the folder is there but damaged.
        """
        if not self.path.exists() and self._old.exists():
            # Killed between the two renames.
            self._old.rename(self.path)
        if not self.path.exists():
            return None
        try:
            state = json.loads((self.path / STATE_FILE).read_text())
            # States of earlier versions have none.
            stated = state.pop(CHECKSUMS, None)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise self._damaged(STATE_FILE) from error
        if stated is not None:
            found = {**_checksums(self.path), STATE_FILE: _digest(state)}
            wrong = sorted(name for name in {*stated, *found} if stated.get(name) != found.get(name))
            if wrong:
                raise self._damaged(wrong[0])
        return state

    def _damaged(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path / name}: is missing, damaged or not of this state; delete {self.path} to start the run anew, "
            "or put the whole folder back from a copy"
        )


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a folder, by their path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}
