"""Reads the pickled checkpoints of public systems; nothing that they carry runs.

fairseq pickles whole objects beside the weights (dictionaries, a tokenizer, configurations, meters). Here each of
their classes becomes an `Inert` that keeps what was stored and does nothing; tensors are rebuilt; every other name
in the file is refused. Files of torch's zip format and of the one before it (torch 1.5 and older) are read.
"""

import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from synctalklip.checkpoint import CheckpointError

# Both formats begin so: a zip entry, and the pickled magic number of the older format.
_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Classes of these packages are configurations, vocabularies, counters and numbers.
_INERT_PACKAGES = frozenset({"fairseq", "avhubert", "omegaconf", "sentencepiece", "numpy", "typing"})
# Names of one class or function each; the types stand in omegaconf's metadata and are never called.
_INERT_NAMES = frozenset(
    {"argparse.Namespace", "operator.getitem", "pathlib.PosixPath"}
    | {f"builtins.{name}" for name in "dict list tuple str unicode int long float bool bytes object".split()}
)
# Pickles of protocol 2 name modules as Python 2 did.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Inert:
    """Stands for a pickled object.

    Attributes:
        origin: full name of its class.
        arguments: what it was constructed with.
        state: what it held.
    """

    origin = ""
    arguments: tuple = ()
    state: Any = None

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes anything, does nothing."""

    # A class in the place of an object would call this without `self`, and fail.
    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of pickled subclasses of dict are not kept."""

    def append(self, item: Any) -> None:
        """Nor are those of subclasses of list."""

    def extend(self, items: Any) -> None:
        """As `append`."""


class _Allowed:
    """A function that a pickle may call, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
    # Hooks and the wish for a gradient are not taken over.
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


def _encode(text: str, encoding: str = "latin-1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes as {encoding!r} text")
    return text.encode("latin-1")


_CALLABLE = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _Allowed(lambda *_: {}),
    "builtins.set": _Allowed(lambda items=(): set(items)),
    "_codecs.encode": _Allowed(_encode),
    "torch.Size": _Allowed(lambda sizes=(): tuple(sizes)),
    "torch.device": _Allowed(lambda *_: None),
    "torch._utils._rebuild_tensor": _Allowed(_tensor),
    "torch._utils._rebuild_tensor_v2": _Allowed(_tensor),
    "torch._utils._rebuild_parameter": _Allowed(lambda data, *_: data),
}


class _Forbidden(Exception):
    """The file names something that is on no list."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = _RENAMED.get(module, module)
        full = f"{module}.{name}"
        if full in _CALLABLE:
            return _CALLABLE[full]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if module.split(".")[0] in _INERT_PACKAGES or full in _INERT_NAMES:
            return type("Inert", (Inert,), {"origin": full})
        raise _Forbidden(full)


class _RestrictedPickle:
    """What `torch.load` asks of a pickle module; it takes every pickle of a file through these two."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def load_public(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that may hold pickled objects of the public systems.

    Args:
        path: file of `torch.save`. The tensors of a zip file stay on the disk until they are used.

    Returns:
        The dict in the file: tensors, plain containers, and `Inert` where an object was; see `plain`.

    Raises:
        CheckpointError: missing, cut short, no dict, or naming anything that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    with path.open("rb") as stream:
        begin = stream.read(len(_LEGACY))
    zipped = begin.startswith(_ZIP)
    # torch would unpack an archive of its oldest format into files.
    if not zipped and (begin != _LEGACY or tarfile.is_tarfile(path)):
        raise CheckpointError(f"{path}: is no torch checkpoint; download or copy it again")
    try:
        # torch.load would hand such a file to its compiler instead of the unpickler.
        if zipped and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise _Forbidden("TorchScript")
        state = torch.load(
            path, map_location="cpu", pickle_module=_RestrictedPickle, weights_only=False, mmap=zipped or None
        )
    except _Forbidden as error:
        raise CheckpointError(
            f"{path}: refused, it holds {error}, which could run code when it is read and which no public "
            "checkpoint needs; get the file from its authors"
        ) from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: refused, it is damaged or cut short ({str(error).splitlines()[0] if str(error) else error!r}); "
            "download or copy it again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state


def plain(value: Any) -> Any:
    """Containers and scalars of a pickled configuration: a Namespace, an omegaconf one, or plain already.

    What has no plain form becomes None; so do omegaconf's references (`${...}`).
    """
    if isinstance(value, Inert):
        return plain(_content(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, str) and value.startswith("${"):
        return None
    return value if isinstance(value, bool | int | float | str | bytes) else None


def _content(stored: Inert) -> Any:
    state = stored.state if isinstance(stored.state, dict) else {}
    for name in ("_content", "_val"):
        if name in state:
            return state[name]
    if stored.origin == "argparse.Namespace":
        return state
    # A member of an enumeration is its class called with the value.
    return stored.arguments[0] if len(stored.arguments) == 1 and not state else None
