"""Noise in the sound, and faces that are moved and tinted, of training clips."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from prepared_factory import make_prepared

from synctalklip.data.augment import Augmentation, FaceAugmentation, Noise, NoiseMixer, mix
from synctalklip.data.clips import ClipReader
from synctalklip.data.dataset import ClipDataset, collate
from synctalklip.data.encode import MediaError
from synctalklip.data.features import BGR_TO_GREY, audio_features, faces_to_rois
from synctalklip.data.manifest import DatasetError, read_manifest
from synctalklip.data.media import write_wav

BABBLE = Noise(prob=1.0, kind="babble", path=None, snr_db=0.0, babble_clips=3)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    root = make_prepared(tmp_path_factory.mktemp("prepared"), {"train": 5}, frames=(8, 10, 13))
    return ClipReader(read_manifest(root))


@pytest.fixture
def recordings(tmp_path):
    for index in range(3):
        tone = 2000 * np.sin(np.arange(900 + 9000 * index) * (0.1 + 0.2 * index))
        write_wav(tmp_path / f"n{index}" / "tone.wav", tone.astype(np.int16))
    return tmp_path


def level(wave):
    return 20 * np.log10(np.sqrt(np.mean(np.square(wave.astype(np.float64)))))


def correlated_share(mixed, clean):
    """Factor of the clean sound in the mixture: least squares, for noise that is unlike the sound."""
    return float(mixed.astype(np.float64) @ clean.astype(np.float64) / np.square(clean.astype(np.float64)).sum())


@pytest.mark.parametrize("snr_db", [-12.5, 0.0, 7.0, 20])
def test_measured_ratio_is_the_one_asked_for(snr_db):
    rng = np.random.default_rng(0)
    clean = (500 * rng.standard_normal(16000)).astype(np.int16)
    mixed = mix(clean, 37.0 * rng.standard_normal(16000), snr_db)
    assert mixed.dtype == np.int16
    assert level(clean) - level(mixed.astype(np.int32) - clean) == pytest.approx(snr_db, abs=0.1)


def test_sum_beyond_full_scale_is_made_quieter_as_a_whole():
    rng = np.random.default_rng(0)
    clean = (20000 * np.sin(np.arange(16000) * 0.05)).astype(np.int16)
    noise = rng.standard_normal(16000)
    mixed = mix(clean, noise, -3.0)
    assert np.abs(mixed.astype(np.int32)).max() == 32767
    assert np.count_nonzero(np.abs(mixed.astype(np.int32)) >= 32766) < 5, "rescaled, not clipped"
    share = correlated_share(mixed, clean)
    assert share < 0.9
    assert level(share * clean) - level(mixed - share * clean) == pytest.approx(-3.0, abs=0.1)


def test_silence_has_no_ratio_and_stays(reader, tmp_path):
    clean = np.arange(-500, 500, dtype=np.int16)
    silence = np.zeros(1000, np.int16)
    assert np.array_equal(mix(clean, silence, 0.0), clean)
    assert np.array_equal(mix(silence, clean, 0.0), silence)
    write_wav(tmp_path / "silence.wav", silence)
    mixer = NoiseMixer(replace(BABBLE, kind="noise", path=str(tmp_path / "silence.wav")), reader)
    assert np.array_equal(mixer.draw(0, np.random.default_rng(0)), reader.wave(0))


def test_babble_is_the_mean_of_other_voices_at_the_ratio(reader):
    mixer = NoiseMixer(replace(BABBLE, babble_clips=30, snr_db=6.0), reader)
    clean = reader.wave(2)
    noise = mixer.draw(2, np.random.default_rng(1)).astype(np.float64) - clean
    assert level(clean) - level(noise) == pytest.approx(6.0, abs=0.1)
    # Every other voice is in the babble, from some place on; the clip's own is not.
    for other in range(len(reader)):
        voice = np.resize(reader.wave(other), max(len(clean), len(reader.wave(other)))).astype(np.float64)
        spectra = np.fft.rfft(voice, 4 * len(voice)).conj() * np.fft.rfft(noise, 4 * len(voice))
        alike = np.abs(np.fft.irfft(spectra)).max() / np.linalg.norm(voice) / np.linalg.norm(noise)
        assert (alike > 0.15) == (other != 2), other


def test_short_recordings_are_repeated_and_long_ones_cut(reader, recordings):
    for name in ("n0", "n2"):
        mixer = NoiseMixer(replace(BABBLE, kind="noise", path=str(recordings / name)), reader)
        clean = reader.wave(4)
        noise = mixer.draw(4, np.random.default_rng(0)).astype(np.float64) - clean
        assert len(noise) == len(clean) > 900
        parts = noise.reshape(10, -1)
        assert [level(part) for part in parts] == pytest.approx([level(noise)] * 10, abs=1.5), "no hole"


def test_folder_list_and_single_file_are_read_alike(reader, recordings):
    (recordings / "list.txt").write_text("n0/tone.wav\nn1/tone.wav\n\nn2/tone.wav\n")
    draws = {}
    for path in (recordings, recordings / "list.txt"):
        mixer = NoiseMixer(replace(BABBLE, kind="both", path=str(path), snr_db=[-5, 5]), reader)
        draws[path] = [mixer.draw(1, np.random.default_rng(seed)) for seed in range(6)]
    one, other = draws.values()
    assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert len({wave.tobytes() for wave in one}) == 6
    levels = [level(wave - reader.wave(1).astype(np.int32)) - level(reader.wave(1)) for wave in one]
    assert all(-5.1 < value < 5.1 for value in levels)
    assert max(levels) - min(levels) > 1


def test_probability_is_kept(reader):
    mixer = NoiseMixer(replace(BABBLE, prob=0.25, babble_clips=1), reader)
    noised = sum(mixer.draw(0, np.random.default_rng(seed)) is not None for seed in range(400))
    assert 70 < noised < 130


@pytest.mark.parametrize("cache", [False, True])
def test_dataset_draws_noise_by_seed_epoch_and_index(reader, cache):
    augmentation = Augmentation(noise=replace(BABBLE, prob=0.5))

    def audio(seed, epoch, workers):
        dataset = ClipDataset(reader.clips, augmentation=augmentation, modalities=["audio"], seed=seed, cache=cache)
        dataset.set_epoch(epoch)
        loader = torch.utils.data.DataLoader(dataset, batch_size=5, collate_fn=collate, num_workers=workers)
        return next(iter(loader))["net_input"]["audio"]

    first = audio(1, 1, 0)
    assert torch.equal(first, audio(1, 1, 1))
    assert not torch.equal(first, audio(1, 2, 0))
    assert not torch.equal(first, audio(2, 1, 0))
    clean = ClipDataset(reader.clips, augmentation=Augmentation(), modalities=["audio"])
    same = [
        torch.equal(first[index, :, : clip.frames], clean[index]["audio"]) for index, clip in enumerate(clean.clips)
    ]
    assert True in same
    assert False in same


def test_sound_is_noised_before_the_filterbank_and_pictures_stay(reader):
    noisy = ClipDataset(reader.clips, augmentation=Augmentation(noise=BABBLE, flip=0.5))
    plain = ClipDataset(reader.clips, augmentation=Augmentation(flip=0.5))
    wave = noisy.noise.draw(3, np.random.default_rng([1, 0, 3, 2]))
    assert torch.equal(noisy[3]["audio"], audio_features(wave, reader.clips[3].frames).T)
    assert torch.equal(noisy[3]["video"], plain[3]["video"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prob": 1.5}, "noise.prob 1.5"),
        ({"kind": "music"}, "'music' is none of noise, babble, both"),
        ({"snr_db": [5, -5]}, r"noise.snr_db \[5, -5\]"),
        ({"snr_db": "loud"}, "noise.snr_db 'loud'"),
        ({"babble_clips": 0}, "noise.babble_clips 0"),
        ({"kind": "both"}, "noise.path: give a folder"),
        ({"kind": "noise", "path": "nowhere"}, "nowhere: there is no such folder"),
    ],
)
def test_settings_that_cannot_be_are_named(reader, change, complaint):
    with pytest.raises(DatasetError, match=complaint):
        NoiseMixer(replace(BABBLE, **change), reader)


def test_bad_recordings_are_named(reader, tmp_path):
    noise = replace(BABBLE, kind="noise", path=str(tmp_path))
    with pytest.raises(DatasetError, match="holds no wav file"):
        NoiseMixer(noise, reader)
    (tmp_path / "list.txt").write_text("gone.wav\n")
    with pytest.raises(DatasetError, match=r"gone\.wav is gone"):
        NoiseMixer(replace(noise, path=str(tmp_path / "list.txt")), reader)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(MediaError, match=r"broken\.wav"):
        NoiseMixer(noise, reader).draw(0, np.random.default_rng(0))
    with pytest.raises(DatasetError, match="the split has one only"):
        NoiseMixer(BABBLE, ClipReader(reader.clips[:1]))


ALL = FaceAugmentation(probability=1.0, mirror=0.5, shift=0.05, scale=0.1, stretch=0.08, rotate=8.0, colour=0.0)


def smooth_face(seed: int) -> np.ndarray:
    """A crop (1,96,96,3) without fine detail, so that drawing it again costs little."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, (96, 96), interpolation=cv2.INTER_CUBIC)[None]


