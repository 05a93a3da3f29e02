"""The equations of the paper, one function an equation.

B clips, T video frames at 25 Hz, N generated frames, M candidates, R rows that count, D embedding,
L tokens, V symbols, K clusters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from synctalklip.errors import SyncTalklipError

CONTRASTS = ("cross_entropy", "margin")


def cosine_logits(features: Tensor, codebook: Tensor, temperature: float = 0.1) -> Tensor:
    """Cosine of every row with every code over the temperature, as one matmul: (R,D), (K,D) -> (R,K)."""
    return functional.normalize(features, dim=-1) @ functional.normalize(codebook, dim=-1).T / temperature


def masked_prediction(
    masked: Tensor,
    masked_targets: Tensor,
    unmasked: Tensor | None = None,
    unmasked_targets: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Eq. 3, summed over rows: cross-entropy of the masked frames + alpha times that of the others.

    Args:
        masked: logits of the masked frames, (R,K); `masked_targets` (R,) their clusters.
        unmasked: logits of the other frames, needed only where alpha is not 0.
        alpha: 0 for AV-HuBERT base, 1 for large.
    """
    loss = functional.cross_entropy(masked.float(), masked_targets, reduction="sum")
    if alpha:
        assert unmasked is not None
        assert unmasked_targets is not None
        loss = loss + alpha * functional.cross_entropy(unmasked.float(), unmasked_targets, reduction="sum")
    return loss


