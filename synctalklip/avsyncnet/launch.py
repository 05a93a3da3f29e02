"""Processes and passes of a run: how the devices find each other, and what one update is made of.

fairseq starts the processes; what it leaves to chance with several devices is settled here, so that a run
does not depend on their number: random draws, the passes of an update, batch statistics.
"""

import logging
import math
import warnings

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from synctalklip.errors import SyncTalklipError

logger = logging.getLogger(__name__)


class LaunchError(SyncTalklipError):
    """Processes or passes that do not fit together."""


def join_processes(node: DictConfig) -> None:
    """Complete `node.distributed_training`: rank, number of processes, backend.

    Under torchrun this process joins the others at once, also without a GPU. Under Slurm fairseq asks
    Slurm. Otherwise fairseq starts one process for each GPU.

    Raises:
        LaunchError: several processes are asked for on a machine that has no GPU for them.
    """
    from fairseq.distributed.utils import infer_init_method

    settings = node.distributed_training
    on_cpu = node.common.cpu or not torch.cuda.is_available()
    if torch.distributed.is_torchelastic_launched():
        settings.device_id = torch.distributed.get_node_local_rank()
        settings.distributed_backend = "gloo" if on_cpu else "nccl"
        if not on_cpu:
            torch.cuda.set_device(settings.device_id)
        # The runs of one sweep share a group.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(settings.distributed_backend)
        warnings.filterwarnings("ignore", message="Distributed is already initialized")
        settings.distributed_rank = torch.distributed.get_rank()
        settings.distributed_world_size = torch.distributed.get_world_size()
        settings.distributed_init_method = "env://"
        settings.distributed_no_spawn = True
        return
    if on_cpu and settings.distributed_world_size == max(1, torch.cuda.device_count()):
        settings.distributed_world_size = 1
    if settings.distributed_world_size > max(1, torch.cuda.device_count()) and settings.distributed_port <= 0:
        raise LaunchError(
            f"fairseq.distributed_training.distributed_world_size is {settings.distributed_world_size}, and this "
            f"machine has {torch.cuda.device_count()} GPUs: start the script with torchrun --nproc_per_node, or under "
            "Slurm with fairseq.distributed_training.distributed_port=<free port>"
        )
    infer_init_method(settings)


def passes(batch_frames: int | None, max_tokens: int, devices: int) -> int:
    """Passes that each device makes for an update of `batch_frames` frames over all devices."""
    return 1 if batch_frames is None else max(1, math.ceil(batch_frames / (max_tokens * devices)))


def plan_updates(node: DictConfig) -> None:
    """Derive `optimization.update_freq` from `task.batch_frames`, and say what an update is.

    Raises:
        LaunchError: both are given.
    """
    devices, frames = node.distributed_training.distributed_world_size, node.dataset.max_tokens
    if node.task.batch_frames is not None:
        if list(node.optimization.update_freq) != [1]:
            raise LaunchError(
                f"fairseq.optimization.update_freq={list(node.optimization.update_freq)} and fairseq.task.batch_frames"
                f"={node.task.batch_frames} both say what an update is; set one of them to [1] or null"
            )
        node.optimization.update_freq = [passes(node.task.batch_frames, frames, devices)]
    if is_first(node):
        accumulated = node.optimization.update_freq[0]
        logger.info(
            "%d updates of up to %d frames: %d device(s) x %d passes of %d frames",
            node.optimization.max_update,
            devices * accumulated * frames,
            devices,
            accumulated,
            frames,
        )


def is_first(node: DictConfig) -> bool:
    """Whether this process is the one that writes files."""
    return node.distributed_training.distributed_rank == 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def seed_draws(*numbers: int) -> None:
    """Seed torch for the draws of one pass, whichever device makes it.

    fairseq seeds all devices alike, which gives each of them the same masks and the same dropped modality.
    """
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def average_statistics(model: nn.Module) -> None:
    """Give all processes the mean of their running batch statistics.

    Each process sees its own batches only and only the first one writes checkpoints: without this the
    others go on from statistics that no checkpoint has.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    buffers = [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    if not buffers:
        return
    means = torch.cat([buffer.float() for buffer in buffers])
    torch.distributed.all_reduce(means)
    means /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, means.split([len(buffer) for buffer in buffers])):
        buffer.copy_(mean)
