"""The benchmark of stage 1: parts against their naive forms, whole training steps, what the memory settings give.

Legend: B clips, T frames, D embedding, V classes.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.decode import Generation, build_search
from synctalklip.avsyncnet.model import AVHubert, AVSyncNet
from synctalklip.avsyncnet.transformer import Attention
from synctalklip.benchmark import naive, stage1_steps
from synctalklip.benchmark.parts import COMPARISON, Part, Section, Work, comparison, encoders, report, sized
from synctalklip.benchmark.stage1_steps import clips, shape
from synctalklip.data.features import logfbank
from synctalklip.data.text import EOS, Tokenizer, train_tokenizer
from synctalklip.device import choose_device
from synctalklip.losses import cosine_logits

Forms = tuple[Work, Work]


def run(cfg: DictConfig) -> str:
    """Measure what `cfg.measure` names, on the GPU where there is one.

    Returns:
        Markdown: the machine, parts against their naive forms, whole steps, steps with and without the memory settings.

    Raises:
        SyncTalklipError: an unknown precision or size, or no compiler for `compile`.
    """
    device = choose_device(cfg.device)
    cfg = sized(cfg, device)
    sections = []
    if "parts" in cfg.measure:
        sections.append(Section("Parts against their naive forms, fp32", COMPARISON, parts(cfg, device)))
    if "steps" in cfg.measure:
        title = f"Training steps, channels_last {cfg.channels_last}, compile {cfg.compile}"
        sections.append(Section(title, stage1_steps.HEADER, stage1_steps.parts(cfg, device)))
    if "memory" in cfg.measure:
        sections.append(stage1_steps.memory_section(cfg))
    return report(cfg, device, sections)


def parts(cfg: DictConfig, device: torch.device) -> list[Part]:
    """All comparisons, with the first of the encoders where one is needed."""
    batch, frames = shape(cfg)
    name, structure = next(iter(encoders(cfg).items()))
    masked = partial(masks, cfg, device)
    attended = partial(attention, cfg, device, structure)
    passed = partial(dropped_modality, cfg, device, structure)
    found = [
        comparison(f"cosine logits, {cfg.frames} frames, {cfg.classes} classes", partial(logits, cfg, device), device)
    ]
    for length in cfg.sound_seconds:
        # On the CPU always, where the data workers are.
        made = partial(filterbank, cfg, length)
        found.append(comparison(f"log filterbank, {length} s", made, torch.device("cpu")))
    found += [
        comparison(f"span masks of {batch} clips", masked, device),
        comparison("same-clip substitution", partial(substitution, cfg, device), device),
        comparison(f"self-attention, {batch} x {frames} frames", attended, device),
        comparison(f"pre-training pass without video, {name}", passed, device),
    ]
    for beam in cfg.search.beams:
        what = f"{'greedy search' if beam == 1 else f'beam search of {beam}'}, {cfg.search.clips} clips"
        made = partial(search, cfg, device, structure, beam)
        found.append(comparison(f"{what}, {cfg.search.tokens} tokens", made, device))
    return found


def logits(cfg: DictConfig, device: torch.device) -> Forms:
    """Cosine logits of eq. 3, forward and backward."""
    features = torch.randn(cfg.frames, 256, device=device, requires_grad=True)
    codebook = torch.randn(cfg.classes, 256, device=device, requires_grad=True)

    def work(form: Callable[[Tensor, Tensor], Tensor]) -> None:
        form(features, codebook).sum().backward()

    return partial(work, cosine_logits), partial(work, naive.broadcast_cosine_logits)


def filterbank(cfg: DictConfig, length: int) -> Forms:
    """Log filterbank of `length` seconds of noise."""
    rng = np.random.default_rng(cfg.seed)
    wave = (rng.standard_normal(16000 * length) * 3000).astype(np.int16)
    return partial(logfbank, wave), partial(naive.logfbank, wave)


def _mask_settings() -> tuple[float, int]:
    settings = AVHubertConfig()
    return settings.mask_prob_image, settings.mask_length_image


def masks(cfg: DictConfig, device: torch.device) -> Forms:
    """Span masks of a batch, from its padding mask on the device."""
    padding, span = clips(cfg, device)[2], _mask_settings()
    rng = np.random.default_rng(cfg.seed)

    def ours() -> None:
        masking.span_mask((~padding).sum(1).cpu(), padding.shape[1], *span, equalize=True)

    return ours, lambda: naive.span_mask(padding, *span, rng)


def substitution(cfg: DictConfig, device: torch.device) -> Forms:
    """Hidden video frames replaced by frames of the same clip."""
    _, video, padding = clips(cfg, device)
    lengths = (~padding).sum(1).cpu()
    hidden = masking.span_mask(lengths, padding.shape[1], *_mask_settings(), equalize=True)
    rng = np.random.default_rng(cfg.seed)

    def ours() -> None:
        masking.mask_video(video, masking.same_clip_sources(hidden, lengths).to(device))

    return ours, lambda: naive.same_clip_substitution(video, hidden, lengths, rng)


def attention(cfg: DictConfig, device: torch.device, structure: dict[str, Any]) -> Forms:
    """Self-attention of one layer, forward and backward; both with the same projections."""
    width = structure["encoder_embed_dim"]
    layer = Attention(width, structure["encoder_attention_heads"], 0.0).to(device)
    batch, frames = shape(cfg)
    x = torch.randn(batch, frames, width, device=device, requires_grad=True)
    visible = torch.ones(batch, 1, 1, frames, dtype=torch.bool, device=device)

    def explicit() -> None:
        q, (k, v) = layer._split(layer.q_proj(x)), layer.keys_values(x)
        layer.out_proj(naive.attention(q, k, v, visible).transpose(1, 2).flatten(2)).sum().backward()

    def ours() -> None:
        layer(x, x, visible).sum().backward()

    return ours, explicit


def dropped_modality(cfg: DictConfig, device: torch.device, structure: dict[str, Any]) -> Forms:
    """A pre-training pass, forward and backward, whose video is dropped, or computed and multiplied by zero."""
    config = AVHubertConfig.from_mapping(structure)
    model = AVHubert(config, [cfg.classes]).to(device).train()
    audio, video, padding = (x[:2] for x in clips(cfg, device))  # a ratio needs no large batch

    def work(seen: Tensor | None) -> None:
        features = model.fuse(audio, seen)
        kept = features.new_ones(features.shape[-1])
        kept[config.encoder_embed_dim :] = 0
        model.encoder(model._project(features * kept), padding).sum().backward()

    return partial(work, None), partial(work, video)


def search(cfg: DictConfig, device: torch.device, structure: dict[str, Any], beam: int) -> Forms:
    """Greedy or beam search with kept keys and values against decoding each prefix from its start."""
    tokenizer = _tokenizer(cfg.vocabulary)
    unused = {"resnet_width": 8, "encoder_layers": 1}  # the encoder is not measured
    config = AVSyncNetConfig.from_mapping(structure | unused | {"vocab_size": tokenizer.size})
    model = AVSyncNet(config).to(device).eval()
    embeddings = torch.randn(cfg.search.clips, cfg.clip_frames, config.encoder_embed_dim, device=device)
    mask = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=device)
    net_input = {"audio": None, "video": None, "padding_mask": mask}
    generation = Generation(beam=beam, max_len_a=cfg.search.tokens / cfg.clip_frames)

    def read(decode: Callable[..., Tensor]) -> Work:
        def endless(*args: Any) -> Tensor:
            scores = decode(*args)
            scores[..., EOS] = -1e4
            return scores

        reader = SimpleNamespace(encode=lambda *_, **__: embeddings, decode=endless)
        reader.model, reader.tokenizer, reader.roi_mode = reader, tokenizer, "landmark"
        return torch.no_grad()(partial(build_search(reader, generation), net_input))

    return read(model.decode), read(naive.WholePrefix(model).decode)


def _tokenizer(size: int) -> Tokenizer:
    """A vocabulary of `size` symbols; what they are does not matter."""
    words = [f"w{index}" for index in range(size - 4)]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(words, Path(folder) / "words.model", "word")
