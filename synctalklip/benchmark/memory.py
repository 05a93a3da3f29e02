"""What `cli.keep_freed_memory` gives: the same training steps in two fresh processes, one of them without it.

A process cannot take the settings back, so each form is a process of its own: this module run as a program, which gets
its task as JSON on stdin and prints what it measured.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf

from synctalklip.benchmark.parts import Part, Rows, Section
from synctalklip.benchmark.stage1_parts import shape
from synctalklip.benchmark.stage1_steps import fine_tuning, training_step
from synctalklip.benchmark.timing import Budget
from synctalklip.cli import CONFIGS, keep_freed_memory, to_dict
from synctalklip.device import Precision
from synctalklip.errors import SyncTalklipError

HEADER = ("freed memory", "ms a step", "CPU ms", "system ms", "page faults", "CPU, times", "steps")


def section(cfg: DictConfig) -> Section:
    """The table of both forms; on one core, wherever the other parts run."""
    task = _task(cfg)
    batch, frames = shape(task)
    part = Part("memory settings of the C library", partial(_compare, task))
    return Section(
        f"Memory settings: fine-tuning steps of {batch * frames} frames on one core, tiny, fp32", HEADER, [part]
    )


def _task(cfg: DictConfig) -> DictConfig:
    """What a process needs to know."""
    names = ("seed", "classes", "vocabulary", "clip_frames")
    task = {name: cfg[name] for name in names} | {"frames": cfg.memory.frames, "steps": cfg.memory.steps}
    return OmegaConf.create(task | {"structure": cfg.encoders.tiny})


def _compare(task: DictConfig, budget: Budget) -> Rows:
    found = []
    for keep, share in ((True, 0.45), (False, 0.9)):  # the rest is for the last step and the end
        until = time.time() + share * max(0.0, budget.left())
        found.append(_run(cast(DictConfig, OmegaConf.merge(task, {"keep": keep, "until": until}))))
    rows = []
    for one in found:
        name = "kept, as by every script" if one["kept"] else "as the C library has it"
        times = [f"{1000 * one[key] / one['steps']:.0f}" for key in ("wall", "cpu", "system")]
        ratio = one["cpu"] / one["steps"] / (found[0]["cpu"] / found[0]["steps"])
        rest = [f"{one['faults'] / one['steps']:.0f}", f"{ratio:.2f}", str(one["steps"])]
        rows.append([name, *times, *rest])
    return rows


def _run(task: DictConfig) -> dict[str, float]:
    command = [sys.executable, "-m", "synctalklip.benchmark.memory"]
    text = json.dumps(to_dict(task, resolve=True))
    done = subprocess.run(command, cwd=CONFIGS.parent, input=text, capture_output=True, text=True)
    if done.returncode:
        raise SyncTalklipError(f"the training steps in a fresh process failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_steps(task: DictConfig) -> dict[str, float]:
    """Train in this process for `steps` steps, or for one and those that begin before the clock shows `until`.

    Returns:
        Whether memory is kept, the number of steps, their wall, CPU and system time in seconds, and their page faults.
    """
    kept = task.keep and keep_freed_memory()
    # Threads that wait for one another would count as CPU time.
    torch.set_num_threads(1)
    torch.manual_seed(task.seed)
    device, (batch, _) = torch.device("cpu"), shape(task)
    model, loss = fine_tuning(task, to_dict(task.structure), device)
    step = training_step(model, loss, Precision("fp32", "measured"), device)
    step(batch)
    before, started, steps = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while steps == 0 or (steps < task.steps and time.time() < task.until):
        step(batch)
        steps += 1
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return {
        "kept": kept,
        "steps": steps,
        "wall": wall,
        "cpu": system + after.ru_utime - before.ru_utime,
        "system": system,
        "faults": after.ru_minflt - before.ru_minflt,
    }


if __name__ == "__main__":
    print(json.dumps(measure_steps(OmegaConf.create(json.load(sys.stdin)))))
