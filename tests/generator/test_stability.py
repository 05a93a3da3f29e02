"""What keeps the training of two networks against each other stable: penalties, averages, checks, the monitor."""

import logging
import math

import pytest
import torch
from stage2_factory import assert_equal_states, assert_same_run, first_batch, run_killed
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from synctalklip import checkpoint, losses
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import Discriminator, readonly
from synctalklip.generator.monitor import CollapseMonitor, Meters, chance_loss, mouth_motion
from synctalklip.generator.networks import compile_networks, moving_average, update_average
from synctalklip.generator.optim import FiniteGuard, adam
from synctalklip.generator.trainer import Trainer

pytestmark = pytest.mark.trains

EVERYTHING = [
    "trainer.ema={decay:0.9,start:1}",
    "discriminator.spectral_norm=true",
    "loss.adversarial={r1:1.0,r1_every:2}",
    "audio_encoder.unfreeze.step=2",
    "loss.schedule.lip=[1,3]",
    "windows.silence={probability:0.5,threshold_db:-3}",
    "trainer.save_every=2",
    "trainer.log_every=3",
    "trainer.batch_size=10",
    "trainer.valid_clips=1",
]


def test_gradient_penalty_by_hand():
    """D(x) = sum(w x + x^2) has the gradient w + 2x."""
    images, weight = torch.rand(4, 3, 2, 2, requires_grad=True), torch.rand(3, 2, 2)
    logits = (images * weight + images.square()).flatten(1).sum(1, keepdim=True)
    expected = (weight + 2 * images).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(losses.gradient_penalty(logits, images), expected)


