"""Whole training steps of stage 1: frames a second, the share of the machine's matmul peak, what memory settings give.

A process cannot take back what `cli.keep_freed_memory` sets, so the same steps run in two fresh processes, one of them
without it: this module as a program, which gets its task as JSON on stdin and prints what it measured.

Legend: B clips, T frames, V symbols, L tokens.
"""

import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.model import AVHubert, AVSyncNet, prepare_for_training
from synctalklip.benchmark.parts import (
    Budget,
    Part,
    Rows,
    Section,
    count_flops,
    encoders,
    matmul_peak,
    measure,
    precisions,
)
from synctalklip.cli import CONFIGS, keep_freed_memory, to_dict
from synctalklip.data.text import EOS
from synctalklip.device import Precision
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import alignment, lip_reading, masked_prediction, weighted_sum

HEADER = ["step", "precision", "ms", "frames/s", "TFLOP", "GFLOP/s", "matmul peak", "% of peak", "calls"]
# Per video frame at 25 Hz; transcripts of LRS3 have about five subword tokens a second.
_TOKENS_PER_FRAME = 0.2

# The loss of the first so many clips of a batch.
LossOf = Callable[[int], Tensor]


def shape(cfg: DictConfig) -> tuple[int, int]:
    """B and T of a batch of about `frames` frames."""
    frames = min(cfg.clip_frames, cfg.frames)
    return max(1, cfg.frames // frames), frames


def clips(cfg: DictConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Sound (B, 104, T), video (B, 1, T, 88, 88) and padding mask (B, T) of noise."""
    batch, frames = shape(cfg)
    generator = torch.Generator().manual_seed(cfg.seed)
    audio = torch.randn(batch, 104, frames, generator=generator)
    video = torch.randn(batch, 1, frames, 88, 88, generator=generator)
    return audio.to(device), video.to(device), torch.zeros(batch, frames, dtype=torch.bool, device=device)


def pretraining(cfg: DictConfig, structure: dict[str, Any], device: torch.device) -> tuple[nn.Module, LossOf]:
    """Eq. 3 with its input masks and feature penalty; both modalities are kept, which costs most."""
    config = AVHubertConfig.from_mapping(structure | {"modality_dropout": 0.0, "encoder_layerdrop": 0.0})
    model = AVHubert(config, [cfg.classes]).to(device).train()
    audio, video, padding = clips(cfg, device)
    targets = torch.randint(4, cfg.classes, padding.shape, device=device)

    def loss(count: int) -> Tensor:
        out = model(audio[:count], video[:count], padding[:count], [targets[:count]])
        prediction = sum(masked_prediction(*rows) for rows in out.label_sets())
        terms = {"prediction": prediction, "features": out.features_pen * out.mask.sum()}
        return weighted_sum(terms, {"prediction": 1.0, "features": 10.0})

    return model, loss


def fine_tuning(cfg: DictConfig, structure: dict[str, Any], device: torch.device) -> tuple[nn.Module, LossOf]:
    """Eq. 6: the audio-only and the video-only pass of each clip, and the decoder on the latter."""
    settings = structure | {"vocab_size": cfg.vocabulary, "num_classes": [], "encoder_layerdrop": 0.0}
    model = AVSyncNet(AVSyncNetConfig.from_mapping(settings)).to(device).train()
    audio, video, padding = clips(cfg, device)
    tokens = max(2, round(_TOKENS_PER_FRAME * padding.shape[1]))
    target = torch.randint(4, cfg.vocabulary, (len(padding), tokens), device=device)
    target[:, -1] = EOS
    previous = target.roll(1, 1)

    def loss(count: int) -> Tensor:
        mask = padding[:count]
        seen, heard = model.encode(None, video[:count], mask), model.encode(audio[:count], None, mask)
        terms = {
            "lip": lip_reading(model.decode(previous[:count], seen, mask), target[:count]),
            "av": alignment(model.distance(heard, seen, mask), mask),
        }
        return weighted_sum(terms, {"lip": 1.0, "av": 1.0})

    return model, loss


KINDS = {"pre-training": pretraining, "fine-tuning": fine_tuning}


def training_step(model: nn.Module, loss: LossOf, precision: Precision, device: torch.device) -> Callable[[int], None]:
    """An update on the first so many clips: forward, backward and Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)

    def step(count: int) -> None:
        with precision.autocast(device):
            value = loss(count)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def parts(cfg: DictConfig, device: torch.device) -> list[Part]:
    """Each kind of step of each encoder in each precision, a line under `HEADER`."""
    batch, frames = shape(cfg)

    @functools.cache
    def peak(precision: Precision) -> float:
        dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
        return matmul_peak(device, dtype, cfg.peak_size, cfg.repeats)

    def one(what: str, kind: str, structure: dict[str, Any], precision: Precision, budget: Budget) -> Rows:
        highest = peak(precision)
        torch.manual_seed(cfg.seed)
        model, loss = KINDS[kind](cfg, structure, device)
        step = training_step(model, loss, precision, device)
        # Products and convolutions grow with the clips, so one clip is counted in place of a whole further step.
        flops = batch * count_flops(partial(step, 1))
        encoder: Any = model if isinstance(model, AVHubert) else cast(AVSyncNet, model).encoder.w2v_model
        prepare_for_training(encoder, cfg.channels_last, cfg.compile)
        # The first compilation knows one batch only; nothing of it belongs to the time of a step.
        (timing,) = measure([partial(step, batch)], device, budget, warm_up=3 if cfg.compile else 1)
        rate = flops / timing.seconds
        speeds = [f"{1000 * timing.seconds:.0f}", f"{batch * frames / timing.seconds:.1f}", f"{flops / 1e12:.3f}"]
        shares = [f"{rate / 1e9:.0f}", f"{highest / 1e9:.0f}", f"{100 * rate / highest:.1f}"]
        return [[what, precision.name, *speeds, *shares, timing.count]]

    found = []
    for name, structure in encoders(cfg).items():
        for kind in KINDS:
            for precision in precisions(cfg, device):
                what = f"{kind}, {name}, {batch * frames} frames"
                made = partial(one, what, kind, structure, precision)
                found.append(Part(f"{what}, {precision.name}", made))
    return found


MEMORY_HEADER = ("freed memory", "ms a step", "CPU ms", "system ms", "page faults", "CPU, times", "steps")


def memory_section(cfg: DictConfig) -> Section:
    """The table of both forms; on one core, wherever the other parts run."""
    task = _task(cfg)
    batch, frames = shape(task)
    part = Part("memory settings of the C library", partial(_compare, task))
    return Section(
        f"Memory settings: fine-tuning steps of {batch * frames} frames on one core, tiny, fp32", MEMORY_HEADER, [part]
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
    command = [sys.executable, "-m", "synctalklip.benchmark.stage1_steps"]
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
