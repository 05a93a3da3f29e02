"""Stage 2 in naive forms, loops over frames and negatives: the other side of the benchmark, and oracles of the tests.

They share no arithmetic with the package.

Legend: B clips, T video frames, N painted frames, D embedding.
"""

import torch
from torch import Tensor


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
