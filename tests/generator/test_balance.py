"""Weights by a share of the reconstruction's gradient: measured once, kept, written down."""

import pytest
import torch
from omegaconf import OmegaConf
from stage2_factory import assert_same_run, first_batch, run_killed

from synctalklip import losses
from synctalklip.errors import SyncTalklipError
from synctalklip.generator import balance, trainer
from synctalklip.generator.trainer import Trainer

pytestmark = pytest.mark.trains

SHARES = ["loss.shares.cav=0.5", "loss.shares.lip=0.25"]


def lower_gradient(term: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(term, pixels, retain_graph=True)[0][:, :, 48:]


def test_weighted_gradients_are_the_share_of_the_reconstructions(configure, monkeypatch):
    monkeypatch.setattr(trainer, "BATCHES", 1)
    run = Trainer(configure(*SHARES))
    before = dict(run.objective.weights)
    run.train_step.train()
    run.generator_step(first_batch(run))
    weights = run.objective.weights
    assert weights["cav"] != before["cav"]
    assert {name: weights[name] for name in ("rec", "adv")} == {name: before[name] for name in ("rec", "adv")}

    fresh = Trainer(configure(run="fresh"))
    fresh.train_step.eval()
    painted = fresh.paint(first_batch(fresh))
    painted.generated = painted.generated.detach().requires_grad_()
    target = painted.target
    drawn = (
        before["rec"] * losses.reconstruction(painted.generated, target)
        + before["rec_lower"] * losses.reconstruction(painted.generated, target, "lower")
        + before["rec_mouth"] * losses.reconstruction(painted.generated, target, "mouth")
    )
    strength = lower_gradient(drawn, painted.generated).norm()
    terms = fresh.objective.terms(painted, ["cav", "lip"])
    for name, share in (("cav", 0.5), ("lip", 0.25)):
        ratio = lower_gradient(weights[name] * terms[name], painted.generated).norm() / strength
        assert ratio.item() == pytest.approx(share, rel=1e-3)


def test_measuring_moves_nothing_but_the_weight(configure):
    """One step with a measured weight is the step with that weight given."""
    measured = Trainer(configure("loss.shares.cav=0.5", run="measured"))
    measured.train_step.train()
    measured.generator_step(first_batch(measured))
    given = Trainer(configure(f"loss.lambda_cav={measured.objective.weights['cav']!r}", run="given"))
    given.train_step.train()
    given.generator_step(first_batch(given))
    assert_same_run(measured, given)


def test_a_resumed_run_keeps_what_was_measured(configure, monkeypatch):
    late = [*SHARES, "loss.schedule.cav=[1,1]", "trainer.save_every=2"]
    straight = Trainer(configure(*late, run="straight"))
    straight.run()
    run_killed(Trainer(configure(*late, run="killed")), 3, monkeypatch)

    def fails(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(trainer, "gradient_norms", fails)
    resumed = Trainer(configure(*late, run="killed"))
    resumed.run()
    assert_same_run(straight, resumed)
    assert resumed.objective.weights == straight.objective.weights
    assert [resumed.balance.state()[name]["step"] for name in ("lip", "cav")] == [0, 1]
    other = Trainer(configure("loss.shares.cav=0.1", "loss.shares.lip=0.25", run="killed"))
    other.resume()
    assert list(other.balance.state()) == ["lip"]


def test_the_saved_configuration_holds_the_measured_weight(configure):
    config = configure(*SHARES, "trainer.steps=1")
    file = trainer.Path(config["run"]["dir"]) / "config.yaml"
    file.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), file)
    run = Trainer(config)
    run.run()
    saved = OmegaConf.load(file).loss
    assert (saved.lambda_cav, saved.lambda_lip) == (run.objective.weights["cav"], run.objective.weights["lip"])
    assert saved.lambda_rec == config["loss"]["lambda_rec"]


def test_a_term_that_is_off_stays_off_and_senseless_shares_are_refused(configure):
    run = Trainer(configure("variant=no_contrastive", "loss.shares.cav=0.5"))
    assert run.balance.shares == {}
    for override, sentence in (
        ("loss.shares.cav=0", "above 0"),
        ("+loss.shares.rec=0.5", "no reconstruction"),
        ("+loss.shares.cat=0.5", "loss.shares.cat"),
    ):
        with pytest.raises(SyncTalklipError, match=sentence):
            Trainer(configure(override))
    nothing = ["loss.lambda_rec=0", "loss.lambda_rec_lower=0", "loss.lambda_rec_mouth=0", "loss.shares.cav=0.5"]
    with pytest.raises(SyncTalklipError, match="give one of its terms a lambda"):
        Trainer(configure(*nothing))


def test_norms_are_those_of_the_painted_half(configure):
    run = Trainer(configure())
    painted = run.paint(first_batch(run))
    painted.generated = painted.generated.detach().requires_grad_()
    run.objective.weights = {"rec": 2.0}
    norms = balance.gradient_norms(run.objective, painted, ["rec_lower"])
    count = painted.generated.numel()
    # Eq. 7 has gradients of one size, 1 / pixels: twice that on half of them, or all of it on half as many.
    expected = {"rec": 2 * (count / 2) ** 0.5 / count, "rec_lower": (count / 2) ** 0.5 / (count / 2)}
    assert {name: value.item() for name, value in norms.items()} == pytest.approx(expected, rel=1e-3)
