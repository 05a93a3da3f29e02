"""The text decoder of AV-SyncNet, whole sentences at once or token by token. Pre-norm, batch first.

Legend: B clips, K hypotheses a clip, T video frames, D embedding, L tokens, V symbols, H heads, E = D / H.

State-dict names are those of fairseq's transformer decoder.
"""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctalklip.avsyncnet.transformer import Attention, KeysValues, visible
from synctalklip.errors import SyncTalklipError

PAD = 1  # id of the padding symbol, in sentencepiece and in fairseq dictionaries alike


class DecoderState:
    """What a search keeps between its steps, so that no token and no frame is projected twice.

    Starts empty and is filled by `TextDecoder.forward`; one state belongs to one batch.

    Attributes:
        tokens: keys and values (B * K, H, L, E) of the tokens so far, one pair a layer.
        memory: keys and values (B, H, T, E) of the frames, one pair a layer.
    """

    def __init__(self) -> None:
        self.tokens: list[KeysValues] = []
        self.memory: list[KeysValues] = []

    @property
    def length(self) -> int:
        """Tokens that were decoded."""
        return self.tokens[0][0].shape[2] if self.tokens else 0

    def reorder(self, rows: Tensor, clips: Tensor | None = None) -> None:
        """Go on with a choice of the hypotheses.

        Args:
            rows: old row of each new one; those of one clip stand together, equally many a clip.
            clips: old number of each clip that is left, None when all are.
        """
        self.tokens = [_selected(pair, rows) for pair in self.tokens]
        if clips is not None:
            self.memory = [_selected(pair, clips) for pair in self.memory]


def _selected(pair: KeysValues, rows: Tensor) -> KeysValues:
    keys, values = pair
    return keys.index_select(0, rows), values.index_select(0, rows)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the frames and a ReLU network, each after a norm."""

    def __init__(
        self,
        dim: int,
        ffn: int,
        heads: int,
        memory_dim: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
    ):
        super().__init__()
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.self_attn = Attention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = Attention(dim, heads, attention_dropout, memory_dim)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn)
        self.fc2 = nn.Linear(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, memory: KeysValues, keep: Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Tokens (B * K, L, D) over those before them and over the frames.

        Args:
            memory: keys and values (B, H, T, E) of the frames.
            keep: (B, 1, 1, T) bool, True where a frame may be looked at.
            past: keys and values (B * K, H, P, E) of the P tokens before `x`.

        Returns:
            (B * K, L, D), and the keys and values of all tokens, (B * K, H, P + L, E).
        """
        normed = self.self_attn_layer_norm(x)
        own = self.self_attn.keys_values(normed)
        if past is None:
            seen = self.self_attn.attend(normed, own, causal=True)
        else:
            own = torch.cat([past[0], own[0]], 2), torch.cat([past[1], own[1]], 2)
            tokens, before = x.shape[1], past[0].shape[2]
            # A single token looks at everything; of several, each at what precedes it.
            ahead = None if tokens == 1 else x.new_ones(tokens, before + tokens, dtype=torch.bool).tril(before)
            seen = self.self_attn.attend(normed, own, ahead)
        x = x + F.dropout(seen, self.dropout, self.training)
        # The hypotheses of a clip look at the same frames, as if they were more tokens of one sentence.
        normed = self.encoder_attn_layer_norm(x).reshape(len(memory[0]), -1, x.shape[2])
        seen = self.encoder_attn.attend(normed, memory, keep).view_as(x)
        x = x + F.dropout(seen, self.dropout, self.training)
        hidden = F.dropout(F.relu(self.fc1(self.final_layer_norm(x))), self.activation_dropout, self.training)
        return x + F.dropout(self.fc2(hidden), self.dropout, self.training), own


