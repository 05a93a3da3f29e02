"""Speed of stage 2: parts against their naive forms, and a whole step of both players, phase by phase.

Legend: B clips, T video frames, N painted frames, D embedding.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate.state import AcceleratorState
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from synctalklip import checkpoint, losses
from synctalklip.avsyncnet.config import AVSyncNetConfig
from synctalklip.avsyncnet.model import AVSyncNet
from synctalklip.benchmark.stage1_parts import encoders, load_naive
from synctalklip.benchmark.timing import Comparison, compare, median_seconds, seconds
from synctalklip.data.text import Tokenizer, train_tokenizer
from synctalklip.data.windows import collate
from synctalklip.device import choose_device, describe_device
from synctalklip.generator.loaders import StageTwoData
from synctalklip.generator.objective import READ, insert_faces
from synctalklip.generator.players import Batch, Players
from synctalklip.tables.render import pipe_table

PHASES = ("generator", "expert", "discriminator in G", "backward G", "update G", "discriminator step")
PLAIN = ["trainer.precision=fp32", "trainer.channels_last=false", "trainer.frozen_mb=0", "trainer.compile=null"]


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, the whole step.
    """
    device = choose_device(cfg.device)
    sections = [f"{describe_device(device)}, torch {torch.__version__}"]
    if "parts" in cfg.measure:
        rows = [comparison.row() for comparison in tqdm(_parts(cfg, device), desc="parts", disable=None)]
        sections.append(pipe_table(["what", "ours ms", "naive ms", "ratio"], rows, padded=True))
    if "steps" in cfg.measure:
        sections += _whole_steps(cfg, device)
    return "\n\n".join(sections)


def _parts(cfg: DictConfig, device: torch.device) -> Iterator[Comparison]:
    naive = load_naive("naive_stage2")
    yield _insertion(cfg, device, naive)
    yield _contrastive(cfg, device, naive)


