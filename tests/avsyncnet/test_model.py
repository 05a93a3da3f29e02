"""Properties of the encoder, its heads and the distance that hold for any weights."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from synctalklip.avsyncnet.frontend import REACH, scale_gradient
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig, AVSyncNet, AVSyncNetConfig

ENCODERS = sorted(
    path for path in (Path(__file__).parents[2] / "configs/encoder").glob("*.yaml") if "conformer" not in path.stem
)
SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "resnet_width": 4,
    "resnet_blocks": [1, 1, 1, 1],
}
DECODER = {"decoder_layers": 1, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 64, "vocab_size": 20}


def small(num_classes=(12,), **changes) -> AVHubert:
    torch.manual_seed(0)
    return AVHubert(AVHubertConfig(**SMALL | changes), list(num_classes)).eval()


def clips(batch: int = 2, frames: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(batch, 104, frames, generator=generator)
    return audio, torch.randn(batch, 1, frames, 88, 88, generator=generator)


@pytest.mark.parametrize("modality_fuse", ["concat", "add"])
@torch.no_grad()
def test_padding_changes_nothing(modality_fuse):
    model = small(modality_fuse=modality_fuse)
    audio, video = clips(1, 9)
    padded_audio, padded_video = F.pad(audio, (0, 5)), F.pad(video, (0, 0, 0, 0, 0, 5))
    padding = torch.arange(14)[None] >= 9
    found = model.encode(padded_audio, padded_video, padding)[:, :9]
    torch.testing.assert_close(found, model.encode(audio, video), atol=1e-5, rtol=0)


@torch.no_grad()
def test_missing_modality_is_zeros_behind_its_projection():
    model = small()
    audio, video = clips()
    heard = model.feature_extractor_audio(audio)
    seen = model.feature_extractor_video(video)
    torch.testing.assert_close(model.fuse(audio, None), torch.cat([heard, torch.zeros_like(heard)], -1))
    torch.testing.assert_close(model.fuse(None, video), torch.cat([torch.zeros_like(seen), seen], -1))


def test_missing_or_dropped_modality_costs_nothing():
    model = small(modality_dropout=1.0, audio_dropout=0.0).train()
    audio, video = clips()

    def never(*_):
        raise AssertionError("the video front-end ran")

    model.feature_extractor_video.register_forward_pre_hook(never)
    model.encode(audio=audio)
    model(audio, video, generator=torch.Generator())


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_modality_dropout_drops_one_of_the_two(per):
    model = small(modality_dropout=0.5, audio_dropout=0.5, modality_dropout_per=per).train()
    generator = torch.Generator().manual_seed(0)
    counts, mixed = torch.zeros(3), 0
    for _ in range(400):
        audio, video = model._draw_modalities(5, generator)
        assert (audio | video).all()
        counts += torch.stack([(audio & video).sum(), (~audio).sum(), (~video).sum()])
        mixed += int((audio & video).any() and not (audio & video).all())
    torch.testing.assert_close(counts / 2000, torch.tensor([0.5, 0.25, 0.25]), atol=0.07, rtol=0)
    assert (mixed > 0) == (per == "sample")


@torch.no_grad()
def test_dropped_samples_equal_missing_ones():
    model = small()
    audio, video = clips()
    keep_audio, keep_video = torch.tensor([True, False]), torch.tensor([False, True])
    found = model.fuse(audio, video, (keep_audio, keep_video))
    torch.testing.assert_close(found[:1], model.fuse(audio[:1], None))
    torch.testing.assert_close(found[1:], model.fuse(None, video[1:]))


@torch.no_grad()
def test_layer_counts_from_one_and_lacks_the_last_norm():
    model = small()
    audio, _ = clips()
    last = model.encode(audio, layer=2)
    torch.testing.assert_close(model.encoder.layer_norm(last), model.encode(audio))
    with pytest.raises(ValueError, match="layers 1 to 2"):
        model.encode(audio, layer=0)
    with pytest.raises(ValueError, match="layers 1 to 2"):
        model.encode(audio, layer=3)


@torch.no_grad()
def test_five_channels_equal_the_3d_convolution():
    encoder = small().feature_extractor_video.resnet
    _, video = clips()
    conv, norm, relu = encoder.frontend3D
    naive = conv(video).transpose(1, 2).flatten(0, 1)
    naive = encoder.trunk(F.max_pool2d(relu(norm(naive)), 3, 2, 1)).view(2, 12, -1)
    torch.testing.assert_close(encoder(video), naive, atol=1e-5, rtol=1e-4)


def test_logits_equal_the_broadcast_cosine():
    model = small(num_classes=(12, 7))
    audio, video = clips()
    padding = torch.arange(12)[None] >= torch.tensor([[12], [9]])
    targets = [torch.randint(0, classes, (2, 12)) for classes in (12, 7)]
    generator = torch.Generator().manual_seed(3)
    out = model(audio, video, padding, targets, need_unmasked=True, generator=generator)
    assert not (out.mask & padding).any()
    # The same rows by the naive form: every frame against every class.
    hidden = {}
    model.encoder.register_forward_hook(lambda _, __, x: hidden.update(x=x))
    model(audio, video, padding, targets, generator=torch.Generator().manual_seed(3))
    projected = model.final_proj(hidden["x"]).chunk(2, -1)
    codebooks = model.label_embs_concat.split([12, 7])
    for index, (x, codes) in enumerate(zip(projected, codebooks)):
        naive = torch.cosine_similarity(x[:, :, None], codes[None, None], dim=-1) / 0.1
        torch.testing.assert_close(out.logits_masked[index], naive[out.mask])
        torch.testing.assert_close(out.logits_unmasked[index], naive[~out.mask & ~padding])
        assert torch.equal(out.targets_masked[index], targets[index][out.mask])


def test_masking_leaves_the_callers_tensors_alone():
    model = small().train()
    audio, video = clips()
    before = audio.clone(), video.clone()
    model(audio, video)
    assert torch.equal(audio, before[0])
    assert torch.equal(video, before[1])


@pytest.mark.parametrize("masking_type", ["input", "feature"])
def test_pretraining_trains_every_weight_that_is_used(masking_type):
    same = {"mask_prob_image": 0.8, "mask_length_image": 10} if masking_type == "feature" else {}
    model = small(masking_type=masking_type, encoder_layerdrop=0.0, modality_dropout=0.0, **same).train()
    audio, video = clips(frames=30)
    out = model(audio, video, targets=[torch.zeros(2, 30, dtype=torch.long)], generator=torch.Generator())
    (out.logits_masked[0].square().mean() + out.features_pen).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_gradient_is_scaled_and_the_value_is_not():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = scale_gradient(x, 0.1)
    assert torch.equal(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2,), 0.1))


def test_front_end_gradients_follow_feature_grad_mult():
    def gradient(scale):
        model = small(feature_grad_mult=scale)
        audio, _ = clips()
        model.encode(audio).sum().backward()
        return model.feature_extractor_audio.proj.weight.grad

    torch.testing.assert_close(gradient(0.1), gradient(1.0) * 0.1)
    assert gradient(0.0) is None


def test_input_without_either_modality_or_of_two_lengths_is_refused():
    model = small()
    audio, video = clips()
    with pytest.raises(ValueError, match="both missing"):
        model.encode()
    with pytest.raises(ValueError, match="one is needed"):
        model.encode(audio[..., :5], video)


@torch.no_grad()
def test_views_are_places_of_the_encoder():
    torch.manual_seed(0)
    model = AVHubert(AVHubertConfig(**SMALL)).eval()
    audio, video = clips()
    padding = torch.zeros(audio.shape[0], audio.shape[2], dtype=torch.bool)
    padding[0, -2:] = True
    features = model.feature_extractor_video.resnet(video)
    for view in ("front_end", "1", "last"):
        for sides in ((audio, None), (None, video)):
            last, seen = model.views(*sides, padding, view)
            assert torch.equal(last, model.encode(*sides, padding))
            assert torch.equal(seen, model.view(*sides, padding, view))
        assert torch.equal(seen, model.view_of_features(features, padding, view))
    assert torch.equal(model.view(audio), model.encode(audio))
    assert torch.equal(model.view(audio, view="1"), model.encode(audio, layer=1))
    assert torch.equal(model.view(video=video, view="front_end"), model.feature_extractor_video(video))
    with pytest.raises(ValueError, match="give one of them"):
        model.view(audio, video)


@torch.no_grad()
def test_the_transformer_tells_a_frame_of_its_neighbours_and_the_front_end_does_not():
    """What the view before the transformer is for: a changed frame moves no frame beyond the kernels."""
    torch.manual_seed(0)
    video = clips()[1]
    changed = video.clone()
    frames = video.shape[2]
    changed[:, :, 0] = 0
    local = {"distance_head": "conv", "distance_shared": False, "distance_kernels": [3, 3]}
    for view, beyond in (("front_end", False), ("last", True)):
        model = AVSyncNet(AVSyncNetConfig(**SMALL, **DECODER, distance_view=view, **local)).eval()
        moved = (model.seen(video) != model.seen(changed)).any(-1).any(0)
        assert moved[0]
        assert bool(moved[REACH + 2 : frames].any()) == beyond


def test_the_plain_distance_has_no_state_and_an_unknown_view_is_refused():
    plain = AVSyncNet(AVSyncNetConfig(**SMALL, **DECODER))
    assert not [name for name in plain.state_dict() if name.startswith("distance")]
    for view in ("middle", "0", "3"):
        with pytest.raises(ValueError, match=f"distance.view is '{view}'"):
            AVSyncNet(AVSyncNetConfig(**SMALL, **DECODER, distance_view=view))


@pytest.mark.parametrize("path", ENCODERS, ids=lambda path: path.stem)
def test_encoder_configs_build(path):
    settings = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    config = AVSyncNetConfig.from_mapping(settings)
    assert {name: getattr(config, name) for name in settings} == settings, "a key is unknown to the config class"
    with torch.device("meta"):
        AVSyncNet(config)


def test_unknown_choices_are_refused_by_name():
    with pytest.raises(ValueError, match="modality_fuse is 'sum'"):
        AVHubert(AVHubertConfig(**SMALL, modality_fuse="sum"))
