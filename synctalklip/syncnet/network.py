"""Networks that embed lips and sound: the public SyncNet structure and two small ones for CPUs.

The two small ones share no layer's design, so that one of them can judge where the other, or its like, is the expert.

Legend: T video frames at 25 Hz, W = T - 4 windows of 5 frames, N windows of a batch, E embedding.
Sound is 13 MFCC at 100 Hz, so a window holds 5 frames and 20 MFCC steps.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from synctalklip.data.features import CEPSTRA, SAMPLE_RATE, SYNC_FRAMES, sound_windows
from synctalklip.errors import MetricError

SAMPLES_PER_FRAME = SAMPLE_RATE // 25
CACHED_WINDOWS = 4  # windows of 224x224 pictures at a time: more fall out of a CPU's caches
FACE = 96  # pixels of a face crop's side


def _stack(layers: list[nn.Module]) -> nn.Sequential:
    """Each convolution or hidden linear layer is followed by batch normalisation and ReLU."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules.append(layer)
        if isinstance(layer, nn.Conv2d):
            modules += [nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]
        elif isinstance(layer, nn.Conv3d):
            modules += [nn.BatchNorm3d(layer.out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def _folded(stack: nn.Sequential) -> nn.Sequential:
    """The lips' `_stack` in eval mode with its norms folded into its convolutions, and without a dimension of time:
    frames that a kernel spans become channels, the first frame's channels first."""
    layers: list[Any] = []
    for layer in stack:
        if isinstance(layer, nn.BatchNorm3d):
            layers[-1] = _in_plane(fuse_conv_bn_eval(layers[-1], layer))
        elif isinstance(layer, nn.MaxPool3d):
            kernel, stride, padding = (_plane(value) for value in (layer.kernel_size, layer.stride, layer.padding))
            layers.append(nn.MaxPool2d(kernel, stride, padding))
        else:
            layers.append(layer)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _plane(size: Any) -> Any:
    """Height and width of a size in time, height and width."""
    return size if isinstance(size, int) else size[1:]


def _in_plane(layer: nn.Conv3d) -> nn.Conv2d:
    """A convolution whose kernel spans its whole input in time as one over the plane."""
    kernel = layer.weight.transpose(1, 2).flatten(1, 2)
    size, stride, padding = (_plane(value) for value in (layer.kernel_size, layer.stride, layer.padding))
    flat = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, stride, padding, device=kernel.device)
    flat.weight, flat.bias = nn.Parameter(kernel.contiguous()), layer.bias
    return flat


def _projection(width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, embedding))


