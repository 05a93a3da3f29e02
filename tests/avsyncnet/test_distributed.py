"""Several processes: the same run as one process that accumulates, and clear words where they cannot start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stage1_factory import PRETRAIN, configure, overrides
from torch import nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.launch import (
    LaunchError,
    average_statistics,
    join_processes,
    passes,
    plan_updates,
    seed_draws,
)
from synctalklip.avsyncnet.train import fairseq_config, train

pytestmark = pytest.mark.trains

ROOT = Path(__file__).resolve().parents[2]

# Batches of unequal size, an odd number of them, every kind of draw.
RUN = [
    *PRETRAIN,
    "fairseq.lr_scheduler.total_num_update=9",
    "fairseq.dataset.max_tokens=30",
    "fairseq.task.batch_frames=60",
    "fairseq.task.limits.pad=false",
    "fairseq.task.augmentation.noise.prob=0.5",
    "fairseq.model.modality_dropout=0.5",
    "fairseq.model.encoder_layerdrop=0.2",
    "fairseq.common.log_format=json",
    "fairseq.common.log_interval=1",
]


def losses(log: Path) -> dict[str, tuple[str, str]]:
    """Loss and gradient norm by update."""
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {row["num_updates"]: (row["loss"], row["gnorm"]) for row in rows if "loss" in row}


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_two_processes_that_resume_equal_one_that_accumulates(prepared, tmp_path, caplog):
    caplog.set_level("INFO")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    # A sweep over max_update in one folder: the second job goes on in the middle of the epoch.
    sweep = [
        "fairseq.optimization.max_update=2,5",
        f"+fairseq.common.log_file={two}/log",
        f"hydra.sweep.dir={two}",
        "hydra.sweep.subdir=${hydra:job.num}",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    together = subprocess.Popen(
        [*command, "scripts/train_avsyncnet.py", "-m", *overrides(prepared, two), *RUN, *sweep],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    straight = ["fairseq.optimization.max_update=5", f"+fairseq.common.log_file={one}/log"]
    alone = checkpoint.load(train(configure(prepared, one, *RUN, *straight)) / "checkpoint_last.pt")
    output, _ = together.communicate(timeout=120)
    assert together.returncode == 0, output
    assert "5 updates of up to 60 frames: 2 device(s) x 1 passes of 30 frames" in output
    both = checkpoint.load(two / "checkpoints" / "checkpoint_last.pt")
    assert alone["cfg"]["optimization"]["update_freq"] == [2]
    assert both["cfg"]["optimization"]["update_freq"] == [1]
    assert losses(one / "log") == losses(two / "log")
    assert len(losses(one / "log")) == 5
    assert list(alone["model"]) == list(both["model"])
    # Running statistics move once a pass in one process, and by the mean of both passes in two.
    differ = [name for name, value in alone["model"].items() if not torch.equal(value, both["model"][name])]
    assert differ
    assert all(map(is_statistic, differ))


@pytest.mark.parametrize(
    ("frames", "devices", "expected"),
    [(None, 4, 1), (32000, 1, 32), (32000, 32, 1), (32000, 5, 7), (32000, 64, 1), (500, 1, 1)],
)
def test_passes_fill_the_frame_budget_at_any_number_of_devices(frames, devices, expected):
    assert passes(frames, 1000, devices) == expected


def plan(prepared, tmp_path, *options):
    node = fairseq_config(configure(prepared, tmp_path, "fairseq.optimization.max_update=7", *options))
    plan_updates(node)
    return node


def test_update_is_derived_and_said(prepared, tmp_path, caplog):
    caplog.set_level("INFO")
    node = plan(
        prepared, tmp_path, "fairseq.task.batch_frames=500", "+fairseq.distributed_training.distributed_world_size=2"
    )
    assert node.optimization.update_freq == [5]
    assert "7 updates of up to 600 frames: 2 device(s) x 5 passes of 60 frames" in caplog.text
    assert plan(prepared, tmp_path, "fairseq.optimization.update_freq=[3]").optimization.update_freq == [3]
    with pytest.raises(LaunchError, match=r"update_freq=\[3\] and fairseq.task.batch_frames=500"):
        plan(prepared, tmp_path, "fairseq.task.batch_frames=500", "fairseq.optimization.update_freq=[3]")


def test_processes_without_a_launcher_are_refused(prepared, tmp_path):
    options = ["fairseq.optimization.max_update=1", "+fairseq.distributed_training.distributed_world_size=64"]
    with pytest.raises(LaunchError, match="torchrun --nproc_per_node"):
        join_processes(fairseq_config(configure(prepared, tmp_path, *options)))


def test_draws_follow_from_the_numbers_given():
    def draw(*numbers):
        seed_draws(*numbers)
        return float(torch.rand(()))

    assert draw(1, 5, 9) == draw(1, 5, 9)
    assert len({draw(1, 5, 9), draw(2, 5, 9), draw(1, 6, 9), draw(1, 5, 10), draw(5, 1, 9)}) == 5


def test_statistics_of_one_process_stay():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    before = norm.running_mean.clone()
    average_statistics(norm)
    assert torch.equal(norm.running_mean, before)
