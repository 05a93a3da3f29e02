"""Picture quality of clips: regions, full frames and LPIPS' door."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from synctalklip.errors import MetricError
from synctalklip.metrics import quality
from synctalklip.metrics.image import psnr_legacy_uint8, ssim
from synctalklip.metrics.quality import CHUNK, open_lpips, score_faces, score_frames

CPU = torch.device("cpu")


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def noisy(truth: np.ndarray, amount: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-amount, amount + 1, truth.shape)
    return np.clip(truth.astype(int) + noise, 0, 255).astype(np.uint8)


def skimage_ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    return structural_similarity(
        theirs, ours, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


def test_faces_equal_scikit_image_in_every_region_whatever_the_length(monkeypatch):
    monkeypatch.setattr(quality, "CHUNK", 2)
    truth = pictures(5, 96, 96)
    faces = noisy(truth, 30)
    scores = score_faces(faces, truth, CPU)
    pairs = list(zip(truth, faces))
    assert scores["psnr_face"] == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs]), abs=1e-9)
    assert scores["ssim_face"] == pytest.approx(np.mean([skimage_ssim(b, a) for a, b in pairs]), abs=1e-9)
    lower = [(a[48:], b[48:]) for a, b in pairs]
    assert scores["psnr_lower"] == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in lower]), abs=1e-9)
    assert scores["ssim_lower"] == pytest.approx(np.mean([skimage_ssim(b, a) for a, b in lower]), abs=1e-9)
    assert scores["psnr_legacy"] == pytest.approx(psnr_legacy_uint8(faces, truth).mean())


@pytest.mark.parametrize("where", [np.s_[:, :], np.s_[20:31, 17:40], np.s_[:2, -1:], np.s_[-1:, :1]])
def test_full_frames_equal_scikit_image_wherever_they_differ(where):
    truth = pictures(3, 40, 57)
    ours = truth.copy()
    ours[(slice(1, 3), *where)] = noisy(truth, 90)[(slice(1, 3), *where)]
    scores = score_frames(zip(ours, truth), CPU)
    assert scores["psnr_frame"] == pytest.approx(
        np.mean([peak_signal_noise_ratio(theirs, mine) for theirs, mine in zip(truth[1:], ours[1:])]), abs=1e-9
    )
    oracle = np.mean([skimage_ssim(mine, theirs) for theirs, mine in zip(truth, ours)])
    assert scores["ssim_frame"] == pytest.approx(oracle, abs=1e-9)


def test_equal_pictures():
    truth = pictures(2, 96, 96)
    assert score_faces(truth, truth, CPU) == {
        "psnr_face": np.inf, "psnr_lower": np.inf, "ssim_face": 1.0, "ssim_lower": 1.0, "psnr_legacy": 100.0
    }  # fmt: skip
    assert score_frames(zip(truth, truth), CPU) == {"psnr_frame": np.inf, "ssim_frame": 1.0}


def test_the_way_of_the_gpu_gives_the_same_ssim(monkeypatch):
    ours, theirs = (torch.from_numpy(pictures(2, 30, 33, seed)).permute(0, 3, 1, 2) / 255 for seed in (0, 1))
    expected = ssim(ours, theirs)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    torch.testing.assert_close(ssim(ours, theirs), expected, rtol=0, atol=1e-12)


def test_lpips_is_asked_only_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MetricError, match="needs the package lpips"):
        open_lpips(CPU)

    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool):
            super().__init__()

        def forward(self, ours, theirs):
            assert ours.min() >= -1
            assert ours.max() <= 1
            # Red first, which is the last channel of a BGR picture.
            return (ours - theirs)[:, :1].abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Distance))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MetricError, match="needs AlexNet's weights"):
        open_lpips(CPU)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    truth = np.zeros((CHUNK + 1, 96, 96, 3), np.uint8)
    faces = truth.copy()
    faces[:, :, :, 2] = 51
    assert open_lpips(CPU)(faces, truth) == pytest.approx(0.4)
