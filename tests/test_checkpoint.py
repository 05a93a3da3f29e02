"""Checkpoints: whole or not at all, and no code on the way in."""

import os
import pickle

import pytest
import torch
from media_factory import full_disk

from synctalklip import checkpoint
from synctalklip.checkpoint import CheckpointError, StateFolder
from synctalklip.errors import SyncTalklipError


def test_round_trip_keeps_tensors_and_containers(tmp_path):
    state = {"kind": "test", "model": {"w": torch.randn(3)}, "steps": [1, 2.5, "x", None, True, b"bytes"]}
    checkpoint.save(tmp_path / "c.pt", state)
    read = checkpoint.load(tmp_path / "c.pt", kind="test")
    assert torch.equal(read["model"]["w"], state["model"]["w"])
    assert read["steps"] == state["steps"]
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_objects_are_refused_with_their_place(tmp_path):
    with pytest.raises(TypeError, match=r"state\.a\[1\]"):
        checkpoint.save(tmp_path / "c.pt", {"a": [1, object()]})
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"step": 1})

    def full_disk(part):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SyncTalklipError, match="No space left"):
        checkpoint.write_atomically(path, full_disk)
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"step": 1})
    with full_disk(), pytest.raises(SyncTalklipError, match=r"c\.pt: cannot be written .*free some space"):
        checkpoint.save(path, {"step": 2, "w": torch.randn(100_000)})
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_file_in_the_place_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(SyncTalklipError, match="cannot be written"):
        checkpoint.save(tmp_path / "run" / "c.pt", {"step": 1})


def test_missing_cut_short_and_other_kinds_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"kind": "syncnet", "w": torch.zeros(1000)})
    with pytest.raises(CheckpointError, match="'syncnet' checkpoint, a 'generator' one is needed"):
        checkpoint.load(path, kind="generator")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(CheckpointError, match=r"c\.pt: refused, it is damaged"):
        checkpoint.load(path)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, writer):
    path, target = tmp_path / "c.pt", tmp_path / "ran"
    payload = {"model": Hostile(target)}
    if writer == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.load(path)
    assert not target.exists()


def test_weights_of_another_size_are_explained():
    model = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"weight is \(5, 3\), the model has \(2, 3\)"):
        checkpoint.load_weights(model, torch.nn.Linear(3, 5).state_dict(), "file.pt")
    with pytest.raises(CheckpointError, match="bias is missing"):
        checkpoint.load_weights(model, {"weight": torch.zeros(2, 3)}, "file.pt")


class TestStateFolder:
    def test_a_kill_at_any_moment_leaves_a_state(self, tmp_path):
        folder = StateFolder(tmp_path / "last")
        assert folder.read() is None
        folder.write(lambda path: (path / "a").write_text("1"), {"step": 1})

        def killed(path):
            (path / "a").write_text("2")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            folder.write(killed, {"step": 2})
        assert folder.read() == {"step": 1}
        assert (tmp_path / "last" / "a").read_text() == "1"
        # Between the two renames there is no folder of that name.
        (tmp_path / "last").rename(tmp_path / "last.old")
        assert folder.read() == {"step": 1}
        folder.write(lambda path: (path / "a").write_text("3"), {"step": 3})
        assert folder.read() == {"step": 3}
        assert [path.name for path in tmp_path.iterdir()] == ["last"]

    def test_a_damaged_state_is_named(self, tmp_path):
        folder = StateFolder(tmp_path / "last")
        folder.write(lambda path: None, {"step": 1})
        (tmp_path / "last" / "state.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"state\.json: is missing, damaged or not of this state"):
            folder.read()

    @pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove", "add", "state"])
    def test_one_wrong_byte_in_any_file_is_found(self, tmp_path, harm):
        folder = StateFolder(tmp_path / "last")
        folder.write(lambda path: (path / "model.bin").write_bytes(bytes(range(256))), {"step": 12, "mean": 0.1})
        assert folder.read() == {"step": 12, "mean": 0.1}
        file = tmp_path / "last" / "model.bin"
        if harm == "state":
            file = tmp_path / "last" / "state.json"
            file.write_text(file.read_text().replace('"step": 12', '"step": 13'))
        elif harm == "add":
            file = tmp_path / "last" / "random_states_0.pkl"
            file.write_bytes(b"of another run")
        elif harm == "remove":
            file.unlink()
        else:
            content = bytearray(file.read_bytes())
            content[100] ^= harm == "flip"
            file.write_bytes(content[: {"cut": 200, "empty": 0}.get(harm)])
        with pytest.raises(CheckpointError, match=rf"{file.name}: .*not of this state; delete .*last to start"):
            folder.read()

    def test_a_state_of_an_earlier_version_is_read(self, tmp_path):
        folder = StateFolder(tmp_path / "last")
        folder.write(lambda path: None, {"step": 1})
        (tmp_path / "last" / "state.json").write_text('{"step": 1}')
        assert folder.read() == {"step": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    model = torch.nn.Linear(3, 2)
    weights = {**model.state_dict(), "bias": torch.tensor([0.0, value])}
    with pytest.raises(CheckpointError, match=r"file\.pt: refused, bias hold NaN or infinite weights"):
        checkpoint.load_weights(model, weights, "file.pt")
