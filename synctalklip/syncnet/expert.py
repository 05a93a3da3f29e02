"""Wav2Lip's expert: a frozen SyncNet that says whether painted windows fit their sound.

Legend: N painted frames, W windows of 5 of them, E embedding.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from synctalklip.checkpoint import file_hash
from synctalklip.data.features import SYNC_FRAMES
from synctalklip.syncnet.lse import load_syncnet


class SyncExpert(nn.Module):
    """A SyncNet that never learns; gradients reach the painted faces.

    Args:
        path: `syncnet.pt` of scripts/train_syncnet.py, or the public `syncnet_v2.model`. The LSE columns of a table
            must come from another file: an expert would flatter the generator that it trained.

    Attributes:
        sha256: of the file.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.syncnet, _ = load_syncnet(path)
        self.sha256 = file_hash(path)
        self.train(False)

    def train(self, mode: bool = True) -> "SyncExpert":
        """Stay in eval mode whatever `mode` says."""
        return super().train(False)

    def embed(self, faces: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Embed painted windows and their sound.

        Args:
            faces: (N,3,96,96) in 0..1 BGR, N = 5 W, the frames of a window one after the other.
            sound: (W,13,20) MFCC.

        Returns:
            video (W,E) and audio (W,E).
        """
        # SyncNet reads stored pictures: values 0..255, channels last.
        pixels = self.syncnet.pixels((faces.float() * 255).permute(0, 2, 3, 1))
        windows = pixels.unflatten(1, (-1, SYNC_FRAMES)).transpose(0, 1)
        with torch.no_grad():
            audio = self.syncnet.embed_audio(sound.unsqueeze(1).float())
        return self.syncnet.embed_video(windows), audio
