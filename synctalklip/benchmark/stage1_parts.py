"""Parts of stage 1 against their naive forms.

Legend: B clips, T frames, D embedding, V classes.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.decode import Generation, build_search
from synctalklip.avsyncnet.model import AVHubert, AVSyncNet
from synctalklip.avsyncnet.transformer import Attention
from synctalklip.benchmark.timing import Comparison, compare
from synctalklip.cli import CONFIGS
from synctalklip.data.features import logfbank
from synctalklip.data.text import EOS, Tokenizer, train_tokenizer
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import cosine_logits

TESTS = CONFIGS.parent / "tests"
Part = Callable[[DictConfig, torch.device, ModuleType], Iterator[Comparison]]


def load_naive(name: str) -> ModuleType:
    """The naive forms that the tests keep in `tests/<name>.py`."""
    path = TESTS / f"{name}.py"
    if not path.is_file():
        raise SyncTalklipError(f"{path}: the naive forms are not there; run the benchmark from a whole checkout")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoders(cfg: DictConfig, device: torch.device) -> dict[str, dict[str, Any]]:
    """Structures by name: the chosen one, else base, and on a GPU large too."""
    sizes = OmegaConf.to_container(cfg.sizes, resolve=True)
    if "encoder" not in cfg:
        return {name: sizes[name] for name in (("base", "large") if device.type == "cuda" else ("base",))}
    chosen = OmegaConf.to_container(cfg.encoder, resolve=True)
    return {next((name for name, size in sizes.items() if size == chosen), "custom size"): chosen}


def clips(cfg: DictConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Sound (B, 104, T), video (B, 1, T, 88, 88) and padding mask (B, T) of about `frames` frames."""
    frames = min(cfg.clip_frames, cfg.frames)
    batch = max(1, cfg.frames // frames)
    generator = torch.Generator().manual_seed(cfg.seed)
    audio = torch.randn(batch, 104, frames, generator=generator)
    video = torch.randn(batch, 1, frames, 88, 88, generator=generator)
    return audio.to(device), video.to(device), torch.zeros(batch, frames, dtype=torch.bool, device=device)


def _first_encoder(cfg: DictConfig, device: torch.device) -> tuple[str, dict[str, Any]]:
    return next(iter(encoders(cfg, device).items()))


def logits(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Cosine logits of eq. 3, forward and backward."""
    features = torch.randn(cfg.frames, 256, device=device, requires_grad=True)
    codebook = torch.randn(cfg.classes, 256, device=device, requires_grad=True)

    def work(form: Callable[[Tensor, Tensor], Tensor]) -> None:
        form(features, codebook).sum().backward()

    ours, theirs = partial(work, cosine_logits), partial(work, naive.broadcast_cosine_logits)
    yield compare(f"cosine logits, {cfg.frames} frames, {cfg.classes} classes", ours, theirs, device, cfg.repeats)


def filterbank(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Log filterbank; always on the CPU, where the data workers are."""
    rng = np.random.default_rng(cfg.seed)
    for length in cfg.sound_seconds:
        wave = (rng.standard_normal(16000 * length) * 3000).astype(np.int16)
        ours, theirs = partial(logfbank, wave), partial(naive.logfbank, wave)
        yield compare(f"log filterbank, {length} s", ours, theirs, torch.device("cpu"), cfg.repeats)


def masks(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Span masks, and hidden video frames replaced by frames of the same clip."""
    _, video, padding = clips(cfg, device)
    settings = AVHubertConfig()
    span = (settings.mask_prob_image, settings.mask_length_image)
    rng = np.random.default_rng(cfg.seed)

    def lengths() -> Tensor:
        return (~padding).sum(1).cpu()

    def ours() -> Tensor:
        return masking.span_mask(lengths(), padding.shape[1], *span, equalize=True)

    what = f"span masks of {len(padding)} clips"
    yield compare(what, ours, lambda: naive.span_mask(padding, *span, rng), device, cfg.repeats)
    hidden = ours()

    def substitute() -> Tensor:
        return masking.mask_video(video, masking.same_clip_sources(hidden, lengths()).to(device))

    def loop() -> Tensor:
        return naive.same_clip_substitution(video, hidden, lengths(), rng)

    yield compare("same-clip substitution", substitute, loop, device, cfg.repeats)


def attention(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Self-attention of one layer, forward and backward; both with the same projections."""
    _, size = _first_encoder(cfg, device)
    layer = Attention(size["encoder_embed_dim"], size["encoder_attention_heads"], 0.0).to(device)
    batch, frames = clips(cfg, device)[2].shape
    x = torch.randn(batch, frames, size["encoder_embed_dim"], device=device, requires_grad=True)
    visible = torch.ones(batch, 1, 1, frames, dtype=torch.bool, device=device)

    def explicit() -> None:
        q, (k, v) = layer._split(layer.q_proj(x)), layer.keys_values(x)
        layer.out_proj(naive.attention(q, k, v, visible).transpose(1, 2).flatten(2)).sum().backward()

    def ours() -> None:
        layer(x, x, visible).sum().backward()

    yield compare(f"self-attention, {batch} x {frames} frames", ours, explicit, device, cfg.repeats)


def dropped_modality(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """A pre-training pass, forward and backward, whose video is dropped, or computed and multiplied by zero."""
    name, size = _first_encoder(cfg, device)
    config = AVHubertConfig.from_mapping(size)
    model = AVHubert(config, [cfg.classes]).to(device).train()
    audio, video, padding = (x[:2] for x in clips(cfg, device))  # a ratio needs no large batch

    def work(seen: Tensor | None) -> None:
        features = model.fuse(audio, seen)
        kept = features.new_ones(features.shape[-1])
        kept[config.encoder_embed_dim :] = 0
        model.encoder(model._project(features * kept), padding).sum().backward()

    what = f"pre-training pass without video, {name}"
    yield compare(what, partial(work, None), partial(work, video), device, 1)


def searches(cfg: DictConfig, device: torch.device, naive: ModuleType) -> Iterator[Comparison]:
    """Greedy and beam search with kept keys and values against decoding each prefix from its start."""
    tokenizer = _tokenizer(cfg.vocabulary)
    _, size = _first_encoder(cfg, device)
    unused = {"resnet_width": 2, "encoder_layers": 1}  # the encoder is not measured
    config = AVSyncNetConfig.from_mapping(size | unused | {"vocab_size": tokenizer.size})
    model = AVSyncNet(config).to(device).eval()
    embeddings = torch.randn(cfg.search.clips, cfg.clip_frames, config.encoder_embed_dim, device=device)
    mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=device)
    net_input = {"audio": None, "video": None, "padding_mask": mask}

    def read(decode: Callable[..., Tensor], beam: int) -> Callable[[], object]:
        def endless(*args: Any) -> Tensor:
            scores = decode(*args)
            scores[..., EOS] = -1e4
            return scores

        reader = SimpleNamespace(encode=lambda *_, **__: embeddings, decode=endless)
        reader.model, reader.tokenizer, reader.roi_mode = reader, tokenizer, "landmark"
        generation = Generation(beam=beam, max_len_a=cfg.search.tokens / cfg.clip_frames)
        return torch.no_grad()(partial(build_search(reader, generation), net_input))

    for beam in cfg.search.beams:
        name = "greedy search" if beam == 1 else f"beam search of {beam}"
        what = f"{name}, {len(mask)} clips, {cfg.search.tokens} tokens"
        works = [read(decode, beam) for decode in (model.decode, naive.WholePrefix(model).decode)]
        yield compare(what, *works, device, 1)


def _tokenizer(size: int) -> Tokenizer:
    """A vocabulary of `size` symbols; what they are does not matter."""
    words = [f"w{index}" for index in range(size - 4)]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(words, Path(folder) / "words.model", "word")


PARTS: tuple[Part, ...] = (logits, filterbank, masks, attention, dropped_modality, searches)