class _WindowEmbedder(nn.Module):
    """Whole-clip embedding, shared by all structures.

    `ends` is how `lse.score_clip` treats the ends of a clip; `chunk` windows are embedded at a time, which bounds
    memory; `any_size` says whether whole frames are taken, or 96x96 face crops only; `window_rule` says how many
    windows of a clip are scored, where that is not every one of the video.
    """

    any_size: bool
    ends: str
    chunk: int
    window_rule: str | None = None

    def windows(self, frames: int, samples: int) -> int:
        """How many windows of a clip of so many frames and samples of sound are scored."""
        return frames - SYNC_FRAMES + 1

    def pixels(self, faces: Tensor) -> Tensor:
        """Face crops (N,96,96,3) uint8 BGR, or frames of `any_size` -> the network's input (3,N,H,W) float."""
        raise NotImplementedError

    def embed_video(self, frames: Tensor) -> Tensor:
        """(N,3,5+k,H,W) -> (N,E) for k = 0, else (N,k+1,E)."""
        raise NotImplementedError

    def embed_audio(self, sound: Tensor) -> Tensor:
        """(N,1,13,20) -> (N,E)."""
        raise NotImplementedError

    @torch.no_grad()
    def embed_clip(self, faces: np.ndarray | Tensor, mfcc: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """Embed every window of a clip; each frame passes the per-frame layers once.

        Args:
            faces: (T,96,96,3) uint8 BGR, or frames of `any_size`.
            mfcc: (4T,13).

        Returns:
            video (W,E) and audio (W,E), on the CPU.

        Raises:
            MetricError: fewer than 5 frames, no sound, or frames of a size that is not taken.
        """
        device = next(self.parameters()).device
        windows = sound_windows(torch.as_tensor(mfcc, dtype=torch.float32), len(faces)).to(device)
        faces = torch.as_tensor(faces)
        embed_lips = self.lip_embedder()
        video = []
        for start in range(0, len(windows), self.chunk):
            clip = self.pixels(faces[start : start + self.chunk + SYNC_FRAMES - 1].to(device))
            video.append(embed_lips(clip))
        audio = [self.embed_audio(part) for part in windows.split(self.chunk)]
        return torch.cat(video).cpu(), torch.cat(audio).cpu()

    def lip_embedder(self) -> Callable[[Tensor], Tensor]:
        """What `embed_clip` embeds stretches of lips with, (3,5+k,H,W) -> (k+1,E)."""

        def embed(clip: Tensor) -> Tensor:
            return self.embed_video(clip.unsqueeze(0)).reshape(clip.shape[1] - SYNC_FRAMES + 1, -1)

        return embed


class SyncNet(_WindowEmbedder):
    """The structure and state-dict names of the public SyncNet v2 (Chung and Zisserman 2016).

    Args:
        embedding: E.
        ends: how `score` treats the ends of a clip, see `lse`.
        chunk: windows embedded at a time; bounds the memory of a long clip.
    """

    any_size = True
    window_rule = "min(frames, samples / 640) - 5 a clip, as published"

    def windows(self, frames: int, samples: int) -> int:
        """The published script (joonson/syncnet_python, SyncNetInstance.evaluate) takes no window that padded sound
        would reach into, and leaves out the last of the others."""
        return min(frames, samples // SAMPLES_PER_FRAME) - SYNC_FRAMES

    def __init__(self, embedding: int = 1024, ends: str = "zeros", chunk: int = 50) -> None:
        super().__init__()
        self.ends, self.chunk = ends, chunk
        self.netcnnaud = _stack(
            [
                nn.Conv2d(1, 64, 3, padding=1),
                nn.MaxPool2d(1, 1),
                nn.Conv2d(64, 192, 3, padding=1),
                nn.MaxPool2d(3, (1, 2)),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
                nn.MaxPool2d(3, 2),
                nn.Conv2d(256, 512, (5, 4)),
            ]
        )
        self.netfcaud = _projection(512, embedding)
        self.netfclip = _projection(512, embedding)
        self.netcnnlip = _stack(
            [
                nn.Conv3d(3, 96, (5, 7, 7), stride=(1, 2, 2)),
                nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
                nn.Conv3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)),
                nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
                nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
                nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
                nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)),
                nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
                nn.Conv3d(256, 512, (1, 6, 6)),
            ]
        )

    def pixels(self, faces: Tensor) -> Tensor:
        """(N,H,W,3) uint8 BGR -> (3,N,224,224) in 0..255: all of the picture, as the public script feeds it."""
        images = faces.permute(0, 3, 1, 2).float()
        images = F.interpolate(images, size=(224, 224), mode="bilinear", align_corners=False)
        return images.transpose(0, 1)

    def lip_embedder(self) -> Callable[[Tensor], Tensor]:
        """See `_WindowEmbedder.lip_embedder`: the same numbers from two-dimensional convolutions that hold the norms,
        with the five frames as channels, which CPUs compute faster; in eval mode."""
        if self.training:
            return super().lip_embedder()
        see = _folded(self.netcnnlip)

        def embed(clip: Tensor) -> Tensor:
            windows = clip.transpose(0, 1).unfold(0, SYNC_FRAMES, 1).permute(0, 4, 1, 2, 3).flatten(1, 2)
            parts = windows.split(CACHED_WINDOWS if clip.device.type == "cpu" else len(windows))
            seen = [see(part.contiguous(memory_format=torch.channels_last)) for part in parts]
            return self.netfclip(torch.cat(seen).flatten(1))

        return embed

    def embed_audio(self, sound: Tensor) -> Tensor:
        """(N,1,13,20) MFCC windows -> (N,E)."""
        return self.netfcaud(self.netcnnaud(sound).flatten(1))

    def embed_video(self, frames: Tensor) -> Tensor:
        """(N,3,5,224,224) BGR in 0..255 -> (N,E); 5+k frames give (N,k+1,E), one embedding a window.

        Only the first convolution sees more than one frame, so a long input is embedded fully
        convolutionally with the same result.
        """
        features = self.netcnnlip(frames).squeeze(-1).squeeze(-1).transpose(1, 2)
        count, windows, width = features.shape
        embedded = self.netfclip(features.reshape(-1, width)).reshape(count, windows, -1)
        return embedded.squeeze(1) if windows == 1 else embedded