def lip_reading(
    logits: Tensor, targets: Tensor, smoothing: float = 0.1, reduction: str = "token_mean", pad: int = 1
) -> Tensor:
    """Eq. 4 with fairseq's label smoothing: the share of every wrong symbol is smoothing / (V - 1).

    Args:
        logits: (B,L,V). targets: (B,L), `pad` where there is no token.
        reduction: `sum` over tokens (the published weight 1e-5 belongs to it), `token_mean`, or
            `sentence_mean` (tokens summed, sentences averaged).
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1)
    share = smoothing / (logits.shape[-1] - 1)
    nll = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    loss = (1 - smoothing - share) * nll - share * log_probs.sum(-1)
    counted = targets.ne(pad)
    total = loss.masked_fill(~counted, 0).sum()
    tokens = counted.sum().clamp(min=1)
    divisors: dict[str, int | Tensor] = {"sum": 1, "token_mean": tokens, "sentence_mean": len(targets)}
    if reduction not in divisors:
        raise SyncTalklipError(f"reduction {reduction!r} is none of {', '.join(divisors)}")
    return total / divisors[reduction]


def alignment(distances: Tensor, padding_mask: Tensor) -> Tensor:
    """Eq. 5: mean distance over the frames that are no padding; both (B,T), mask true = padded."""
    counted = ~padding_mask
    return distances.masked_fill(padding_mask, 0).sum() / counted.sum().clamp(min=1)


def frame_contrast(
    distances: Tensor, padding_mask: Tensor, form: str = "cross_entropy", min_gap: int = 1, margin: float = 1.0
) -> Tensor:
    """Eq. 5 with negatives, our extension: a frame is nearer to its own sound than to that of others of its clip.

    Eq. 5 alone pushes nothing away, and a learned F answers it with a constant. Both directions count alike: the
    mouths that a sound could belong to, and the sounds that a mouth could.

    Args:
        distances: (B,T,T), sound i to mouth j of the same clip.
        padding_mask: (B,T) bool, true where padded.
        form: `cross_entropy` over the frames on minus the distance; or `margin`, how much less than `margin` a
            negative is farther than the own frame, mean over the negatives.
        min_gap: frames nearer than this are no negatives.

    Returns:
        Scalar, mean over frames and directions.
    """
    if form not in CONTRASTS:
        raise SyncTalklipError(f"distance loss form {form!r} is none of {', '.join(CONTRASTS)}")
    counted = ~padding_mask
    frames = torch.arange(distances.shape[1], device=distances.device)
    near = (frames[:, None] - frames[None]).abs() < max(min_gap, 1)
    negatives = ~near & counted[:, None, :]
    sides = [contrast_rows(table.float(), negatives, form, margin) for table in (distances, distances.transpose(1, 2))]
    return sum(rows.masked_fill(padding_mask, 0).sum() for rows in sides) / (2 * counted.sum().clamp(min=1))


def contrast_rows(distances: Tensor, negatives: Tensor, form: str, margin: float) -> Tensor:
    """Each row of (B,T,T) against its own frame, (B,T); see `frame_contrast`."""
    own = distances.diagonal(dim1=1, dim2=2)
    if form == "margin":
        short = functional.relu(margin + own[..., None] - distances).masked_fill(~negatives, 0)
        return short.sum(-1) / negatives.sum(-1).clamp(min=1)
    others = (-distances).masked_fill(~negatives, float("-inf"))
    return own + torch.logsumexp(torch.cat([-own[..., None], others], dim=-1), dim=-1)


# Top, bottom, left and right edge as fractions of the face crop, which the preparation places by eyes and nose.
REGIONS = {"full": (0, 1, 0, 1), "lower": (1 / 2, 1, 0, 1), "mouth": (9 / 16, 15 / 16, 1 / 4, 3 / 4)}


def cut(images: Tensor, region: str) -> Tensor:
    """The part of (N,C,H,W) that one of `REGIONS` names."""
    if region not in REGIONS:
        raise SyncTalklipError(f"reconstruction region {region!r} is none of {', '.join(REGIONS)}")
    height, width = images.shape[-2:]
    top, bottom, left, right = (
        round(share * side) for share, side in zip(REGIONS[region], (height, height, width, width))
    )
    return images[..., top:bottom, left:right]


def reconstruction(generated: Tensor, target: Tensor, region: str = "full") -> Tensor:
    """Eq. 7: mean absolute error of the generated frames, (N,3,H,W), in one of `REGIONS`."""
    return (cut(generated, region).float() - cut(target, region).float()).abs().mean()


def _unknown_form(form: str) -> SyncTalklipError:
    return SyncTalklipError(f"adversarial form {form!r} is none of non_saturating, paper, hinge, lsgan")


def adversarial_generator(fake: Tensor, form: str = "non_saturating") -> Tensor:
    """Eq. 8 on logits of generated frames, (N,1).

    `paper` is the printed log(1 - D), which has no gradient where D is sure; `non_saturating` is what
    the public code trains.
    """
    if form == "non_saturating":
        return functional.softplus(-fake).mean()
    if form == "paper":
        return -functional.softplus(fake).mean()
    if form == "hinge":
        return -fake.mean()
    if form == "lsgan":
        return (fake - 1).square().mean()
    raise _unknown_form(form)


def adversarial_discriminator(real: Tensor, fake: Tensor, form: str = "non_saturating") -> Tensor:
    """Eq. 9 on logits, (N,1): real frames are called real, generated ones not.

    The printed equation swaps the two and has no lower bound; `paper` keeps its logarithms in the order
    that trains. Eq. 10, the sum of both sides, is played by two optimisers in turn.
    """
    if form in ("non_saturating", "paper"):
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()
    if form == "hinge":
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    if form == "lsgan":
        return (real - 1).square().mean() + fake.square().mean()
    raise _unknown_form(form)


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): squared length of the logit's gradient by the image, mean over images.

    Args:
        logits: (N,1) of real images, with a graph down to them.
        images: (N,3,H,W), requiring gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def negatives_of(
    clips: Tensor,
    frames: Tensor,
    scope: str = "clip",
    min_gap: int = 1,
    candidates: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Which candidates j may be negatives of frame i in eq. 12, (N,M) bool.

    Args:
        clips: clip of each generated frame, (N,). frames: its number in the clip, (N,).
        scope: `clip` (the paper) or `batch` (the authors' code).
        min_gap: frames of the same clip nearer than this are no negatives.
        candidates: clip and number of each candidate, (M,) each; None for the generated frames themselves.
    """
    if scope not in ("clip", "batch"):
        raise SyncTalklipError(f"negatives scope {scope!r} is neither clip nor batch")
    other_clips, other_frames = (clips, frames) if candidates is None else candidates
    same = clips[:, None] == other_clips[None, :]
    near = same & ((frames[:, None] - other_frames[None, :]).abs() < max(min_gap, 1))
    return ~near & (same if scope == "clip" else True)


