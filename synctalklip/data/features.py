"""Sound and mouth features, in torch: the one preprocessing of training, validation and inference.

Legend: N sound samples at 16 kHz or N faces, F sound frames at 100 Hz, T video frames at 25 Hz, C cepstra or filters.

Sound stays in int16 scale (-32768..32767) everywhere; `cluster_mfcc` alone rescales it to +-1.
`logfbank` and `mfcc` equal python_speech_features with its default settings (rectangular window).
"""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synctalklip.errors import MetricError, SyncTalklipError

SAMPLE_RATE = 16000
STACK = 4  # 10 ms frames in one 40 ms video frame
FILTERS = 26
CEPSTRA = 13
AUDIO_DIM = STACK * FILTERS
ROI_SIZE = 96
CROP_SIZE = 88
BGR_TO_GREY = (0.114, 0.587, 0.299)  # ITU-R BT.601
ROI_MEAN, ROI_STD = 0.421, 0.165
REACH = 2
"""Video frames on either side of a frame that its lip features depend on: the first kernel of AV-HuBERT spans five."""
SYNC_FRAMES = 5
"""Video frames of a window of SyncNet (Chung and Zisserman 2016)."""

MELS, MEL_STEPS = 80, 16
"""Wav2Lip hears 16 steps of 80 mel bands with each video frame: 0.2 s from the frame on."""
MEL_DIM = MELS * MEL_STEPS
_MEL_WINDOW, _MEL_HOP, _MEL_RANGE = 800, 200, (55.0, 7600.0)  # samples, samples, Hz
# Of Wav2Lip's normalisation: the loudest and the softest decibels that count, and what they become.
_MEL_REFERENCE_DB, _MEL_FLOOR_DB, _MEL_LIMIT = 20.0, -100.0, 4.0

_FRAME_SECONDS, _HOP_SECONDS = 0.025, 0.01
_PREEMPHASIS = 0.97
_LIFTER = 22
_BLOCK = 256  # frames at a time: the spectra of a long recording leave the caches and take fresh memory
_EPS = float(np.finfo(np.float64).eps)  # python_speech_features puts this in the place of an exact zero

Wave = np.ndarray | Tensor


