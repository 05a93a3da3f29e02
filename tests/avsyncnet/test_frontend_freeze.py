"""Stages of the video front-end that keep what they learned."""

import pytest
import torch
from torch import nn

from synctalklip.avsyncnet.frontend import ResEncoder
from synctalklip.errors import SyncTalklipError

pytestmark = pytest.mark.trains

VIDEO = torch.randn(2, 1, 5, 88, 88, generator=torch.Generator().manual_seed(0))


def encoder(relu: str = "relu") -> ResEncoder:
    """With batch statistics that are not those of a fresh model."""
    torch.manual_seed(0)
    net = ResEncoder(8, [1, 1, 1, 1], relu)
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2.0)
    return net


@pytest.mark.parametrize("relu", ["relu", "prelu"])
def test_frozen_stages_compute_what_they_did(relu):
    net, frozen = encoder(relu).eval(), encoder(relu)
    frozen.freeze(5)
    with torch.no_grad():
        torch.testing.assert_close(frozen.eval()(VIDEO), net(VIDEO), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(frozen.train()(VIDEO), net(VIDEO), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stages", [0, 1, 2, 4])
def test_only_later_stages_learn(stages):
    net = encoder()
    net.freeze(stages)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(VIDEO).square().mean().backward()
    parts = ["frontend3D", "trunk.layer1", "trunk.layer2", "trunk.layer3", "trunk.layer4"]
    for number, part in enumerate(parts):
        held = number < stages
        for name, parameter in net.get_submodule(part).named_parameters():
            assert (parameter.grad is None) == held, (part, name)
        for name, buffer in net.get_submodule(part).named_buffers():
            if name.endswith("running_mean"):
                assert torch.equal(buffer, before[f"{part}.{name}"]) == held, (part, name)


def test_a_number_of_stages_that_it_has_not_is_refused():
    with pytest.raises(SyncTalklipError, match="frozen_stages is 6: the front-end has 5 stages"):
        encoder().freeze(6)
