"""The training of stage 2 on a real small prepared folder with a real small expert."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage2_factory import assert_equal_states, assert_same_run, first_batch, run_killed, write_expert
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synctalklip import checkpoint, device, losses
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.features import normalize_roi
from synctalklip.data.media import probe
from synctalklip.data.windows import collate
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.model import load_generator
from synctalklip.generator.objective import insert_faces, weights_of
from synctalklip.generator.optim import learning_rate_factor
from synctalklip.generator.trainer import Trainer
from synctalklip.generator.unet import generator_input, to_unit

pytestmark = pytest.mark.trains


def test_killed_and_resumed_equals_straight(configure, monkeypatch):
    overrides = ["trainer.save_every=2", "trainer.valid_every=3"]
    straight = Trainer(configure(*overrides, run="straight"))
    straight.run()

    run_killed(Trainer(configure(*overrides, run="killed")), 3, monkeypatch)
    torch.manual_seed(123)
    resumed = Trainer(configure(*overrides, run="killed"))
    path = resumed.run()
    assert resumed.step == 4
    assert_same_run(straight, resumed)
    assert_equal_states(checkpoint.load(path)["model"], resumed.generator.state_dict())
    # A finished run started again does nothing.
    again = Trainer(configure(*overrides, run="killed"))
    again.run()
    assert_equal_states(again.generator.state_dict(), resumed.generator.state_dict())


def test_a_run_keeps_the_precision_it_began_with(configure, monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    Trainer(configure("trainer.steps=1", precision="auto")).run()
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert Trainer(configure("trainer.steps=2", precision="auto")).precision.name == "fp32"
    with pytest.raises(SyncTalklipError, match="the run began in fp32 and bf16 is asked for"):
        Trainer(configure("trainer.steps=2", precision="bf16"))


def test_pictures_from_the_disk_cache_train_the_same(configure, prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "prepared", copy_function=shutil.copy2)
    runs = []
    for kept in ("false", "true"):
        runs.append(Trainer(configure(f"data.prepared={folder}", f"trainer.disk_cache={kept}", run=kept)))
        runs[-1].run()
    assert_same_run(*runs)
    clips = {clip.id for dataset in runs[1].data.sets.values() for clip in dataset.reader.clips}
    for name in ("rois", "faces"):
        kept = folder / "cache" / name
        assert {str(path.relative_to(kept).with_suffix("")) for path in kept.rglob("*.npy")} == clips


def test_a_run_writes_scalars_samples_and_a_generator_that_loads(configure, prepared):
    trainer = Trainer(configure("trainer.log_every=2", "trainer.valid_every=2", precision="auto"))
    path = trainer.run()
    events = EventAccumulator(str(trainer.output / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    terms = {"rec", "rec_lower", "adv", "lip", "cav"}
    assert {f"{split}/{name}" for split in ("train", "valid") for name in terms} <= tags
    assert {f"train_weighted/{name}" for name in terms} <= tags
    assert {"train/total", "train/d_loss", "train/d_accuracy", "valid/psnr", "valid/ssim", "valid/l1"} <= tags
    raw, weighted = (events.Scalars(f"{group}/rec_lower")[0].value for group in ("train", "train_weighted"))
    assert weighted == pytest.approx(trainer.objective.weights["rec_lower"] * raw)
    assert all(np.isfinite(event.value) for tag in tags for event in events.Scalars(tag))
    assert len(list((trainer.output / "samples").glob("*.png"))) == 2
    clip = trainer.data.sets["valid"].reader.clips[0]
    for video in (trainer.output / "samples").glob("*.mp4"):
        info = probe(video)
        assert (info.width, info.height, info.frames, info.sample_rate) == (2 * 192, 192, clip.frames, 16000)

    generator = load_generator(path, roi_mode="landmark")
    batch = first_batch(trainer)
    trainer.train_step.eval()
    with torch.no_grad():
        speech = generator.encode_speech(batch["audio"], batch["padding_mask"])[batch["clip"], batch["frame"]]
        painted = generator(generator_input(batch["target"], batch["identity"]), speech)
        own = trainer.paint(batch).generated
    assert (painted - own).abs().max() < 0.05  # the trainer paints in bf16 where it can


def test_the_share_of_waiting_for_data_leaves_validation_and_saving_out(configure, monkeypatch):
    """A batch takes a second, a step three, all else a hundred."""
    clock, images = [0.0], []

    def spends(seconds, value=None):
        def work(*arguments):
            clock[0] += seconds
            return arguments[1] if value is None else value

        return work

    def advance(self, batch):
        images.append(len(batch["target"]))
        spends(3.0)(self, batch)
        self.step += 1

    monkeypatch.setattr("synctalklip.progress.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(Trainer, "_to_device", spends(1.0))
    monkeypatch.setattr(Trainer, "validate", spends(100.0, {"l1": 1.0}))
    monkeypatch.setattr(Trainer, "save", spends(100.0, {}))
    every = [f"trainer.{name}=1" for name in ("valid_every", "save_every")]
    trainer = Trainer(configure("trainer.log_every=2", "trainer.steps=3", *every))
    trainer.run()
    events = EventAccumulator(str(trainer.output / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("speed/data_share")] == [0.25, 0.25]
    rates = [event.value for event in events.Scalars("speed/images_per_second")]
    assert rates == pytest.approx([sum(images[:2]) / 8, images[2] / 4])


def test_the_discriminator_gets_its_own_gradients_only(configure):
    trainer = Trainer(configure("optim.discriminator.clip=null"))
    batch = first_batch(trainer)
    painted, _ = trainer.generator_step(batch)
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    faces = torch.cat([painted.target, painted.generated.detach()])
    real, fake = trainer.discriminator(faces).chunk(2)
    clean = torch.autograd.grad(losses.adversarial_discriminator(real, fake), list(trainer.discriminator.parameters()))
    trainer.discriminator_step(painted)
    for parameter, grad in zip(trainer.discriminator.parameters(), clean, strict=True):
        assert torch.equal(parameter.grad, grad)


@pytest.mark.parametrize("trainable", ["none", "last", "all"])
def test_what_is_frozen_neither_moves_nor_drops_out(configure, trainable):
    trainer = Trainer(configure(f"audio_encoder.trainable={trainable}", "audio_encoder.layers=1"))
    encoder = trainer.generator.audio_encoder
    before = {name: value.clone() for name, value in encoder.w2v_model.state_dict().items()}
    expert = {name: value.clone() for name, value in trainer.expert.state_dict().items()}
    trainer.train_step.train()
    for _ in range(2):
        trainer.generator_step(first_batch(trainer))
    moved = {name for name, value in encoder.w2v_model.state_dict().items() if not torch.equal(value, before[name])}
    assert_equal_states(trainer.expert.state_dict(), expert)
    assert not any(module.training for module in trainer.expert.modules())
    assert not any(name.startswith("feature_extractor_video") for name in moved)
    if trainable == "none":
        assert not moved
        assert not any(module.training for module in encoder.w2v_model.modules())
    if trainable == "last":
        assert moved
        assert all(name.startswith(("encoder.layers.1.", "encoder.layer_norm.")) for name in moved)
        assert not encoder.w2v_model.encoder.layers[0].training
        assert encoder.w2v_model.encoder.layers[1].training
    if trainable == "all":
        assert any(name.startswith("feature_extractor_audio") for name in moved)
        assert any(name.startswith("encoder.layers.0.") for name in moved)


def test_a_loss_that_is_not_finite_stops_before_the_update(configure):
    trainer = Trainer(configure())
    trainer.objective.weights["rec"] = float("inf")
    before = {name: value.clone() for name, value in trainer.generator.named_parameters()}
    with pytest.raises(SyncTalklipError, match=r"step 0: the loss is not finite \(rec "):
        trainer.generator_step(first_batch(trainer))
    assert_equal_states(dict(trainer.generator.named_parameters()), before)


def test_terms_without_weight_are_not_computed(configure, monkeypatch):
    trainer = Trainer(configure("loss.lambda_lip=0", "loss.lambda_cav=0"))

    def fails(*_):
        raise AssertionError

    monkeypatch.setattr(type(trainer.expert), "encode", fails)
    _, scalars = trainer.generator_step(first_batch(trainer))
    assert set(scalars) == {"rec", "rec_lower", "rec_mouth", "adv", "total", "g_grad_norm"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["variant=infonce"],
        ["variant=freeze", "audio_encoder.trainable=none", "loss.contrastive.anchor=video"],
        ["loss.contrastive={scope:batch,negatives:sampled,count:3}", "trainer.expert_clips=null"],
        ["loss.adversarial.form=hinge", "loss.lip.reduction=sum"],
        ["variant=no_contrastive"],
        ["variant=no_lip"],
        ["loss.lambda_adv=0"],
    ],
)
def test_variants_take_a_step(configure, overrides):
    trainer = Trainer(configure(*overrides))
    painted, scalars = trainer.generator_step(first_batch(trainer))
    scalars |= trainer.discriminator_step(painted)
    assert all(torch.isfinite(value) for value in scalars.values())


def test_only_painted_frames_of_shown_clips_carry_sync_gradients(configure):
    trainer = Trainer(configure("trainer.expert_clips=1"))
    batch = collate([trainer.data.sets["train"][0, index] for index in (0, 1)])
    painted = trainer.paint(batch)
    terms = trainer.objective.terms(painted, ["lip", "cav"])
    (gradient,) = torch.autograd.grad(terms["lip"] + terms["cav"], painted.generated)
    strength = gradient.abs().flatten(1).sum(1)
    assert (strength[batch["clip"] == 0] > 0).all()
    assert (strength[batch["clip"] == 1] == 0).all()


def test_painting_the_target_gives_back_the_mouth_rois(configure):
    trainer = Trainer(configure())
    batch = collate([trainer.data.sets["train"][0, index] for index in (0, 1, 2)])
    arguments = batch["matrices"], batch["rois"], batch["clip"], batch["frame"], batch["padding_mask"]
    video = insert_faces(to_unit(batch["target"]), *arguments)
    expected = normalize_roi(batch["rois"]).masked_fill(batch["padding_mask"][:, :, None, None], 0)
    difference = (video[:, 0] - expected).abs() * 0.165 * 255  # in grey levels
    assert difference.mean() < 1.5
    untouched = torch.ones(expected.shape[:2], dtype=torch.bool)
    untouched[batch["clip"], batch["frame"]] = False
    assert difference[untouched].max() == 0
    black = insert_faces(torch.zeros_like(to_unit(batch["target"])), *arguments)
    assert ((black[:, 0] - expected).abs() * 0.165 * 255)[batch["clip"], batch["frame"]].mean() > 30


def test_weights_name_their_terms():
    assert weights_of({"lambda_rec": 1, "lambda_adv": 0, "lip": {}}) == {"rec": 1.0}
    with pytest.raises(SyncTalklipError, match=r"loss\.lambda_recc belongs to no term"):
        weights_of({"lambda_recc": 1})


def test_learning_rate_rises_and_falls():
    rates = [learning_rate_factor(step, 100, 10, "cosine", 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert learning_rate_factor(70, 100, 0, "none", 0.0) == 1.0
    with pytest.raises(SyncTalklipError, match="decay is 'steps'"):
        learning_rate_factor(0, 1, 0, "steps", 0.0)


def test_an_expert_of_another_roi_mode_is_refused(configure, prepared, tmp_path):
    other = write_expert(tmp_path / "other.pt", prepared, "center88")
    with pytest.raises(SyncTalklipError, match="trained on 'center88' mouth ROIs, clip 's0/c000' has 'landmark'"):
        Trainer(configure(f"expert.path={other}"))


def test_the_state_of_another_run_is_refused(configure):
    Trainer(configure("trainer.steps=1")).run()
    with pytest.raises(SyncTalklipError, match="another generator"):
        Trainer(configure("generator.width=0.125")).run()
    with pytest.raises(SyncTalklipError, match="another data"):
        Trainer(configure("seed=2")).run()


def test_a_run_of_an_earlier_version_is_gone_on_from(configure):
    """What a state holds keeps its names: those below are of the first version, which did not note the precision."""
    overrides = ["trainer.ema={decay:0.9,start:0}", "trainer.save_every=2"]
    first = Trainer(configure(*overrides, "trainer.steps=2", run="run"))
    first.run()
    folder = first.folder.path
    state = json.loads((folder / "state.json").read_text())
    names = ("step", "run", "encoder", "monitor", "meters")
    (folder / "state.json").write_text(json.dumps({name: state[name] for name in names}))
    assert set(state["run"]) == {"data", "expert", "audio_encoder", "generator", "discriminator"}
    assert {name.partition(".")[0] for name in load_file(folder / "model.safetensors")} == {"generator"}
    average = checkpoint.load(folder / "ema.pt", kind="ema")["model"]
    assert_equal_states(average, first.average.module.state_dict())
    assert average.keys() == first.generator.state_dict().keys()
    resumed = Trainer(configure(*overrides, run="run"))
    resumed.resume()
    assert resumed.step == 2
    assert_same_run(first, resumed)


def test_a_learning_rate_that_was_lowered_counts_after_resuming(configure):
    Trainer(configure("trainer.steps=1", "optim.generator.lr=1e-3")).run()
    trainer = Trainer(configure("trainer.steps=2", "optim.generator.lr=1e-5"))
    trainer.resume()
    assert trainer.step == 1
    assert trainer.g_optimizer.param_groups[0]["base_lr"] == 1e-5
    assert len(trainer.g_optimizer.state) > 0


def test_checkpoints_that_do_not_fit_are_refused(configure, expert, tmp_path):
    path = Trainer(configure("trainer.steps=1")).run()
    with pytest.raises(CheckpointError, match="'landmark' mouth ROIs, these clips have 'center88'"):
        load_generator(path, roi_mode="center88")
    with pytest.raises(CheckpointError, match="a 'generator' one is needed"):
        load_generator(expert)
    state = checkpoint.load(path)
    state["config"]["width"] = 0.25
    checkpoint.save(tmp_path / "size.pt", state)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_generator(tmp_path / "size.pt")
    del state["config"]["width"]
    checkpoint.save(tmp_path / "part.pt", state)
    with pytest.raises(CheckpointError, match="description of the model"):
        load_generator(tmp_path / "part.pt")
