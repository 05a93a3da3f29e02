"""F learned on a frozen encoder: finds what belongs together, resumes exactly, is what stage 2 and Table 2 read."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from stage2_factory import write_expert

from synctalklip import checkpoint
from synctalklip.avsyncnet.distance_training import DistanceTrainer
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest, write_manifest
from synctalklip.data.media import write_wav
from synctalklip.data.text import train_tokenizer
from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.gates import WrongMouths, gates_of_expert

# Of the few clips of the toy corpus a larger F learns them by heart.
SMALL = [
    "train.passes=30",
    "train.batch_size=1",
    "train.lr=0.01",
    "train.dropout=0",
    "distance.layers=1",
    "distance.kernels=[9,5]",
]


@pytest.fixture(scope="module")
def untrained(toy_corpus, tmp_path_factory):
    """An AV-SyncNet of random weights, over clips whose mouths open with the sound."""
    folder = tmp_path_factory.mktemp("untrained")
    train_tokenizer(["bin blue at f two now"], folder / "tokenizer.model", "word")
    return write_expert(folder / "expert.pt", folder, "landmark", encoder_embed_dim=32, resnet_width=8)


@pytest.fixture
def configure(toy_corpus, untrained, tmp_path):
    def make(*overrides: str, run: str = "run"):
        fixed = [f"data.prepared={toy_corpus}", f"checkpoint={untrained}", f"run.dir={tmp_path / run}", "run.name=test"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("learn_distance", overrides=[*fixed, "device=cpu", "train.passes=3", *overrides])

    return make


@pytest.fixture(scope="module")
def learned(toy_corpus, untrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    fixed = [f"data.prepared={toy_corpus}", f"checkpoint={untrained}", f"run.dir={folder}", "run.name=test"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("learn_distance", overrides=[*fixed, "device=cpu", *SMALL])
    DistanceTrainer(cfg).run()
    return folder / "checkpoints" / "checkpoint_best.pt"


def totals(path, clips) -> dict[str, float]:
    rows = gates_of_expert(load_expert(path), clips, WrongMouths(2, 5), 200).values()
    return {name: sum(row[name] for row in rows) for name in next(iter(rows))}


def test_a_learned_f_finds_the_sound_of_a_frame(toy_corpus, untrained, learned):
    clips = read_manifest(toy_corpus, "valid")
    before, after = totals(untrained, clips), totals(learned, clips)
    assert before["window_found1"] / before["window_sounds"] < 0.3
    assert after["window_found1"] / after["window_sounds"] > 0.9
    assert after["nearer"] / after["neighbours"] > 0.7
    assert abs(after["window_offset_sum"] / after["window_near"]) < 0.2
    assert after["farther"] / after["inside"] > 0.8
    assert after["entropy_wrong"] > 2 * after["entropy_real"]
    assert after["change_outside"] < 0.25 * after["change_inside"]


@pytest.mark.parametrize("shift", [-1, 1])
def test_sound_that_is_moved_by_one_frame_is_found_there(toy_corpus, learned, tmp_path, shift):
    """Sound that comes a frame late belongs to the lips of the frame before."""
    clips = []
    for clip in read_manifest(toy_corpus, "valid"):
        moved = replace(clip, root=tmp_path)
        for source, target in zip(clip.files(), moved.files()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        write_wav(moved.wav, np.roll(ClipReader([clip]).wave(0), 640 * shift))
        clips.append(moved)
    write_manifest(tmp_path / "manifest.jsonl", clips)
    found = totals(learned, clips)
    assert found["window_offset_sum"] / found["window_near"] == pytest.approx(-shift, abs=0.25)
    assert found["window_found0"] < 0.3 * found["window_sounds"]


def stopped_after(save):
    def save_and_stop():
        save()
        raise KeyboardInterrupt

    return save_and_stop


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(configure, monkeypatch):
    whole, first = DistanceTrainer(configure(run="whole")), DistanceTrainer(configure(run="parts"))
    whole.run()
    monkeypatch.setattr(first, "save", stopped_after(first.save))
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = DistanceTrainer(configure(run="parts"))
    assert second.done == 1
    second.run()
    for name, value in whole.distance.state_dict().items():
        assert torch.equal(value, second.distance.state_dict()[name]), name
    files = [checkpoint.load(trainer.folder / "checkpoint_best.pt")["model"] for trainer in (whole, second)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert DistanceTrainer(configure(run="parts")).views == {"train": [], "valid": []}
    with pytest.raises(SyncTalklipError, match="another train"):
        DistanceTrainer(configure("train.lr=0.1", run="parts"))


def test_encoder_and_words_stay_what_they_were(untrained, learned):
    before, after = load_expert(untrained), load_expert(learned)
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name
    assert after.tokenizer.model == before.tokenizer.model
    assert after.model.config.distance_view == "front_end"


def test_a_distance_that_learns_nothing_is_refused(configure):
    with pytest.raises(SyncTalklipError, match="distance=identity has nothing to learn"):
        DistanceTrainer(configure("distance=identity"))
    with pytest.raises(SyncTalklipError, match="teaches a constant"):
        DistanceTrainer(configure("distance.loss.form=distance"))
    with pytest.raises(SyncTalklipError, match=r"distance.view is '9'"):
        DistanceTrainer(configure("distance.view='9'"))
