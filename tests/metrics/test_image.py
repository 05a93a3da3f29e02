"""PSNR and SSIM against scikit-image, by hand, and the published arithmetic; clips, full frames, the door of LPIPS."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from synctalklip.errors import MetricError
from synctalklip.metrics.image import CHUNK, open_lpips, psnr, psnr_legacy_uint8, score_faces, score_frames, ssim


def pair(sigma: float = 0.05, shape: tuple[int, ...] = (3, 3, 40, 31)) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, shape[-1]) * np.linspace(0.2, 1, shape[-2])[:, None]
    target = np.clip(ramp + 0.1 * rng.random(shape), 0, 1)
    noisy = np.clip(target + rng.normal(0, sigma, shape), 0, 1)
    return torch.from_numpy(noisy).float(), torch.from_numpy(target).float()


def test_psnr_by_hand():
    target = torch.zeros(2, 3, 4, 4)
    generated = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 1.0)])
    assert torch.allclose(psnr(generated, target), torch.tensor([20.0, 0.0], dtype=torch.float64), atol=1e-5)


def test_identical_images():
    image = torch.rand(1, 3, 16, 16)
    assert psnr(image, image).isposinf().all()
    assert torch.allclose(ssim(image, image), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_equal_to_skimage(sigma):
    generated, target = pair(sigma)
    for i, (ours, theirs) in enumerate(zip(generated.double().numpy(), target.double().numpy())):
        assert psnr(generated, target)[i] == pytest.approx(
            peak_signal_noise_ratio(theirs, ours, data_range=1), abs=1e-9
        )
        oracle = structural_similarity(
            theirs, ours, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim(generated, target)[i] == pytest.approx(oracle, abs=1e-9)


def test_ssim_on_lower_halves_and_batches():
    generated, target = pair(shape=(4, 3, 48, 96))
    singles = torch.cat([ssim(generated[i : i + 1], target[i : i + 1]) for i in range(4)])
    assert torch.equal(ssim(generated, target), singles)


@pytest.mark.parametrize(
    ("sigma", "true", "legacy"), [(4, 36.1, 36.1), (8, 30.2, 31.3), (12, 26.8, 29.9), (16, 24.4, 29.2)]
)
def test_legacy_psnr_is_inflated_as_measured(sigma, true, legacy):
    rng = np.random.default_rng(1)
    target = rng.integers(60, 196, (8, 96, 96, 3)).astype(np.uint8)
    noisy = np.clip(np.rint(target + rng.normal(0, sigma, target.shape)), 0, 255).astype(np.uint8)
    as_float = [torch.from_numpy(a).permute(0, 3, 1, 2).float() / 255 for a in (noisy, target)]
    # The facts measured real frames, whose clipping differs a little from this noise.
    assert psnr(*as_float).mean().item() == pytest.approx(true, abs=0.4)
    assert psnr_legacy_uint8(noisy, target).mean() == pytest.approx(legacy, abs=0.4)


def test_legacy_psnr_by_hand():
    target = np.zeros((2, 12, 12, 3), np.uint8)
    generated = np.stack([np.full((12, 12, 3), 16), np.full((12, 12, 3), 3)]).astype(np.uint8)
    # 16 squared wraps to 0 and counts as identical; 3 squared is 9.
    assert psnr_legacy_uint8(generated, target) == pytest.approx([100.0, 20 * np.log10(255 / 3)])


def test_bad_input_is_named():
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(MetricError, match="one shape"):
        psnr(image, image[:, :, :8])
    with pytest.raises(MetricError, match="divide uint8"):
        psnr(image.byte(), image.byte())
    with pytest.raises(MetricError, match="11x11"):
        ssim(image[..., :8], image[..., :8])
    with pytest.raises(MetricError, match="uint8"):
        psnr_legacy_uint8(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))


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
    monkeypatch.setattr("synctalklip.metrics.image.CHUNK", 2)
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
