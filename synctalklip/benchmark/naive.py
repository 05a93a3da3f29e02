"""Both stages and SyncNet in naive forms, loops included: the other side of the benchmark, and oracles of the tests.

They follow the published recipes step by step and share no arithmetic with the package.

Legend: B clips, T frames, H heads, E values a head, R rows, D embedding, V classes, W windows.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from synctalklip.errors import SyncTalklipError


def broadcast_cosine_logits(features: Tensor, codebook: Tensor, temperature: float = 0.1) -> Tensor:
    """Cosines of (R, D) with (V, D) over the temperature, by way of the (R, V, D) products."""
    products = (features[:, None] * codebook[None]).sum(-1)
    lengths = features.square().sum(-1).sqrt()[:, None] * codebook.square().sum(-1).sqrt()[None]
    return products / lengths.clamp(min=1e-6) / temperature


def logfbank(wave: np.ndarray) -> np.ndarray:
    """Log filterbank (F, 26) of 16 kHz sound by python_speech_features.

    Raises:
        SyncTalklipError: the package is not installed.
    """
    try:
        import python_speech_features
    except ModuleNotFoundError:
        raise SyncTalklipError(
            "the naive filterbank is that of python_speech_features: pip install python_speech_features, or leave the "
            "parts out with 'sound_seconds=[]'"
        ) from None
    return python_speech_features.logfbank(wave, 16000).astype(np.float32)


def span_mask(padding_mask: Tensor, probability: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Spans (B, T) row by row, each with a look at the padding on its device; equalised to the fewest."""
    hidden = []
    for row in padding_mask:
        frames = len(row) - int(row.long().sum().item())
        spans = max(2, int(probability * frames / length + rng.random()))
        span = length if frames - length > spans else max(1, frames - spans - 1)
        starts = rng.choice(max(1, frames - span), min(spans, max(1, frames - span)), replace=False)
        places = np.concatenate([np.arange(start, start + span) for start in starts])
        hidden.append(np.unique(places[places < frames]))
    fewest = min(len(places) for places in hidden)
    mask = np.zeros(tuple(padding_mask.shape), dtype=bool)
    for row, places in zip(mask, hidden):
        row[rng.choice(places, fewest, replace=False)] = True
    return mask


def runs(row: Tensor) -> list[tuple[int, int]]:
    """(start, end) of the hidden runs of one clip, end included."""
    found, start = [], None
    for index, hidden in enumerate([*row.tolist(), False]):
        if hidden and start is None:
            start = index
        if not hidden and start is not None:
            found.append((start, index - 1))
            start = None
    return found


def same_clip_substitution(video: Tensor, mask: Tensor, lengths: Tensor, rng: np.random.Generator) -> Tensor:
    """Video (B, 1, T, H, W) whose hidden runs are replaced one by one by a run of the same clip."""
    result = video.clone()
    for clip in range(len(video)):
        for start, end in runs(mask[clip]):
            size, frames = end - start + 1, int(lengths[clip])
            low = max(0, start - size)
            places = [place for place in range(frames) if place < low or place > end]
            place = int(rng.choice(places)) if places else 0
            for offset in range(size):
                result[clip, :, start + offset] = video[clip, :, min(place + offset, frames - 1)]
    return result


def attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
    """Softmax attention with its (B, H, T, T) weights; (B, H, T, E) each, `visible` broadcasts to the weights."""
    weights = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    if visible is not None:
        weights = weights.masked_fill(~visible, float("-inf"))
    return weights.softmax(-1) @ value


class WholePrefix:
    """An AV-SyncNet that decodes the sentence from its start at every step of a search."""

    def __init__(self, model: Any) -> None:
        self.encode, self._decode = model.encode, model.decode

    def decode(self, prev_tokens: Tensor, embeddings: Tensor, padding_mask: Tensor, state: object = None) -> Tensor:
        """Logits of all tokens; the state is left alone."""
        return self._decode(prev_tokens, embeddings, padding_mask)