class SinusoidalPositions(nn.Module):
    """Fixed embedding of the place of a token, [sines | cosines]; the first token has place PAD + 1."""

    table: Tensor

    def __init__(self, dim: int, count: int):
        super().__init__()
        half = dim // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        angles = torch.arange(count + PAD + 1)[:, None] * rates
        table = F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, dim % 2))
        table[PAD] = 0
        self.register_buffer("table", table, persistent=False)
        self.register_load_state_dict_pre_hook(self._drop_unused)

    @staticmethod
    def _drop_unused(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        # Files of older fairseq versions hold these; neither says anything that the table does not.
        for name in ("_float_tensor", "weights"):
            state.pop(prefix + name, None)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D); padding does not move the places of the others."""
        real = tokens != PAD
        return self.table[real.long().cumsum(1) * real + PAD]


class TextDecoder(nn.Module):
    """Token ids and encoded frames to logits of the next token; input and output share one embedding."""

    def __init__(
        self,
        vocab_size: int,
        layers: int,
        dim: int,
        ffn: int,
        heads: int,
        memory_dim: int,
        *,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        max_positions: int,
    ):
        super().__init__()
        self.dropout, self.max_target_positions = dropout, max_positions
        self.embed_tokens = nn.Embedding(vocab_size, dim)
        self.embed_positions = SinusoidalPositions(dim, max_positions)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, ffn, heads, memory_dim, dropout, attention_dropout, activation_dropout)
            for _ in range(layers)
        )
        self.layer_norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed_tokens.weight, 0, dim**-0.5)
        with torch.no_grad():
            self.embed_tokens.weight[PAD].zero_()

    @classmethod
    def from_config(cls, config: Any, memory_dim: int) -> Self:
        """Build from the `decoder_*` fields, `vocab_size` and `max_target_positions` of a model's configuration."""
        return cls(
            config.vocab_size,
            config.decoder_layers,
            config.decoder_embed_dim,
            config.decoder_ffn_embed_dim,
            config.decoder_attention_heads,
            memory_dim,
            dropout=config.decoder_dropout,
            attention_dropout=config.decoder_attention_dropout,
            activation_dropout=config.decoder_activation_dropout,
            max_positions=config.max_target_positions,
        )

    def forward(
        self,
        prev_tokens: Tensor,
        embeddings: Tensor,
        padding_mask: Tensor | None = None,
        state: DecoderState | None = None,
    ) -> Tensor:
        """Decode given tokens: whole sentences (training), or those that a search has added (`state`).

        Args:
            prev_tokens: (B * K, L) ids, end-of-sentence first, PAD (1) behind the last; always from the
                first token on. Row r belongs to clip r // K.
            embeddings: (B, T, D) encoded frames.
            padding_mask: (B, T) bool, True where padded.
            state: keys and values of the first P tokens, to be completed; only the others are decoded.

        Returns:
            (B * K, L, V) logits, with a state (B * K, L - P, V): those that the tokens after the P-th give.
        """
        rows, tokens = prev_tokens.shape
        if tokens > self.max_target_positions:
            raise SyncTalklipError(f"{tokens} tokens: the decoder has {self.max_target_positions} positions")
        if rows % len(embeddings):
            raise SyncTalklipError(f"{rows} rows of tokens for {len(embeddings)} clips: give each clip equally many")
        past = 0 if state is None else state.length
        x = self.embed_tokens(prev_tokens[:, past:]) + self.embed_positions(prev_tokens)[:, past:]
        x = F.dropout(x, self.dropout, self.training)
        keep = visible(padding_mask)
        layer: Any
        for index, layer in enumerate(self.layers):
            if state is not None and past:
                x, state.tokens[index] = layer(x, state.memory[index], keep, state.tokens[index])
                continue
            memory = layer.encoder_attn.keys_values(embeddings)
            x, own = layer(x, memory, keep)
            if state is not None:
                state.tokens.append(own)
                state.memory.append(memory)
        return F.linear(self.layer_norm(x), self.embed_tokens.weight)
