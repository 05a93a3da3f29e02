"""The benchmark of stage 1: parts, whole training steps, what the memory settings give."""

from omegaconf import DictConfig

from synctalklip.benchmark import memory, stage1_parts, stage1_steps
from synctalklip.benchmark.parts import COMPARISON, Section, report, sized
from synctalklip.device import choose_device


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, whole steps, steps with and without the memory settings.

    Raises:
        SyncTalklipError: an unknown precision or size, or no compiler for `compile`.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    sections = []
    if "parts" in cfg.measure:
        sections.append(Section("Parts against their naive forms, fp32", COMPARISON, stage1_parts.parts(cfg, device)))
    if "steps" in cfg.measure:
        title = f"Training steps, channels_last {cfg.channels_last}, compile {cfg.compile}"
        sections.append(Section(title, stage1_steps.HEADER, stage1_steps.parts(cfg, device)))
    if "memory" in cfg.measure:
        sections.append(memory.section(cfg))
    return report(cfg, device, sections)
