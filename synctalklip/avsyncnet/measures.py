"""What stage 1 trains or reports beside the equations of the paper: CTC, and alignment accuracy.

B clips, T video frames at 25 Hz, L tokens, V symbols.
"""

import torch
from torch import Tensor
from torch.nn import functional

from synctalklip.data.text import BOS, EOS, PAD


def ctc(logits: Tensor, target: Tensor, padding_mask: Tensor) -> Tensor:
    """Connectionist temporal classification per token; the blank is the bos symbol, which no target holds.

    Args:
        logits: (B,T,V).
        target: (B,L) ending in eos, padded with pad.
        padding_mask: (B,T).
    """
    spoken = target.ne(PAD) & target.ne(EOS)
    return functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        target.masked_fill(~spoken, PAD),
        (~padding_mask).sum(1),
        spoken.sum(1),
        blank=BOS,
        # A clip shorter than its transcript has no path; it must not stop the run.
        zero_infinity=True,
    )


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
