"""Training of the small SyncNet: the loss, the batches, what is learned, and exact resume."""

import json
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from synctalklip import checkpoint, device
from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.syncnet.lse import load_syncnet, score_clip
from synctalklip.syncnet.train import SegmentBatches, Trainer, augment, recolour_sound, train_syncnet, window_contrast

pytestmark = pytest.mark.trains
# The second judge, as configs/pipeline/ablation.yaml trains it.
STACKED = ["syncnet.structure=stacked", "clips.train_split=valid", "clips.valid_split=train"]


def config(corpus: Path, run: Path, *overrides: str) -> DictConfig:
    """The real config, on the toy corpus and small."""
    small = ["train.batch_size=6", "train.frames=30", "syncnet.width=8", "syncnet.embedding=32", "train.lr=3e-3"]
    where = [f"data.prepared={corpus}", "data.name=toy", f"run.dir={run}", "trainer.cpu=true", "train.shift=1"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train_syncnet", [*small, *where, *overrides])


def test_contrast_by_hand():
    video = torch.eye(3)[None]
    # Cosines are 1 on the diagonal and 0 elsewhere: log(e^2 + 2) - 2 with temperature 0.5.
    assert window_contrast(video, video, 0.5, tolerance=0).item() == pytest.approx(np.log(np.e**2 + 2) - 2, abs=1e-5)
    # With tolerance 1 only the far corner is left as a negative; the middle window has none.
    expected = 2 * (np.log(np.e**2 + 1) - 2) / 3
    assert window_contrast(video, video, 0.5, tolerance=1).item() == pytest.approx(expected, abs=1e-5)


def test_contrast_prefers_the_true_pairing():
    video = torch.nn.functional.normalize(torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert window_contrast(video, video, 0.1) < window_contrast(video, video.roll(4, 1), 0.1) - 1


def test_augmentation_treats_all_frames_alike():
    faces = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3)).astype(np.uint8).repeat(5, axis=0)
    moved = augment(faces, 4, 0.2, 0.1, np.random.default_rng(1))
    assert moved.shape == faces.shape
    assert (moved == moved[0]).all()
    assert not (moved == faces).all()


def test_batches_depend_on_the_step_alone(toy_corpus, tmp_path):
    cfg = config(toy_corpus, tmp_path)
    reader = ClipReader(read_manifest(toy_corpus, "train"), cache=True)
    one, other = (SegmentBatches(reader, cfg.train, seed=1) for _ in range(2))
    _ = one[3]
    faces, sound = one[7]
    assert faces.shape == (6, 30, 96, 96, 3)
    assert sound.shape == (6, 26, 1, 13, 20)
    assert torch.equal(faces, other[7][0])
    assert torch.equal(sound, other[7][1])
    assert not torch.equal(faces, SegmentBatches(reader, cfg.train, seed=2)[7][0])


def test_epoch_visits_every_clip_once(toy_corpus, tmp_path):
    class Counting(ClipReader):
        seen: list[int] = []  # noqa: RUF012

        def faces(self, index: int) -> np.ndarray:
            self.seen.append(index)
            return super().faces(index)

    reader = Counting(read_manifest(toy_corpus, "train"), cache=True)
    batches = SegmentBatches(reader, config(toy_corpus, tmp_path).train, seed=1)
    for step in range(4):
        batches[step]
    assert sorted(reader.seen) == list(range(24))


@pytest.mark.parametrize("structure", ["small", "stacked"])
def test_learns_to_find_the_offset(toy_corpus, tmp_path, structure):
    overrides = [f"syncnet.structure={structure}", "train.steps=60", "trainer.valid_every=30"]
    scores = train_syncnet(config(toy_corpus, tmp_path, *overrides))
    assert scores["offset_accuracy"] == 1
    assert scores["lse_d"] < scores["lse_d_still"] - 0.2
    assert scores["distance_at_zero"] < scores["distance_delayed"] - 0.2
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 60
    assert list((tmp_path / "tensorboard").iterdir())

    model, info = load_syncnet(tmp_path / "syncnet.pt")
    assert (info.structure, info.corpus, info.steps, info.split) == (structure, "toy", 60, "train")
    reader = ClipReader(read_manifest(toy_corpus, "test"))
    late = torch.roll(reader.mfcc(0), 4 * 5, 0)
    assert abs(score_clip(model, reader.faces(0), late).offset + 5) <= 1


