"""Pickled checkpoints of others: objects become inert, tensors stay exact, and no code runs on the way in."""

import argparse
import builtins
import os
import pickle
import struct
from collections import OrderedDict, defaultdict

import pytest
import torch
from omegaconf import OmegaConf

from synctalklip.checkpoint import CheckpointError
from synctalklip.public_weights.pickle import Inert, load_public, plain

ZIP, LEGACY = True, False


def write(path, state, zipped=ZIP):
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_tensors_and_configurations_are_read(tmp_path, zipped):
    shared = torch.randn(4, 6)
    state = {
        "model": torch.nn.BatchNorm1d(3).state_dict(),
        "views": [shared[1:3], shared.t(), torch.nn.Parameter(shared)],
        "half": torch.randn(5).half(),
        "dtype": torch.float16,
        "args": argparse.Namespace(arch="av_hubert", lr=[0.1], nested=argparse.Namespace(a=1)),
        "cfg": OmegaConf.create({"model": {"_name": "x", "sizes": [1, 2]}, "rate": "${model.sizes}", "none": None}),
        "counts": defaultdict(int, {"a": 1}),
    }
    read = load_public(write(tmp_path / "c.pt", state, zipped))
    assert all(torch.equal(read["model"][name], value) for name, value in state["model"].items())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(read["views"], state["views"]))
    assert torch.equal(read["half"], state["half"])
    assert read["dtype"] is torch.float16
    assert plain(read["args"]) == {"arch": "av_hubert", "lr": [0.1], "nested": {"a": 1}}
    assert plain(read["cfg"]) == {"model": {"_name": "x", "sizes": [1, 2]}, "rate": None, "none": None}
    assert read["counts"] == {"a": 1}
    assert not any(isinstance(value, argparse.Namespace) or OmegaConf.is_config(value) for value in read.values())


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def hostile(marker):
    """Objects whose reading would make the folder `marker`, and the name that must be refused."""
    target = str(marker)
    code = f"import os; os.mkdir({target!r})"
    return {
        "os": (Call(os.mkdir, target), "mkdir"),
        "eval": (Call(eval, f"__import__('os').mkdir({target!r})"), "builtins.eval"),
        "exec": (Call(exec, code), "builtins.exec"),
        "getattr": (Call(getattr, OrderedDict(), "__class__"), "builtins.getattr"),
        "nested": ({"a": [(1, {"b": Call(os.makedirs, target)})]}, "os.makedirs"),
        "argument": (Call(OrderedDict, [("x", Call(os.mkdir, target))]), "mkdir"),
        "key": ({Call(os.mkdir, target): 1}, "mkdir"),
        "state": (Call(argparse.Namespace, state={"a": Call(os.mkdir, target)}), "mkdir"),
        "import": (Call(builtins.__import__, "some_module"), "builtins.__import__"),
        "torch": (Call(torch.load, target), "torch.serialization.load"),
        "bytes": (Call(torch.storage._load_from_bytes, b"x"), "torch.storage._load_from_bytes"),
        "hub": (Call(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    }


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("case", list(hostile("")))
def test_code_is_refused_by_name_and_does_not_run(tmp_path, case, zipped):
    marker = tmp_path / "ran"
    payload, name = hostile(marker)[case]
    path = write(tmp_path / "c.pt", {"model": {}, "payload": payload}, zipped)
    with pytest.raises(CheckpointError, match="could run code") as caught:
        load_public(path)
    assert name in str(caught.value)
    assert str(path) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("record", range(3))
def test_code_in_the_other_records_of_an_old_file_does_not_run(tmp_path, record):
    """The older format pickles a version, facts of the machine and the names of the storages around the content."""
    path, marker = tmp_path / "c.pt", tmp_path / "ran"
    write(path, {"w": torch.zeros(2)}, LEGACY)
    pieces, content = [], path.open("rb")
    for _ in range(5):
        start = content.tell()
        unpickler = pickle.Unpickler(content)
        unpickler.persistent_load = lambda _: torch.storage.TypedStorage(2, _internal=True)
        unpickler.load()
        end = content.tell()
        pieces.append(path.read_bytes()[start:end])
    rest = path.read_bytes()[end:]
    # The magic number in front must stand, or the file is none of torch's.
    pieces[(1, 2, 4)[record]] = pickle.dumps(Call(os.mkdir, str(marker)), 2)
    path.write_bytes(b"".join(pieces) + rest)
    with pytest.raises(CheckpointError, match="mkdir, which could run code"):
        load_public(path)
    assert not marker.exists()


def raw(path, opcodes):
    """A zip checkpoint whose pickle is written by hand."""
    write(path, {"w": torch.zeros(2)})
    reader = torch._C.PyTorchFileReader(str(path))
    writer = torch._C.PyTorchFileWriter(str(path.with_suffix(".raw")))
    for name in reader.get_all_records():
        content = opcodes if name == "data.pkl" else reader.get_record(name)
        if name not in ("version", ".data/serialization_id"):
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return path.with_suffix(".raw")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TRICKS = {
    # The state of a class instead of an object: would replace a method of the stand-in.
    "class state": b"\x80\x02cargparse\nNamespace\n}" + text("__setstate__") + b"c_codecs\nencode\nsb.",
    "class slots": b"\x80\x02cargparse\nNamespace\nN}" + text("__new__") + b"c_codecs\nencode\ns\x86b.",
    # The state of a function that may be called.
    "function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}" + text("_function") + b"c_codecs\nencode\ns\x86b.",
    # The call of an object, and of what an inert function gave back.
    "object call": b"\x80\x02cargparse\nNamespace\n)\x81(" + text("x") + b"tR.",
    "result call": b"\x80\x02coperator\ngetitem\n(" + text("a") + text("b") + b"tR(" + text("x") + b"tR.",
    # Dotted names, which newer protocols look up attribute by attribute.
    "dotted": b"\x80\x04" + text("collections") + text("OrderedDict.__class__") + b"\x93.",
    "module": b"\x80\x04" + text("argparse") + text("_sys.modules") + b"\x93.",
    # A codec is a module that would be imported.
    "codec": b"\x80\x02c_codecs\nencode\n(" + text("x") + text("rot13") + b"tR.",
    # torch's own shortcut for storages, with a function of another module.
    "storage": b"\x80\x02cos\nsystemStorage\n(" + text("x") + b"tR.",
}


@pytest.mark.parametrize("trick", list(TRICKS))
def test_tricks_with_stand_ins_are_refused(tmp_path, trick):
    assert load_public(raw(tmp_path / "fine.pt", b"\x80\x02}" + text("a") + b"K\x01s.")) == {"a": 1}
    with pytest.raises(CheckpointError, match="refused"):
        load_public(raw(tmp_path / "c.pt", TRICKS[trick]))
    assert "__new__" in vars(Inert)
    # Nothing that is shared between two readings was changed.
    assert load_public(write(tmp_path / "d.pt", {"a": argparse.Namespace(x=1)}))["a"].state == {"x": 1}


def test_other_files_are_refused_with_a_reason(tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_public(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match="no torch checkpoint"):
        load_public(path)
    path.write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(CheckpointError, match="no torch checkpoint"):
        load_public(path)
    assert not (tmp_path / "ran").exists()
    for zipped in (ZIP, LEGACY):
        write(path, {"w": torch.zeros(5000)}, zipped)
        path.write_bytes(path.read_bytes()[:9000])
        with pytest.raises(CheckpointError, match="damaged or cut short"):
            load_public(path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_public(write(path, [1, 2]))
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_public(path)
