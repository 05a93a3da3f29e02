"""Speed of the sync scores: a whole clip through a SyncNet against one window of it after the other.

The small network embeds each frame once, where windows embed it five times. The public one joins five frames in its
first layer already, so that windows share no arithmetic; what is saved is enlarging and copying pictures.
"""

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from synctalklip.benchmark.stage1_parts import load_naive
from synctalklip.benchmark.timing import Comparison, compare
from synctalklip.cli import CONFIGS
from synctalklip.data.features import CEPSTRA, STACK
from synctalklip.device import choose_device, describe_device
from synctalklip.syncnet.lse import build_syncnet
from synctalklip.syncnet.network import FACE
from synctalklip.tables.markdown import table


def measure(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Embeddings of a clip of `cfg.sync.frames` by each structure of `cfg.sync.structures`, sound included."""
    frames = cfg.sync.frames
    generator = torch.Generator().manual_seed(cfg.seed)
    faces = torch.randint(0, 256, (frames, FACE, FACE, 3), generator=generator, dtype=torch.uint8)
    mfcc = torch.randn(STACK * frames, CEPSTRA, generator=generator)
    for structure in cfg.sync.structures:
        settings = OmegaConf.to_container(OmegaConf.load(CONFIGS / "syncnet" / f"{structure}.yaml"))
        model = build_syncnet(**settings).to(device).eval()
        ours = partial(model.embed_clip, faces, mfcc)
        theirs = torch.no_grad()(partial(naive.syncnet_windows, model, faces, mfcc))
        yield compare(f"SyncNet {structure}, clip of {frames} frames", ours, theirs, device, cfg.repeats)


def run(cfg: DictConfig) -> str:
    """Measure on the GPU where there is one.

    Returns:
        Markdown: whole clips against windows.
    """
    device = choose_device(cfg.device)
    rows = [comparison.row() for comparison in tqdm(measure(cfg, device, load_naive("naive")), disable=None)]
    header = ["what", "ours ms", "naive ms", "ratio"]
    return f"{describe_device(device)}, torch {torch.__version__}\n\n{table(header, rows)}"
