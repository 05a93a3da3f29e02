"""A generator made fast for use: batch norms folded, channels last, weights in the precision of the arithmetic.
What it painted is put into the frame here too.

Legend: N images or samples, T video frames at 25 Hz, F values a frame that a model hears, D embedding.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from synctalklip.data.features import audio_features
from synctalklip.data.geometry import FACE_SIZE, paste_face
from synctalklip.device import choose_precision
from synctalklip.generator.unet import UPPER_ROWS, UNetGenerator, generator_input


class TalkingFace(Protocol):
    """What inference asks of a model; `TalkingFaceGenerator` is one."""

    def encode_speech(self, audio: Tensor, padding_mask: Tensor) -> Tensor:
        """(1,F,T) of `speech_features_of`, (1,T) -> (1,T,D)."""
        ...

    def __call__(self, faces: Tensor, speech: Tensor) -> Tensor:
        """(N,6,96,96) in 0..1, (N,D) -> (N,3,96,96) in 0..1."""
        ...


def speech_features_of(model: TalkingFace) -> Callable[[np.ndarray, int], Tensor]:
    """What a model hears of a sound (N,) and a number of frames T, (T,F): AV-HuBERT's input where it has none of its
    own (Wav2Lip's generator has)."""
    return getattr(model, "speech_features", audio_features)


class FusedGenerator:
    """Paints the lower halves of faces; the model itself stays as it is.

    In bf16 the convolutions round, the picture is put together in float32: against fp32 a painted pixel differs by
    less than a grey level on average (a test holds that).

    Args:
        model: in eval mode.
        precision: "fp32", "bf16" or "auto", see `device.choose_precision`.
        device: where the model lives.
    """

    def __init__(self, model: TalkingFace | UNetGenerator, precision: str, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.precision = choose_precision(precision, self.device)
        self.model = model
        if isinstance(model, UNetGenerator):
            self.model = _prepared(model, self.precision.name)

    @torch.inference_mode()
    def __call__(self, poses: np.ndarray, identities: np.ndarray, speech: Tensor) -> np.ndarray:
        """Paint.

        Args:
            poses: (N,96,96,3) uint8 BGR, faces whose lower halves are not looked at.
            identities: (96,96,3) for all, or (N,96,96,3), uint8 BGR.
            speech: (N,D), where the model lives.

        Returns:
            (N,48,96,3) uint8 BGR.
        """
        # Bytes travel to the device, not the floats they become.
        targets = torch.from_numpy(poses).to(self.device)
        identity = torch.from_numpy(identities).to(self.device).expand_as(targets)
        inputs = generator_input(targets, identity).contiguous(memory_format=torch.channels_last)
        with self.precision.autocast(self.device):
            painted = self.model(inputs, speech)
        lower = painted[:, :, UPPER_ROWS:].float().clamp(0, 1) * 255
        return lower.round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def paint_clip(
    model: TalkingFace,
    fused: FusedGenerator,
    faces: np.ndarray,
    features: Tensor,
    identity: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """All frames of a prepared clip with the lower halves that its sound asks for.

    Args:
        model: encodes the sound.
        fused: of this model.
        faces: (T,96,96,3) uint8 BGR, kept as they are.
        features: (T,F), see `speech_features_of`.
        identity: the frame that shows who it is.
        batch_size: frames painted at once.

    Returns:
        (T,96,96,3) uint8 BGR.
    """
    painted = faces.copy()
    audio = torch.as_tensor(features, dtype=torch.float32).T[None].to(fused.device)
    speech = model.encode_speech(audio, torch.zeros(1, len(faces), dtype=torch.bool, device=fused.device))[0]
    for start in range(0, len(faces), batch_size):
        rows = slice(start, start + batch_size)
        painted[rows, UPPER_ROWS:] = fused(faces[rows], faces[identity], speech[rows])
    return painted


def _prepared(model: UNetGenerator, precision: str) -> UNetGenerator:
    """A copy of the U-Net that computes the same faster; an audio encoder is shared with the model."""
    encoder = getattr(model, "audio_encoder", None)
    model = copy.deepcopy(model, {id(encoder): encoder})
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for part in [part for part in model.children() if part is not encoder]:
        for sequence in [m for m in part.modules() if isinstance(m, nn.Sequential)]:
            if len(sequence) == 2 and isinstance(sequence[1], nn.BatchNorm2d):
                convolution: Any
                norm: Any
                convolution, norm = sequence
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                sequence[0] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
                sequence[1] = nn.Identity()
        part.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def paste_lower(frame: np.ndarray, box: np.ndarray, painted: np.ndarray, feather: float, shape: str) -> np.ndarray:
    """A frame with a painted lower half in its place.

    Args:
        frame: (H,W,3) uint8.
        box: (4,) x1, y1, x2, y2 of the face, of which the lower half is painted.
        painted: (48,96,3) uint8.
        feather: see `inference.Options`.
        shape: see `inference.Options`.

    Returns:
        A new (H,W,3) uint8.
    """
    x1, y1, x2, y2 = box
    lower = np.array([x1, y1 + (y2 - y1) * UPPER_ROWS / FACE_SIZE, x2, y2], np.float32)
    return paste_face(frame, lower, painted, feather, face_shape() if shape == "face" else None)


@cache
def face_shape() -> np.ndarray:
    """How much of the painted half is shown: all of cheeks, mouth and chin, nothing of the corners below.

    The corners show collar, hair and background as they were in the identity frame, which lie elsewhere when the head
    has moved. The shape is that of the mean face and not of the source's jaw, whose movement is that of other words.

    Returns:
        (48,96) float32 in 0..1: a quarter-soft superellipse, 1 up to three quarters of the way to its edge.
    """
    rows = UPPER_ROWS + np.arange(FACE_SIZE - UPPER_ROWS) + 0.5
    columns = np.arange(FACE_SIZE) + 0.5
    x = np.abs(columns / FACE_SIZE - 0.5) / 0.44
    y = (rows - UPPER_ROWS) / (FACE_SIZE - UPPER_ROWS)
    radius = (x[None] ** 2.5 + y[:, None] ** 2.5) ** 0.4
    inwards = np.clip((1 - radius) / 0.25, 0, 1)
    return (inwards * inwards * (3 - 2 * inwards)).astype(np.float32)
