"""Speed of the sync scores: a whole clip through a SyncNet against one window of it after the other.

The small network embeds each frame once, where windows embed it five times. The public one joins five frames in its
first layer already, so that windows share no arithmetic; what is saved is enlarging and copying pictures.
"""

from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.benchmark import naive
from synctalklip.benchmark.parts import COMPARISON, Section, comparison, report, sized
from synctalklip.benchmark.timing import Work
from synctalklip.cli import CONFIGS, to_dict
from synctalklip.data.features import CEPSTRA, STACK
from synctalklip.device import choose_device
from synctalklip.syncnet.lse import build_syncnet
from synctalklip.syncnet.network import FACE


def forms(cfg: DictConfig, structure: str, device: torch.device) -> tuple[Work, Work]:
    """Embeddings of a clip of `cfg.sync.frames`, sound included."""
    frames = cfg.sync.frames
    generator = torch.Generator().manual_seed(cfg.seed)
    faces = torch.randint(0, 256, (frames, FACE, FACE, 3), generator=generator, dtype=torch.uint8)
    mfcc = torch.randn(STACK * frames, CEPSTRA, generator=generator)
    settings = to_dict(OmegaConf.load(CONFIGS / "syncnet" / f"{structure}.yaml"))
    model = build_syncnet(**settings).to(device).eval()
    return partial(model.embed_clip, faces, mfcc), torch.no_grad()(partial(naive.syncnet_windows, model, faces, mfcc))


def run(cfg: DictConfig) -> str:
    """Measure on the GPU where there is one.

    Returns:
        Markdown: whole clips against windows.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    parts = [
        comparison(f"SyncNet {structure}, {cfg.sync.frames} frames", partial(forms, cfg, structure, device), device)
        for structure in cfg.structures
    ]
    return report(cfg, device, [Section("Whole clips against windows, fp32", COMPARISON, parts)])