@pytest.mark.parametrize("seed", range(8))
def test_the_expert_sees_the_same_mouth_in_a_changed_crop(seed):
    face = smooth_face(seed)
    change = ALL.draw(96, np.random.default_rng(seed))
    # The middle of the crop fills the ROI, so that nothing comes from outside the changed crop.
    matrix = np.array([[[2.2, 0, -57.0], [0, 2.2, -57.0]]], np.float32)
    rois = torch.zeros(1, 96, 96)

    def seen(faces: np.ndarray, matrices: np.ndarray) -> torch.Tensor:
        pictures = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255
        return faces_to_rois(pictures, torch.from_numpy(matrices), rois)

    before = seen(face, matrix)
    after = seen(change.faces(face, np.ones(3)), change.matrices(matrix))
    assert float((before - after).abs().mean()) < 0.01
    # The unchanged map would show another place.
    assert float((before - seen(change.faces(face, np.ones(3)), matrix)).abs().mean()) > 0.02


def test_a_mirror_turns_the_crop_about_its_middle_column():
    mirror = FaceAugmentation(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0).draw(96, np.random.default_rng(0))
    face = smooth_face(1)
    np.testing.assert_array_equal(mirror.faces(face, np.ones(3)), face[:, :, ::-1])


def test_a_tint_keeps_the_mean_grey():
    tinted = FaceAugmentation(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3).draw(96, np.random.default_rng(2))
    face = (smooth_face(3) * 0.6).astype(np.uint8)
    changed = tinted.faces(face, tinted.tint(face))
    weights = np.array(BGR_TO_GREY)
    assert abs((changed.mean(axis=(0, 1, 2)) * weights).sum() - (face.mean(axis=(0, 1, 2)) * weights).sum()) < 0.5
    assert np.abs(changed.mean(axis=(0, 1, 2)) - face.mean(axis=(0, 1, 2))).max() > 3


def test_probability_is_how_many_clips_are_changed():
    half = FaceAugmentation(0.5, 0.0, 0.05, 0.1, 0.08, 8.0, 0.1)
    drawn = [half.draw(96, np.random.default_rng(seed)) for seed in range(400)]
    assert 160 < sum(change is not None for change in drawn) < 240
