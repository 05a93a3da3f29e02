"""Start steps, ramps and the audio encoder that learns later; all of it survives a kill."""

import pytest
import torch
from stage2_factory import assert_same_run, first_batch, run_killed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synctalklip.errors import SyncTalklipError
from synctalklip.generator.optim import EncoderSwitch, LossSchedule
from synctalklip.generator.trainer import Trainer

TERMS = ["rec", "lip", "cav"]


def test_weights_start_and_rise():
    schedule = LossSchedule({"lip": [0, 0], "cav": [500, 1000]}, TERMS)
    assert [schedule.share("cav", step) for step in (0, 499, 500, 750, 1000, 5000)] == [0, 0, 0, 0.5, 1, 1]
    weights = {"rec": 2.0, "lip": 3.0, "cav": 4.0}
    assert schedule.at(weights, 0) == {"rec": 2.0, "lip": 3.0}
    assert schedule.at(weights, 625) == {"rec": 2.0, "lip": 3.0, "cav": 1.0}
    # A sudden start is there in full at its step.
    assert LossSchedule({"cav": [5, 5]}, TERMS).share("cav", 5) == 1


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"lipp": [0, 1]}, r"loss\.schedule\.lipp belongs to no term"),
        ({"lip": [5, 1]}, r"loss\.schedule\.lip is \[5, 1\]"),
        ({"lip": [1]}, "give .start, full."),
    ],
)
def test_bad_schedules_are_refused(schedule, message):
    with pytest.raises(SyncTalklipError, match=message):
        LossSchedule(schedule, TERMS)


def test_the_switch_waits_for_its_step_or_for_a_plateau():
    switch = EncoderSwitch(step=3, patience=None, monitor="l1")
    assert [switch.reach(step) for step in range(5)] == [False, False, False, True, True]
    switch = EncoderSwitch(step=None, patience=2, monitor="l1")
    states = []
    for value in (5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 1.0):
        switch.observe({"l1": value})
        states.append(switch.reach(10**9))
    assert states == [False, False, False, False, False, True, True]
    with pytest.raises(SyncTalklipError, match="monitor is 'loss'; the validation has l1"):
        EncoderSwitch(None, 1, "loss").observe({"l1": 1.0})
    with pytest.raises(SyncTalklipError, match="give step or patience"):
        EncoderSwitch(None, None, "l1")


def test_a_term_is_computed_from_its_start_on_and_its_weight_is_logged(configure):
    overrides = ["loss.schedule.cav=[2,4]", "loss.schedule.lip=[3,3]", "trainer.log_every=1"]
    trainer = Trainer(configure(*overrides))
    trainer.run()
    events = EventAccumulator(str(trainer.output / "tensorboard")).Reload()
    logged = {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert sorted(logged["train/rec"]) == [1, 2, 3, 4]
    assert sorted(logged["train/cav"]) == [4]
    assert sorted(logged["train/lip"]) == [4]
    full = trainer.objective.weights
    assert logged["weights/cav"] == pytest.approx({1: 0, 2: 0, 3: 0, 4: full["cav"] / 2})
    assert logged["weights/lip"] == pytest.approx({1: 0, 2: 0, 3: 0, 4: full["lip"]})
    # The validation shows every term of the run from the start.
    assert sorted(logged["valid/lip"]) == [4]


def test_no_term_at_the_first_step_is_refused(configure):
    late = [f"loss.schedule.{name}=[1,1]" for name in ("rec", "rec_lower", "rec_mouth", "adv", "lip", "cav")]
    with pytest.raises(SyncTalklipError, match="no term counts at step 0"):
        Trainer(configure(*late))


def test_the_discriminator_can_start_later(configure):
    trainer = Trainer(configure("loss.adversarial.discriminator_start=1"))
    painted, _ = trainer.generator_step(first_batch(trainer))
    assert trainer.discriminator_step(painted) == {}
    trainer.step = 1
    assert "d_loss" in trainer.discriminator_step(painted)


def test_an_encoder_that_waits_neither_moves_nor_drops_out(configure):
    trainer = Trainer(configure("audio_encoder.unfreeze.step=2", "trainer.valid_every=100"))
    encoder = trainer.generator.audio_encoder
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    trainer.train_step.train()
    for step in range(3):
        trainer.step = step
        trainer.generator_step(first_batch(trainer))
        moved = [name for name, value in encoder.named_parameters() if not torch.equal(value, before[name])]
        assert bool(moved) == (step == 2)
        assert encoder.w2v_model.encoder.training == (step == 2)


@pytest.mark.parametrize(
    ("kill", "switch"),
    [
        (3, ["audio_encoder.unfreeze.step=2"]),
        (1, ["audio_encoder.unfreeze={step:null,patience:1,monitor:l1}"]),
        (3, ["audio_encoder.unfreeze={step:null,patience:1,monitor:l1}"]),
    ],
)
def test_a_kill_on_either_side_of_the_switch(configure, monkeypatch, kill, switch):
    """The first validation, of a net that is hardly begun, is the best: the plateau comes with the second."""
    fast = ["trainer.valid_clips=1", "trainer.batch_size=5", "trainer.log_every=4"]
    overrides = [*switch, *fast, "trainer.save_every=1", "trainer.valid_every=1", "loss.schedule.cav=[1,3]"]
    straight = Trainer(configure(*overrides, run="straight"))
    straight.run()
    run_killed(Trainer(configure(*overrides, run="killed")), kill, monkeypatch)
    resumed = Trainer(configure(*overrides, run="killed"))
    resumed.run()
    assert_same_run(straight, resumed)
    assert straight.switch.learning
