"""The U-Net: public values and names, its input, its narrow form."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synctalklip.errors import SyncTalklipError
from synctalklip.generator.unet import UNetGenerator, generator_input, mask_lower_half

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors (../shared/golden) are not here")


@pytest.fixture
def fill():
    sys.path.insert(0, str(GOLDEN))
    import golden_weights

    sys.path.remove(str(GOLDEN))
    return golden_weights


@golden
def test_names_and_shapes_are_public():
    expected = json.loads((GOLDEN / "state_dict_generator.json").read_text())
    assert {name: list(value.shape) for name, value in UNetGenerator(64).state_dict().items()} == expected


@golden
def test_frames_equal_the_public_model(fill):
    stored = np.load(GOLDEN / "generator.npz")
    model = fill.fill_golden(UNetGenerator(64)).eval()
    faces = fill.golden_input("face", (3, 6, 96, 96), 0, 1)
    speech = fill.golden_input("speech", (20, 2, 64)).transpose(0, 1).reshape(40, 64)[stored["index"]]
    with torch.no_grad():
        frames = model(faces, speech)
    assert np.abs(frames.numpy() - stored["frames"]).max() < 1e-4


def test_tiny_keeps_the_interface_and_shrinks():
    model = UNetGenerator(32, width=0.25, residuals="few").eval()
    with torch.no_grad():
        frames = model(torch.rand(2, 6, 96, 96), torch.randn(2, 32))
    assert frames.shape == (2, 3, 96, 96)
    assert 0 <= frames.min() <= frames.max() <= 1
    assert sum(p.numel() for p in model.parameters()) < 2.5e6


def test_speech_reaches_every_part_of_the_frame():
    model = UNetGenerator(8, width=0.125, residuals="few").eval()
    speech = torch.randn(1, 8, requires_grad=True)
    for half in (slice(0, 48), slice(48, 96)):
        frames = model(torch.rand(1, 6, 96, 96), speech)
        (gradient,) = torch.autograd.grad(frames[:, :, half].sum(), speech)
        assert gradient.abs().sum() > 0


def test_frames_of_a_batch_do_not_mix_in_eval_mode():
    model = UNetGenerator(8, width=0.125).eval()
    faces, speech = torch.rand(3, 6, 96, 96), torch.randn(3, 8)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        torch.testing.assert_close(model(faces, speech)[order], model(faces[order], speech[order]))


def test_input_is_pose_then_identity_without_the_lower_half():
    target = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    identity = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    faces = generator_input(target, identity)
    assert faces.shape == (2, 6, 96, 96)
    assert faces[:, :3, 48:].abs().max() == 0
    torch.testing.assert_close(faces[0, 1, 10, 20], target[0, 10, 20, 1] / 255)
    torch.testing.assert_close(faces[1, 5, 90, 3], identity[1, 90, 3, 2] / 255)


def test_masking_leaves_its_argument_alone():
    faces = torch.rand(1, 3, 96, 96)
    before = faces.clone()
    mask_lower_half(faces)
    assert torch.equal(faces, before)


def test_unknown_residuals_are_refused():
    with pytest.raises(ValueError, match="residuals is 'some'"):
        UNetGenerator(8, residuals="some")


def test_blend_lays_paint_over_pose_and_identity():
    torch.manual_seed(0)
    model = UNetGenerator(8, width=0.1, output="blend").eval()
    faces, speech = torch.rand(2, 6, 96, 96), torch.randn(2, 8)
    head = model.output_block[1]
    known = torch.cat([faces[:, :3, :48], faces[:, 3:, 48:]], dim=2)
    with torch.no_grad():
        head.bias[3] = -1e4
        assert torch.equal(model(faces, speech), known)
        head.bias[3] = 1e4
        assert (model(faces, speech) - known).abs().mean() > 0.1


def test_speech_reaches_every_level_and_the_public_structure_has_no_such_maps():
    model = UNetGenerator(8, width=0.1, speech="levels").eval()
    assert len(model.level_maps) == len(model.face_decoder_blocks)
    assert not list(UNetGenerator(8, width=0.1).level_maps)
    faces = torch.rand(1, 6, 96, 96)
    loss = model(faces, torch.randn(1, 8)).sum()
    loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in model.level_maps)


@pytest.mark.parametrize("wrong", [{"output": "stamp"}, {"speech": "nowhere"}, {"residuals": "some"}])
def test_unknown_structures_are_named(wrong):
    with pytest.raises(SyncTalklipError, match=f"generator.{next(iter(wrong))}"):
        UNetGenerator(8, width=0.1, **wrong)