def test_the_discriminator_gets_the_gradients_of_its_loss_and_the_penalty_only(configure):
    overrides = ["optim.discriminator.clip=null", "loss.adversarial.r1=10", "loss.adversarial.r1_every=2"]
    trainer = Trainer(configure(*overrides))
    painted, _ = trainer.generator_step(first_batch(trainer))
    assert all(parameter.grad is None for parameter in trainer.discriminator.parameters())
    discriminator, real = trainer.discriminator, painted.target.clone().requires_grad_()
    logits_real, logits_fake = discriminator(torch.cat([painted.target, painted.generated.detach()])).chunk(2)
    loss = losses.adversarial_discriminator(logits_real, logits_fake)
    loss = loss + 10 / 2 * 2 * losses.gradient_penalty(discriminator(real), real)
    clean = torch.autograd.grad(loss, list(discriminator.parameters()))
    scalars = trainer.discriminator_step(painted)
    for parameter, grad in zip(discriminator.parameters(), clean, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert scalars["d_r1"] > 0
    trainer.step = 1
    assert "d_r1" not in trainer.discriminator_step(painted)


def test_spectral_norm_bounds_layers_loads_and_stays_put_while_the_generator_steps():
    torch.manual_seed(0)
    plain, normed = Discriminator(0.0625, False), Discriminator(0.0625, False, spectral_norm=True)
    assert set(plain.state_dict()) == set(Discriminator(0.0625, False, spectral_norm=False).state_dict())
    faces = torch.rand(2, 3, 96, 96)
    for _ in range(50):
        normed(faces)
    for layer in normed.modules():
        if isinstance(layer, nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1, rel=0.05)
    before = {name: value.clone() for name, value in normed.state_dict().items()}
    with readonly(normed):
        normed(faces.requires_grad_()).sum().backward()
    assert normed.training
    assert_equal_states(normed.state_dict(), before)
    assert faces.grad.any()
    again = Discriminator(0.0625, False, spectral_norm=True)
    checkpoint.load_weights(again, normed.state_dict(), "d.pt")
    assert torch.equal(again.eval()(faces), normed.eval()(faces))


def test_moving_average_by_hand_with_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[2].requires_grad_(False)
    average = moving_average(model, decay=0.75, start=1)
    seen = []
    for step in (1, 2, 3):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
        model(torch.randn(5, 3))
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        update_average(average, model, copy=step <= 1)
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        second = 0.75 * seen[0][name] + 0.25 * seen[1][name]
        torch.testing.assert_close(average.module.state_dict()[name], 0.75 * second + 0.25 * seen[2][name])
    assert average.module.state_dict()["1.num_batches_tracked"] == 3
    assert torch.equal(average.module[2].weight, model[2].weight)
    assert not average.module.training
    with pytest.raises(SyncTalklipError, match="0 < decay < 1"):
        moving_average(model, 1.0, 0)


def test_the_average_is_what_is_validated_and_saved(configure, monkeypatch):
    trainer = Trainer(configure("trainer.ema={decay:0.5,start:0}", "trainer.steps=2"))
    path = trainer.run()
    saved = checkpoint.load(path)["model"]
    assert_equal_states(saved, trainer.average.module.state_dict())
    assert any(not torch.equal(saved[name], value) for name, value in trainer.generator.state_dict().items())
    own = trainer.validate()
    trainer.generator.load_state_dict(saved)
    trainer.average = None
    assert own == pytest.approx(trainer.validate(), rel=1e-5)


def test_everything_at_once_survives_a_kill(configure, monkeypatch):
    straight = Trainer(configure(*EVERYTHING, run="straight"))
    straight.run()
    run_killed(Trainer(configure(*EVERYTHING, run="killed")), 3, monkeypatch)
    resumed = Trainer(configure(*EVERYTHING, run="killed"))
    path = resumed.run()
    assert_same_run(straight, resumed)
    assert_equal_states(checkpoint.load(path)["model"], straight.average.module.state_dict())


class TestGuard:
    def step(self, guard: FiniteGuard, parameter: nn.Parameter, optimizer, step: int, scale: float) -> None:
        optimizer.zero_grad()
        loss = scale * parameter.sum()
        loss.backward()
        guard.admit(optimizer, step, loss, parameter.grad.norm(), {"rec": loss})
        optimizer.step()

    def test_late_looks_leave_the_weights_as_they_were(self):
        """As on a GPU: the update is refused on the device, the sentence comes at the next look."""
        parameter = nn.Parameter(torch.ones(3))
        optimizer = adam([parameter], {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.0})
        guard = FiniteGuard(at_once=False, advice="Lower it.")
        self.step(guard, parameter, optimizer, 0, 1.0)
        guard.settle()
        moved = parameter.detach().clone()
        assert not torch.equal(moved, torch.ones(3))
        self.step(guard, parameter, optimizer, 1, math.inf)
        assert torch.equal(parameter, moved)
        self.step(guard, parameter, optimizer, 2, 1.0)
        with pytest.raises(SyncTalklipError, match=r"step 1: .* not finite \(rec inf, gradient inf\).*Lower it"):
            guard.settle()

    def test_a_cpu_looks_at_once(self):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = adam([parameter], {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.0})
        with pytest.raises(SyncTalklipError, match="step 7"):
            self.step(FiniteGuard(True, ""), parameter, optimizer, 7, math.nan)
        assert torch.equal(parameter, torch.ones(3))


class Waits(TorchDispatchMode):
    """Notes operations that make a GPU wait for the processor: looking at values, selecting by a mask."""

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket._qualified_op_name
        masks = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            self.found.add(name)
        if name in ("aten::index", "aten::index_put", "aten::index_put_") and masks:
            self.found.add(name)
        return operation(*arguments, **(options or {}))


def unwatched(function):
    def call(*arguments, **named):
        with _disable_current_modes():
            return function(*arguments, **named)

    return call


@pytest.mark.parametrize("overrides", [[], EVERYTHING], ids=["plain", "everything"])
def test_a_step_looks_at_no_value(configure, overrides, monkeypatch):
    trainer = Trainer(configure(*overrides, "trainer.expert_clips=1"))
    trainer.guard.at_once = False
    batch = first_batch(trainer)
    # Layerdrop draws its lots on the processor, which waits for nothing.
    trainer.generator.audio_encoder.w2v_model.encoder.layerdrop = 0.0
    # So does the counter of the moving average, which lies on the processor on every machine.
    monkeypatch.setattr("synctalklip.generator.trainer.update_average", unwatched(update_average))
    with Waits() as waits:
        trainer.advance(batch)
        trainer.advance(batch)
    assert not waits.found


def test_meters_average_what_came_and_go_on_where_they_stopped():
    meters = Meters(torch.device("cpu"))
    meters.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    meters.add({"a": torch.tensor(2.0)})
    other = Meters(torch.device("cpu"))
    other.restore(meters.state())
    other.add({"a": torch.tensor(6.0)})
    assert other.means() == {"a": 3.0, "b": 10.0}
    other.clear()
    assert other.means() == {}


GOOD = {
    "d_loss": 0.7,
    "d_accuracy_real": 0.9,
    "d_accuracy_fake": 0.8,
    "d_logit_real": 2.0,
    "d_logit_fake": -1.0,
    "motion": 0.02,
    "motion_target": 0.03,
}


def watch(patience: int = 3, rewinds: int = 0) -> CollapseMonitor:
    return CollapseMonitor(patience, 0.005, 20.0, 0.05, rewinds, 0.5, "non_saturating")


class TestMonitor:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"d_loss": 1.3863}, "loss is that of guessing (1.386 of 1.386)"),
            ({"d_accuracy_real": 1, "d_accuracy_fake": 1, "d_logit_real": 15, "d_logit_fake": -9}, "by 24.0 logits"),
            ({"motion": 0.001}, "mouth stands still"),
        ],
    )
    def test_each_alarm_comes_once_after_its_patience(self, change, words):
        monitor = watch()
        said = [monitor.look(GOOD | change) for _ in range(6)]
        assert [len(sentences) for sentences in said] == [0, 0, 1, 0, 0, 0]
        assert words in said[2][0]

    def test_a_training_that_learns_gives_no_alarm(self):
        monitor = watch(1)
        assert not monitor.look(GOOD)
        assert monitor.healthy
        # Interrupted conditions start anew; no discriminator, no alarm about it.
        monitor = watch(2)
        looks = [GOOD | {"motion": 0.0}, GOOD, GOOD | {"motion": 0.0}, {"total": 1.0}]
        assert not any(monitor.look(means) for means in looks)

    def test_chance_of_every_form(self):
        expected = {"non_saturating": 2 * math.log(2), "paper": 2 * math.log(2), "hinge": 2.0, "lsgan": 0.5}
        assert {form: chance_loss(form) for form in expected} == pytest.approx(expected)

    def test_state_and_rewinds(self):
        monitor = watch(2, rewinds=2)
        monitor.look(GOOD | {"motion": 0.0})
        assert not monitor.healthy
        other = watch(2, rewinds=2)
        other.restore(monitor.state())
        assert other.look(GOOD | {"motion": 0.0})
        other.rewind()
        assert other.healthy
        assert other.d_lr_scale == 0.5
        assert other.may_rewind
        other.rewind()
        assert not other.may_rewind

    def test_rewinds_without_a_monitor_are_refused(self):
        with pytest.raises(SyncTalklipError, match="rewinds needs a monitor"):
            CollapseMonitor(None, 0.005, 20.0, 0.05, 1, 0.5, "hinge")

    def test_motion_by_hand(self):
        faces = torch.zeros(6, 3, 96, 96)
        faces[1], faces[2], faces[4] = 0.1, 0.3, 0.9
        clip, frame = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([3, 4, 5, 9, 9, 10])
        counted = torch.tensor([True] * 5 + [False])
        assert mouth_motion(faces, clip, frame, counted) == pytest.approx((0.1 + 0.2) / 2)
        assert mouth_motion(faces, clip, torch.zeros(6), counted) == 0


