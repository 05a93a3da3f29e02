"""The door of the library: load, generate, report, stop."""

import numpy as np
import pytest
from test_synthesize import ToyFaces, ToyModel, fades, silence

from synctalklip.checkpoint import CheckpointError
from synctalklip.data import media
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Cancelled, Synthesizer
from synctalklip.inference.synthesizer import SHIPPED


@pytest.fixture
def inputs(tmp_path):
    media.write_video(tmp_path / "video.mp4", fades(6))
    media.write_wav(tmp_path / "speech.wav", silence(10))
    return tmp_path / "video.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4"


def test_progress_counts_both_passes_and_ends_at_its_total(inputs):
    told = []
    report = Synthesizer(ToyModel(), ToyFaces()).generate(
        *inputs, quality=30, progress=lambda *state: told.append(state)
    )
    assert report.frames == 10
    assert [done for done, _, _ in told] == list(range(1, 17))
    assert {total for _, total, _ in told} == {16}
    assert told[-1][2] == 0
    assert all(left > 0 for _, _, left in told[:-1])


@pytest.mark.parametrize("after", [0, 3, 12])
def test_a_stopped_run_leaves_no_file_and_keeps_the_old_one(inputs, after):
    synthesizer, output = Synthesizer(ToyModel(), ToyFaces()), inputs[2]
    output.write_bytes(b"older")
    asked = iter([False] * after + [True])
    with pytest.raises(Cancelled, match="stopped as asked"):
        synthesizer.generate(*inputs, cancelled=lambda: next(asked))
    assert output.read_bytes() == b"older"
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.mp4", "speech.wav", "video.mp4"]


def test_an_unknown_option_is_named(inputs):
    with pytest.raises(SyncTalklipError, match="sharpness: no such option"):
        Synthesizer(ToyModel(), ToyFaces()).generate(*inputs, sharpness=1)


def test_what_ships_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthesizer = Synthesizer.from_pretrained(detector=ToyFaces(), device="cpu")
    assert synthesizer.checkpoint == SHIPPED / "checkpoints/generator_grid"
    with pytest.raises(CheckpointError, match="nobody/nothing: there is no such checkpoint"):
        Synthesizer.from_pretrained("nobody/nothing", detector=ToyFaces())


def test_the_hub_is_asked_only_when_told_to(monkeypatch):
    asked = []

    def snapshot_download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        if repository == "some/gone":
            raise OSError("404: not found\nmore")
        return str(SHIPPED / "checkpoints/generator_grid")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    synthesizer = Synthesizer.from_pretrained("some/generator", hub=True, detector=ToyFaces(), device="cpu")
    assert asked == [("some/generator", ["model.safetensors", "config.json"])]
    assert np.isfinite(synthesizer.model.describe()["width"])
    with pytest.raises(CheckpointError, match=r"some/gone: cannot be had from the hub \(404: not found\)"):
        Synthesizer.from_pretrained("some/gone", hub=True, detector=ToyFaces())
