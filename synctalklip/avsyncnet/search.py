"""Greedy and beam search over the decoder of AV-SyncNet.

B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from synctalklip.data.text import BOS, EOS, PAD


@torch.no_grad()
def greedy(
    decode: Callable[[Tensor, Tensor, Tensor], Tensor],
    embeddings: Tensor,
    padding_mask: Tensor,
    tokens_per_frame: float = 1.0,
) -> list[list[int]]:
    """The most likely symbol at every step.

    Args:
        decode: `(prev_tokens (B,L), embeddings (B,T,D), padding_mask (B,T)) -> logits (B,L,V)`.
        embeddings: (B,T,D).
        padding_mask: (B,T), true = padded.
        tokens_per_frame: longest hypothesis for every unpadded frame.

    Returns:
        Token ids of every clip, without the end of sentence.
    """
    limits = ((~padding_mask).sum(1) * tokens_per_frame).long().clamp(min=1)
    tokens = torch.full((len(embeddings), 1), EOS, dtype=torch.long, device=embeddings.device)
    finished = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.device)
    for step in range(int(limits.max())):
        logits = decode(tokens, embeddings, padding_mask)[:, -1].float()
        logits[:, [BOS, PAD]] = float("-inf")
        following = logits.argmax(-1).masked_fill(finished | (step >= limits), EOS)
        finished |= following.eq(EOS)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        if bool(finished.all()):
            break
    rows = tokens[:, 1:].tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


class _Encoder(nn.Module):
    def __init__(self, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self._encode = encode

    def forward_torchscript(self, net_input: dict[str, Any]) -> dict[str, Tensor]:
        mask = net_input["padding_mask"]
        embeddings = self._encode(audio=net_input.get("audio"), video=net_input.get("video"), padding_mask=mask)
        return {"embeddings": embeddings, "padding_mask": mask}

    def reorder_encoder_out(self, out: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
        return {name: value.index_select(0, order) for name, value in out.items()}


class _Decoder(nn.Module):
    def __init__(self, decode: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._decode = decode

    def forward(self, tokens: Tensor, encoder_out: dict[str, Tensor]) -> tuple[Tensor, None]:
        # Only the last step is read, and fairseq divides it in place by the temperature.
        logits = self._decode(tokens, encoder_out["embeddings"], encoder_out["padding_mask"])
        return logits[:, -1:].clone(), None


class SearchModel(nn.Module):
    """What fairseq's SequenceGenerator asks of a model, over `encode` and `decode` of ours.

    It holds the two functions only: the model's train or eval mode stays its owner's business.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = _Encoder(model.encode)
        self.decoder = _Decoder(model.decode)

    def get_normalized_probs(
        self, net_output: tuple[Tensor, None], log_probs: bool, sample: dict | None = None
    ) -> Tensor:
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)
