"""Speed of inference: images a second of the U-Net as `generate.py` runs it. The shares of decoding, tracking, pasting
and encoding depend on the video; `generate.py` prints them for each.
"""

from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.benchmark.parts import Part, Rows, Section, precisions, report
from synctalklip.benchmark.timing import Budget, measure
from synctalklip.cli import CONFIGS, to_dict
from synctalklip.device import choose_device
from synctalklip.generator.fused import FusedGenerator
from synctalklip.generator.unet import UNetGenerator


def run(cfg: DictConfig) -> str:
    """Measure the sizes and precisions of `cfg.inference`, on the GPU where there is one.

    Returns:
        Markdown: images a second of each.
    """
    device = choose_device(cfg.device)
    parts = [
        Part(f"generator {size}, {precision.name}", partial(_paint, cfg, size, precision.name, device))
        for size in cfg.inference.sizes
        for precision in precisions(cfg, device)
    ]
    header = ["generator", "precision", "ms an image", "images/s", "calls"]
    return report(cfg, device, [Section(f"Painting, batches of {cfg.inference.images} images", header, parts)])


def _paint(cfg: DictConfig, size: str, precision: str, device: torch.device, budget: Budget) -> Rows:
    images, speech_dim = cfg.inference.images, cfg.inference.sizes[size]
    rng = np.random.default_rng(cfg.seed)
    poses = rng.integers(0, 256, (images, 96, 96, 3), dtype=np.uint8)
    config = to_dict(OmegaConf.load(CONFIGS / "generator" / f"{size}.yaml"))
    torch.manual_seed(cfg.seed)
    model = UNetGenerator(speech_dim, **config).to(device).eval()
    speech = torch.randn(images, speech_dim, device=device)
    fused = FusedGenerator(model, precision, device)
    (timing,) = measure([lambda: fused(poses, poses, speech)], device, budget)
    spent = timing.seconds
    return [[size, precision, f"{1000 * spent / images:.1f}", f"{images / spent:.1f}", timing.count]]
