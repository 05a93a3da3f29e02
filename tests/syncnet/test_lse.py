"""LSE by hand and for known shifts; the public SyncNet structure against the golden vectors."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from synctalklip import checkpoint
from synctalklip.benchmark import naive
from synctalklip.data import features
from synctalklip.data.clips import clip_mfcc
from synctalklip.data.features import sound_windows
from synctalklip.errors import MetricError
from synctalklip.syncnet.lse import (
    SmallSyncNet,
    SyncNet,
    SyncNetInfo,
    assert_protocol,
    build_syncnet,
    load_syncnet,
    lse,
    save_syncnet,
    score_clip,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="golden vectors are not at ../shared/golden")


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(GOLDEN))
    sys.modules.pop("golden_weights", None)
    import golden_weights

    return golden_weights


@needs_golden
def test_golden_lse(golden):
    stored = np.load(GOLDEN / "syncnet.npz")
    video = golden.golden_input("lse_video", (40, 1024))
    audio = video.roll(3, 0) + 0.3 * golden.golden_input("lse_noise", (40, 1024))
    score = lse(video, audio)
    assert score.distance == pytest.approx(float(stored["lse_d"]), abs=1e-4)
    assert score.confidence == pytest.approx(float(stored["lse_c"]), abs=1e-4)
    assert score.offset == int(stored["lse_offset"])


@needs_golden
def test_golden_syncnet(golden):
    stored = np.load(GOLDEN / "syncnet.npz")
    model = golden.fill_golden(SyncNet()).eval()
    with torch.no_grad():
        audio = model.embed_audio(golden.golden_input("mfcc", (4, 1, 13, 20), -10, 10))
        lips = model.embed_video(golden.golden_input("lips", (4, 3, 5, 224, 224), 0, 255))
    assert np.abs(audio.numpy() - stored["audio"]).max() < 1e-3
    assert np.abs(lips.numpy() - stored["lip"]).max() < 2e-2


@needs_golden
def test_public_state_dict_names():
    expected = json.loads((GOLDEN / "state_dict_syncnet.json").read_text())
    ours = {name: list(value.shape) for name, value in SyncNet().state_dict().items()}
    assert ours == expected


def naive_lse(video: np.ndarray, audio: np.ndarray, max_shift: int) -> tuple[float, float, int, list[float]]:
    """The loop of the published procedure."""
    padded = np.pad(audio, ((max_shift, max_shift), (0, 0)))
    curve = [
        np.mean([np.linalg.norm(video[t] - padded[t + k] + 1e-6) for t in range(len(video))])
        for k in range(2 * max_shift + 1)
    ]
    return min(curve), float(np.median(curve)) - min(curve), max_shift - int(np.argmin(curve)), curve


def test_lse_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    video, audio = torch.randn(2, 25, 8, generator=generator, dtype=torch.float64)
    score = lse(video, audio, max_shift=6)
    distance, confidence, offset, curve = naive_lse(video.numpy(), audio.numpy(), 6)
    assert score.distance == pytest.approx(distance)
    assert score.confidence == pytest.approx(confidence)
    assert score.offset == offset
    assert score.distance_at_zero == pytest.approx(np.linalg.norm((video - audio + 1e-6).numpy(), axis=1).mean())
    assert score.curve == pytest.approx(curve)
    assert list(score.shifts) == list(range(-6, 7))


def test_curve_of_a_short_clip_stays_symmetric():
    """Half of the windows of every shift overlap, so 8 windows reach 4 frames."""
    video = torch.eye(8)
    score = lse(video, video, max_shift=15, ends="overlap")
    assert list(score.shifts) == list(range(-4, 5))
    assert len(score.curve) == 9
    assert score.curve[4] == score.distance


@pytest.mark.parametrize("ends", ["zeros", "overlap"])
@pytest.mark.parametrize("shift", [-12, -3, 0, 1, 9])
def test_known_shift_is_found(shift, ends):
    whole = torch.nn.functional.normalize(torch.randn(80, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    video, audio = whole[20:60], whole[20 - shift : 60 - shift]
    score = lse(video, audio, ends=ends)
    assert score.offset == -shift
    if ends == "overlap":
        assert score.distance == pytest.approx(0, abs=1e-4)
    if shift:
        assert score.distance_at_zero > score.distance + 0.3


def test_unrelated_unit_embeddings_do_not_prefer_large_shifts():
    video, audio = torch.nn.functional.normalize(
        torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(2)), dim=2
    )
    assert lse(video, audio, ends="overlap").distance > 1.3
    # Zero vectors lie at distance 1 from unit ones: the reason for "overlap".
    assert lse(video, audio, ends="zeros").distance < 1.3


def test_lse_rejects_bad_input():
    with pytest.raises(MetricError, match="one shape"):
        lse(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(MetricError, match="ends='none'"):
        lse(torch.zeros(4, 2), torch.zeros(4, 2), ends="none")


def test_sound_windows_follow_the_frames():
    mfcc = torch.arange(40).float()[:, None].expand(40, 13)
    windows = sound_windows(mfcc, 10)
    assert windows.shape == (6, 1, 13, 20)
    assert torch.equal(windows[2, 0, 0], torch.arange(8, 28).float())
    with pytest.raises(MetricError, match="at least 5 frames"):
        sound_windows(mfcc, 4)


def clip(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    faces = torch.randint(0, 256, (frames, 96, 96, 3), generator=generator, dtype=torch.uint8)
    return faces, torch.randn(4 * frames, 13, generator=generator)


@pytest.mark.parametrize("structure", ["public", "small"])
def test_whole_clip_equals_windows(structure):
    """Each frame passes the per-frame layers once; the result is that of one window at a time."""
    torch.manual_seed(0)
    model = build_syncnet(structure, chunk=3).eval()
    faces, mfcc = clip(11)
    with torch.no_grad():
        expected = naive.syncnet_windows(model, faces, mfcc)
    for found, value in zip(model.embed_clip(faces, mfcc), expected):
        assert len(found) == 7
        assert torch.allclose(found, value, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(naive.syncnet_published(model, faces, mfcc)[0], expected[0], atol=1e-4)


def test_small_passes_each_frame_once():
    model = SmallSyncNet().eval()
    images = []
    model.frame_trunk.register_forward_hook(lambda _, given, __: images.append(len(given[0])))
    faces, mfcc = clip(20)
    model.embed_clip(faces, mfcc)
    whole, _ = sum(images), images.clear()
    with torch.no_grad():
        naive.syncnet_windows(model, faces, mfcc)
    assert (whole, sum(images)) == (20, 16 * 5)


@pytest.mark.parametrize("structure", ["small", "stacked"])
def test_small_ones_see_only_the_lower_half(structure):
    model = build_syncnet(structure).eval()
    faces, mfcc = clip(6)
    changed = faces.clone()
    changed[:, :48] = 0
    assert torch.equal(model.embed_clip(faces, mfcc)[0], model.embed_clip(changed, mfcc)[0])
    assert torch.allclose(model.embed_clip(faces, mfcc)[0].norm(dim=1), torch.ones(2), atol=1e-5)


def test_stacked_windows_are_those_of_their_frames_alone():
    """Against one window at a time, and no frame outside a window reaches its embedding."""
    model = build_syncnet("stacked", chunk=4).eval()
    faces, mfcc = clip(11)
    with torch.no_grad():
        expected = naive.syncnet_windows(model, faces, mfcc)
    for found, value in zip(model.embed_clip(faces, mfcc), expected):
        assert found.shape == (7, 128)
        assert torch.allclose(found, value, atol=1e-5)


def test_twins_learned_the_same_clips_in_the_same_structure():
    one = SyncNetInfo("small", "grid", 300)
    assert one.is_twin_of(SyncNetInfo("small", "grid", 900))
    for other in (("stacked", "grid", 300), ("small", "vox2", 300), ("small", "grid", 300, "valid")):
        assert not one.is_twin_of(SyncNetInfo(*other))


def test_protocols_by_name():
    """The public structure sees crops and whole frames."""
    public, small = SyncNet().eval(), SmallSyncNet().eval()
    for protocol in ("face_crop", "whole_frame"):
        assert_protocol(public, protocol)
    assert_protocol(small, "face_crop")
    with pytest.raises(MetricError, match="needs a SyncNet of the public structure"):
        assert_protocol(small, "whole_frame")
    with pytest.raises(MetricError, match="'mouth' is unknown"):
        assert_protocol(public, "mouth")
    frames, mfcc = torch.zeros(6, 120, 160, 3, dtype=torch.uint8), clip(6)[1]
    frames[:, -1, -1] = frames[:, 0, 0] = 200
    pixels = public.pixels(frames)
    assert pixels.shape == (3, 6, 224, 224)
    assert pixels[:, :, 0, 0].min() == pixels[:, :, -1, -1].min() == 200  # nothing is cut away
    assert len(score_clip(public, frames, mfcc, max_shift=1).curve) == 3
    with pytest.raises(MetricError, match="96x96 face crops, got 120x160"):
        score_clip(small, frames, mfcc)


@torch.no_grad()
def test_the_public_structure_scores_the_published_windows():
    """No window reaches into padded sound, and the last of the others is left out: min(frames, samples / 640) - 5."""
    torch.manual_seed(0)
    model, faces = build_syncnet("public").eval(), clip(8)[0]
    wave = torch.randint(-9000, 9000, (9 * 640,), generator=torch.Generator().manual_seed(1)).short()
    whole = features.mfcc(wave)
    lips = torch.cat([model.embed_video(model.pixels(faces[i : i + 5])[None]) for i in range(3)])
    heard = model.embed_audio(torch.stack([whole[4 * i : 4 * i + 20].T for i in range(3)])[:, None])
    for samples, windows in ((9 * 640, 3), (8 * 640 - 1, 2)):
        padded = torch.nn.functional.pad(heard[:windows], (0, 0, 1, 1))
        curve = [(lips[:windows] - padded[s : s + windows] + 1e-6).norm(dim=1).mean().item() for s in (0, 1, 2)]
        found = score_clip(model, faces, clip_mfcc(wave[:samples], 8), 1, samples)
        assert found.curve == pytest.approx(curve, rel=1e-5)


def test_a_clip_without_a_published_window_is_refused():
    with pytest.raises(MetricError, match="got 9 frames and 3839 samples"):
        score_clip(build_syncnet("public"), *clip(9), samples=6 * 640 - 1)


def test_checkpoint_round_trip(tmp_path):
    config = {"structure": "small", "embedding": 16, "width": 4, "ends": "overlap", "chunk": 10}
    model = build_syncnet(**config).eval()
    save_syncnet(tmp_path / "syncnet.pt", model, config, SyncNetInfo("small", "toy", 7))
    loaded, info = load_syncnet(tmp_path / "syncnet.pt")
    assert info.name == "SyncNet (small, trained on toy)"
    assert not loaded.training
    faces, mfcc = clip(20)
    assert score_clip(loaded, faces, mfcc) == score_clip(model, faces, mfcc)


def test_public_plain_state_dict_loads(tmp_path):
    model = SyncNet().eval()
    torch.save(model.state_dict(), tmp_path / "syncnet_v2.model")
    loaded, info = load_syncnet(tmp_path / "syncnet_v2.model")
    assert info.structure == "public"
    assert loaded.ends == "zeros"
    assert torch.equal(loaded.netfcaud[0].weight, model.netfcaud[0].weight)


def test_other_files_are_refused(tmp_path):
    checkpoint.save(tmp_path / "generator.pt", {"kind": "generator"})
    with pytest.raises(checkpoint.CheckpointError, match=r"generator\.pt: is a 'generator'"):
        load_syncnet(tmp_path / "generator.pt")
    config = {"structure": "small", "width": 4}
    save_syncnet(tmp_path / "s.pt", build_syncnet("small", width=8), config, SyncNetInfo("small", "toy", 0))
    with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
        load_syncnet(tmp_path / "s.pt")
    with pytest.raises(MetricError, match="structure 'huge'"):
        build_syncnet("huge")
