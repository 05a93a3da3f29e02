"""The benchmark of stage 2: parts, and a whole step of both networks, phase by phase.

Legend: B clips, T video frames, N painted frames, D embedding.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from accelerate.state import AcceleratorState
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor

from synctalklip import checkpoint, losses
from synctalklip.avsyncnet.config import AVSyncNetConfig
from synctalklip.avsyncnet.model import AVSyncNet
from synctalklip.benchmark import naive
from synctalklip.benchmark.parts import (
    COMPARISON,
    Budget,
    Part,
    Rows,
    Section,
    Work,
    comparison,
    encoders,
    measure,
    report,
    seconds,
    sized,
)
from synctalklip.cli import to_dict
from synctalklip.data.manifest import Clip, write_manifest
from synctalklip.data.media import write_video, write_wav
from synctalklip.data.text import Tokenizer, train_tokenizer
from synctalklip.data.windows import collate
from synctalklip.device import choose_device
from synctalklip.distance import AVDistance
from synctalklip.generator.objective import insert_faces
from synctalklip.generator.trainer import Trainer

WINDOWS = 6


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, whole steps.

    Raises:
        SyncTalklipError: an unknown size.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    sections = []
    if "parts" in cfg.measure:
        sections.append(Section("Parts against their naive forms, fp32", COMPARISON, parts(cfg, device)))
    if "steps" in cfg.measure:
        sections.append(section(cfg, device))
    return report(cfg, device, sections)


def parts(cfg: DictConfig, device: torch.device) -> list[Part]:
    """All comparisons."""
    clips, size = cfg.stage2.clips, cfg.stage2.contrastive
    drawn = f"{size.frames} frames of {size.dim}, {_negatives(cfg)} negatives"
    faces = f"{clips * 5 * WINDOWS} faces into {clips} clips"
    return [
        comparison(f"insertion of {faces}", partial(insertion, cfg, device), device),
        comparison(f"contrastive, {drawn}", partial(contrastive, cfg, device), device),
    ]


def insertion(cfg: DictConfig, device: torch.device) -> tuple[Work, Work]:
    """Painted faces into the ROIs of their clips, windows of 5 frames in each, forward and backward."""
    clips, length = cfg.stage2.clips, cfg.stage2.clip_frames
    generator = torch.Generator().manual_seed(cfg.seed)
    starts = torch.linspace(0, length - 5, WINDOWS).long()
    frame = (starts[:, None] + torch.arange(5)).flatten().repeat(clips).to(device)
    clip = torch.arange(clips).repeat_interleave(5 * WINDOWS).to(device)
    faces = torch.rand(len(frame), 3, 96, 96, generator=generator).to(device).requires_grad_()
    matrices = torch.tensor([[0.9, 0.05, 2.0], [-0.05, 0.9, -20.0]]).expand(len(frame), 2, 3).to(device)
    rois = torch.randint(0, 256, (clips, length, 96, 96), dtype=torch.uint8, generator=generator).to(device)
    padding = torch.zeros(clips, length, dtype=torch.bool, device=device)

    def work(form: Callable[..., Tensor]) -> None:
        form(faces, matrices, rois, clip, frame, padding).square().sum().backward()

    return partial(work, insert_faces), partial(work, naive.naive_insert)


def _negatives(cfg: DictConfig) -> int:
    return min(100, cfg.stage2.contrastive.frames // 2)


def contrastive(cfg: DictConfig, device: torch.device) -> tuple[Work, Work]:
    """Equations 11 and 12 with the negatives of the public code, at most 100 of the batch: draw, forward, backward."""
    size, count = cfg.stage2.contrastive, _negatives(cfg)
    audio, video = (torch.randn(size.frames, size.dim, device=device, requires_grad=True) for _ in range(2))
    distance = AVDistance(size.dim)
    clips, frames = torch.zeros(size.frames, dtype=torch.long, device=device), torch.arange(size.frames, device=device)

    def ours() -> None:
        chosen = losses.sampled_negatives(losses.negatives_of(clips, frames, "batch"), count)
        losses.cross_modal_contrastive(distance.matrix(audio, video).T, chosen).backward()

    return ours, lambda: naive.naive_sampled_contrastive(audio, video, count)[0].backward()


PHASES = ("generator", "expert and losses", "discriminator in G", "backward G", "update G", "discriminator step")
HEADER = ("form", "precision", *(f"{phase}, ms" for phase in PHASES), "sum", "images/s", "reading, ms", "calls")
FORMS = ("ours", "plain")
_TEXT = "bin blue at a one now"


def section(cfg: DictConfig, device: torch.device) -> Section:
    """Both forms of the step in turn."""
    batch = f"{cfg.stage2.clips} clips of {cfg.stage2.clip_frames} frames"
    forms = "; ".join(f"{form}: {', '.join(cfg.stage2[form])}" for form in FORMS)
    title = f"Training steps of both networks, {batch}, {', '.join(cfg.generator)}, expert {next(iter(encoders(cfg)))}"
    part = Part(f"whole step, {' and '.join(FORMS)}, {batch}", partial(_whole_steps, cfg, device))
    return Section(f"{title} ({forms})", HEADER, [part])


def _whole_steps(cfg: DictConfig, device: torch.device, budget: Budget) -> Rows:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_expert(cfg, folder / "expert.pt")
        write_clips(folder / "clips", cfg.stage2.clips, cfg.stage2.clip_frames, cfg.seed)
        forms = [Form(cfg, folder, list(cfg.stage2[form]), device) for form in FORMS]
        timings = measure([form.step for form in forms], device, budget)
        reading = seconds(forms[0].read, torch.device("cpu"))
    rows = []
    for name, form, timing in zip(FORMS, forms, timings):
        spent = form.median_phases(timing.repeats)
        phases = [f"{1000 * spent[phase]:.0f}" for phase in PHASES]
        speed = [f"{1000 * timing.seconds:.0f}", f"{len(form.batch['clip']) / timing.seconds:.1f}"]
        rows.append([name, form.trainer.precision.name, *phases, *speed, f"{1000 * reading:.0f}", timing.count])
    return rows


class Form:
    """A trainer under settings of its own, with one batch.

    A process knows one precision at a time: what accelerate shares among all is put back before every step.

    Args:
        cfg: names the sizes of the networks.
        folder: holds `expert.pt` and `clips`.
        overrides: the settings of this form.
        device: where the step is computed.
    """

    def __init__(self, cfg: DictConfig, folder: Path, overrides: list[str], device: torch.device):
        self._device = device
        self._spent: list[dict[str, float]] = []
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = [*cfg.generator, f"expert.path={folder / 'expert.pt'}", f"data.prepared={folder / 'clips'}"]
        settings += [f"run.dir={folder}", "run.name=benchmark", f"trainer.cpu={str(device.type == 'cpu').lower()}"]
        # The script of the benchmark has told Hydra where the configurations are.
        config = compose("train_generator", ["variant=synctalklip", *settings, *overrides])
        self.trainer = Trainer(to_dict(config, resolve=True))
        self._shared = dict(AcceleratorState._shared_state)
        self.batch = {key: v.to(device) if isinstance(v, Tensor) else v for key, v in self.read().items()}

    def read(self) -> dict[str, Any]:
        """The batch: all clips, read and decoded."""
        clips = self.trainer.data.sets["train"]
        return collate([clips[0, index] for index in range(len(clips))])

    def step(self) -> None:
        """One step of the generator and one of the discriminator; the time of each of `PHASES` is kept."""
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(self._shared)
        self._spent.append(step_seconds(self.trainer, self.batch, self._device))

    def median_phases(self, count: int) -> dict[str, float]:
        """Medians over the last so many steps."""
        return {phase: statistics.median(one[phase] for one in self._spent[-count:]) for phase in PHASES}


def step_seconds(trainer: Trainer, batch: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Wall time of each of `PHASES` of one step, which is the trainer's own."""
    spent = dict.fromkeys((*PHASES, "terms"), 0.0)
    discriminator = trainer.objective.discriminator

    with ExitStack() as stack:
        stack.enter_context(_timed(trainer, "paint", spent, "generator", device))
        stack.enter_context(_timed(trainer.objective, "terms", spent, "terms", device))
        stack.enter_context(_timed(discriminator, "forward", spent, "discriminator in G", device))
        stack.enter_context(_timed(trainer.accelerator, "backward", spent, "backward G", device))
        painted = []
        whole = seconds(lambda: painted.append(trainer.generator_step(batch)[0]), device)
    spent["update G"] = whole - spent["generator"] - spent["terms"] - spent["backward G"]
    spent["expert and losses"] = spent.pop("terms") - spent["discriminator in G"]
    spent["discriminator step"] = seconds(lambda: trainer.discriminator_step(painted[0]), device)
    return spent


