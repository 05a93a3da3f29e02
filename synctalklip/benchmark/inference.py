"""Speed in use: images a second of the U-Net, whole videos as `generate.py` makes them, SyncNets' scores of a clip.

The small SyncNet embeds each frame once, where windows embed it five times. The public one joins five frames in its
first layer already, so that windows share no arithmetic (3.1 GFLOP each in both forms). It is compared with the
published script's batches of 20 windows; what is saved is norms, pooling in three dimensions and copies.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from skimage.data import astronaut

from synctalklip.benchmark import naive
from synctalklip.benchmark.parts import (
    COMPARISON,
    Budget,
    Part,
    Rows,
    Section,
    Work,
    comparison,
    measure,
    precisions,
    report,
    sized,
)
from synctalklip.cli import CONFIGS, to_dict
from synctalklip.data import media
from synctalklip.data.features import CEPSTRA, STACK
from synctalklip.device import choose_device
from synctalklip.generator.fused import FusedGenerator
from synctalklip.generator.unet import UNetGenerator
from synctalklip.inference import Report, Synthesizer
from synctalklip.syncnet.lse import build_syncnet
from synctalklip.syncnet.network import FACE

PHASES = ("decode", "detect", "landmarks", "speech", "crop", "network", "paste", "encode", "other")


def run(cfg: DictConfig) -> str:
    """Measure the sizes and precisions of `cfg.inference`, on the GPU where there is one.

    Returns:
        Markdown: images a second of each, and frames a second of whole videos.
    """
    device = choose_device(cfg.device)
    parts = [
        Part(f"generator {size}, {precision.name}", partial(_paint, cfg, size, precision.name, device))
        for size in cfg.inference.sizes
        for precision in precisions(cfg, device)
    ]
    header = ["generator", "precision", "ms an image", "images/s", "calls"]
    painting = Section(f"Painting, batches of {cfg.inference.images} images", header, parts)
    videos = [
        Part(f"video {width} x {height}", partial(_video, cfg, width, height, device))
        for width, height in cfg.inference.videos
    ]
    title = f"Whole videos of {cfg.inference.frames} frames, what ships; shares of the time"
    header = ["pixels", "precision", "frames/s", *PHASES, "calls"]
    return report(cfg, device, [painting, Section(title, header, videos)])


def _paint(cfg: DictConfig, size: str, precision: str, device: torch.device, budget: Budget) -> Rows:
    images, speech_dim = cfg.inference.images, cfg.inference.sizes[size]
    rng = np.random.default_rng(cfg.seed)
    poses = rng.integers(0, 256, (images, 96, 96, 3), dtype=np.uint8)
    config = to_dict(OmegaConf.load(CONFIGS / "generator" / f"{size}.yaml"))
    torch.manual_seed(cfg.seed)
    model = UNetGenerator(speech_dim, **config).to(device).eval()
    speech = torch.randn(images, speech_dim, device=device)
    fused = FusedGenerator(model, precision, device)
    (timing,) = measure([lambda: fused(poses, poses, speech)], device, budget)
    spent = timing.seconds
    return [[size, precision, f"{1000 * spent / images:.1f}", f"{images / spent:.1f}", timing.count]]


def _video(cfg: DictConfig, width: int, height: int, device: torch.device, budget: Budget) -> Rows:
    """Time the shipped generator from file to file, face finder and encoder included."""
    synthesizer = Synthesizer.from_pretrained(device=device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(cfg.seed)
        media.write_video(folder / "face.mp4", panned_portrait(width, height, cfg.inference.frames, rng), crf=16)
        speech = rng.normal(0, 3000, cfg.inference.frames * media.SAMPLE_RATE // media.FPS)
        media.write_wav(folder / "speech.wav", speech.astype(np.int16))
        files = folder / "face.mp4", folder / "speech.wav", folder / "out.mp4"
        reports: list[Report] = []
        (timing,) = measure([lambda: reports.append(synthesizer.generate(*files))], device, budget)
    phases = reports[-1].seconds_by_phase
    shares = [f"{100 * phases.get(phase, 0) / sum(phases.values()):.0f} %" for phase in PHASES]
    rate = f"{cfg.inference.frames / timing.seconds:.1f}"
    return [[f"{width} x {height}", reports[-1].precision, rate, *shares, timing.count]]


def panned_portrait(width: int, height: int, frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A camera that moves over the portrait of an astronaut, with the noise of a sensor, (H,W,3) uint8 BGR each."""
    photograph = np.ascontiguousarray(astronaut()[:, :, ::-1])
    zoom = max(1.0, height / 288)
    for number in range(frames):
        x, y = 40 + 10 * np.sin(number / 9), 6 + 5 * np.cos(number / 7)
        shift = np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]])
        frame = cv2.warpAffine(photograph, shift, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        yield (frame + rng.normal(0, 1.5, frame.shape)).clip(0, 255).astype(np.uint8)


def _embedding(cfg: DictConfig, structure: str, device: torch.device) -> tuple[Work, Work]:
    """Embeddings of a clip of `cfg.sync.frames`, sound included."""
    frames = cfg.sync.frames
    generator = torch.Generator().manual_seed(cfg.seed)
    faces = torch.randint(0, 256, (frames, FACE, FACE, 3), generator=generator, dtype=torch.uint8)
    mfcc = torch.randn(STACK * frames, CEPSTRA, generator=generator)
    settings = to_dict(OmegaConf.load(CONFIGS / "syncnet" / f"{structure}.yaml"))
    model = build_syncnet(**settings).to(device).eval()
    plain = naive.syncnet_published if structure == "public" else naive.syncnet_windows
    return partial(model.embed_clip, faces, mfcc), torch.no_grad()(partial(plain, model, faces, mfcc))


def run_sync(cfg: DictConfig) -> str:
    """Measure on the GPU where there is one.

    Returns:
        Markdown: whole clips against windows.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    parts = [
        comparison(
            f"SyncNet {structure}, {cfg.sync.frames} frames", partial(_embedding, cfg, structure, device), device
        )
        for structure in cfg.structures
    ]
    return report(cfg, device, [Section("Whole clips against windows, fp32", COMPARISON, parts)])
