"""The discriminator: public values and names, logits, the lower half alone, and the read-only guard."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synctalklip.generator.discriminator import Discriminator, readonly
from synctalklip.losses import adversarial_discriminator, adversarial_generator

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors (../shared/golden) are not here")


@golden
def test_names_and_shapes_are_public():
    expected = json.loads((GOLDEN / "state_dict_discriminator.json").read_text())
    assert {name: list(value.shape) for name, value in Discriminator().state_dict().items()} == expected


@golden
def test_sigmoid_of_the_logits_equals_the_public_model():
    sys.path.insert(0, str(GOLDEN))
    import golden_weights

    sys.path.remove(str(GOLDEN))
    model = golden_weights.fill_golden(Discriminator()).eval()
    faces = golden_weights.golden_input("face", (3, 6, 96, 96), 0, 1)[:, 3:]
    with torch.no_grad():
        probability = torch.sigmoid(model(faces))
    assert np.abs(probability.numpy() - np.load(GOLDEN / "generator.npz")["disc_prob"]).max() < 1e-4


def tiny() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(width=0.125, pairs=False)


def test_only_the_lower_half_counts():
    model, faces = tiny(), torch.rand(2, 3, 96, 96)
    other = faces.clone()
    other[:, :, :48] = torch.rand(2, 3, 48, 96)
    assert torch.equal(model(faces), model(other))
    assert model(faces).shape == (2, 1)


def test_readonly_gives_the_discriminator_no_gradient_and_its_input_one():
    model, faces = tiny(), torch.rand(2, 3, 96, 96, requires_grad=True)
    next(model.parameters()).requires_grad_(False)
    with readonly(model):
        loss = adversarial_generator(model(faces))
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert faces.grad[:, :, 48:].abs().sum() > 0
    states = [parameter.requires_grad for parameter in model.parameters()]
    assert states == [False] + [True] * (len(states) - 1)


def test_readonly_is_undone_after_an_error():
    model = tiny()
    with pytest.raises(RuntimeError), readonly(model):
        raise RuntimeError
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_of_the_discriminator_are_those_of_a_clean_run():
    model, real, fake = tiny(), torch.rand(4, 3, 96, 96), torch.rand(4, 3, 96, 96)
    adversarial_discriminator(model(real), model(fake)).backward()
    clean = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    painted = fake.clone().requires_grad_()
    with readonly(model):
        term = adversarial_generator(model(painted))
    term.backward()
    adversarial_discriminator(model(real), model(painted.detach())).backward()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), clean, strict=True))


def test_a_sure_discriminator_still_gives_gradients():
    logits = torch.full((3, 1), -100.0, requires_grad=True)
    adversarial_generator(logits).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().min() > 0.3
