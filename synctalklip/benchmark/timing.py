"""How the benchmark measures: warm-up, medians, two forms in turn, the machine's matmul peak."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]
_ROUND_SECONDS = 0.02


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


def median_seconds(work: Work, device: torch.device, repeats: int, warm_up: int = 1) -> float:
    """Median over `repeats` calls after `warm_up` ones that do not count."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds(work, device) for _ in range(repeats))


@dataclass
class Comparison:
    """One task done in two ways; times in seconds."""

    what: str
    ours: float
    naive: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.naive / self.ours

    def row(self) -> list[str]:
        """A line of the table."""
        return [self.what, f"{1000 * self.ours:.2f}", f"{1000 * self.naive:.2f}", f"{self.ratio:.1f}x"]


def compare(what: str, ours: Work, naive: Work, device: torch.device, repeats: int) -> Comparison:
    """Medians of both over rounds in turn, so that a busy moment of the machine meets both.

    A round of a short task calls it many times in a row: each finds its own data in the caches.
    """
    rounds = []
    for work in (ours, naive):
        first = seconds(work, device)
        rounds.append((work, 1 if first > _ROUND_SECONDS else 1 + int(_ROUND_SECONDS / seconds(work, device))))
    times = [[_round(work, calls, device) for work, calls in rounds] for _ in range(repeats)]
    return Comparison(what, *(statistics.median(column) for column in zip(*times)))


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
