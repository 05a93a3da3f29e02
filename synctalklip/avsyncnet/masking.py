"""Masks of the pre-training: which frames are hidden (spans), and what stands in their place.

Legend: B clips, T video frames, A sound values a frame, D embedding.

Masks are drawn on the CPU from a generator that the caller passes (None: torch's global one).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from synctalklip.errors import SyncTalklipError


def span_mask(
    lengths: Tensor,
    frames: int,
    probability: float,
    length: int,
    *,
    equalize: bool,
    min_spans: int = 2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Spans of `length` frames with different starts, which may overlap and never touch padding.

    A row of n frames gets int(probability * n / length + U(0, 1)) spans, at least `min_spans`.

    Args:
        lengths: (B,) unpadded frames of each clip, on the CPU.
        frames: T.
        probability: share of the frames that would be hidden if spans did not overlap.
        length: frames of one span.
        equalize: thin every row, frame by frame, to the fewest hidden frames of the batch (the public
            recipe; it breaks spans up). False keeps whole spans and unequal counts.

    Returns:
        (B, T) bool on the CPU, True where hidden.

    Source: fairseq's compute_mask_indices with static lengths, as AV-HuBERT calls it.
    """
    batch = len(lengths)
    sizes = lengths.cpu()
    positions = torch.arange(frames)
    spans = (probability * sizes / length + torch.rand(batch, generator=generator)).long().clamp(min=min_spans)
    # Short clips take shorter spans, so that there are more places to start than spans.
    span = torch.where(sizes - length <= spans, sizes - spans - 1, length).clamp(min=1)
    room = (sizes - span).clamp(min=1)
    order = torch.rand(batch, frames, generator=generator)
    starts = _smallest(order, positions < room[:, None], torch.minimum(spans, room))
    begun = F.pad(starts.long().cumsum(1), (1, 0))
    before = (positions + 1 - span[:, None]).clamp(min=0)
    mask = (begun[:, 1:] - begun.gather(1, before) > 0) & (positions < sizes[:, None])
    if equalize:
        order = torch.rand(batch, frames, generator=generator)
        mask = _smallest(order, mask, mask.sum(1).min().expand(batch))
    return mask


def _smallest(order: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """Mask (B, T) of the `count` (B,) smallest entries of `order` among the `allowed` ones."""
    rank = order.masked_fill(~allowed, torch.inf).argsort(1).argsort(1)
    return (rank < count[:, None]) & allowed


def same_clip_sources(mask: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each hidden frame another frame of the same clip; a hidden run comes from one run elsewhere.

    The substitute of a run of n frames from s to e starts at a place drawn from all but
    max(0, s - n)..e, so that the two do not overlap; if there is none it starts at 0. Indices past the
    clip's end stay at its last frame.

    Args:
        mask: (B, T) bool on the CPU.
        lengths: (B,) unpadded frames, on the CPU.

    Returns:
        (B, T) index of the frame to show; t itself where nothing is hidden.

    Source: AV-HuBERT, selection type `same_seq`; here padding is never a substitute.
    """
    batch, frames = mask.shape
    positions = torch.arange(frames).expand(batch, frames)
    padded = F.pad(mask, (1, 1))
    begins = mask & ~padded[:, :-2]
    ends = mask & ~padded[:, 2:]
    start = torch.where(begins, positions, 0).cummax(1).values
    end = torch.where(ends, positions, frames).flip(1).cummin(1).values.flip(1)
    low = (2 * start - end - 1).clamp(min=0)
    choices = lengths[:, None] - (end + 1 - low)
    # One draw a run: every frame of it reads the draw of its first frame.
    draw = torch.rand(batch, frames, generator=generator).gather(1, start)
    place = (draw * choices.clamp(min=0)).long()
    place = torch.where(place < low, place, place + end + 1 - low)
    place = torch.where(choices > 0, place, 0)
    source = torch.minimum(place + positions - start, lengths[:, None] - 1)
    return torch.where(mask, source, positions)


def mask_audio(audio: Tensor, mask: Tensor, embedding: Tensor) -> Tensor:
    """Sound (B, A, T) with the hidden frames of `mask` (B, T) replaced by `embedding` (A,)."""
    return torch.where(mask[:, None], embedding.to(audio.dtype)[:, None], audio)


def mask_video(video: Tensor, source: Tensor) -> Tensor:
    """Video (B, 1, T, H, W) with frame t replaced by frame `source[:, t]` of the same clip; a new tensor."""
    clip = torch.arange(len(video), device=video.device)[:, None]
    return video[:, 0][clip, source][:, None]


def mask_video_from_other(video: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Video with hidden frames taken from another clip of the batch (a lone clip gets zeros)."""
    batch = len(video)
    if batch == 1:
        other = torch.zeros_like(video)
    else:
        shift = int(torch.randint(1, batch, (), generator=generator))
        other = video.roll(shift, 0)
    return torch.where(mask[:, None, :, None, None], other, video)


def mask_features(features: Tensor, mask: Tensor, embedding: Tensor) -> Tensor:
    """Fused features (B, T, D) with hidden frames replaced by `embedding` (D,)."""
    return torch.where(mask[..., None], embedding.to(features.dtype), features)


class FrameMasks(NamedTuple):
    """Hidden frames of a batch.

    `audio` and `video` are (B, T) bool; `source` (B, T) names the frame that stands in each place of the
    video (None: hidden frames come from another clip, or the fused features are masked).
    """

    audio: Tensor
    video: Tensor
    source: Tensor | None = None


class MaskSettings(Protocol):
    """The fields of `AVHubertConfig` that masking reads."""

    masking_type: str
    selection_type: str
    mask_prob_audio: float
    mask_length_audio: int
    mask_prob_image: float
    mask_length_image: int
    mask_equalize: bool


def draw_masks(
    settings: MaskSettings,
    shape: tuple[int, int],
    padding_mask: Tensor | None,
    generator: torch.Generator | None = None,
) -> FrameMasks:
    """Masks for a batch of `shape` (B, T), on the CPU; never on padding.

    Input masking hides sound and video apart, feature masking both at once (its two settings must agree).
    """
    batch, frames = shape
    lengths = torch.full((batch,), frames) if padding_mask is None else (~padding_mask).sum(1).cpu()
    audio_span = (settings.mask_prob_audio, settings.mask_length_audio)
    video_span = (settings.mask_prob_image, settings.mask_length_image)
    video = span_mask(lengths, frames, *video_span, equalize=settings.mask_equalize, generator=generator)
    if settings.masking_type == "feature":
        if audio_span != video_span:
            raise SyncTalklipError(
                "masking_type feature hides both modalities: give them the same mask_prob and mask_length"
            )
        return FrameMasks(video, video)
    audio = span_mask(lengths, frames, *audio_span, equalize=settings.mask_equalize, generator=generator)
    if settings.selection_type == "same_other_seq":
        return FrameMasks(audio, video)
    return FrameMasks(audio, video, same_clip_sources(video, lengths, generator))


def union(masks: FrameMasks, with_audio: bool, with_video: bool) -> Tensor:
    """(B, T) frames that are hidden in a modality that is there."""
    if with_audio and with_video:
        return masks.audio | masks.video
    return masks.audio if with_audio else masks.video
