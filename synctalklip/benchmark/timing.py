"""How the benchmark measures: medians of as many calls as fit, forms in turn, the machine's matmul peak."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
