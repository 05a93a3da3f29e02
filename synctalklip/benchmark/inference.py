"""Speed of networks in use: images a second of the U-Net as `generate.py` runs it, and the SyncNets' scores of a clip.

The shares of decoding, tracking, pasting and encoding depend on the video; `generate.py` prints them for each.

The small SyncNet embeds each frame once, where windows embed it five times. The public one joins five frames in its
first layer already, so that windows share no arithmetic (3.1 GFLOP each in both forms). It is compared with the
published script's batches of 20 windows; what is saved is norms, pooling in three dimensions and copies.
"""

from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.benchmark import naive
from synctalklip.benchmark.parts import (
    COMPARISON,
    Budget,
    Part,
    Rows,
    Section,
    Work,
    comparison,
    measure,
    precisions,
    report,
    sized,
)
from synctalklip.cli import CONFIGS, to_dict
from synctalklip.data.features import CEPSTRA, STACK
from synctalklip.device import choose_device
from synctalklip.generator.fused import FusedGenerator
from synctalklip.generator.unet import UNetGenerator
from synctalklip.syncnet.lse import build_syncnet
from synctalklip.syncnet.network import FACE


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


def _embedding(cfg: DictConfig, structure: str, device: torch.device) -> tuple[Work, Work]:
    """Embeddings of a clip of `cfg.sync.frames`, sound included."""
    frames = cfg.sync.frames
    generator = torch.Generator().manual_seed(cfg.seed)
    faces = torch.randint(0, 256, (frames, FACE, FACE, 3), generator=generator, dtype=torch.uint8)
    mfcc = torch.randn(STACK * frames, CEPSTRA, generator=generator)
    settings = to_dict(OmegaConf.load(CONFIGS / "syncnet" / f"{structure}.yaml"))
    model = build_syncnet(**settings).to(device).eval()
    plain = naive.syncnet_published if structure == "public" else naive.syncnet_windows
    return partial(model.embed_clip, faces, mfcc), torch.no_grad()(partial(plain, model, faces, mfcc))


def run_sync(cfg: DictConfig) -> str:
    """Measure on the GPU where there is one.

    Returns:
        Markdown: whole clips against windows.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    parts = [
        comparison(
            f"SyncNet {structure}, {cfg.sync.frames} frames", partial(_embedding, cfg, structure, device), device
        )
        for structure in cfg.structures
    ]
    return report(cfg, device, [Section("Whole clips against windows, fp32", COMPARISON, parts)])
