"""What every stage of the benchmark has in common: parts that say what they measure, sizes, and the report."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.benchmark.timing import Budget, Work, measure
from synctalklip.cli import to_dict
from synctalklip.device import Precision, choose_precision, describe_device, has_bf16
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.render import pipe_table

Rows = list[list[str]]
COMPARISON = ("what", "ours ms", "naive ms", "ratio", "calls")


@dataclass(frozen=True)
class Part:
    """One thing that is measured.

    Attributes:
        what: is shown while it is measured.
        measure: makes what it needs, measures within the budget, and returns lines of the section's table.
    """

    what: str
    measure: Callable[[Budget], Rows]


@dataclass(frozen=True)
class Section:
    """A table of the report: its title, its header, and the parts that give its lines."""

    title: str
    header: Sequence[str]
    parts: Sequence[Part]


def comparison(what: str, make: Callable[[], tuple[Work, Work]], device: torch.device) -> Part:
    """A part with a line under `COMPARISON`: ours against the naive form.

    Args:
        what: the task.
        make: makes its data and returns both forms, ours first.
        device: where they compute.
    """

    def compare(budget: Budget) -> Rows:
        ours, naive = measure(make(), device, budget)
        times = [f"{1000 * form.seconds:.2f}" for form in (ours, naive)]
        return [[what, *times, f"{naive.seconds / ours.seconds:.1f}x", ours.count]]

    return Part(what, compare)


def report(cfg: DictConfig, device: torch.device, sections: Sequence[Section]) -> str:
    """Measure the parts one after the other, each with a line on stderr that says what runs and how long it took.

    Args:
        cfg: gives `seconds`, in which a part ends, and `repeats`.
        device: where it is computed.
        sections: the tables.

    Returns:
        Markdown: the machine, then the tables.
    """
    total = sum(len(section.parts) for section in sections)
    _say(f"{describe_machine(device)}; {total} parts, {cfg.seconds:g} s for each at most")
    texts, number = [describe_machine(device)], 0
    for section in sections:
        rows: Rows = []
        for part in section.parts:
            number += 1
            _say(f"[{number:2d}/{total}] {part.what} ... ", end="")
            budget = Budget(cfg.seconds, cfg.repeats)
            with _silent_log():
                rows += part.measure(budget)
            _say(f"{budget.spent():.1f} s{', more than it had' if budget.left() < 0 else ''}")
        texts += [f"{section.title}:", pipe_table(section.header, rows, padded=True)]
    return "\n\n".join(texts)


@contextmanager
def _silent_log() -> Iterator[None]:
    """No messages but warnings, which would tear the line of progress."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def describe_machine(device: torch.device) -> str:
    """The device, what it does with bf16, and the version of torch."""
    bf16 = "computes in bf16" if has_bf16(device) else "emulates bf16"
    return f"{describe_device(device)}, {bf16}, torch {torch.__version__}"


def precisions(cfg: DictConfig, device: torch.device) -> list[Precision]:
    """What `cfg.precision` means on the device; what is named twice, as by auto, stands once.

    Raises:
        SyncTalklipError: no such precision.
    """
    wanted = [cfg.precision] if isinstance(cfg.precision, str) else cfg.precision
    return list({(found := choose_precision(name, device)).name: found for name in wanted}.values())


def sized(cfg: DictConfig, device: torch.device) -> DictConfig:
    """The configuration with the amounts of `cfg.size`, by default those that suit the device, at its top.

    Raises:
        SyncTalklipError: no such size.
    """
    name = cfg.size or ("full" if device.type == "cuda" else "small")
    if name not in cfg.sizes:
        raise SyncTalklipError(
            f"size is {name!r}; use one of {', '.join(cfg.sizes)}, or null for what suits the device"
        )
    free = OmegaConf.create(to_dict(cfg, resolve=True))
    return cast(DictConfig, OmegaConf.merge(free, cfg.sizes[name]))


def encoders(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Structures by name: the chosen one, else those of the size."""
    known = to_dict(cfg.encoders, resolve=True)
    if "encoder" not in cfg:
        return {name: known[name] for name in cfg.measured_encoders}
    chosen = to_dict(cfg.encoder, resolve=True)
    return {next((name for name, structure in known.items() if structure == chosen), "custom size"): chosen}
