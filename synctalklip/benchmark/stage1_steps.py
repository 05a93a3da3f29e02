"""Whole training steps of stage 1: frames a second, and the share of the machine's matmul peak.

Legend: B clips, T frames, V symbols, L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.model import AVHubert, AVSyncNet, prepare_for_training
from synctalklip.benchmark.stage1_parts import clips
from synctalklip.benchmark.timing import count_flops, median_seconds
from synctalklip.data.text import EOS
from synctalklip.losses import alignment, lip_reading, masked_prediction, weighted_sum

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Per video frame at 25 Hz; transcripts of LRS3 have about five subword tokens a second.
_TOKENS_PER_FRAME = 0.2


@dataclass
class Step:
    """One update of one model on one batch.

    Attributes:
        seconds: of forward, backward and Adam.
        flops: of its matrix products and convolutions.
        peak: FLOP/s of a large matrix product in the same precision.
    """

    what: str
    precision: str
    frames: int
    seconds: float
    flops: int
    peak: float

    @property
    def utilisation(self) -> float:
        """Share of the peak, 0..1."""
        return self.flops / self.seconds / self.peak

    def row(self) -> list[str]:
        """A line of the table."""
        return [
            self.what,
            self.precision,
            f"{1000 * self.seconds:.0f}",
            f"{self.frames / self.seconds:.1f}",
            f"{self.flops / 1e12:.3f}",
            f"{self.flops / self.seconds / 1e9:.0f}",
            f"{self.peak / 1e9:.0f}",
            f"{100 * self.utilisation:.1f}",
        ]


HEADER = ["step", "precision", "ms", "frames/s", "TFLOP", "GFLOP/s", "matmul peak", "% of peak"]


def pretraining(cfg: DictConfig, size: dict[str, Any], device: torch.device) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Eq. 3 with its input masks and feature penalty; both modalities are kept, which costs most."""
    config = AVHubertConfig.from_mapping(size | {"modality_dropout": 0.0, "encoder_layerdrop": 0.0})
    model = AVHubert(config, [cfg.classes]).to(device).train()
    audio, video, padding = clips(cfg, device)
    targets = torch.randint(4, cfg.classes, padding.shape, device=device)

    def loss() -> Tensor:
        out = model(audio, video, padding, [targets])
        prediction = sum(masked_prediction(*rows) for rows in out.label_sets())
        terms = {"prediction": prediction, "features": out.features_pen * out.mask.sum()}
        return weighted_sum(terms, {"prediction": 1.0, "features": 10.0})

    return model, loss


def fine_tuning(cfg: DictConfig, size: dict[str, Any], device: torch.device) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Eq. 6: the audio-only and the video-only pass of each clip, and the decoder on the latter."""
    settings = size | {"vocab_size": cfg.vocabulary, "num_classes": [], "encoder_layerdrop": 0.0}
    model = AVSyncNet(AVSyncNetConfig.from_mapping(settings)).to(device).train()
    audio, video, padding = clips(cfg, device)
    tokens = max(2, round(_TOKENS_PER_FRAME * padding.shape[1]))
    target = torch.randint(4, cfg.vocabulary, (len(padding), tokens), device=device)
    target[:, -1] = EOS
    previous = target.roll(1, 1)

    def loss() -> Tensor:
        seen, heard = model.encode(None, video, padding), model.encode(audio, None, padding)
        terms = {
            "lip": lip_reading(model.decode(previous, seen, padding), target),
            "av": alignment(model.distance(heard, seen, padding), padding),
        }
        return weighted_sum(terms, {"lip": 1.0, "av": 1.0})

    return model, loss


def measure(
    cfg: DictConfig, kind: str, encoder: tuple[str, dict[str, Any]], precision: str, peak: float, device: torch.device
) -> Step:
    """Time one kind of step; its first call, which is not timed, is counted for its FLOPs.

    Args:
        kind: pre-training or fine-tuning.
        encoder: name and structure.
        precision: one of `PRECISIONS`.
        peak: FLOP/s of a large matrix product in that precision.
    """
    name, size = encoder
    torch.manual_seed(cfg.seed)
    model, loss = {"pre-training": pretraining, "fine-tuning": fine_tuning}[kind](cfg, size, device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    flops = count_flops(step)
    prepare_for_training(
        model if isinstance(model, AVHubert) else model.encoder.w2v_model, cfg.channels_last, cfg.compile
    )
    # The first compilation knows one batch only; nothing of it belongs to the time of a step.
    seconds = median_seconds(step, device, cfg.repeats, warm_up=3 if cfg.compile else 1)
    frames = clips(cfg, torch.device("meta"))[2].numel()
    return Step(f"{kind}, {name}, {frames} frames", precision, frames, seconds, flops, peak)
