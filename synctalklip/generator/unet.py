"""The U-Net that paints the lower half of a face from speech (Sxjdwang/TalkLip, models/talklip.py).

The layers, their order and their state-dict names are those of the public TalkLip and SyncTalkLip generators,
so that their weights load at `width=1.0`.

Legend: N images, C channels, H = W = 96 pixels, D size of a speech embedding.
"""

import torch
from torch import Tensor, nn

from synctalklip.errors import SyncTalklipError

FACE_SIZE = 96
UPPER_ROWS = FACE_SIZE // 2
"""Rows above this one are given to the generator, rows from it on are painted."""


def scale_channels(channels: int, width: float, least: int = 4) -> int:
    """Number of channels of a layer at a given width: a multiple of 4, at least `least`, at most the public number.

    Multiples of 4 keep the vector units of the processor busy; 1.0 leaves the public numbers as they are.
    """
    return max(4 * round(channels * width / 4), min(least, channels))


def mask_lower_half(faces: Tensor) -> Tensor:
    """Faces (N,C,96,96) with the rows to paint set to zero: the pose input of the generator."""
    masked = faces.clone()
    masked[:, :, UPPER_ROWS:] = 0
    return masked


def generator_input(target: Tensor, identity: Tensor) -> Tensor:
    """Input of the generator from stored face crops; training, validation and inference all use this one.

    Args:
        target: (N,96,96,3) uint8 BGR, the faces whose lower half is to be painted.
        identity: (N,96,96,3) uint8 BGR, other frames of the same person.

    Returns:
        (N,6,96,96) float32 in 0..1: pose (target without its lower half), then identity.
    """
    return torch.cat([mask_lower_half(to_unit(target)), to_unit(identity)], dim=1)


def to_unit(images: Tensor) -> Tensor:
    """Stored images (N,H,W,3) uint8 -> (N,3,H,W) float32 in 0..1."""
    return images.permute(0, 3, 1, 2).float() / 255


class ConvBlock(nn.Module):
    """Convolution, batch norm, optional residual sum, ReLU; (N,C,H,W) -> (N,C',H',W')."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int | tuple[int, int] = 1,
        padding: int = 0,
        residual: bool = False,
    ):
        super().__init__()
        convolution = nn.Conv2d(cin, cout, kernel, stride, padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(cout))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.conv_block(x)
        return torch.relu_(y + x if self.residual else y)


class UpBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU; (N,C,H,W) -> (N,C',H',W')."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, padding: int, output_padding: int = 0):
        super().__init__()
        convolution = nn.ConvTranspose2d(cin, cout, kernel, stride, padding, output_padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return torch.relu_(self.conv_block(x))


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [ConvBlock(channels, channels, 3, 1, 1, residual=True) for _ in range(count)]


def _encoder_blocks(c: list[int], full: bool) -> nn.ModuleList:
    """`c` holds the channels of the seven levels; 96, 48, 24, 12, 6, 3 and 1 pixels wide."""
    counts = (2, 3, 2, 2, 1) if full else (1, 1, 1, 1, 1)
    blocks = [nn.Sequential(ConvBlock(6, c[0], 7, 1, 3))]
    for i, count in enumerate(counts):
        blocks.append(nn.Sequential(ConvBlock(c[i], c[i + 1], 3, 2, 1), *_residuals(c[i + 1], count)))
    blocks.append(nn.Sequential(ConvBlock(c[5], c[6], 3, 1, 0), ConvBlock(c[6], c[6], 1)))
    return nn.ModuleList(blocks)


def _decoder_blocks(speech: int, encoder: list[int], d: list[int], full: bool) -> nn.ModuleList:
    """`d` holds the channels of each level before the encoder's features are appended."""
    counts = (1, 2, 2, 2, 2, 2) if full else (1, 1, 1, 1, 1, 0)
    skips = encoder[::-1]
    blocks = [nn.Sequential(ConvBlock(speech, d[0], 1))]
    for i, count in enumerate(counts):
        cin = d[i] + skips[i]
        up = UpBlock(cin, d[i + 1], 3, 1, 0) if i == 0 else UpBlock(cin, d[i + 1], 3, 2, 1, output_padding=1)
        blocks.append(nn.Sequential(up, *_residuals(d[i + 1], count)))
    return nn.ModuleList(blocks)


