"""AVS_u, AVS_m and AVS_v by hand, with a stub that tells frames apart, and with a real expert."""

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared
from stage2_factory import write_expert
from torch import Tensor, nn

from synctalklip.avsyncnet.expert import load_expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import ROI_MEAN, ROI_STD
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import MetricError
from synctalklip.metrics.avs import score_avs


class Stub(nn.Module):
    """Embeds a frame as (1, g) with g the mean grey 0..1, its sound as (1, a); both together as (1, g + a)."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def encode(self, audio: Tensor | None = None, video: Tensor | None = None) -> Tensor:
        level = torch.zeros(())
        if video is not None:
            assert video.shape[1:2] + video.shape[3:] == (1, 88, 88)
            level = level + (video * ROI_STD + ROI_MEAN).mean((1, 3, 4))
        if audio is not None:
            level = level + audio.mean(1)
        return torch.stack([torch.ones_like(level), level], -1)


def flat(levels: list[int]) -> np.ndarray:
    return np.array(levels, np.uint8)[:, None, None].repeat(96, 1).repeat(96, 2)


def cosine(a: float, b: float) -> float:
    return (1 + a * b) / np.sqrt((1 + a * a) * (1 + b * b))


def test_scores_by_hand():
    sound = torch.tensor([0.0, 2.0])[:, None].expand(2, 104)
    scores = score_avs(Stub(), flat([255, 0]), flat([0, 255]), sound)
    assert scores["avs_u"] == pytest.approx((cosine(0, 0) + cosine(1, 2)) / 2, abs=1e-6)
    assert scores["avs_m"] == pytest.approx((cosine(1, 0) + cosine(2, 3)) / 2, abs=1e-6)
    assert scores["avs_v"] == pytest.approx((cosine(1, 0) + cosine(0, 1)) / 2, abs=1e-6)


def test_shuffled_lips_score_lower():
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, 40)
    sound = torch.from_numpy(levels / 255).float()[:, None].expand(40, 104)
    real, shuffled = flat(levels), flat(rng.permutation(levels))
    right, wrong = score_avs(Stub(), real, real, sound), score_avs(Stub(), real, shuffled, sound)
    assert all(wrong[name] < right[name] - 0.02 for name in ("avs_u", "avs_m", "avs_v"))
    assert right["avs_u"] == pytest.approx(1, abs=1e-6)


def test_recording_against_itself_and_against_still_lips(tmp_path):
    """A real expert, its own reading of sound and mouth regions."""
    prepared = make_prepared(tmp_path, {"train": 1})
    expert = load_expert(write_expert(tmp_path / "expert.pt", prepared, "landmark"))
    reader = ClipReader(read_manifest(prepared))
    rois, sound = reader.rois(0), reader.logfbank(0)
    same = score_avs(expert, rois, rois, sound)
    assert same["avs_m"] == pytest.approx(1, abs=1e-6)
    assert same["avs_v"] == pytest.approx(1, abs=1e-6)
    assert -1 <= same["avs_u"] < 1
    still = score_avs(expert, rois, rois[:1].repeat(len(rois), 0), sound)
    assert still["avs_v"] < still["avs_m"] < 1  # the sound that both share draws the joint embeddings together


def test_lengths_that_differ_are_refused():
    with pytest.raises(MetricError, match="got 2, 3, 2"):
        score_avs(Stub(), flat([0, 1]), flat([0, 1, 2]), torch.zeros(2, 104))
    with pytest.raises(MetricError, match="got 0, 0, 0"):
        score_avs(Stub(), flat([]), flat([]), torch.zeros(0, 104))
