"""Validation of a training: what is measured of which clips, and pictures whose columns show what their names say."""

import math

import numpy as np
import pytest
import torch

from synctalklip.generator.objective import Painted
from synctalklip.generator.trainer import Trainer
from synctalklip.generator.validation import AMPLIFIED, sample_panel, validate


def test_columns_of_a_panel():
    target = torch.full((3, 96, 96, 3), 100, dtype=torch.uint8)
    identity = torch.full((3, 96, 96, 3), 30, dtype=torch.uint8)
    generated = torch.full((3, 3, 96, 96), 110 / 255)
    panel = sample_panel(target, identity, generated, count=2)
    assert panel.shape == (2 * 96, 5 * 96, 3)
    columns = np.split(panel, 5, axis=1)
    shown = [(int(column[10, 10, 0]), int(column[90, 10, 0])) for column in columns]
    # Target, target without its lower half, identity, generated, and ten grey levels of difference enlarged.
    assert shown == [(100, 100), (100, 0), (30, 30), (110, 110), (10 * AMPLIFIED, 10 * AMPLIFIED)]


def test_pictures_are_measured_as_inference_pastes_them():
    """Upper halves are those of the target whatever was painted there; means are over frames, not over batches."""
    rng, painted = torch.Generator().manual_seed(0), []
    for frames, error in ((2, 0.1), (4, 0.2)):
        target = 0.2 + 0.3 * torch.rand(frames, 3, 96, 96, generator=rng)
        generated = target + error
        generated[:, :, :48] = torch.rand(frames, 3, 48, 96, generator=rng)
        painted.append(Painted(generated, target, None, {}, None))
    values = validate(painted, lambda batch: batch, lambda step: {"lip": torch.tensor(3.0)}, lambda *_: None)
    # Half of the pixels are off by 0.1 or by 0.2.
    assert values["l1"] == pytest.approx((2 * 0.05 + 4 * 0.1) / 6, rel=1e-5)
    decibels = [-10 * math.log10(error**2 / 2) for error in (0.1, 0.2)]
    assert values["psnr"] == pytest.approx((2 * decibels[0] + 4 * decibels[1]) / 6, rel=1e-5)
    assert values["lip"] == 3


@pytest.mark.trains
def test_the_limit_on_clips_of_the_expert_is_for_training_alone(configure):
    found = []
    for clips in (1, "null"):
        trainer = Trainer(configure(f"trainer.expert_clips={clips}", run=f"clips_{clips}"))
        (batch,) = trainer.data.loader("valid")
        assert len(batch["clips"]) == 2
        found.append(trainer.validate())
    assert found[0] == found[1]