class UNetGenerator(nn.Module):
    """Masked face and identity face in, painted face out; speech enters at the 1x1 bottleneck.

    Every decoder block is followed by the encoder features of its size. There is no layer across frames:
    the context in time comes from the speech embedding alone.

    Args:
        speech_dim: D, size of one speech embedding.
        width: factor on the number of channels; 1.0 is the public structure.
        least_channels: no layer has fewer, as far as the public structure has so many: the colours of the input must
            pass through the few channels of the first level.
        residuals: "full" for the public number of residual blocks, "few" for the narrow model of a CPU.
        output: "paint" for the public head, whose three channels are the picture. "blend" adds a fourth that lays
            the paint over what is known of the face, the pose above and the identity below: skin and beard need not
            be learned again, so that a short run learns lips.
        speech: "bottleneck" for the public entry of speech, at 1x1 pixels only; "levels" adds a projection of it to
            every decoder block as well, a shorter way from sound to lips.
    """

    def __init__(
        self,
        speech_dim: int,
        width: float = 1.0,
        least_channels: int = 4,
        residuals: str = "full",
        output: str = "paint",
        speech: str = "bottleneck",
    ):
        super().__init__()
        for name, value, choices in (
            ("residuals", residuals, ("full", "few")),
            ("output", output, ("paint", "blend")),
            ("speech", speech, ("bottleneck", "levels")),
        ):
            if value not in choices:
                raise SyncTalklipError(f"generator.{name} is '{value}'; use '{choices[0]}' or '{choices[1]}'")
        full = residuals == "full"
        encoder = [scale_channels(c, width, least_channels) for c in (16, 32, 64, 128, 256, 512, 512)]
        decoder = [scale_channels(c, width, least_channels) for c in (512, 512, 512, 384, 256, 128, 64)]
        entry = scale_channels(512, width)
        painted = scale_channels(32, width, least_channels)
        self.speech_dim = speech_dim
        self.face_encoder_blocks = _encoder_blocks(encoder, full)
        self.audio_map: nn.Module = nn.Linear(speech_dim, entry)
        self.face_decoder_blocks = _decoder_blocks(entry, encoder, decoder, full)
        levels = decoder if speech == "levels" else []
        self.level_maps = nn.ModuleList(nn.Linear(speech_dim, channels) for channels in levels)
        last = decoder[-1] + encoder[0]
        self.blends = output == "blend"
        head = nn.Conv2d(painted, 4 if self.blends else 3, 1)
        self.output_block = nn.Sequential(ConvBlock(last, painted, 3, 1, 1), head, nn.Sigmoid())

    def forward(self, faces: Tensor, speech: Tensor) -> Tensor:
        """Paint.

        Args:
            faces: (N,6,96,96) in 0..1, pose then identity (see `generator_input`).
            speech: (N,D), the speech embedding of each frame.

        Returns:
            (N,3,96,96) in 0..1, BGR.
        """
        skips = []
        x = faces
        for block in self.face_encoder_blocks:
            x = block(x)
            skips.append(x)
        x = self.audio_map(speech)[:, :, None, None]
        for level, block in enumerate(self.face_decoder_blocks):
            x = block(x)
            if self.level_maps:
                x = x + self.level_maps[level](speech)[:, :, None, None]
            x = torch.cat([x, skips.pop()], dim=1)
        x = self.output_block(x)
        if not self.blends:
            return x
        paint, opacity = x[:, :3], x[:, 3:]
        pose, identity = faces[:, :3], faces[:, 3:]
        known = torch.cat([pose[:, :, :UPPER_ROWS], identity[:, :, UPPER_ROWS:]], dim=2)
        return opacity * paint + (1 - opacity) * known
