"""Where to compute, and what that is called in a report."""

import torch


def choose_device(wanted: str) -> torch.device:
    """The GPU where there is one, unless `wanted` is "cpu" ("auto" otherwise)."""
    return torch.device("cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda")


def describe_device(device: torch.device) -> str:
    """A GPU by its name, a CPU by the threads of torch."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
