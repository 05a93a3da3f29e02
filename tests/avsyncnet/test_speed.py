"""Memory layout and compilation change neither numbers nor names."""

import copy

import pytest
import torch
from stage1_factory import PRETRAIN, configure

from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.avsyncnet.hubert import AVHubert
from synctalklip.avsyncnet.model import prepare_for_training
from synctalklip.errors import SyncTalklipError

pytestmark = pytest.mark.trains

SMALL = {
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "resnet_width": 4,
    "resnet_blocks": [1, 1],
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "modality_dropout": 0.0,
}


def gradients(model: AVHubert, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Of a training pass over `shape` clips and frames."""
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(shape[0], 104, shape[1], generator=generator)
    video = torch.randn(shape[0], 1, shape[1], 88, 88, generator=generator)
    padding = torch.arange(shape[1])[None] >= torch.tensor([shape[1], *[shape[1] - 2] * (shape[0] - 1)])[:, None]
    model.zero_grad()
    model.encode(audio, video, padding).square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("options", [(True, False), (True, True)], ids=["channels_last", "compile"])
def test_options_change_no_number_and_no_name(options):
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = AVHubert(AVHubertConfig(**SMALL)).train()
    fast = copy.deepcopy(plain)
    prepare_for_training(fast, *options, backend="eager")
    assert list(fast.state_dict()) == list(plain.state_dict())
    for shape in ((2, 7), (3, 5)):
        expected, found = gradients(plain, shape), gradients(fast, shape)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value)


def test_a_machine_without_compiler_is_told_so(monkeypatch):
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    getattr(cpp_builder.cpp_compiler_search, "cache_clear", lambda: None)()
    with pytest.raises(SyncTalklipError, match=r"install g\+\+"):
        prepare_for_training(AVHubert(AVHubertConfig(**SMALL)), False, True)


def test_gradients_of_a_distributed_run_are_flat(monkeypatch):
    model = AVHubert(AVHubertConfig(**SMALL)).train()
    prepare_for_training(model, True, False)
    assert not all(value.is_contiguous() for value in gradients(model, (2, 5)).values())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = AVHubert(AVHubertConfig(**SMALL)).train()
    prepare_for_training(model, True, False)
    assert all(value.is_contiguous() for value in gradients(model, (2, 5)).values())


def test_training_takes_the_options(prepared, tmp_path):
    from synctalklip import checkpoint
    from synctalklip.avsyncnet.expert import load_encoder
    from synctalklip.avsyncnet.train import train

    runs = {}
    for value in ("false", "true"):
        more = [*PRETRAIN, "fairseq.optimization.max_update=1", f"fairseq.model.channels_last={value}"]
        path = train(configure(prepared, tmp_path / value, *more)) / "checkpoint_last.pt"
        runs[value] = checkpoint.load(path)["model"]
        load_encoder(path)
    assert runs["true"].keys() == runs["false"].keys()
    for name, value in runs["false"].items():
        torch.testing.assert_close(runs["true"][name], value, atol=1e-3, rtol=1e-3, msg=name)


def test_flat_half_precision_weights_are_refused_before_training(prepared, tmp_path):
    from synctalklip.avsyncnet.train import train

    both = ["fairseq.model.channels_last=true", "fairseq.common.fp16=true"]
    with pytest.raises(SyncTalklipError, match="channels_last does not go with"):
        train(configure(prepared, tmp_path / "run", *PRETRAIN, "fairseq.optimization.max_update=1", *both))