def test_a_judge_can_learn_from_another_split_than_the_experts(toy_corpus, tmp_path):
    cfg = config(toy_corpus, tmp_path, *STACKED, "train.steps=1", "clips.valid=1")
    seen = Trainer.__init__

    def read(self, cfg, train, valid):
        assert {clip.split for clip in train.clips} == {"valid"}
        assert {clip.split for clip in valid.clips} == {"train"}
        seen(self, cfg, train, valid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", read)
        train_syncnet(cfg)
    info = load_syncnet(tmp_path / "syncnet.pt")[1]
    assert (info.structure, info.split) == ("stacked", "valid")
    assert info.name == "SyncNet (stacked, trained on toy, valid split)"


def test_killed_and_resumed_equals_straight(toy_corpus, tmp_path, monkeypatch):
    short = ["train.steps=8", "trainer.valid_every=4"]
    train_syncnet(config(toy_corpus, tmp_path / "straight", *short))

    class Killed(Exception):
        pass

    true_update = Trainer.update

    def killed_update(self, *batch):
        if self.step == 6:
            raise Killed
        return true_update(self, *batch)

    monkeypatch.setattr(Trainer, "update", killed_update)
    with pytest.raises(Killed):
        train_syncnet(config(toy_corpus, tmp_path / "resumed", *short))
    monkeypatch.setattr(Trainer, "update", true_update)
    train_syncnet(config(toy_corpus, tmp_path / "resumed", *short))

    straight, resumed = (load_syncnet(tmp_path / name / "syncnet.pt")[0] for name in ("straight", "resumed"))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_run_of_other_settings_is_not_gone_on_with(toy_corpus, tmp_path):
    short = ["train.steps=1", "clips.valid=1"]
    train_syncnet(config(toy_corpus, tmp_path / "run", *short))
    others = {"seed": "seed=2", "train": "train.lr=1e-4", "data": "clips.train=7", "syncnet": "syncnet.embedding=16"}
    for named, change in others.items():
        with pytest.raises(MetricError, match=f"belongs to a run with another {named}; choose another run.name"):
            train_syncnet(config(toy_corpus, tmp_path / "run", *short, change))
    # A run may be made longer.
    train_syncnet(config(toy_corpus, tmp_path / "run", "train.steps=2", "clips.valid=1"))


def test_non_finite_loss_stops_before_the_update(toy_corpus, tmp_path):
    reader = ClipReader(read_manifest(toy_corpus, "train"), cache=True)
    trainer = Trainer(config(toy_corpus, tmp_path), reader, reader)
    before = {name: value.clone() for name, value in trainer.syncnet.state_dict().items() if "head" in name}
    faces, sound = trainer.batches[0]
    with pytest.raises(MetricError, match="nan at step 0"):
        trainer.update(faces, sound * float("nan"))
    assert all(torch.equal(value, trainer.syncnet.state_dict()[name]) for name, value in before.items())


def test_too_short_segments_are_refused(toy_corpus, tmp_path):
    with pytest.raises(MetricError, match=r"train\.frames=6"):
        train_syncnet(config(toy_corpus, tmp_path, "train.frames=6"))


def test_windows_of_other_clips_can_be_negatives():
    video = torch.eye(4).reshape(2, 2, 4)
    # Four windows of two clips, cosines 1 and 0; the neighbour in the same clip is left out: two others are negatives.
    expected = np.log(np.e**2 + 2) - 2
    found = window_contrast(video, video, 0.5, tolerance=1, other_clips=True)
    assert found.item() == pytest.approx(expected, abs=1e-5)
    # Alone, each window has no negative at all.
    assert window_contrast(video, video, 0.5, tolerance=1).item() == pytest.approx(0, abs=1e-6)


def test_another_microphone_moves_every_cepstrum_by_a_constant():
    windows = torch.randn(6, 1, 13, 20, generator=torch.Generator().manual_seed(0))
    change = recolour_sound(windows, 1.0, np.random.default_rng(0)) - windows
    assert torch.allclose(change, change[:1, :, :, :1].expand_as(change), atol=1e-5)
    assert change[0, 0, :, 0].std() > 0.3
    assert torch.equal(recolour_sound(windows, 0.0, np.random.default_rng(0)), windows)


def test_a_run_keeps_the_precision_it_began_with(toy_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    train_syncnet(config(toy_corpus, tmp_path, "train.steps=1"))
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    train_syncnet(config(toy_corpus, tmp_path, "train.steps=2"))
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["precision"] == "fp32"
    with pytest.raises(SyncTalklipError, match="the run began in fp32 and bf16 is asked for"):
        train_syncnet(config(toy_corpus, tmp_path, "train.steps=3", "trainer.precision=bf16"))