REWIND = [
    "trainer.monitor={patience:1,chance:0.9,rewinds:1}",
    "trainer.log_every=2",
    "trainer.save_every=1",
    "trainer.batch_size=5",
    "trainer.valid_clips=1",
]


def test_a_run_goes_back_to_its_last_good_state_once(configure, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    trainer = Trainer(configure(*REWIND, run="straight"))
    steps = []
    whole = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self, batch: (steps.append(self.step), whole(self, batch))[1])
    trainer.run()
    monkeypatch.undo()
    # The look after step 2 raises the alarm; the last good save is that of step 1.
    assert steps == [0, 1, 1, 2, 3]
    assert trainer.monitor.rewound == 1
    assert trainer.d_optimizer.param_groups[0]["lr"] == pytest.approx(trainer.g_optimizer.param_groups[0]["lr"] / 8)
    assert "back to step 1, learning rate of the discriminator x 0.5" in caplog.text
    assert caplog.text.count("that of guessing") == 2
    # Killed after the rewind, it does not go back again.
    run_killed(Trainer(configure(*REWIND, run="killed")), 3, monkeypatch)
    resumed = Trainer(configure(*REWIND, run="killed"))
    resumed.run()
    assert_same_run(trainer, resumed)


def test_a_compiled_network_gives_the_same_and_keeps_its_names():
    torch.manual_seed(0)
    discriminator, faces = Discriminator(0.0625, False), torch.rand(3, 3, 96, 96)
    names, logits = list(discriminator.state_dict()), discriminator(faces)
    compile_networks("eager", discriminator)
    torch.testing.assert_close(discriminator(faces), logits)
    assert list(discriminator.state_dict()) == names
    with pytest.raises(SyncTalklipError, match=r"trainer\.compile is 'indctor'; use null or a backend"):
        compile_networks("indctor", discriminator)
