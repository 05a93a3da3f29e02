"""The generator made fast paints what the generator paints."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.generator.fused import FusedGenerator
from synctalklip.generator.model import TalkingFaceGenerator
from synctalklip.generator.unet import UPPER_ROWS, UNetGenerator, generator_input

SIZES = {
    "narrow public": {"width": 0.0625},
    "tiny": {"width": 0.125, "least_channels": 16, "residuals": "few", "output": "blend", "speech": "levels"},
}


def trained(**sizes) -> UNetGenerator:
    """With statistics of batch norms that are not those of a new one."""
    torch.manual_seed(0)
    model = UNetGenerator(16, **sizes)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 6, 96, 96), torch.randn(4, 16))
    return model.eval()


@pytest.fixture
def batch():
    draw = np.random.default_rng(0)
    poses = draw.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    return poses, poses[::-1].copy(), torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def plain(model, poses, identities, speech):
    with torch.no_grad():
        painted = model(generator_input(torch.from_numpy(poses), torch.from_numpy(identities)), speech)
    return painted[:, :, UPPER_ROWS:].permute(0, 2, 3, 1).numpy() * 255


@pytest.mark.parametrize("size", SIZES)
def test_fp32_paints_the_same_and_bf16_nearly(batch, size):
    model = trained(**SIZES[size])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = plain(model, *batch)
    assert expected.std() > 10
    assert np.abs(FusedGenerator(model, "fp32")(*batch) - expected).max() < 0.51
    away = np.abs(FusedGenerator(model, "bf16")(*batch) - expected)
    # What configs/generate.yaml relies on when it chooses bf16 by itself.
    assert away.mean() < 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_makes_it_fast_is_there():
    fast = FusedGenerator(trained(**SIZES["tiny"]), "bf16").model
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fast.modules())
    assert {value.dtype for value in fast.state_dict().values()} == {torch.bfloat16}
    kernels = [p for p in fast.parameters() if p.dim() == 4 and min(p.shape) > 1]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_the_audio_encoder_is_shared_and_left_alone(batch):
    encoder = AVHubertConfig(encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=16, resnet_width=4)
    encoder = replace(encoder, encoder_attention_heads=2, conv_pos=4, conv_pos_groups=2)
    sizes = {"width": 0.0625, "least_channels": 4, "residuals": "full", "output": "paint", "speech": "bottleneck"}
    model = TalkingFaceGenerator(encoder, "landmark", **sizes).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = FusedGenerator(model, "bf16")
    assert fused.model.audio_encoder is model.audio_encoder
    assert fused(*batch).shape == (3, 48, 96, 3)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
