"""The transformer encoder of AV-SyncNet over frames, and the attention that its decoder shares. Pre-norm.

Legend: B clips, T video frames, D embedding, L tokens, S memory rows, H heads, E = D / H.

State-dict names are those of fairseq's wav2vec 2.0 encoder.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctalklip.errors import SyncTalklipError

KeysValues = tuple[Tensor, Tensor]  # (B, H, S, E) each


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
        """Attend to `memory`; see `attend`."""
        return self.attend(query, self.keys_values(memory), keep, causal)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """What queries meet in the memory: (B, S, M) -> two (B, H, S, E)."""
        return self._split(self.k_proj(memory)), self._split(self.v_proj(memory))

    def attend(
        self, query: Tensor, keys_values: KeysValues, keep: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Queries (B, L, D) over keys and values (B, H, S, E) -> (B, L, D).

        Args:
            keep: bool that broadcasts to (B, H, L, S), True where a query may look; excludes `causal`.
            causal: query i looks at rows 0 to i.
        """
        dropout = self.dropout if self.training else 0.0
        qkv = [self._split(self.q_proj(query)), *keys_values]
        exact: AbstractContextManager[Any] = nullcontext()
        if query.device.type == "cpu" and qkv[0].dtype == torch.bfloat16:
            # On CPUs this kernel takes three to four times as long in half precision, on clips of a few seconds.
            qkv, exact = [x.float() for x in qkv], torch.autocast("cpu", enabled=False)
        with exact:
            x = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], keep, dropout, causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def visible(padding_mask: Tensor | None) -> Tensor | None:
    """(B, S), True = padding, to the (B, 1, 1, S), True = may be looked at, of `Attention`."""
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
        # Squares of small weights do not exist in half precision.
        return self.weight_v.float().square().sum((0, 1), keepdim=True).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight_v * (self.weight_g / self._norm())).to(self.weight_v.dtype)
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

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        layer: int | None = None,
        windows: Tensor | None = None,
    ) -> Tensor:
        """Encode frames.

        Args:
            padding_mask: (B, T) bool, True where padded. Padding does not change the other frames.
            layer: 1-based; give the output of this layer, without the last norm.
            windows: (B, T) int64; a frame attends to the frames of its own number alone, padded or not.
        """
        if layer is not None and not 1 <= layer <= len(self.layers):
            raise SyncTalklipError(f"layer {layer} was asked for: the encoder has layers 1 to {len(self.layers)}")
        # A row without any frame to look at would be NaN, and NaN spreads.
        keep = visible(padding_mask) if windows is None else (windows[:, :, None] == windows[:, None])[:, None]
        x = self._run(self._place(x, padding_mask), self.layers[:layer], keep)
        return self.layer_norm(x) if layer is None else x

    def with_layer(self, x: Tensor, padding_mask: Tensor | None, layer: int) -> tuple[Tensor, Tensor]:
        """`forward` of all layers, and that of the first `layer` of them, in one pass."""
        keep = visible(padding_mask)
        part = self._run(self._place(x, padding_mask), self.layers[:layer], keep)
        return self.layer_norm(self._run(part, self.layers[layer:], keep)), part

    def _place(self, x: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Add what tells frames their places."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0)
        return F.dropout(x + self.pos_conv(x), self.dropout, self.training)

    def _run(self, x: Tensor, layers: nn.ModuleList, keep: Tensor | None) -> Tensor:
        for module in layers:
            if self.training and self.layerdrop and torch.rand(()).item() < self.layerdrop:
                continue
            x = module(x, keep)
        return x