def logfbank(wave: Wave, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Natural logarithm of the mel filterbank energies.

    Args:
        wave: (N,) sound in int16 scale; int16 or float.
        sample_rate: in Hz.

    Returns:
        (F, 26) float32, one row per 10 ms; F = 1 + ceil((N - 400) / 160) at 16 kHz, at least 1.

    Raises:
        SyncTalklipError: the wave is empty, not one channel, or holds NaN.

    Source: python_speech_features.logfbank, as AV-HuBERT uses it.
    """
    energies, _ = _filterbank_energies(wave, sample_rate)
    return energies.log()


def mfcc(wave: Wave, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Mel cepstra: 13 of 26 filters, lifter 22, the log frame energy in the place of the first.

    Args:
        wave: (N,) sound in int16 scale; int16 or float.
        sample_rate: in Hz.

    Returns:
        (F, 13) float32, one row per 10 ms.

    Raises:
        SyncTalklipError: the wave is empty, not one channel, or holds NaN.

    Source: python_speech_features.mfcc, the input of SyncNet.
    """
    energies, total = _filterbank_energies(wave, sample_rate)
    cepstra = energies.log() @ _cosine_basis().to(energies.device)
    cepstra[:, 0] = total.log()
    return cepstra


def cluster_mfcc(wave: Wave) -> Tensor:
    """Features of the first clustering iteration: kaldi MFCC with first and second differences.

    Args:
        wave: (N,) 16 kHz sound in int16 scale, at least 400 samples.

    Returns:
        (F, 39) float32, one row per 10 ms; F = 1 + (N - 400) // 160 (only whole windows count).

    Raises:
        SyncTalklipError: shorter than one window of 25 ms.

    Source: AV-HuBERT's clustering recipe (13 cepstra, no energy, sound scaled to +-1).
    """
    # torchaudio is only needed here; importing it costs every other user of this module a second.
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    signal = _as_signal(wave) / 32768.0
    if signal.numel() < SAMPLE_RATE * _FRAME_SECONDS:
        raise SyncTalklipError(f"the sound has {signal.numel()} samples: one 25 ms window needs 400")
    cepstra = kaldi.mfcc(signal[None], sample_frequency=SAMPLE_RATE, use_energy=False).T
    deltas = compute_deltas(cepstra)
    return torch.cat([cepstra, deltas, compute_deltas(deltas)]).T.contiguous()


def mel_spectrogram(wave: Wave) -> Tensor:
    """Wav2Lip's mel spectrogram, normalised to -4..4.

    Args:
        wave: (N,) 16 kHz sound in int16 scale, more than 400 samples.

    Returns:
        (1 + N // 200, 80) float32, one row per 12.5 ms.

    Raises:
        SyncTalklipError: no sound, or too short to be mirrored at its ends.

    Source: Rudrabha/Wav2Lip, audio.py and hparams.py (librosa 0.7): pre-emphasis 0.97, magnitudes of 800-sample Hann
    windows centred every 200 samples and mirrored at the ends, 80 Slaney bands from 55 to 7600 Hz, decibels less 20,
    -100..0 dB stretched to -4..4 and clipped. In float64 as there: soft bins lie far below loud ones.
    """
    signal = _as_signal(wave).double() / 32768.0
    if len(signal) <= _MEL_WINDOW // 2:
        raise SyncTalklipError(f"the sound has {len(signal)} samples: Wav2Lip's mel needs more than {_MEL_WINDOW // 2}")
    signal = torch.cat([signal[:1], signal[1:] - _PREEMPHASIS * signal[:-1]])
    window = torch.hann_window(_MEL_WINDOW, dtype=signal.dtype, device=signal.device)
    bins = torch.stft(signal, _MEL_WINDOW, _MEL_HOP, window=window, pad_mode="reflect", return_complex=True).abs()
    bands = (_slaney_bands().to(signal.device) @ bins).T
    decibels = 20 * bands.clamp(min=10 ** (_MEL_FLOOR_DB / 20)).log10() - _MEL_REFERENCE_DB
    scaled = 2 * _MEL_LIMIT * (decibels - _MEL_FLOOR_DB) / -_MEL_FLOOR_DB - _MEL_LIMIT
    return scaled.clamp(-_MEL_LIMIT, _MEL_LIMIT).float()


def mel_windows(wave: Wave, frames: int) -> Tensor:
    """What Wav2Lip hears with each frame of a clip of `frames` video frames, as its published inference takes it.

    The window of frame t begins at step int(3.2 t); frames whose window would leave the sound get its last 16 steps.

    Args:
        wave: (N,) 16 kHz sound in int16 scale; a sound shorter than 16 steps is filled with silence.
        frames: T.

    Returns:
        (T, 1280) float32: 80 bands of 16 steps each.
    """
    signal = _as_signal(wave)
    mel = mel_spectrogram(F.pad(signal, (0, max(MEL_STEPS * _MEL_HOP - len(signal), 0))))
    starts = (torch.arange(frames) * (SAMPLE_RATE // _MEL_HOP) // 25).clamp(max=len(mel) - MEL_STEPS)
    return mel.unfold(0, MEL_STEPS, 1)[starts.to(mel.device)].flatten(1)


def stack(features: Tensor, order: int = STACK) -> Tensor:
    """Join each `order` consecutive rows into one; missing rows at the end are zeros.

    Args:
        features: (F, C).

    Returns:
        (ceil(F / order), order * C).
    """
    missing = -len(features) % order
    return F.pad(features, (0, 0, 0, missing)).reshape(-1, order * features.shape[1])


def fit_length(features: Tensor, frames: int) -> Tensor:
    """Cut the tail of (F, C) features, or append zero rows, so that there are `frames` rows."""
    return F.pad(features[:frames], (0, 0, 0, max(frames - len(features), 0)))


def sound_windows(mfcc: Tensor, frames: int) -> Tensor:
    """Cut the MFCC of a clip into the windows that belong to its video windows of five frames.

    Args:
        mfcc: (4T,13) at 100 Hz; shorter or longer by a few steps is cut or filled with the last step.
        frames: T.

    Returns:
        (T-4,1,13,20).

    Raises:
        MetricError: fewer than 5 frames, or no sound.
    """
    if frames < SYNC_FRAMES or len(mfcc) == 0:
        raise MetricError(f"sync scores need at least {SYNC_FRAMES} frames and sound, got {frames} frames")
    missing = frames * STACK - len(mfcc)
    if missing > 0:
        mfcc = torch.cat([mfcc, mfcc[-1:].expand(missing, -1)])
    windows = mfcc[: frames * STACK].unfold(0, SYNC_FRAMES * STACK, STACK)
    return windows.unsqueeze(1)


def audio_features(wave: Wave, frames: int) -> Tensor:
    """AV-HuBERT's sound input, aligned to a clip of `frames` video frames.

    Log filterbank, four 10 ms rows a video frame, the tail cut or filled with zeros (never the head:
    cutting both ends shifts the sound by a frame), then each row normalised to mean 0 and variance 1.

    Args:
        wave: (N,) 16 kHz sound in int16 scale.
        frames: T.

    Returns:
        (T, 104) float32.
    """
    return F.layer_norm(fit_length(stack(logfbank(wave)), frames), (AUDIO_DIM,))


def normalize_roi(
    rois: np.ndarray | Tensor,
    crop: Literal["center"] | tuple[int, int] = "center",
    flip: bool = False,
) -> Tensor:
    """AV-HuBERT's mouth input: crop, mirror, (x / 255 - 0.421) / 0.165. Differentiable for float input.

    Args:
        rois: (..., 96, 96) grey mouth regions, uint8 0..255 or float 0..1.
        crop: "center" (validation, inference) or the (top, left) corner of the 88x88 window.
        flip: mirror left and right (the whole clip alike).

    Returns:
        (..., 88, 88) float32.
    """
    rois = torch.as_tensor(rois)
    height, width = rois.shape[-2:]
    if crop == "center":
        crop = (round((height - CROP_SIZE) / 2), round((width - CROP_SIZE) / 2))
    top, left = crop
    if not (0 <= top <= height - CROP_SIZE and 0 <= left <= width - CROP_SIZE):
        raise ValueError(f"a window of {CROP_SIZE} at ({top}, {left}) leaves the {height}x{width} mouth region")
    window = rois[..., top : top + CROP_SIZE, left : left + CROP_SIZE]
    if flip:
        window = window.flip(-1)
    scale = 1.0 if window.is_floating_point() else 1.0 / 255.0
    return window.float().mul(scale / ROI_STD).sub(ROI_MEAN / ROI_STD)


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Numbers that are copied to a GPU anew in every step would make it wait for the processor.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def faces_to_rois(faces: Tensor, matrices: Tensor, rois: Tensor) -> Tensor:
    """Paste generated faces into their mouth ROIs, as the lip expert sees them; differentiable in all inputs.

    One grid_sample for the batch. ROI pixels outside the face crop keep `rois`, and no gradient reaches the face
    from there.

    Args:
        faces: (N,3,H,W) float BGR in 0..1.
        matrices: (N,2,3) face-crop pixels -> ROI pixels.
        rois: (N,h,w) float grey in 0..1, the ROIs of the same frames.

    Returns:
        (N,h,w) grey in 0..1.
    """
    height, width = faces.shape[-2:]
    rows, columns = rois.shape[-2:]
    weights = _constant(BGR_TO_GREY, faces.dtype, faces.device).view(1, 3, 1, 1)
    grey = (faces * weights).sum(dim=1, keepdim=True)
    # The coordinates stay in float32 even if the faces come in half precision: 8 bits cannot hold them.
    matrices = matrices.float()
    y, x = torch.meshgrid(
        torch.arange(rows, device=faces.device, dtype=torch.float32),
        torch.arange(columns, device=faces.device, dtype=torch.float32),
        indexing="ij",
    )
    offsets = torch.stack([x, y]).flatten(1) - matrices[:, :, 2:]
    a, b, c, d = matrices[:, :, :2].flatten(1).unbind(dim=1)
    inverse = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    places = torch.einsum("nij,njk->nki", inverse, offsets).view(-1, rows, columns, 2)
    last = _constant((width - 1, height - 1), places.dtype, places.device)
    inside = ((places >= 0) & (places <= last)).all(dim=-1)
    grid = (places / last * 2 - 1).to(grey.dtype)
    warped = F.grid_sample(grey, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return torch.where(inside, warped[:, 0], rois.to(warped.dtype))


def _as_signal(wave: Wave) -> Tensor:
    signal = torch.as_tensor(wave)
    if signal.ndim != 1 or signal.numel() == 0:
        raise SyncTalklipError(f"the sound has shape {tuple(signal.shape)}: one channel with samples is needed")
    is_float = signal.is_floating_point()
    signal = signal.float()
    if is_float and not torch.isfinite(signal).all():
        raise SyncTalklipError("the sound holds NaN or infinite samples: repair or drop the file")
    return signal


def _filterbank_energies(wave: Wave, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Energies of 26 mel filters (F, 26) and of whole frames (F,), exact zeros replaced by epsilon."""
    signal = _as_signal(wave)
    signal = torch.cat([signal[:1], signal[1:] - _PREEMPHASIS * signal[:-1]])
    length, hop = int(_FRAME_SECONDS * sample_rate + 0.5), int(_HOP_SECONDS * sample_rate + 0.5)
    count = 1 + max(math.ceil((len(signal) - length) / hop), 0)
    signal = F.pad(signal, (0, (count - 1) * hop + length - len(signal)))
    fft_size = 1 << (length - 1).bit_length()
    # The division by the size of the transform is left to the few values at the end; a power of two is exact.
    filters = _mel_filters(sample_rate, fft_size).T.to(signal.device) / fft_size
    energies, total = [], []
    for frames in signal.unfold(0, length, hop).split(_BLOCK):
        squares = torch.view_as_real(torch.fft.rfft(frames, fft_size)).square()
        power = squares[..., 0] + squares[..., 1]
        energies.append(filters @ power.T)
        total.append(power.sum(1) / fft_size)
    joined, sums = torch.cat(energies, 1).T.contiguous(), torch.cat(total)
    return joined.masked_fill(joined == 0, _EPS), sums.masked_fill(sums == 0, _EPS)


@cache
def _mel_filters(sample_rate: int, fft_size: int) -> Tensor:
    """Triangular filters (fft_size / 2 + 1, 26) with edges at whole bins, equally spaced in mel."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    edges = np.floor((fft_size + 1) * hertz / sample_rate)
    bins = np.arange(fft_size // 2 + 1)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising = np.where((bins >= low) & (bins < peak), (bins - low) / np.maximum(peak - low, 1), 0)
    falling = np.where((bins >= peak) & (bins < high), (high - bins) / np.maximum(high - peak, 1), 0)
    return torch.from_numpy(rising + falling).float()


@cache
def _slaney_bands() -> Tensor:
    """Triangular filters of unit area over the bins of the transform, (80, 401) float64."""
    from torchaudio.functional import melscale_fbanks

    bands = melscale_fbanks(_MEL_WINDOW // 2 + 1, *_MEL_RANGE, MELS, SAMPLE_RATE, "slaney", "slaney")
    return bands.T.double()


@cache
def _cosine_basis() -> Tensor:
    """Orthonormal DCT-II times the sinusoidal lifter, (26, 13)."""
    n = np.arange(CEPSTRA)
    basis = np.cos(np.pi / FILTERS * (np.arange(FILTERS)[:, None] + 0.5) * n) * np.sqrt(2 / FILTERS)
    basis[:, 0] *= np.sqrt(0.5)
    return torch.from_numpy(basis * (1 + _LIFTER / 2 * np.sin(np.pi * n / _LIFTER))).float()
