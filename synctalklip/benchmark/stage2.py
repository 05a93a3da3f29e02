"""The benchmark of stage 2: parts, and a whole step of both networks, phase by phase.

Legend: B clips, T video frames, N painted frames, D embedding.
"""

from collections.abc import Callable
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor

from synctalklip import losses
from synctalklip.benchmark import naive_stage2, stage2_steps
from synctalklip.benchmark.parts import COMPARISON, Part, Section, comparison, report, sized
from synctalklip.benchmark.timing import Work
from synctalklip.device import choose_device
from synctalklip.distance import AVDistance
from synctalklip.generator.objective import insert_faces

WINDOWS = 6


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, whole steps.

    Raises:
        SyncTalklipError: an unknown size.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    sections = []
    if "parts" in cfg.measure:
        sections.append(Section("Parts against their naive forms, fp32", COMPARISON, parts(cfg, device)))
    if "steps" in cfg.measure:
        sections.append(stage2_steps.section(cfg, device))
    return report(cfg, device, sections)


def parts(cfg: DictConfig, device: torch.device) -> list[Part]:
    """All comparisons."""
    clips, size = cfg.stage2.clips, cfg.stage2.contrastive
    drawn = f"{size.frames} frames of {size.dim}, {_negatives(cfg)} negatives"
    faces = f"{clips * 5 * WINDOWS} faces into {clips} clips"
    return [
        comparison(f"insertion of {faces}", partial(insertion, cfg, device), device),
        comparison(f"contrastive, {drawn}", partial(contrastive, cfg, device), device),
    ]


def insertion(cfg: DictConfig, device: torch.device) -> tuple[Work, Work]:
    """Painted faces into the ROIs of their clips, windows of 5 frames in each, forward and backward."""
    clips, length = cfg.stage2.clips, cfg.stage2.clip_frames
    generator = torch.Generator().manual_seed(cfg.seed)
    starts = torch.linspace(0, length - 5, WINDOWS).long()
    frame = (starts[:, None] + torch.arange(5)).flatten().repeat(clips).to(device)
    clip = torch.arange(clips).repeat_interleave(5 * WINDOWS).to(device)
    faces = torch.rand(len(frame), 3, 96, 96, generator=generator).to(device).requires_grad_()
    matrices = torch.tensor([[0.9, 0.05, 2.0], [-0.05, 0.9, -20.0]]).expand(len(frame), 2, 3).to(device)
    rois = torch.randint(0, 256, (clips, length, 96, 96), dtype=torch.uint8, generator=generator).to(device)
    padding = torch.zeros(clips, length, dtype=torch.bool, device=device)

    def work(form: Callable[..., Tensor]) -> None:
        form(faces, matrices, rois, clip, frame, padding).square().sum().backward()

    return partial(work, insert_faces), partial(work, naive_stage2.naive_insert)


def _negatives(cfg: DictConfig) -> int:
    return min(100, cfg.stage2.contrastive.frames // 2)


def contrastive(cfg: DictConfig, device: torch.device) -> tuple[Work, Work]:
    """Equations 11 and 12 with the negatives of the public code, at most 100 of the batch: draw, forward, backward."""
    size, count = cfg.stage2.contrastive, _negatives(cfg)
    audio, video = (torch.randn(size.frames, size.dim, device=device, requires_grad=True) for _ in range(2))
    distance = AVDistance(size.dim)
    clips, frames = torch.zeros(size.frames, dtype=torch.long, device=device), torch.arange(size.frames, device=device)

    def ours() -> None:
        chosen = losses.sampled_negatives(losses.negatives_of(clips, frames, "batch"), count)
        losses.cross_modal_contrastive(distance.matrix(audio, video).T, chosen).backward()

    return ours, lambda: naive_stage2.naive_sampled_contrastive(audio, video, count)[0].backward()
