"""Eqs. 3 to 6 as fairseq sees them: values by hand, what is summed, what stays still."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf
from torch.nn import functional

from synctalklip.avsyncnet.criterion import (
    LipReadingAlignmentConfig,
    LipReadingAlignmentCriterion,
    MaskedPredictionConfig,
    MaskedPredictionCriterion,
    NonFiniteLoss,
    ctc,
)
from synctalklip.avsyncnet.fairseq_models import FairseqAVHubert, FairseqAVSyncNet
from synctalklip.avsyncnet.model import AVHubertConfig, AVSyncNetConfig
from synctalklip.data.dataset import ClipDataset
from synctalklip.data.manifest import read_manifest
from synctalklip.data.text import EOS, PAD, Tokenizer
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import frame_contrast, lip_reading
from synctalklip.metrics.avs import alignment_counts

pytestmark = pytest.mark.trains

SMALL = {
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "resnet_width": 4,
    "resnet_blocks": [1, 1, 1, 1],
}
DECODER = {
    "decoder_layers": 1,
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 16,
    "decoder_attention_heads": 2,
    "vocab_size": 16,
    "num_classes": [],
}
WEIGHTS = {
    "lambda_lip": 1.0,
    "lambda_av": 0.5,
    "lambda_audio": 0.0,
    "lambda_ctc": 0.0,
    "label_smoothing": 0.1,
    "reduction": "sentence_mean",
    "av_form": "distance",
    "av_min_gap": 1,
    "av_margin": 1.0,
    "detach": "none",
    "av_updates": [0, 0],
    "freeze_updates": 0,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def data(prepared):
    tokenizer = Tokenizer.load(prepared / "tokenizer.model")
    dataset = ClipDataset(read_manifest(prepared, "train")[:3], tokenizer=tokenizer)
    return tokenizer, dataset.collate([dataset[index] for index in range(3)])


def criterion(tokenizer, **options):
    task = SimpleNamespace(tokenizer=tokenizer, target_dictionary=None)
    return LipReadingAlignmentCriterion(OmegaConf.structured(LipReadingAlignmentConfig(**{**WEIGHTS, **options})), task)


def model(with_ctc=False, **options):
    torch.manual_seed(0)
    return FairseqAVSyncNet(AVSyncNetConfig(**SMALL, **DECODER, **options), with_ctc)


def logged(reduce, *outputs):
    with metrics.aggregate(new_root=True) as found:
        reduce([dict(output) for output in outputs])
    return found.get_smoothed_values()


def test_eq6_is_the_weighted_sum_of_eqs_4_and_5(data):
    tokenizer, batch = data
    net = model().eval()
    loss, size, log = criterion(tokenizer)(net, batch)
    out = net(**batch["net_input"])
    mask = batch["net_input"]["padding_mask"]
    lip = lip_reading(out.lip_logits, batch["target"], 0.1, "sentence_mean", PAD)
    sides = net.encode(batch["net_input"]["audio"], None, mask), net.encode(None, batch["net_input"]["video"], mask)
    unit = [functional.normalize(side, dim=-1) for side in sides]
    distance = (unit[0] - unit[1]).abs().sum(-1)[~mask].mean()
    assert size == 3
    assert loss.item() == pytest.approx(3 * (lip + 0.5 * distance).item(), rel=1e-5)
    values = logged(LipReadingAlignmentCriterion.reduce_metrics, log)
    assert values["lip_loss"] == pytest.approx(lip.item(), abs=1e-3)
    assert values["av_loss"] == pytest.approx(distance.item(), abs=1e-3)
    assert values["av_weighted"] == pytest.approx(0.5 * distance.item(), abs=1e-3)
    assert values["paired"] == pytest.approx(distance.item(), abs=1e-3)


def test_padding_changes_nothing(data, prepared):
    tokenizer, batch = data
    dataset = ClipDataset(read_manifest(prepared, "train")[:3], tokenizer=tokenizer)
    net = model().eval()
    alone = [criterion(tokenizer)(net, dataset.collate([dataset[i]])) for i in range(3)]
    together = criterion(tokenizer)(net, batch)
    # L_lip is a mean over clips, L_av one over frames.
    assert together[2]["lip_loss"] == pytest.approx(sum(log["lip_loss"] for _, _, log in alone), rel=1e-4)
    frames = batch["frames"].tolist()
    by_frames = sum(log["av_loss"] * count for (_, _, log), count in zip(alone, frames)) / sum(frames)
    assert together[2]["av_loss"] / 3 == pytest.approx(by_frames, rel=1e-4)


@pytest.mark.parametrize("form", ["cross_entropy", "margin"])
@pytest.mark.parametrize("view", ["front_end", "1", "last"])
def test_eq5_with_negatives_is_the_contrast_of_the_view(data, form, view):
    tokenizer, batch = data
    settings = {"distance_view": view, "distance_head": "conv", "distance_shared": False, "distance_kernels": [5, 3]}
    net = model(**settings).eval()
    audio, video, mask = (batch["net_input"][name] for name in ("audio", "video", "padding_mask"))
    _, _, log = criterion(tokenizer, av_form=form, av_min_gap=2, av_margin=3.0)(net, batch)
    table = net.distance.table(net.heard(audio, mask), net.seen(video, mask))
    expected = frame_contrast(table, mask, form, 2, 3.0)
    assert log["av_loss"] / 3 == pytest.approx(expected.item(), rel=1e-4)
    net.train()
    criterion(tokenizer, av_form=form)(net, batch)[0].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.distance.parameters())


@pytest.mark.parametrize(
    ("detach", "moved"),
    [("none", {"audio", "video"}), ("audio", {"video"}), ("video", {"audio"}), ("both", set())],
)
def test_detached_side_is_not_moved_by_the_distance(data, detach, moved):
    tokenizer, batch = data
    learned = {"distance_head": "linear", "distance_learn_tau": True}
    net = model(**learned).train()
    loss, _, _ = criterion(tokenizer, lambda_lip=0.0, detach=detach, av_form="cross_entropy")(net, batch)
    loss.backward()
    assert net.distance.log_tau.grad.abs() > 0
    encoder = net.encoder.w2v_model
    ends = {"audio": encoder.feature_extractor_audio.proj.weight, "video": encoder.feature_extractor_video.proj.weight}
    assert {side for side, weight in ends.items() if weight.grad is not None and weight.grad.abs().sum() > 0} == moved


def test_frozen_encoder_gets_no_gradient_and_keeps_its_statistics(data):
    tokenizer, batch = data
    net = model().train()
    before = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    net.set_num_updates(1)
    criterion(tokenizer, freeze_updates=2)(net, batch)[0].backward()
    assert all(parameter.grad is None for parameter in net.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.encoder.state_dict().items())
    assert net.encoder.training
    assert net.decoder.embed_tokens.weight.grad.abs().sum() > 0
    net.set_num_updates(2)
    criterion(tokenizer, freeze_updates=2)(net, batch)[0].backward()
    assert all(
        parameter.grad is not None for name, parameter in net.encoder.named_parameters() if "mask_emb" not in name
    )


def test_lip_reading_alone_does_not_hear_while_training(data):
    tokenizer, batch = data
    net = model().train()
    _, _, log = criterion(tokenizer, lambda_av=0.0)(net, batch)
    assert "av_loss" not in log
    _, _, log = criterion(tokenizer, lambda_av=0.0)(net.eval(), batch)
    assert log["av_weighted"] == 0
    assert log["pairs"] == int(batch["frames"].sum())


def test_distance_is_phased_in(data):
    tokenizer, batch = data
    phased = criterion(tokenizer, av_updates=[10, 20])
    assert [phased.lambda_av(update) for update in (0, 10, 15, 20, 99)] == [0, 0, 0.25, 0.5, 0.5]
    net = model().train()
    assert "av_loss" not in phased(net, batch)[2]
    net.set_num_updates(15)
    _, _, log = phased(net, batch)
    assert log["av_weighted"] == pytest.approx(0.25 * log["av_loss"])
    with pytest.raises(SyncTalklipError, match="av_updates"):
        criterion(tokenizer, av_updates=[5, 2])
    with pytest.raises(SyncTalklipError, match=r"distance.loss.form is 'triplet'"):
        criterion(tokenizer, av_form="triplet")


def test_helpers_of_the_tiny_size(data):
    tokenizer, batch = data
    loss, _, log = criterion(tokenizer, lambda_audio=0.5, lambda_ctc=1.0)(model(with_ctc=True).eval(), batch)
    parts = [log[f"{name}_weighted"] for name in ("lip", "av", "audio", "ctc", "audio_ctc")]
    assert loss.item() == pytest.approx(sum(parts), rel=1e-5)
    assert all(part > 0 for part in parts)


def test_ctc_of_one_path_by_hand():
    # Two frames, one token a: the paths are aa, -a, a-.
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 2.0]]])
    p = logits.softmax(-1)[0]
    expected = -math.log(p[0, 4] * p[1, 4] + p[0, 0] * p[1, 4] + p[0, 4] * p[1, 0])
    value = ctc(logits, torch.tensor([[4, EOS, PAD]]), torch.zeros(1, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    padded = torch.cat([logits, torch.full((1, 3, 5), 9.0)], 1)
    mask = torch.tensor([[False, False, True, True, True]])
    assert ctc(padded, torch.tensor([[4, EOS, PAD]]), mask).item() == pytest.approx(expected, rel=1e-5)


def test_alignment_counts_by_hand():
    distances = torch.tensor([[0.0, 2.0, 5.0], [1.0, 3.0, 4.0], [1.0, 9.0, 2.0]])
    counts = alignment_counts(distances)
    assert counts["paired_sum"] == 5
    assert counts["unpaired_sum"] == 22
    # Nearest are 0 (its own), 0 (one off), 0 (two off).
    assert (counts["aligned0"], counts["aligned1"], counts["pairs"], counts["unpaired_pairs"]) == (1, 2, 3, 6)


def test_word_errors_are_those_of_the_corpus(data):
    outputs = [
        {"word_errors": 100.0, "words": 1, "loss": 1.0, "nsentences": 1, "correct_tokens": 1, "target_tokens": 2},
        {"word_errors": 0.0, "words": 9, "loss": 4.0, "nsentences": 2, "correct_tokens": 8, "target_tokens": 8},
    ]
    values = logged(LipReadingAlignmentCriterion.reduce_metrics, *outputs)
    assert values["wer"] == pytest.approx(10.0)
    assert values["accuracy"] == pytest.approx(0.9)
    assert values["loss"] == pytest.approx(5 / 3, abs=1e-3)


def test_non_finite_loss_names_term_and_clips(data):
    tokenizer, batch = data
    net = model().train()
    broken = {**batch, "net_input": {**batch["net_input"], "audio": batch["net_input"]["audio"] * float("nan")}}
    with pytest.raises(NonFiniteLoss, match=r"av=nan.*clips \[0, 1, 2\]"):
        criterion(tokenizer)(net, broken)


def test_choices_are_checked(data):
    with pytest.raises(SyncTalklipError, match="sideways"):
        criterion(data[0], detach="sideways")


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_eq3_counts_the_frames_that_are_predicted(prepared, alpha):
    dataset = ClipDataset(read_manifest(prepared, "train")[:3])
    batch = dataset.collate([dataset[index] for index in range(3)])
    torch.manual_seed(0)
    shape = batch["net_input"]["padding_mask"].shape
    batch["labels"] = [torch.randint(4, 12, shape)]
    net = FairseqAVHubert(AVHubertConfig(**SMALL, modality_dropout=0.0), [12]).eval()
    cfg = OmegaConf.structured(MaskedPredictionConfig(alpha=alpha, features_pen=10.0, precision="fp32"))
    objective = MaskedPredictionCriterion(cfg, SimpleNamespace(target_dictionary=None))
    torch.manual_seed(3)
    loss, size, log = objective(net, batch)
    torch.manual_seed(3)
    out = net(targets=batch["labels"], need_unmasked=True, **batch["net_input"])
    rows = [(out.logits_masked[0], out.targets_masked[0]), (out.logits_unmasked[0], out.targets_unmasked[0])]
    sums = [functional.cross_entropy(*row, reduction="sum").item() for row in rows]
    counts = [len(row[1]) for row in rows]
    assert size == counts[0] + alpha * counts[1]
    assert sum(counts) == int(batch["frames"].sum())
    assert loss.item() == pytest.approx(sums[0] + alpha * sums[1] + 10 * size * out.features_pen.item(), rel=1e-4)
    values = logged(MaskedPredictionCriterion.reduce_metrics, log)
    assert values["masked_loss"] == pytest.approx(sums[0] / counts[0], abs=1e-3)
    accuracy = rows[0][0].argmax(-1).eq(rows[0][1]).float().mean().item()
    assert values["masked_accuracy"] == pytest.approx(accuracy, abs=1e-3)
