"""Lip sync in the embeddings of an audio-visual speech expert: AVS_u, AVS_m, AVS_v, and alignment accuracy.

LSE cannot see what is said, only whether lips and sound move together. The AVS scores compare the embeddings of an
AV-HuBERT, fine-tuned or not, which was trained to know what is said.

Legend: T video frames at 25 Hz, D embedding.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synctalklip.data.features import normalize_roi
from synctalklip.errors import MetricError


class AVExpert(Protocol):
    """What embeds sound and lips; `synctalklip.avsyncnet.expert.Expert` is one."""

    def encode(self, audio: Tensor | None = None, video: Tensor | None = None) -> Tensor:
        """(B,104,T) or None, (B,1,T,88,88) or None -> (B,T,D)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """They say where it is."""
        ...


@torch.no_grad()
def score_avs(
    expert: AVExpert,
    real_rois: np.ndarray | Tensor,
    generated_rois: np.ndarray | Tensor,
    audio: np.ndarray | Tensor,
) -> dict[str, float]:
    """The three scores of Yaman et al. 2024 (arXiv 2405.04327): cosines of a frame's embeddings, mean over frames.

    Args:
        expert: see `AVExpert`; of `synctalklip.avsyncnet.expert.load_expert`.
        real_rois: (T,96,96) uint8 mouth regions of the recording; cut in the expert's `roi_mode`.
        generated_rois: (T,96,96) uint8, of the generated video.
        audio: (T,104) float32 from `features.audio_features`: the sound of both.

    Returns:
        `avs_u`, the generated lips alone against the sound alone; `avs_m`, sound with real lips against sound with
        generated lips; `avs_v`, real lips alone against generated lips alone. Higher is better, 1 is the most; a
        recording against itself has `avs_m` = `avs_v` = 1.

    Raises:
        MetricError: the three are not of one length, or there is no frame.
    """
    lengths = len(real_rois), len(generated_rois), len(audio)
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise MetricError(
            f"AVS needs real lips, generated lips and sound of the same frames, got {', '.join(map(str, lengths))}"
        )
    device = next(expert.parameters()).device
    rois = (normalize_roi(np.ascontiguousarray(clip)) for clip in (real_rois, generated_rois))
    lips = torch.stack(list(rois)).unsqueeze(1).to(device)
    sound = torch.as_tensor(audio).T.unsqueeze(0).to(device)
    heard = expert.encode(audio=sound)[0]
    real, generated = expert.encode(video=lips)
    real_heard, generated_heard = expert.encode(audio=sound.expand(2, -1, -1), video=lips)
    return {
        "avs_u": _cosine(generated, heard),
        "avs_m": _cosine(real_heard, generated_heard),
        "avs_v": _cosine(real, generated),
    }


def alignment_counts(distances: Tensor) -> dict[str, float]:
    """Sums over one clip for the alignment accuracy.

    Args:
        distances: (T,T), audio frame i to video frame j.

    Returns:
        Sums of paired and unpaired distances, frames whose nearest video frame is their own (within 0 and
        within 1 frame), and the counts to divide by.
    """
    frames = len(distances)
    paired = float(distances.diagonal().sum())
    nearest = distances.argmin(1)
    offset = (nearest - torch.arange(frames, device=distances.device)).abs()
    return {
        "paired_sum": paired,
        "unpaired_sum": float(distances.sum()) - paired,
        "aligned0": float((offset == 0).sum()),
        "aligned1": float((offset <= 1).sum()),
        "pairs": frames,
        "unpaired_pairs": frames * (frames - 1),
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean over frames of the cosines of (T,D) embeddings."""
    return float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean())
