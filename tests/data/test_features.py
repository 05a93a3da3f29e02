"""Sound and mouth features against python_speech_features, the golden vectors and cases by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from synctalklip.data import features
from synctalklip.errors import SyncTalklipError

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "audio_features.npz"


def wave(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-8000, 8000, samples).astype(np.int16)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden vectors (../shared/golden) are not here")
def test_golden_features():
    with np.load(GOLDEN) as stored:
        assert np.abs(features.logfbank(stored["wav"]).numpy() - stored["logfbank"]).max() < 1e-3
        assert np.abs(features.mfcc(stored["wav"]).numpy() - stored["mfcc"]).max() < 1e-2


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 16000, 30001])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_equal_to_python_speech_features(samples, rate):
    oracle = pytest.importorskip("python_speech_features")
    sound = wave(samples)
    fft_size = 512 if rate == 16000 else 256
    expected = oracle.mfcc(sound, rate, nfft=fft_size)
    np.testing.assert_allclose(features.mfcc(sound, rate).numpy(), expected, atol=1e-3)
    if rate == 16000:
        np.testing.assert_allclose(features.logfbank(sound).numpy(), oracle.logfbank(sound), atol=1e-4)


def test_silence_is_finite():
    oracle = pytest.importorskip("python_speech_features")
    silence = np.zeros(1600, np.int16)
    np.testing.assert_allclose(features.logfbank(silence).numpy(), oracle.logfbank(silence), atol=1e-4)
    np.testing.assert_allclose(features.mfcc(silence).numpy(), oracle.mfcc(silence), atol=1e-3)
    assert torch.isfinite(features.audio_features(silence, 3)).all()


@pytest.mark.parametrize("frames", [1, 2, 25, 75])
def test_a_video_frame_is_four_sound_frames(frames):
    assert features.logfbank(wave(640 * frames)).shape == (4 * frames - 1, 26)
    assert features.stack(features.logfbank(wave(640 * frames))).shape == (frames, 104)


def test_stack_joins_rows_in_order_and_fills_with_zeros():
    rows = torch.arange(10.0).view(5, 2)
    assert features.stack(rows, 4).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 0, 0, 0, 0, 0, 0]]


def test_length_follows_the_video_at_the_tail_only():
    sound = wave(640 * 20)
    whole = features.audio_features(sound, 20)
    assert torch.equal(features.audio_features(sound, 15), whole[:15])
    longer = features.audio_features(sound, 23)
    assert torch.equal(longer[:20], whole)
    assert not longer[20:].any()


def test_rows_are_normalised():
    rows = features.audio_features(wave(640 * 20), 20)
    torch.testing.assert_close(rows.mean(1), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.var(1, unbiased=False), torch.ones(20), atol=1e-3, rtol=0)


def test_an_impulse_stays_in_its_video_frame():
    sound = np.zeros(640 * 20, np.int16)
    sound[640 * 7 + 300] = 20000
    loud = features.stack(features.logfbank(sound)).amax(1)
    assert int(loud.argmax()) == 7


def test_cluster_features():
    found = features.cluster_mfcc(wave(640 * 20))
    assert found.shape == (78, 39)
    assert torch.isfinite(found).all()
    # First and second differences of a five-point window, inside the clip.
    weights = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]) / 10
    for target in (13, 26):
        naive = torch.einsum("k,kc->c", weights, found[28:33, target - 13 : target])
        torch.testing.assert_close(found[30, target : target + 13], naive, atol=1e-3, rtol=1e-4)
    with pytest.raises(SyncTalklipError, match="needs 400"):
        features.cluster_mfcc(wave(100))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.int16), "with samples"),
        (np.zeros((2, 100), np.int16), "one channel"),
        (np.array([0.0, np.nan, 1.0], np.float32), "NaN"),
    ],
)
def test_unusable_sound_is_refused(sound, message):
    with pytest.raises(SyncTalklipError, match=message):
        features.logfbank(sound)


def test_roi_normalisation_by_hand():
    rois = np.zeros((2, 96, 96), np.uint8)
    rois[:, 4, 4] = 255
    found = features.normalize_roi(rois)
    assert found.shape == (2, 88, 88)
    torch.testing.assert_close(found[:, 0, 0], torch.full((2,), (1 - 0.421) / 0.165))
    torch.testing.assert_close(found[:, 1, 1], torch.full((2,), -0.421 / 0.165))
    assert features.normalize_roi(rois, flip=True)[0, 0, 87] == found[0, 0, 0]
    assert features.normalize_roi(rois, crop=(0, 2))[0, 4, 2] == found[0, 0, 0]
    torch.testing.assert_close(features.normalize_roi(torch.from_numpy(rois) / 255.0), found)
    with pytest.raises(ValueError, match="leaves the 96x96"):
        features.normalize_roi(rois, crop=(9, 0))


def test_roi_normalisation_is_differentiable():
    rois = torch.rand(1, 96, 96, requires_grad=True)
    features.normalize_roi(rois).sum().backward()
    assert rois.grad[0, 4:92, 4:92].min() > 0
    assert rois.grad[0, :4].abs().sum() == 0
