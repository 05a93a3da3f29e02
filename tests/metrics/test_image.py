"""PSNR and SSIM against scikit-image, by hand, and the published arithmetic."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from synctalklip.errors import MetricError
from synctalklip.metrics.image import psnr, psnr_legacy_uint8, ssim


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