def _insertion(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Comparison:
    """Painted faces into the ROIs of their clips, forward and backward."""
    batch = fake_batch(cfg, device)
    faces = torch.rand(len(batch["clip"]), 3, 96, 96, device=device, requires_grad=True)
    rest = (batch["matrices"], batch["rois"], batch["clip"], batch["frame"], batch["padding_mask"])

    def work(form: Callable[..., Tensor]) -> None:
        form(faces, *rest).square().sum().backward()

    what = f"insertion of {len(faces)} faces into {len(batch['rois'])} clips"
    return compare(what, partial(work, insert_faces), partial(work, naive.naive_insert), device, cfg.repeats)


def _contrastive(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Comparison:
    """Equations 11 and 12 with the negatives of the public code, at most 100 of the batch: draw, forward, backward."""
    size = cfg.stage2.contrastive
    audio, video = (torch.randn(size.frames, size.dim, device=device, requires_grad=True) for _ in range(2))
    distance = losses.AVDistance(size.dim)
    clips, frames = torch.zeros(size.frames, dtype=torch.long, device=device), torch.arange(size.frames, device=device)
    count = min(100, size.frames // 2)

    def ours() -> None:
        chosen = losses.negatives_of(clips, frames, "batch", 1, count)
        losses.cross_modal_contrastive(distance.matrix(audio, video).T, chosen).backward()

    def theirs() -> None:
        naive.naive_sampled_contrastive(audio, video, count)[0].backward()

    what = f"contrastive, {size.frames} frames of {size.dim}, {count} negatives"
    return compare(what, ours, theirs, device, cfg.repeats)


def fake_batch(cfg: DictConfig, device: torch.device) -> Batch:
    """Clips of noise in the form of `windows.collate`: `stage2.clips` of `clip_frames`, `windows` of 5 frames each."""
    size, rng = cfg.stage2, torch.Generator().manual_seed(cfg.seed)

    def noise(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)

    matrix = torch.tensor([[0.9, 0.05, 2.0], [-0.05, 0.9, -20.0]])
    starts = torch.linspace(1, size.clip_frames - 6, size.windows).long()
    frames = (starts[:, None] + torch.arange(5)).flatten().unique()
    items = [
        {
            "clip": f"clip{number}",
            "frames": frames,
            "target": noise(len(frames), 96, 96, 3),
            "identity": noise(len(frames), 96, 96, 3),
            "matrices": matrix.expand(len(frames), 2, 3),
            "silent": torch.zeros(len(frames), dtype=torch.bool),
            "rois": noise(size.clip_frames, 96, 96),
            "audio": torch.randn(size.clip_frames, 104, generator=rng),
            "tokens": torch.tensor([*range(4, 10), 2]),
            "sound": None,
        }
        for number in range(size.clips)
    ]
    batch = collate(items)
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def make_players(cfg: DictConfig, folder: Path, overrides: list[str]) -> Players:
    """Both players of the configured sizes under an expert of random weights."""
    path = folder / "expert.pt"
    if not path.is_file():
        _write_expert(cfg, path)
    settings = [*cfg.stage2.settings, f"expert.path={path}", f"run.dir={folder}", "run.name=benchmark"]
    settings += [f"trainer.cpu={str(cfg.device == 'cpu').lower()}", "trainer.monitor.patience=null"]
    # The script of the benchmark has told Hydra where the configurations are.
    config = compose("train_generator", [*settings, *overrides])
    players = Players(OmegaConf.to_container(config, resolve=True))
    players.painter.train()
    players.discriminator.train()
    return players


def _write_expert(cfg: DictConfig, path: Path) -> None:
    size = next(iter(encoders(cfg, torch.device("cpu")).values()))
    train_tokenizer(["bin blue at a one now", "lay red by b two soon"], path.with_suffix(".model"), "word", None)
    tokenizer = Tokenizer.load(path.with_suffix(".model"))
    config = AVSyncNetConfig.from_mapping(size | {"vocab_size": tokenizer.size, "num_classes": []})
    torch.manual_seed(cfg.seed)
    state = {
        "cfg": {"model": {"_name": "avsyncnet", **asdict(config)}},
        "model": AVSyncNet(config).state_dict(),
        "task_state": {"tokenizer": tokenizer.model, "roi_mode": "landmark"},
    }
    checkpoint.save(path, state)


def step_seconds(players: Players, batch: Batch, device: torch.device) -> dict[str, float]:
    """Wall time of each of `PHASES` of one step of both players, the parts in the order of the trainer's."""
    found: dict[str, float] = {}
    state: dict[str, Any] = {}
    weights = players.objective.weights_at(players.step)
    seen = [name for name in weights if name in READ]

    def terms(names: list[str]) -> None:
        with players.accelerator.autocast():
            state["terms"] = state.get("terms", {}) | players.objective.terms(state["painted"], names)

    def update() -> None:
        players.g_optimizer.step()
        players.g_optimizer.zero_grad(set_to_none=True)

    work: dict[str, Callable[[], object]] = {
        "generator": lambda: state.update(painted=players.paint(batch)),
        "expert": lambda: terms(seen),
        "discriminator in G": lambda: terms([name for name in weights if name not in seen]),
        "backward G": lambda: players.accelerator.backward(losses.weighted_sum(state["terms"], weights)),
        "update G": update,
        "discriminator step": lambda: players.discriminator_step(state["painted"]),
    }
    players.critic.requires_grad_(False)
    for name in PHASES:
        if name == "discriminator step":
            players.critic.requires_grad_(True)
        found[name] = seconds(work[name], device)
    return found


class Form:
    """Both players under settings of their own.

    A process knows one precision at a time: what accelerate shares among all is put back before every step.
    """

    def __init__(self, cfg: DictConfig, folder: Path, overrides: list[str]):
        AcceleratorState._reset_state(reset_partial_state=True)
        self.players = make_players(cfg, folder, overrides)
        self._shared = dict(AcceleratorState._shared_state)

    def step_seconds(self, batch: Batch, device: torch.device) -> dict[str, float]:
        """See the function of that name."""
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(self._shared)
        return step_seconds(self.players, batch, device)


def data_seconds(cfg: DictConfig, players: Players, folder: Path) -> float:
    """Wall time in which one worker reads clips of the configured number and length and makes a batch of them."""
    size = cfg.stage2
    load_naive("prepared_factory").make_prepared(folder, {"train": size.clips, "valid": 1}, (size.clip_frames,))
    config = {**players.config, "data": {**players.config["data"], "prepared": str(folder)}}
    clips = StageTwoData(config, players.expert, 0, 1).sets["train"]

    def read() -> None:
        collate([clips[0, index] for index in range(len(clips))])

    return median_seconds(read, torch.device("cpu"), cfg.repeats)


def _whole_steps(cfg: DictConfig, device: torch.device) -> list[str]:
    batch = fake_batch(cfg, device)
    images = len(batch["clip"])
    with tempfile.TemporaryDirectory() as folder:
        forms = {
            name: Form(cfg, Path(folder), overrides)
            for name, overrides in {"ours": list(cfg.stage2.ours), "plain": PLAIN}.items()
        }
        # The first round fills caches and does not count. In turn, so that a busy moment of the machine meets both.
        rounds = tqdm(range(cfg.repeats + 1), desc="steps", disable=None)
        times = {name: [] for name in forms}
        for _ in rounds:
            for name, form in forms.items():
                times[name].append(form.step_seconds(batch, device))
        data = data_seconds(cfg, forms["plain"].players, Path(folder) / "clips")
    rows, totals = [], {}
    for name, rounds in times.items():
        medians = {phase: statistics.median(one[phase] for one in rounds[1:]) for phase in PHASES}
        totals[name] = statistics.median(sum(one.values()) for one in rounds[1:])
        rows.append([name, *(f"{1000 * medians[phase]:.0f}" for phase in PHASES), f"{1000 * totals[name]:.0f}"])
        rows[-1].append(f"{images / totals[name]:.1f}")
    header = ["whole step, ms", *PHASES, "sum", "images/s"]
    if device.type == "cuda":
        memory = f", peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    else:
        import resource

        memory = f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB of both forms"
    told = (
        f"{cfg.stage2.clips} clips of {cfg.stage2.clip_frames} frames, {images} images; ours: "
        f"{', '.join(cfg.stage2.ours)}; plain: {', '.join(PLAIN)}{memory}. "
        f"One worker reads and collates such a batch in {1000 * data:.0f} ms. "
        f"The whole step takes {totals['plain'] / totals['ours']:.1f} times as long in the plain form."
    )
    return [pipe_table(header, rows, padded=True), told]
