"""The transformers of AV-SyncNet: encoder over frames, decoder over tokens. Pre-norm, batch first.

Legend: B clips, T video frames, D embedding, L tokens, S memory rows, V symbols, H heads.

State-dict names are those of fairseq's wav2vec 2.0 encoder and transformer decoder.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctalklip.errors import SyncTalklipError

PAD = 1  # id of the padding symbol, in sentencepiece and in fairseq dictionaries alike


class Attention(nn.Module):
    """Multi-head attention of (B, L, D) queries over (B, S, M) rows, D = `dim`, M = `memory_dim`."""

    def __init__(self, dim: int, heads: int, dropout: float, memory_dim: int | None = None):
        super().__init__()
        if dim % heads:
            raise SyncTalklipError(f"embedding of {dim} cannot be split over {heads} attention heads")
        memory_dim = memory_dim or dim
        self.heads, self.dropout = heads, dropout
        self.k_proj = nn.Linear(memory_dim, dim)
        self.v_proj = nn.Linear(memory_dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, memory: Tensor, keep: Tensor | None = None, causal: bool = False) -> Tensor:
        """Args: keep, (B, 1, 1, S) bool, True where the memory may be looked at; causal excludes `keep`."""
        q = self._split(self.q_proj(query))
        k, v = self._split(self.k_proj(memory)), self._split(self.v_proj(memory))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=dropout, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _keep(padding_mask: Tensor | None) -> Tensor | None:
    """(B, S) True = padding to the (B, 1, 1, S) True = visible of `Attention`."""
    return None if padding_mask is None else ~padding_mask[:, None, None]


class EncoderLayer(nn.Module):
    """Self-attention and a GELU network, each after a norm; (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        dim: int,
        ffn: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
    ):
        super().__init__()
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.self_attn = Attention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn)
        self.fc2 = nn.Linear(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        normed = self.self_attn_layer_norm(x)
        x = x + F.dropout(self.self_attn(normed, normed, keep), self.dropout, self.training)
        hidden = self.fc1(self.final_layer_norm(x))
        hidden = F.gelu(hidden.float()).to(hidden.dtype)  # half precision would lose the small values
        hidden = F.dropout(hidden, self.activation_dropout, self.training)
        return x + F.dropout(self.fc2(hidden), self.dropout, self.training)


class PositionalConv(nn.Module):
    """Grouped convolution over time whose weight is normalised over all but the kernel; (B, T, D) -> same.

    Parameters are kept as `weight_g` and `weight_v`, the names of the public checkpoints.
    """

    def __init__(self, dim: int, kernel: int, groups: int, std: float):
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.bias = nn.Parameter(torch.zeros(dim))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel).normal_(0, std))
        with torch.no_grad():
            self.weight_g.copy_(self._norm())

    def _norm(self) -> Tensor:
        return self.weight_v.square().sum((0, 1), keepdim=True).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / self._norm())
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return y[..., : x.shape[1]].transpose(1, 2)


class TransformerEncoder(nn.Module):
    """Positional convolution and a stack of layers; (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        layers: int,
        dim: int,
        ffn: int,
        heads: int,
        *,
        conv_pos: int,
        conv_pos_groups: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        layerdrop: float,
    ):
        super().__init__()
        self.dropout, self.layerdrop = dropout, layerdrop
        self.layers = nn.ModuleList(
            EncoderLayer(dim, ffn, heads, dropout, attention_dropout, activation_dropout) for _ in range(layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.02)
                nn.init.zeros_(module.bias)
        std = math.sqrt(4 * (1 - dropout) / (conv_pos * dim))
        self.pos_conv = nn.Sequential(PositionalConv(dim, conv_pos, conv_pos_groups, std), nn.GELU())
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Encode frames.

        Args:
            padding_mask: (B, T) bool, True where padded. Padding does not change the other frames.
            layer: 1-based; give the output of this layer, without the last norm.
        """
        if layer is not None and not 1 <= layer <= len(self.layers):
            raise SyncTalklipError(f"layer {layer} was asked for: the encoder has layers 1 to {len(self.layers)}")
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0)
        x = F.dropout(x + self.pos_conv(x), self.dropout, self.training)
        keep = _keep(padding_mask)
        for module in self.layers[:layer]:
            if self.training and self.layerdrop and torch.rand(()).item() < self.layerdrop:
                continue
            x = module(x, keep)
        return self.layer_norm(x) if layer is None else x


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

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D) tokens and (B, S, M) memory -> (B, L, D)."""
        normed = self.self_attn_layer_norm(x)
        x = x + F.dropout(self.self_attn(normed, normed, causal=True), self.dropout, self.training)
        normed = self.encoder_attn_layer_norm(x)
        x = x + F.dropout(self.encoder_attn(normed, memory, keep), self.dropout, self.training)
        hidden = F.dropout(F.relu(self.fc1(self.final_layer_norm(x))), self.activation_dropout, self.training)
        return x + F.dropout(self.fc2(hidden), self.dropout, self.training)


class SinusoidalPositions(nn.Module):
    """Fixed embedding of the place of a token, [sines | cosines]; the first token has place PAD + 1."""

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

    def forward(self, prev_tokens: Tensor, embeddings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Teacher-forced decoding.

        Args:
            prev_tokens: (B, L) ids, end-of-sentence first, PAD (1) behind the last.
            embeddings: (B, T, D) encoded frames.
            padding_mask: (B, T) bool, True where padded.

        Returns:
            (B, L, V) logits.
        """
        if prev_tokens.shape[1] > self.max_target_positions:
            raise SyncTalklipError(
                f"{prev_tokens.shape[1]} tokens: the decoder has {self.max_target_positions} positions"
            )
        x = self.embed_tokens(prev_tokens) + self.embed_positions(prev_tokens)
        x = F.dropout(x, self.dropout, self.training)
        keep = _keep(padding_mask)
        for layer in self.layers:
            x = layer(x, embeddings, keep)
        return F.linear(self.layer_norm(x), self.embed_tokens.weight)
