"""Whole training steps of stage 1: frames a second, and the share of the machine's matmul peak.

Legend: B clips, T frames, V symbols, L tokens.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.model import AVHubert, AVSyncNet, prepare_for_training
from synctalklip.benchmark.parts import Part, Rows, encoders, precisions
from synctalklip.benchmark.stage1_parts import clips, shape
from synctalklip.benchmark.timing import Budget, count_flops, matmul_peak, measure
from synctalklip.data.text import EOS
from synctalklip.device import Precision
from synctalklip.losses import alignment, lip_reading, masked_prediction, weighted_sum

HEADER = ["step", "precision", "ms", "frames/s", "TFLOP", "GFLOP/s", "matmul peak", "% of peak", "calls"]
# Per video frame at 25 Hz; transcripts of LRS3 have about five subword tokens a second.
_TOKENS_PER_FRAME = 0.2

# The loss of the first so many clips of a batch.
LossOf = Callable[[int], Tensor]


def pretraining(cfg: DictConfig, structure: dict[str, Any], device: torch.device) -> tuple[nn.Module, LossOf]:
    """Eq. 3 with its input masks and feature penalty; both modalities are kept, which costs most."""
    config = AVHubertConfig.from_mapping(structure | {"modality_dropout": 0.0, "encoder_layerdrop": 0.0})
    model = AVHubert(config, [cfg.classes]).to(device).train()
    audio, video, padding = clips(cfg, device)
    targets = torch.randint(4, cfg.classes, padding.shape, device=device)

    def loss(count: int) -> Tensor:
        out = model(audio[:count], video[:count], padding[:count], [targets[:count]])
        prediction = sum(masked_prediction(*rows) for rows in out.label_sets())
        terms = {"prediction": prediction, "features": out.features_pen * out.mask.sum()}
        return weighted_sum(terms, {"prediction": 1.0, "features": 10.0})

    return model, loss


def fine_tuning(cfg: DictConfig, structure: dict[str, Any], device: torch.device) -> tuple[nn.Module, LossOf]:
    """Eq. 6: the audio-only and the video-only pass of each clip, and the decoder on the latter."""
    settings = structure | {"vocab_size": cfg.vocabulary, "num_classes": [], "encoder_layerdrop": 0.0}
    model = AVSyncNet(AVSyncNetConfig.from_mapping(settings)).to(device).train()
    audio, video, padding = clips(cfg, device)
    tokens = max(2, round(_TOKENS_PER_FRAME * padding.shape[1]))
    target = torch.randint(4, cfg.vocabulary, (len(padding), tokens), device=device)
    target[:, -1] = EOS
    previous = target.roll(1, 1)

    def loss(count: int) -> Tensor:
        mask = padding[:count]
        seen, heard = model.encode(None, video[:count], mask), model.encode(audio[:count], None, mask)
        terms = {
            "lip": lip_reading(model.decode(previous[:count], seen, mask), target[:count]),
            "av": alignment(model.distance(heard, seen, mask), mask),
        }
        return weighted_sum(terms, {"lip": 1.0, "av": 1.0})

    return model, loss


KINDS = {"pre-training": pretraining, "fine-tuning": fine_tuning}


def training_step(model: nn.Module, loss: LossOf, precision: Precision, device: torch.device) -> Callable[[int], None]:
    """An update on the first so many clips: forward, backward and Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)

    def step(count: int) -> None:
        with precision.autocast(device):
            value = loss(count)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def parts(cfg: DictConfig, device: torch.device) -> list[Part]:
    """Each kind of step of each encoder in each precision, a line under `HEADER`."""
    batch, frames = shape(cfg)

    @functools.cache
    def peak(precision: Precision) -> float:
        dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
        return matmul_peak(device, dtype, cfg.peak_size, cfg.repeats)

    def one(what: str, kind: str, structure: dict[str, Any], precision: Precision, budget: Budget) -> Rows:
        highest = peak(precision)
        torch.manual_seed(cfg.seed)
        model, loss = KINDS[kind](cfg, structure, device)
        step = training_step(model, loss, precision, device)
        # Products and convolutions grow with the clips, so one clip is counted in place of a whole further step.
        flops = batch * count_flops(partial(step, 1))
        encoder: Any = model if isinstance(model, AVHubert) else cast(AVSyncNet, model).encoder.w2v_model
        prepare_for_training(encoder, cfg.channels_last, cfg.compile)
        # The first compilation knows one batch only; nothing of it belongs to the time of a step.
        (timing,) = measure([partial(step, batch)], device, budget, warm_up=3 if cfg.compile else 1)
        rate = flops / timing.seconds
        speeds = [f"{1000 * timing.seconds:.0f}", f"{batch * frames / timing.seconds:.1f}", f"{flops / 1e12:.3f}"]
        shares = [f"{rate / 1e9:.0f}", f"{highest / 1e9:.0f}", f"{100 * rate / highest:.1f}"]
        return [[what, precision.name, *speeds, *shares, timing.count]]

    found = []
    for name, structure in encoders(cfg).items():
        for kind in KINDS:
            for precision in precisions(cfg, device):
                what = f"{kind}, {name}, {batch * frames} frames"
                made = partial(one, what, kind, structure, precision)
                found.append(Part(f"{what}, {precision.name}", made))
    return found
