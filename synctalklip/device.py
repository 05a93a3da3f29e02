"""Where to compute and in which precision, and what both are called in a log or a report."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.errors import SyncTalklipError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16")
SLOWDOWN = "10 to 49 times slower than fp32"
"""What emulated bf16 costs with torch 2.11 on an AVX2 CPU: 10 for a grouped 1D convolution, 49 for a matrix product."""


@dataclass(frozen=True)
class Precision:
    """What is computed in, and why.

    Attributes:
        name: "fp32" or "bf16".
        reason: one clause for a log.
    """

    name: str
    reason: str

    def autocast(self, device: torch.device | str, enabled: bool = True) -> torch.autocast:
        """The context of a forward pass; it changes nothing in fp32 or unless `enabled`."""
        kind = torch.device(device).type
        return torch.autocast(kind, torch.bfloat16, enabled=enabled and self.name == "bf16")

    @property
    def mixed_precision(self) -> str:
        """The name that accelerate has for it."""
        return "bf16" if self.name == "bf16" else "no"


def choose_device(wanted: str) -> torch.device:
    """The GPU where there is one, unless `wanted` is "cpu" ("auto" otherwise)."""
    return torch.device("cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda")


def describe_device(device: torch.device) -> str:
    """A GPU by its name, a CPU by its vector instructions and the threads of torch."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; where it does not, torch emulates it (`SLOWDOWN`).

    A CPU must have the instructions, and the kernels of ATen and of oneDNN must be allowed to use them
    (`ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` make a wide machine behave like a narrow one).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return (
        bool(able.get("avx512_bf16") or able.get("amx_bf16"))
        and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def choose_precision(wanted: str, device: torch.device, begun: str | None = None) -> Precision:
    """What to compute in.

    Args:
        wanted: "fp32", "bf16", or "auto": bf16 where the device computes in it, else fp32.
        device: where it is computed.
        begun: the precision of the run that is gone on from, which it keeps on any machine.

    Raises:
        SyncTalklipError: no such precision, or a run would go on in another one than it began with.
    """
    if wanted not in PRECISIONS:
        raise SyncTalklipError(f"precision is {wanted!r}; use one of {', '.join(PRECISIONS)}")
    if begun is not None and wanted not in ("auto", begun):
        raise SyncTalklipError(
            f"the run began in {begun} and {wanted} is asked for: set the precision to auto or {begun}, or give "
            "another run.name"
        )
    able = has_bf16(device)
    if begun is not None:
        chosen = Precision(begun, "the run began with it")
    elif wanted == "auto":
        does = "computes" if able else "does not compute"
        chosen = Precision("bf16" if able else "fp32", f"auto: {describe_device(device)} {does} in bf16")
    else:
        chosen = Precision(wanted, "by name")
    if chosen.name == "bf16" and not able:
        logger.warning("bf16 is emulated on %s: %s", describe_device(device), SLOWDOWN)
    return chosen


def record_precision(chosen: Precision, key: str, run: str | Path) -> None:
    """Say once what a run computes in, and put it into the run's saved configuration.

    Args:
        chosen: what was chosen.
        key: the setting it stands for, such as `trainer.precision`; the reason goes to `<key>_reason`.
        run: the run's folder; the `config.yaml` in it, if any, is changed.
    """
    logger.info("precision %s (%s)", chosen.name, chosen.reason)
    file = Path(run) / "config.yaml"
    if file.is_file():
        saved = OmegaConf.load(file)
        assert isinstance(saved, DictConfig)
        OmegaConf.update(saved, key, chosen.name, force_add=True)
        OmegaConf.update(saved, f"{key}_reason", chosen.reason, force_add=True)
        OmegaConf.save(saved, file)
