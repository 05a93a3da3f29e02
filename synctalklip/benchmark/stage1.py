"""The benchmark of stage 1 as tables."""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from synctalklip.benchmark.stage1_parts import PARTS, encoders, load_naive
from synctalklip.benchmark.stage1_steps import HEADER, PRECISIONS, measure
from synctalklip.benchmark.timing import Comparison, matmul_peak
from synctalklip.device import choose_device, describe_device
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.render import pipe_table


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, whole steps.

    Raises:
        SyncTalklipError: an unknown precision, or no compiler for `compile`.
    """
    device = choose_device(cfg.device)
    sections = [f"{describe_device(device)}, torch {torch.__version__}"]
    if "parts" in cfg.measure:
        rows = [comparison.row() for comparison in tqdm(_parts(cfg, device), desc="parts", disable=None)]
        sections.append(pipe_table(["what", "ours ms", "naive ms", "ratio"], rows, padded=True))
    if "steps" in cfg.measure:
        options = f"channels_last {str(cfg.channels_last).lower()}, compile {str(cfg.compile).lower()}"
        sections += [f"Training steps, {options}:", pipe_table(HEADER, _steps(cfg, device), padded=True)]
    return "\n\n".join(sections)


def _parts(cfg: DictConfig, device: torch.device) -> Iterator[Comparison]:
    naive = load_naive("naive")
    for part in PARTS:
        yield from part(cfg, device, naive)


def _steps(cfg: DictConfig, device: torch.device) -> list[list[str]]:
    precisions = [cfg.precision] if isinstance(cfg.precision, str) else list(cfg.precision)
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise SyncTalklipError(f"precision {unknown[0]!r} is none of {', '.join(PRECISIONS)}")
    peaks = {how: matmul_peak(device, PRECISIONS[how], cfg.peak_size, cfg.repeats) for how in precisions}
    jobs = [
        (kind, encoder, how)
        for encoder in encoders(cfg, device).items()
        for kind in ("pre-training", "fine-tuning")
        for how in precisions
    ]
    bar = tqdm(jobs, desc="steps", disable=None)
    return [measure(cfg, *job, peaks[job[-1]], device).row() for job in bar]
