"""The two front-ends of AV-HuBERT: sound rows and mouth images to D-dimensional frames.

Legend: B clips, T video frames at 25 Hz, N = B * T images, D embedding, W width of the first ResNet stage.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctalklip.data.features import REACH
from synctalklip.errors import SyncTalklipError


class GradientScale(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """`x` with its gradient multiplied by `scale` (1 changes nothing)."""
    return x if scale == 1 else GradientScale.apply(x, scale)


def activation(kind: str, channels: int) -> nn.Module:
    """`prelu` (one slope a channel, the public models) or `relu` (much cheaper on a CPU)."""
    if kind == "prelu":
        return nn.PReLU(channels)
    if kind == "relu":
        return nn.ReLU(inplace=True)
    raise SyncTalklipError(f"resnet_relu_type is {kind!r}: choose prelu or relu")


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride that leaves the rows and columns between out before it multiplies.

    The product is that of the strided form, whose AVX2 kernel in torch 2.11 writes beyond its memory in the backward
    pass of channels_last images with fewer than eight channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; (N, in, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, relu: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = activation(relu, channels_out)
        self.relu2 = activation(relu, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                StridedPointwise(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """ResNet trunk over single images; (N, W, 22, 22) -> (N, 8 W)."""

    def __init__(self, width: int, blocks: Sequence[int], relu: str):
        super().__init__()
        self.frozen = 0
        channels = width
        for stage, count in enumerate(blocks):
            out = width * 2**stage
            layers = []
            for index in range(count):
                layers.append(BasicBlock(channels, out, 2 if stage > 0 and index == 0 else 1, relu))
                channels = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images; the first `frozen` stages run without a gradient."""
        for number, stage in enumerate(self.children()):
            if number < self.frozen:
                with torch.no_grad():
                    x = stage(x)
            else:
                x = stage(x)
        return x.mean((2, 3))


class ResEncoder(nn.Module):
    """3-D stem and ResNet trunk; (B, 1, T, 88, 88) -> (B, T, 8 W). A frame sees `REACH` frames either side."""

    def __init__(self, width: int, blocks: Sequence[int], relu: str):
        super().__init__()
        # The norm is 2-D because the stem runs as a 2-D convolution; its statistics are the same.
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, width, (2 * REACH + 1, 7, 7), (1, 2, 2), (REACH, 3, 3), bias=False),
            nn.BatchNorm2d(width),
            activation(relu, width),
        )
        self.trunk = ResNet(width, blocks, relu)
        self.frozen_stages = 0

    def freeze(self, stages: int) -> None:
        """Keep the weights and batch statistics of the first `stages` stages, the stem being the first.

        They then run without a gradient, and the stem's batch norm is folded into its kernel.

        Raises:
            SyncTalklipError: there are not so many.
        """
        parts = self._stages()
        if not 0 <= stages <= len(parts):
            raise SyncTalklipError(f"frozen_stages is {stages}: the front-end has {len(parts)} stages")
        self.frozen_stages, self.trunk.frozen = stages, max(0, stages - 1)
        for part in parts[:stages]:
            part.requires_grad_(False).eval()

    def _stages(self) -> list[nn.Module]:
        return [self.frontend3D, *self.trunk.children()]

    def train(self, mode: bool = True) -> "ResEncoder":
        """As of any module, but frozen stages stay in eval mode."""
        super().train(mode)
        for part in self._stages()[: self.frozen_stages]:
            part.eval()
        return self

    def forward(self, video: Tensor, chosen: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Features of all frames, or (R, 8 W) of the `chosen` ones: clip and frame of each, (R,) int64."""
        # Attributes of layers, which torch types as tensors or modules.
        conv: Any
        norm: Any
        conv, norm, relu = self.frontend3D
        batch, _, frames = video.shape[:3]
        kind = video.device.type
        if torch.is_autocast_enabled(kind):  # what the convolution would do with five times as many pixels
            video = video.to(torch.get_autocast_dtype(kind))
        # Five neighbouring frames become five channels: the same sums as the 3-D convolution, on the
        # channels-last 2-D kernels, which are faster on CPUs and GPUs alike.
        windows = F.pad(video[:, 0], (0, 0, 0, 0, REACH, REACH)).unfold(1, 2 * REACH + 1, 1)  # (B, T, H, W, 5)
        windows = windows.flatten(0, 1).contiguous() if chosen is None else windows[chosen]
        windows = windows.permute(0, 3, 1, 2)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_stages):
            if self.frozen_stages:
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                kernel = conv.weight[:, 0] * scale[:, None, None, None]
                x = F.conv2d(windows, kernel, norm.bias - norm.running_mean * scale, stride=2, padding=3)
            else:
                x = norm(F.conv2d(windows, conv.weight[:, 0], stride=2, padding=3))
            # The two may change places where the slope is nowhere negative, and a quarter of the values is left.
            x = relu(F.max_pool2d(x, 3, 2, 1)) if isinstance(relu, nn.ReLU) else F.max_pool2d(relu(x), 3, 2, 1)
        x = self.trunk(x)
        return x.view(batch, frames, -1) if chosen is None else x


class AudioFrontend(nn.Module):
    """One linear layer; (B, A, T) -> (B, T, D), A = 104 stacked filterbank values."""

    def __init__(self, audio_dim: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Linear(audio_dim, embed_dim)

    def forward(self, audio: Tensor) -> Tensor:
        return self.proj(audio.transpose(1, 2))


class VideoFrontend(nn.Module):
    """ResNet and one linear layer; (B, 1, T, 88, 88) -> (B, T, D)."""

    def __init__(self, width: int, blocks: Sequence[int], relu: str, embed_dim: int):
        super().__init__()
        self.resnet = ResEncoder(width, blocks, relu)
        self.proj = nn.Linear(width * 2 ** (len(blocks) - 1), embed_dim)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(self.resnet(video))
