"""Greedy, beam and teacher-forced search over the decoders of the lip readers.

B clips, K hypotheses a clip, T video frames at 25 Hz, D embedding, L tokens, V symbols.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from synctalklip.avsyncnet.decoder import DecoderState
from synctalklip.data.text import BOS, EOS, PAD


class Decode(Protocol):
    """`AVSyncNet.decode`, or anything else whose last logits are those of the next token.

    It gets `prev_tokens` (B * K, L), `embeddings` (B, T, D), `padding_mask` (B, T), true = padded, and a
    state in which it may keep what the next step would compute again.
    """

    def __call__(
        self, prev_tokens: Tensor, embeddings: Tensor, padding_mask: Tensor, state: DecoderState
    ) -> Tensor: ...


def _longest(padding_mask: Tensor, tokens_per_frame: float, more_tokens: int, fewest: int) -> Tensor:
    """Most tokens of each clip, (B,) int64."""
    return ((~padding_mask).sum(1) * tokens_per_frame + more_tokens).long().clamp(min=max(fewest, 1))


@torch.no_grad()
def greedy(
    decode: Decode,
    embeddings: Tensor,
    padding_mask: Tensor,
    tokens_per_frame: float = 1.0,
    more_tokens: int = 0,
    fewest: int = 0,
) -> list[list[int]]:
    """The most likely symbol at every step.

    Args:
        decode: `AVSyncNet.decode`; every token passes through it once.
        embeddings: (B,T,D).
        padding_mask: (B,T), true = padded.
        tokens_per_frame: longest hypothesis for every unpadded frame; `more_tokens` are added.
        fewest: shortest hypothesis.

    Returns:
        Token ids of every clip, without the end of sentence.
    """
    limits = _longest(padding_mask, tokens_per_frame, more_tokens, fewest)
    tokens = torch.full((len(embeddings), 1), EOS, dtype=torch.long, device=embeddings.device)
    finished = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.device)
    state = DecoderState()
    for step in range(int(limits.max())):
        logits = decode(tokens, embeddings, padding_mask, state)[:, -1].float()
        logits[:, [BOS, PAD, EOS] if step < fewest else [BOS, PAD]] = float("-inf")
        following = logits.argmax(-1).masked_fill(finished | (step >= limits), EOS)
        finished |= following.eq(EOS)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        if bool(finished.all()):
            break
    rows = tokens[:, 1:].tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


@torch.no_grad()
def forced(
    decode: Decode, embeddings: Tensor, padding_mask: Tensor, references: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The most likely symbol at every place of the reference, the true symbols before it given.

    Args:
        decode, embeddings, padding_mask: as in `greedy`.
        references: token ids of each clip, without the end of sentence.

    Returns:
        At most as many ids as each reference has; an end of sentence that is predicted inside it is left out.
    """
    rows = [torch.tensor([EOS, *tokens][: max(len(tokens), 1)]) for tokens in references]
    previous = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(embeddings.device)
    logits = decode(previous, embeddings, padding_mask, DecoderState()).float()
    logits[..., [BOS, PAD]] = float("-inf")
    best = logits.argmax(-1).tolist()
    return [[token for token in row[: len(tokens)] if token != EOS] for row, tokens in zip(best, references)]


class _Encoder(nn.Module):
    def __init__(self, encode: Callable[..., Tensor], longest: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._encode, self._longest = encode, longest

    def forward_torchscript(self, net_input: dict[str, Any]) -> dict[str, Any]:
        mask = net_input["padding_mask"]
        embeddings = self._encode(audio=net_input.get("audio"), video=net_input.get("video"), padding_mask=mask)
        limits = self._longest(mask)
        return {
            "embeddings": embeddings,
            "padding_mask": mask,
            "limits": limits,
            "hypotheses": 1,
            "state": DecoderState(),
        }

    def reorder_encoder_out(self, out: dict[str, Any], order: Tensor) -> dict[str, Any]:
        """Called before every step: the first time with each clip K times, then with the row that each goes on from.

        Frames are kept once a clip. Rows of one clip stand together, and those of finished clips go.
        """
        clips = (order // out["hypotheses"]).unique_consecutive()
        left = None if len(clips) == len(out["embeddings"]) else clips
        out["state"].reorder(order, left)
        frames = {
            name: out[name] if left is None else out[name].index_select(0, left)
            for name in ("embeddings", "padding_mask", "limits")
        }
        return {**frames, "hypotheses": len(order) // len(clips), "state": out["state"]}


class _Decoder(nn.Module):
    def __init__(self, decode: Decode) -> None:
        super().__init__()
        self._decode = decode

    def forward(self, tokens: Tensor, encoder_out: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        logits = self._decode(tokens, encoder_out["embeddings"], encoder_out["padding_mask"], encoder_out["state"])
        # Only the last step is read, and fairseq divides it in place by the temperature.
        full = (encoder_out["limits"] < tokens.shape[1]).repeat_interleave(encoder_out["hypotheses"])
        return logits[:, -1:].clone(), {"attn": None, "full": full}


class SearchModel(nn.Module):
    """What fairseq's SequenceGenerator asks of a model, over `encode` and `decode` of ours.

    It holds the two functions only: the model's train or eval mode stays its owner's business. The decoder's
    state travels with the encoder's output, which fairseq reorders along with the hypotheses.

    fairseq ends every sentence of a batch at the limit of its longest clip. Here each ends at its own, as it would
    alone; the limits are those of `greedy`.
    """

    def __init__(self, model: Any, tokens_per_frame: float = 1.0, more_tokens: int = 0, fewest: int = 0) -> None:
        super().__init__()
        self.encoder = _Encoder(model.encode, lambda mask: _longest(mask, tokens_per_frame, more_tokens, fewest))
        self.decoder = _Decoder(model.decode)

    def get_normalized_probs(
        self, net_output: tuple[Tensor, dict[str, Any]], log_probs: bool, sample: dict | None = None
    ) -> Tensor:
        logits, extra = net_output[0].float(), net_output[1]
        found = logits.log_softmax(-1) if log_probs else logits.softmax(-1)
        others = torch.arange(found.shape[-1], device=found.device) != EOS
        return found.masked_fill(extra["full"][:, None, None] & others, float("-inf") if log_probs else 0.0)
