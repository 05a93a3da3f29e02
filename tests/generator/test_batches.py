"""Features of frozen networks that are kept: the same values, gradients and runs as without."""

import pytest
import torch
from stage2_factory import assert_equal_states, assert_same_run, first_batch, run_killed

from synctalklip.generator.batches import ClipCache
from synctalklip.generator.trainer import Trainer

pytestmark = pytest.mark.trains


def trainer_of(configure, *overrides, megabytes, run):
    return Trainer(configure(*overrides, f"trainer.feature_cache_mb={megabytes}", run=run))


@pytest.mark.parametrize("clips", [1, None])
def test_the_expert_sees_the_same_and_sends_the_same_gradients(configure, clips):
    found = []
    for megabytes in (0, 64):
        limit = f"trainer.expert_clips={'null' if clips is None else clips}"
        trainer = trainer_of(configure, limit, "windows.max_windows=2", megabytes=megabytes, run=f"run{megabytes}")
        batch = first_batch(trainer)
        assert bool(batch["padding_mask"].any())
        for _ in range(2):  # once to fill the cache, once to use it
            painted = trainer.paint(batch)
            painted.generated = painted.generated.detach().requires_grad_()
            seen = painted.video_embeddings[~painted.padding_mask]
            (gradient,) = torch.autograd.grad(seen.square().sum(), painted.generated)
        found.append((seen.detach(), gradient, painted.expert_heard[~painted.padding_mask]))
    for kept, computed in zip(*found):
        torch.testing.assert_close(kept, computed, atol=1e-5, rtol=1e-4)
    assert found[0][1].abs().sum() > 0


def test_a_frozen_encoder_speaks_the_same_and_hears_silence(configure):
    silent = ["windows.silence={probability: 0.5, threshold_db: -0.001}", "audio_encoder.trainable=none"]
    found = []
    for megabytes in (0, 64):
        trainer = trainer_of(configure, *silent, megabytes=megabytes, run=f"run{megabytes}")
        batches = list(zip(range(4), trainer.data.loader("train")))
        assert any(any(batch["altered"]) for _, batch in batches)
        found.append(
            [trainer.paint(batch).sound.masked_fill(batch["padding_mask"][..., None], 0) for _, batch in batches]
        )
    for kept, computed in zip(*found):
        torch.testing.assert_close(kept, computed, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_begins_to_learn_is_not_read_from_the_cache(configure):
    late = ["audio_encoder.unfreeze.step=2", "trainer.steps=4"]
    trainer = trainer_of(configure, *late, megabytes=64, run="run")
    before = {name: value.clone() for name, value in trainer.generator.audio_encoder.state_dict().items()}
    trainer.run()
    after = trainer.generator.audio_encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert trainer._known_speech(first_batch(trainer)) is None


@pytest.mark.parametrize("overrides", [[], ["audio_encoder.trainable=none"]], ids=["all", "none"])
def test_killed_and_resumed_equals_straight(configure, monkeypatch, overrides):
    options = [*overrides, "trainer.steps=4", "trainer.save_every=2"]
    straight = trainer_of(configure, *options, megabytes=64, run="straight")
    straight.run()
    run_killed(trainer_of(configure, *options, megabytes=64, run="killed"), 3, monkeypatch)
    resumed = trainer_of(configure, *options, megabytes=64, run="killed")
    resumed.run()
    assert_same_run(straight, resumed)


def test_what_does_not_fit_is_computed_every_time():
    cache, made = ClipCache(limit=70), []

    def make(name):
        def run():
            made.append(name)
            return torch.full((8,), float(len(name)))

        return run

    for name in ("a", "bb", "ccc", "a", "bb", "ccc"):
        assert cache.get("lips" if name == "a" else "sound", name, make(name))[0] == len(name)
    assert made == ["a", "bb", "ccc", "ccc"]
    assert cache.held == 64
    # A kind that is forgotten makes room; the others stay.
    cache.forget("sound")
    assert cache.held == 32
    cache.get("sound", "ccc", make("ccc"))
    assert_equal_states({"x": cache.get("sound", "ccc", make("never"))}, {"x": torch.full((8,), 3.0)})
    assert torch.equal(cache.get("lips", "a", make("never")), torch.full((8,), 1.0))
    assert "never" not in made
