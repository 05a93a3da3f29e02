"""Speed of inference: images a second of the U-Net as `generate.py` runs it. The shares of decoding, tracking, pasting
and encoding depend on the video; `generate.py` prints them for each.
"""

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from synctalklip.benchmark.timing import median_seconds
from synctalklip.cli import CONFIGS
from synctalklip.device import choose_device, describe_device
from synctalklip.generator.fused import Painter
from synctalklip.generator.unet import UNetGenerator
from synctalklip.tables.render import pipe_table


def run(cfg: DictConfig) -> str:
    """Measure the sizes and precisions of `cfg.inference`, on the GPU where there is one.

    Returns:
        Markdown: images a second of each.
    """
    device = choose_device(cfg.device)
    rng = np.random.default_rng(cfg.seed)
    poses = rng.integers(0, 256, (cfg.inference.images, 96, 96, 3), dtype=np.uint8)
    rows = []
    for size, speech_dim in tqdm(list(cfg.inference.sizes.items()), desc="sizes", disable=None):
        config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "generator" / f"{size}.yaml"))
        torch.manual_seed(cfg.seed)
        model = UNetGenerator(speech_dim, **config).to(device).eval()
        speech = torch.randn(len(poses), speech_dim, device=device)
        for precision in cfg.precision:
            painter = Painter(model, precision, device)
            seconds = median_seconds(lambda painter=painter, x=speech: painter(poses, poses, x), device, cfg.repeats)
            rows.append([size, precision, f"{1000 * seconds / len(poses):.1f}", f"{len(poses) / seconds:.0f}"])
    header = ["generator", "precision", "ms an image", "images/s"]
    return f"{describe_device(device)}, batches of {len(poses)} images:\n\n{pipe_table(header, rows, padded=True)}"