def syncnet_windows(model: Any, faces: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (W, D) of the lips and of the sound, each window of five frames by itself.

    Faces are (T, 96, 96, 3) uint8, MFCC (4T, 13).
    """
    device = next(model.parameters()).device
    video, audio = [], []
    for start in range(len(faces) - 4):
        pixels = model.pixels(faces[start : start + 5].to(device))
        sound = mfcc[4 * start : 4 * start + 20].T.to(device)
        video.append(model.embed_video(pixels[None]))
        audio.append(model.embed_audio(sound[None, None]))
    return torch.cat(video), torch.cat(audio)


def syncnet_published(model: Any, faces: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
    """The same as the published script batches them (joonson/syncnet_python): all pictures at once as float64, then as
    float32, windows copied out of them by twenties."""
    device = next(model.parameters()).device
    pictures = model.pixels(faces).double().float()[None]
    starts = torch.arange(len(faces) - 4).split(20)
    lips = [torch.cat([pictures[:, :, i : i + 5] for i in part]).to(device) for part in starts]
    sound = [torch.stack([mfcc[4 * i : 4 * i + 20].T for i in part])[:, None].to(device) for part in starts]
    return torch.cat([model.embed_video(part) for part in lips]), torch.cat([model.embed_audio(part) for part in sound])


def naive_paste(face: Tensor, matrix: Tensor, roi: Tensor) -> Tensor:
    """One face (3,H,W) into one ROI (h,w) through its matrix (2,3), bilinear by hand."""
    height, width = face.shape[-2:]
    grey = 0.114 * face[0] + 0.587 * face[1] + 0.299 * face[2]
    whole = torch.cat([matrix.double(), matrix.new_tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    back = torch.linalg.inv(whole).float()
    y, x = torch.meshgrid(*(torch.arange(n, device=roi.device) for n in roi.shape), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).float() @ back.T
    u, v = places[..., 0], places[..., 1]
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    left, top = u.floor().clamp(0, width - 2).long(), v.floor().clamp(0, height - 2).long()
    fx, fy = u - left, v - top
    upper = grey[top, left] * (1 - fx) + grey[top, left + 1] * fx
    lower = grey[top + 1, left] * (1 - fx) + grey[top + 1, left + 1] * fx
    return torch.where(inside, upper * (1 - fy) + lower * fy, roi)


def naive_insert(
    generated: Tensor, matrices: Tensor, rois: Tensor, clip: Tensor, frame: Tensor, padding_mask: Tensor
) -> Tensor:
    """`objective.insert_faces`, one frame after the other; every write makes a new copy of its clip."""
    clips = [rois[b].float() / 255 for b in range(len(rois))]
    for n in range(len(generated)):
        b, t = int(clip[n]), int(frame[n])
        whole = clips[b].clone()
        whole[t] = naive_paste(generated[n], matrices[n], clips[b][t])
        clips[b] = whole
    video = (torch.stack(clips)[:, :, 4:92, 4:92] - 0.421) / 0.165
    return torch.where(padding_mask[:, :, None, None], video.new_zeros(()), video).unsqueeze(1)


def naive_sampled_contrastive(audio: Tensor, video: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Equations 11 and 12 as the public code computes them (SyncTalkLip, models/learn_sync.py, SupConLoss): lots drawn
    row by row on the CPU, all negatives gathered, one distance after the other.

    Args:
        audio: (N,D). video: (N,D), of the same frames.
        count: negatives of each row.

    Returns:
        The loss, video the anchor, and the sounds that were drawn, (N,count).
    """
    audio = audio / audio.norm(dim=1, keepdim=True)
    video = video / video.norm(dim=1, keepdim=True)
    lots = torch.ones(len(audio), len(audio)).fill_diagonal_(0)
    drawn = torch.stack([torch.multinomial(lots[i], count) for i in range(len(audio))])
    others = audio[drawn]
    apart = torch.stack([(video - others[:, k]).abs().sum(1) for k in range(count)], dim=1)
    return ((audio - video).abs().sum(1) - apart.mean(1)).mean(), drawn