@contextmanager
def _timed(owner: object, name: str, spent: dict[str, float], phase: str, device: torch.device) -> Iterator[None]:
    """While this lasts, calls of a method of `owner` add their time to `spent[phase]`."""
    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        found: list[Any] = []
        spent[phase] += seconds(lambda: found.append(method(*args, **kwargs)), device)
        return found[0]

    with patch.object(owner, name, timed):
        yield


def write_expert(cfg: DictConfig, path: Path) -> None:
    """An AV-SyncNet of random weights with the structure of the first encoder."""
    structure = next(iter(encoders(cfg).values()))
    train_tokenizer([_TEXT, "lay red by b two soon"], path.with_suffix(".model"), "word", None)
    tokenizer = Tokenizer.load(path.with_suffix(".model"))
    config = AVSyncNetConfig.from_mapping(structure | {"vocab_size": tokenizer.size, "num_classes": []})
    torch.manual_seed(cfg.seed)
    state = {
        "cfg": {"model": {"_name": "avsyncnet", **asdict(config)}},
        "model": AVSyncNet(config).state_dict(),
        "task_state": {"tokenizer": tokenizer.model, "roi_mode": "landmark"},
    }
    checkpoint.save(path, state)


def write_clips(folder: Path, count: int, frames: int, seed: int) -> None:
    """A prepared folder of `count` training clips and one to validate, patterns that drift and noise to hear."""
    rng, clips = np.random.default_rng(seed), []
    for number in range(count + 1):
        split = "train" if number < count else "valid"
        clip = Clip(f"clip{number}", split, frames, 640 * frames, _TEXT, root=folder)
        for file in clip.files():
            file.parent.mkdir(parents=True, exist_ok=True)
        pattern = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
        faces = np.stack([np.roll(pattern, t, axis=1) for t in range(frames)])
        write_video(clip.faces, faces)
        write_video(clip.rois, faces[..., 1])
        write_wav(clip.wav, (rng.standard_normal(clip.samples) * 3000).astype(np.int16))
        boxes = np.tile(np.array([0, 0, 96, 96], np.float32), (frames, 1))
        matrices = np.tile(np.array([[0.9, 0.05, 2.0], [-0.05, 0.9, -20.0]], np.float32), (frames, 1, 1))
        np.savez(clip.track, boxes=boxes, matrices=matrices)
        clips.append(clip)
    write_manifest(folder / "manifest.jsonl", clips)