def sampled_negatives(
    negatives: Tensor, count: int, share: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """At most `count` of the negatives (N,M) of each row, drawn with `generator`.

    Args:
        share: no more than this share of N either (the public code: half); None sets no such limit.
    """
    most = count if share is None else min(count, int(share * len(negatives)))
    # Drawn where it is used: a copy to a GPU would make it wait in every step.
    source = negatives.device if generator is None else generator.device
    lots = torch.rand(negatives.shape, generator=generator, device=source).to(negatives.device)
    order = lots.masked_fill(~negatives, 2).argsort(1)
    return torch.zeros_like(negatives).scatter_(1, order[:, :most], True) & negatives


def nearest_negatives(distances: Tensor, negatives: Tensor, count: int) -> Tensor:
    """Of the negatives (N,M) of each row the `count` that are nearest to it, the hardest to tell from its own."""
    order = distances.detach().masked_fill(~negatives, float("inf")).argsort(1)
    return torch.zeros_like(negatives).scatter_(1, order[:, :count], True) & negatives


def cross_modal_contrastive(distances: Tensor, negatives: Tensor | None = None, own: Tensor | None = None) -> Tensor:
    """Eq. 12: mean over i of theta(i, i) - the mean of theta(i, j) over the negatives j of i.

    Args:
        distances: (N,M), M >= N, rows the anchors. Transpose the matrix for the other anchor.
        negatives: (N,M) bool, default all others. Rows without a negative do not count.
        own: (N,) column of each row's positive, default its number.

    Returns:
        Scalar; 0 when no row has a negative.
    """
    positive = _positives(distances, own)
    if negatives is None:
        negatives = ~positive
    counts = negatives.sum(1)
    attracted = distances.masked_fill(~positive, 0).sum(1)
    repelled = distances.masked_fill(~negatives, 0).sum(1) / counts.clamp(min=1)
    rows = counts > 0
    return ((attracted - repelled) * rows).sum() / rows.sum().clamp(min=1)


def infonce(
    similarities: Tensor, negatives: Tensor | None = None, temperature: float = 0.07, own: Tensor | None = None
) -> Tensor:
    """The traditional contrastive loss in place of eq. 12, (N,M); see `cross_modal_contrastive`."""
    logits = similarities.float() / temperature
    if negatives is not None:
        logits = logits.masked_fill(~(negatives | _positives(logits, own)), float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device) if own is None else own)


def frame_cross_entropy(distances: Tensor, negatives: Tensor | None = None, own: Tensor | None = None) -> Tensor:
    """What `frame_contrast` teaches F in stage 1, in place of eq. 12: cross-entropy over the candidates.

    The logits are minus the distance, so that a row is left alone once its own sound is nearer than all others, where
    eq. 12 goes on pushing away what is far already. See `cross_modal_contrastive` for the arguments.
    """
    return infonce(-distances, negatives, 1.0, own)


def _positives(table: Tensor, own: Tensor | None) -> Tensor:
    """(N,M) bool, the positive of each row."""
    if own is None:
        return torch.eye(*table.shape, dtype=torch.bool, device=table.device)
    return torch.zeros(table.shape, dtype=torch.bool, device=table.device).scatter_(1, own[:, None], True)


def audio_negatives(audio: Tensor, video: Tensor) -> Tensor:
    """Similarities for `infonce` in TalkLip's form: the lips are only ever a positive, sounds repel one another.

    Args:
        audio: (N,D). video: (N,D).

    Returns:
        (N,N): the cosine of a_i and v_i on the diagonal, of a_i and a_j beside it.
    """
    audio, video = functional.normalize(audio, dim=-1), functional.normalize(video, dim=-1)
    own = torch.eye(len(audio), dtype=torch.bool, device=audio.device)
    return torch.where(own, (audio * video).sum(-1, keepdim=True), audio @ audio.T)


def synchronisation(video: Tensor, audio: Tensor) -> Tensor:
    """Wav2Lip's expert loss: the negative logarithm of the probability that lips and sound are in sync.

    The published expert ends in a ReLU and takes the cosine as the probability. Embeddings of a SyncNet have both
    signs, so the probability is (1 + cosine) / 2 here.

    Args:
        video: (W,E) embeddings of windows of generated frames. audio: (W,E) of their sound.
    """
    probability = (1 + functional.cosine_similarity(video.float(), audio.float())) / 2
    return -probability.clamp(min=1e-4).log().mean()


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Eqs. 6 and 13.

    Raises:
        SyncTalklipError: a term without a weight or a weight without a term.
    """
    if set(terms) != set(weights):
        unpaired = sorted(set(terms) ^ set(weights))
        raise SyncTalklipError(f"loss terms and weights do not match: {', '.join(unpaired)}")
    return torch.as_tensor(sum(weights[name] * value for name, value in terms.items()))
