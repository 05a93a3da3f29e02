"""AV-HuBERT and AV-SyncNet against the outputs, names and sizes of the public models."""

import pytest
import torch
from golden_vectors import TINY, TINY_DECODER, inputs, makers, needs_golden, own_shapes, shapes, vectors
from torch.nn import functional as F

from synctalklip.avsyncnet.masking import FrameMasks
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig, AVSyncNet, AVSyncNetConfig
from synctalklip.losses import masked_prediction

LARGE = {
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
LARGE_DECODER = {
    "decoder_layers": 9,
    "decoder_embed_dim": 1024,
    "decoder_ffn_embed_dim": 4096,
    "decoder_attention_heads": 8,
}


@pytest.fixture(scope="module")
def tiny() -> AVHubert:
    return makers().fill_golden(AVHubert(AVHubertConfig(**TINY), [104])).eval()


@needs_golden
@torch.no_grad()
def test_encoder_equals_the_public_one(tiny):
    stored, (audio, video, padding) = vectors("avhubert_tiny"), inputs()
    found = {
        "encoder_audio": tiny.encode(audio=audio, padding_mask=padding),
        "encoder_video": tiny.encode(video=video, padding_mask=padding),
        "encoder_both": tiny.encode(audio, video, padding),
        "encoder_both_layer1": tiny.encode(audio, video, padding, layer=1),
    }
    for name, value in found.items():
        assert (value - stored[name])[~padding].abs().max() < 1e-4, name


@needs_golden
@torch.no_grad()
def test_front_ends_equal_the_public_ones(tiny):
    stored, (audio, video, _) = vectors("avhubert_tiny"), inputs()
    audio_features = tiny.feature_extractor_audio(audio).transpose(1, 2)
    video_features = tiny.feature_extractor_video(video).transpose(1, 2)
    torch.testing.assert_close(audio_features, stored["audio_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(video_features, stored["video_features"], atol=1e-4, rtol=0)


@needs_golden
@torch.no_grad()
def test_pretraining_pass_equals_the_public_one(tiny):
    stored, (audio, video, padding) = vectors("avhubert_tiny"), inputs()
    source = torch.arange(20).repeat(2, 1)
    source[:, 3:8] = torch.arange(10, 15)
    masks = FrameMasks(stored["pretrain_mask_audio"], stored["pretrain_mask_video"], source)
    out = tiny(audio, video, padding, [stored["pretrain_targets"]], mask=masks, need_unmasked=True)
    (masked, masked_ids, unmasked, unmasked_ids) = next(out.label_sets())
    torch.testing.assert_close(masked, stored["pretrain_logits_masked"], atol=1e-4, rtol=0)
    torch.testing.assert_close(unmasked, stored["pretrain_logits_unmasked"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.features_pen, stored["features_pen"], atol=1e-4, rtol=1e-5)
    both = stored["pretrain_loss_masked_sum"] + stored["pretrain_loss_unmasked_sum"]
    torch.testing.assert_close(masked_prediction(masked, masked_ids), stored["pretrain_loss_masked_sum"])
    torch.testing.assert_close(masked_prediction(masked, masked_ids, unmasked, unmasked_ids, alpha=1.0), both)


@needs_golden
@torch.no_grad()
def test_decoder_equals_the_public_one():
    stored, (_, video, padding) = vectors("avhubert_tiny"), inputs()
    model = makers().fill_golden(AVSyncNet(AVSyncNetConfig(**TINY, **TINY_DECODER))).eval()
    logits = model.decode(stored["seq2seq_prev_tokens"], model.encode(None, video, padding), padding)
    torch.testing.assert_close(logits, stored["seq2seq_logits_video"], atol=1e-4, rtol=0)


@needs_golden
@torch.no_grad()
def test_base_encoder_equals_the_public_one():
    stored, (audio, video, padding) = vectors("avhubert_base"), inputs()
    model = makers().fill_golden(AVHubert(AVHubertConfig(), [104])).eval()
    assert own_shapes(model) == shapes("avhubert_base")
    found = model.encode(audio, video, padding)
    assert (found - stored["encoder_both"])[~padding].abs().max() < 1e-4


@needs_golden
def test_names_and_shapes_are_public(tiny):
    assert own_shapes(tiny) == shapes("avhubert_tiny")
    with torch.device("meta"):
        assert own_shapes(AVHubert(AVHubertConfig(**LARGE), [104])) == shapes("avhubert_large")
        assert own_shapes(AVSyncNet(AVSyncNetConfig(**TINY, **TINY_DECODER))) == shapes("seq2seq_tiny")


# Public fine-tuned files hold one tensor more: a number that older fairseq versions stored and never read.
@pytest.mark.parametrize(
    ("sizes", "decoder", "tensors", "parameters"),
    [
        ({}, None, 346, 103_330_280),
        ({}, {}, 504 - 1, 160_613_608),
        (LARGE, None, 538, 325_398_504),
        (LARGE, LARGE_DECODER, 774 - 1, 477_332_200),
    ],
)
def test_sizes_are_the_published_ones(sizes, decoder, tensors, parameters):
    with torch.device("meta"):
        if decoder is None:
            model = AVHubert(AVHubertConfig(**sizes), [2004])
        else:
            model = AVSyncNet(AVSyncNetConfig(**sizes, **decoder, vocab_size=1000, num_classes=[2004]))
    assert len(model.state_dict()) == tensors
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_the_unused_number_of_public_files_is_dropped():
    model = AVSyncNet(AVSyncNetConfig(**TINY, **TINY_DECODER))
    state = model.state_dict() | {"decoder.embed_positions._float_tensor": torch.zeros(1)}
    model.load_state_dict(state)


def test_decoder_reads_no_token_ahead():
    torch.manual_seed(0)
    model = AVSyncNet(AVSyncNetConfig(**TINY, **TINY_DECODER, resnet_width=2)).eval()
    embeddings, tokens = torch.randn(1, 6, 64), torch.tensor([[2, 5, 6, 7]])
    changed = tokens.clone()
    changed[0, 3] = 9
    first, second = model.decode(tokens, embeddings), model.decode(changed, embeddings)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert F.mse_loss(first[:, 3], second[:, 3]) > 0
