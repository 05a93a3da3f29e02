"""How every stage of the benchmark measures: medians of as many calls as fit, forms in turn, parts that say what they
measure, sizes, and the report.
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from synctalklip.cli import to_dict
from synctalklip.device import Precision, choose_precision, describe_device, has_bf16
from synctalklip.errors import SyncTalklipError
from synctalklip.tables.render import pipe_table

Work = Callable[[], object]
_ROUND_SECONDS = 0.02


class Budget:
    """The time of one part of the benchmark, which runs from here on.

    Args:
        seconds: in which the part is to end.
        repeats: a form is timed so often at most.
    """

    def __init__(self, seconds: float, repeats: int):
        self.seconds, self.repeats = seconds, repeats
        self._started = time.perf_counter()

    def spent(self) -> float:
        """Seconds up to now."""
        return time.perf_counter() - self._started

    def left(self) -> float:
        """Seconds that are left, less than 0 where the part is late."""
        return self.seconds - self.spent()


@dataclass(frozen=True)
class Timing:
    """What a call takes.

    Attributes:
        seconds: median of the timed calls.
        repeats: how many those were.
        warm: whether a call went before them that does not count.
    """

    seconds: float
    repeats: int
    warm: bool = True

    @property
    def count(self) -> str:
        """The number of calls for a table; the first call of all pays for caches and set-up, so it is named."""
        return str(self.repeats) if self.warm else f"{self.repeats}, the first"


def seconds(work: Work, device: torch.device) -> float:
    """Wall time of one call, the device's queue included."""
    _synchronize(device)
    started = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(works: Sequence[Work], device: torch.device, budget: Budget, warm_up: int = 1) -> list[Timing]:
    """Time each of `works` in rounds in turn, so that a busy moment of the machine meets all of them.

    The first calls do not count, unless the budget has no room for a second one. A round of a short task calls it many
    times in a row: each finds its own data in the caches.

    Args:
        works: forms of one task.
        device: whose queue is waited for.
        budget: of the part.
        warm_up: calls of each that do not count.
    """
    firsts = [seconds(work, device) for work in works]
    if sum(firsts) > budget.left():
        return [Timing(first, 1, warm=False) for first in firsts]
    for work in works:
        for _ in range(warm_up - 1):
            work()
    calls = [
        1 if first > _ROUND_SECONDS else 1 + int(_ROUND_SECONDS / seconds(work, device))
        for work, first in zip(works, firsts)
    ]
    rounds: list[list[float]] = []
    while not rounds or len(rounds) < budget.repeats:
        started = budget.left()
        rounds.append([_round(work, count, device) for work, count in zip(works, calls)])
        if started - budget.left() > budget.left():
            break
    return [Timing(statistics.median(column), len(rounds)) for column in zip(*rounds)]


def _round(work: Work, calls: int, device: torch.device) -> float:
    def repeated() -> None:
        for _ in range(calls):
            work()

    return seconds(repeated, device) / calls


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int, repeats: int) -> float:
    """Best rate of a square matrix product of `size`, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(max(repeats, 3)))


def count_flops(work: Work) -> int:
    """Floating-point operations of the matrix products and convolutions of one call."""
    # The fused attention kernels of some devices are unknown to the counter; the plain one is two products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


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