def _lower_half(faces: Tensor) -> Tensor:
    """(N,96,96,3) -> (N,48,96,3).

    Raises:
        MetricError: frames of another size.
    """
    if faces.shape[1:3] != (FACE, FACE):
        raise MetricError(
            f"the small SyncNets take {FACE}x{FACE} face crops, got {faces.shape[1]}x{faces.shape[2]} frames"
        )
    return faces[:, FACE // 2 :]


class SmallSyncNet(_WindowEmbedder):
    """A SyncNet that trains on a CPU in a minute or two; sees the lower half of the face crop.

    A 2-D trunk embeds each frame, a convolution over 5 frames joins them; the sound passes 1-D
    convolutions over the 20 steps. Embeddings have length one, so distances lie in 0..2 and about 1.4
    means unrelated: the numbers compare rows of one table, not with LSE values of the public network.

    Args:
        embedding: E.
        width: channels of the first layer; the others follow.
        ends: how `score` treats the ends of a clip, see `lse`.
        chunk: windows embedded at a time.
    """

    any_size = False

    def __init__(self, embedding: int = 128, width: int = 16, ends: str = "overlap", chunk: int = 200) -> None:
        super().__init__()
        self.ends, self.chunk = ends, chunk
        self.frame_trunk = _stack(
            [
                nn.Conv2d(3, width, 5, stride=2, padding=2),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
                nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1),
            ]
        )
        self.frame_features = nn.Linear(4 * width * 3 * 6, embedding)
        self.video_head = nn.Sequential(
            nn.Conv1d(embedding, 2 * embedding, SYNC_FRAMES), nn.ReLU(), nn.Conv1d(2 * embedding, embedding, 1)
        )
        self.sound_norm = nn.BatchNorm1d(CEPSTRA)
        self.sound_trunk = nn.Sequential(
            nn.Conv1d(CEPSTRA, 4 * width, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(4 * width, 8 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(8 * width, 8 * width, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.sound_head = nn.Sequential(
            nn.Linear(8 * width * SYNC_FRAMES, 2 * embedding), nn.ReLU(), nn.Linear(2 * embedding, embedding)
        )

    def pixels(self, faces: Tensor) -> Tensor:
        """(N,96,96,3) uint8 BGR -> (3,N,48,96) in -1..1: the lower half."""
        return _lower_half(faces).permute(3, 0, 1, 2).float() / 127.5 - 1

    def embed_audio(self, sound: Tensor) -> Tensor:
        """(N,1,13,20) MFCC windows -> (N,E) of length one."""
        features = self.sound_trunk(self.sound_norm(sound.squeeze(1)))
        return F.normalize(self.sound_head(features.flatten(1)), dim=-1)

    def embed_video(self, frames: Tensor) -> Tensor:
        """(N,3,5,48,96) -> (N,E) of length one; 5+k frames give (N,k+1,E)."""
        count, _, length = frames.shape[:3]
        images = frames.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.frame_features(self.frame_trunk(images).flatten(1)).reshape(count, length, -1)
        embedded = F.normalize(self.video_head(features.transpose(1, 2)).transpose(1, 2), dim=-1)
        return embedded.squeeze(1) if length == SYNC_FRAMES else embedded


class StackedSyncNet(_WindowEmbedder):
    """A SyncNet that sees motion from its first layer on; trains on a CPU as the small one does.

    The five frames of a window, in grey, are the channels of a 2-D convolution, as those of Wav2Lip's expert (Prajwal
    et al. 2020) are in colour. The MFCC window is a picture of coefficients and time for 2-D convolutions. Embeddings
    have length one.

    Args:
        embedding: E.
        width: channels of the first layer; the others follow.
        ends: how `score` treats the ends of a clip, see `lse`.
        chunk: windows embedded at a time.
    """

    any_size = False

    def __init__(self, embedding: int = 128, width: int = 16, ends: str = "overlap", chunk: int = 200) -> None:
        super().__init__()
        self.ends, self.chunk = ends, chunk
        self.lips = _stack(
            [
                nn.Conv2d(SYNC_FRAMES, width, 5, stride=2, padding=2),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
                nn.Conv2d(4 * width, 8 * width, 3, stride=2, padding=1),
            ]
        )
        self.lips_head = nn.Linear(8 * width * 3 * 6, embedding)
        self.sound_norm = nn.BatchNorm1d(CEPSTRA)
        self.sound = _stack(
            [
                nn.Conv2d(1, 2 * width, 3, padding=1),
                nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
                nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1),
            ]
        )
        self.sound_head = nn.Linear(4 * width * 4 * 5, embedding)

    def pixels(self, faces: Tensor) -> Tensor:
        """(N,96,96,3) uint8 BGR -> (1,N,48,96) grey in -1..1: the lower half."""
        weights = torch.tensor([0.114, 0.587, 0.299], device=faces.device)
        return (_lower_half(faces).float() @ weights / 127.5 - 1).unsqueeze(0)

    def embed_audio(self, sound: Tensor) -> Tensor:
        """(N,1,13,20) MFCC windows -> (N,E) of length one."""
        picture = self.sound_norm(sound.squeeze(1)).unsqueeze(1)
        return F.normalize(self.sound_head(self.sound(picture).flatten(1)), dim=-1)

    def embed_video(self, frames: Tensor) -> Tensor:
        """(N,1,5,48,96) -> (N,E) of length one; 5+k frames give (N,k+1,E)."""
        count, _, length = frames.shape[:3]
        windows = frames.squeeze(1).unfold(1, SYNC_FRAMES, 1).flatten(0, 1).permute(0, 3, 1, 2)
        features = self.lips(windows.contiguous(memory_format=torch.channels_last)).flatten(1)
        embedded = F.normalize(self.lips_head(features), dim=-1).unflatten(0, (count, -1))
        return embedded.squeeze(1) if length == SYNC_FRAMES else embedded
