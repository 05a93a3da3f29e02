"""Wav2Lip's own generator: its mel, its network from files in the public layout, and both ways to paint with it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from media_factory import moving_face
from omegaconf import OmegaConf
from prepared_factory import make_prepared

from synctalklip import checkpoint
from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import CONFIGS, build
from synctalklip.data import media
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import mel_spectrogram, mel_windows
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.methods import open_method
from synctalklip.generator.model import Wav2LipGenerator, load_generator
from synctalklip.inference.options import Options
from synctalklip.inference.synthesize import synthesize
from synctalklip.public_weights.convert import convert

CPU = torch.device("cpu")


def sound(samples: int, seed: int = 0) -> np.ndarray:
    """A vowel of three formants over breath, louder and softer, with silence in the middle, (N,) int16."""
    rng, time = np.random.default_rng(seed), np.arange(samples) / 16000
    voice = sum(np.sin(2 * np.pi * hertz * time) / n for n, hertz in enumerate((140, 730, 2400), 1))
    wave = 7000 * (1 + np.sin(9 * time)) * voice + 200 * rng.standard_normal(samples)
    wave[samples // 3 : samples // 2] = 0
    return wave.clip(-32768, 32767).astype(np.int16)


def published_mel(wave: np.ndarray) -> np.ndarray:
    """The published settings one after the other, (80, steps)."""
    x = wave / 32768
    x = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    x = np.pad(x, 400, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    magnitudes = np.abs([np.fft.rfft(window * x[i : i + 800]) for i in range(0, len(x) - 799, 200)]).T

    def mel(hertz: float) -> float:  # Slaney: linear to 1 kHz, then 27 steps for a factor of 6.4
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hertz(value) for value in np.linspace(mel(55), mel(7600), 82)]
    bands = np.zeros((80, 401))
    for band, (low, peak, high) in enumerate(zip(edges, edges[1:], edges[2:])):
        for k in range(401):
            slope = min((20 * k - low) / (peak - low), (high - 20 * k) / (high - peak))
            bands[band, k] = max(0, slope) * 2 / (high - low)
    decibels = 20 * np.log10(np.maximum(1e-5, bands @ magnitudes)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)


def test_the_mel_is_the_published_one():
    wave = sound(11_111)
    found = mel_spectrogram(wave)
    assert found.shape == (1 + 11_111 // 200, 80)
    assert found.min() == -4
    np.testing.assert_allclose(found.T, published_mel(wave), atol=1e-5)
    with pytest.raises(SyncTalklipError, match="has 400 samples"):
        mel_spectrogram(wave[:400])


def test_each_frame_hears_the_sixteen_steps_that_begin_with_it():
    wave = sound(16_000)
    mel = published_mel(wave)
    found = mel_windows(wave, 27).unflatten(1, (80, 16))
    for frame in range(27):
        start = int(frame * 80.0 / 25)
        # 81 steps: the windows of frame 21 and later would leave the sound.
        public = mel[:, start : start + 16] if start + 16 <= 81 else mel[:, -16:]
        np.testing.assert_allclose(found[frame], public, atol=1e-5)
    assert mel_windows(wave[:500], 2).shape == (2, 1280)


def public_weights() -> dict[str, torch.Tensor]:
    """Random weights of the public generator, lively in every layer."""
    torch.manual_seed(0)
    model = Wav2LipGenerator()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                torch.nn.init.xavier_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.5)
                module.bias.normal_(0, 0.1)
    return model.state_dict()


def block(weights, name, x, stride=1, padding=1, up=False):
    """Convolution, norm, residual sum where the layer keeps size and channels, ReLU."""
    kernel, bias = (weights[f"{name}.conv_block.0.{part}"] for part in ("weight", "bias"))
    extra = {"output_padding": 1} if up and stride == 2 else {}
    y = (F.conv_transpose2d if up else F.conv2d)(x, kernel, bias, stride, padding, **extra)
    norm = [weights[f"{name}.conv_block.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    y = F.batch_norm(y, *norm)
    residual = not up and stride == 1 and padding == 1 and kernel.shape[0] == kernel.shape[1]
    return torch.relu(y + x if residual else y)


def published_forward(weights, mel, faces):
    """The layers by their public names, mel (N,1,80,16) and faces (N,6,96,96) -> (N,3,96,96)."""
    strides = [1, 1, 1, (3, 1), 1, 1, 3, 1, 1, (3, 2), 1, 1, 1]
    for layer, stride in enumerate(strides):
        mel = block(weights, f"audio_encoder.{layer}", mel, stride, 1 if layer < 11 else 0)
    skips, x = [], faces
    for level, count in enumerate((1, 3, 4, 3, 3, 2, 2)):
        for layer in range(count):
            name = f"face_encoder_blocks.{level}.{layer}"
            padding = {0: 3, 6: 0}.get(level, 1)
            x = block(weights, name, x, 2 if layer == 0 and 0 < level < 6 else 1, padding)
        skips.append(x)
    x = mel
    for level, count in enumerate((1, 2, 3, 3, 3, 3, 3)):
        for layer in range(count):
            name, up = f"face_decoder_blocks.{level}.{layer}", layer == 0 and level > 0
            x = block(weights, name, x, 2 if up and level > 1 else 1, 0 if level < 2 and layer == 0 else 1, up)
        x = torch.cat([x, skips.pop()], dim=1)
    x = block(weights, "output_block.0", x)
    return torch.sigmoid(F.conv2d(x, weights["output_block.1.weight"], weights["output_block.1.bias"]))


@pytest.fixture(scope="module")
def weights():
    return public_weights()


@pytest.fixture(scope="module")
def converted(tmp_path_factory, weights):
    """A file in the public layout, converted, and what the conversion said."""
    folder = tmp_path_factory.mktemp("wav2lip")
    state = {"module." + name: value for name, value in weights.items()}
    stored = {"state_dict": state, "optimizer": None, "global_step": 235_000, "global_epoch": 7}
    torch.save(stored, folder / "wav2lip_gan.pth")
    lines = convert(folder / "wav2lip_gan.pth", folder / "wav2lip.pt", "ours")
    return folder / "wav2lip.pt", "\n".join(lines)


@torch.no_grad()
def test_a_converted_file_computes_what_the_public_layers_do(converted, weights):
    path, lines = converted
    assert "generator of Wav2Lip, 36,298,035 parameters" in lines
    assert "step 235000" in lines
    assert "crop_rule=s3fd" in lines
    model = load_generator(path, roi_mode="landmark")
    generator = torch.Generator().manual_seed(1)
    faces, mel = torch.rand(2, 6, 96, 96, generator=generator), 4 * torch.randn(2, 1280, generator=generator)
    speech = model.encode_speech(mel.T[None])[0]
    public = published_forward(weights, mel.reshape(2, 1, 80, 16), faces)
    assert public.std() > 0.05
    torch.testing.assert_close(model(faces, speech), public, atol=1e-5, rtol=0)
    assert (model(faces, 100 * speech) - public).abs().max() > 1e-2


def test_an_evaluation_paints_with_it(converted, weights, tmp_path):
    clips = read_manifest(make_prepared(tmp_path / "prepared", {"test": 1}, frames=(3,)), "test")
    reader = ClipReader(clips)
    method = open_method(str(converted[0]), CPU, 2, "landmark", "fp32")
    faces = method.faces(reader, 0)
    assert np.array_equal(faces[:, :48], reader.faces(0)[:, :48])
    unit = torch.from_numpy(np.asarray(reader.faces(0))).permute(0, 3, 1, 2) / 255
    masked = unit.clone()
    masked[:, :, 48:] = 0
    mel = published_mel(np.pad(reader.wave(0), (0, 3200 - len(reader.wave(0)))))
    heard = torch.from_numpy(np.stack([mel[:, [0, 1, 1][t] :][:, :16] for t in range(3)])[:, None]).float()
    public = published_forward(weights, heard, torch.cat([masked, unit[:1].expand(3, -1, -1, -1)], 1))
    expected = (public[:, :, 48:] * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(faces[:, 48:] - expected).max() <= 0.51


def test_it_speaks_on_any_video(converted, tmp_path):
    media.write_video(tmp_path / "face.mp4", moving_face(3), 25)
    media.write_wav(tmp_path / "speech.wav", sound(3 * 640))
    detector = build(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))
    options = Options.default(precision="fp32", feather=0.0, shape="box")
    files = tmp_path / "face.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4"
    report = synthesize(load_generator(converted[0]), *files, options, detector, converted[0])
    assert (report.frames, report.painted) == (3, 3)
    before, after = (media.read_video(files[n], None).astype(int) for n in (0, 2))
    assert np.abs(after - before).max() > 30


def test_its_expert_is_no_generator(tmp_path):
    weights = {f"{part}_encoder.0.conv_block.0.weight": torch.zeros(32, 15, 7, 7) for part in ("face", "audio")}
    torch.save({"state_dict": weights}, tmp_path / "lipsync_expert.pth")
    with pytest.raises(CheckpointError, match=r"lipsync_expert\.pth: is Wav2Lip's lip-sync expert"):
        convert(tmp_path / "lipsync_expert.pth", tmp_path / "out.pt", "ours")


def test_an_incomplete_file_is_refused(tmp_path, weights):
    part = {name: torch.zeros(()).expand(value.shape) for name, value in weights.items()}
    del part["audio_encoder.4.conv_block.1.bias"]
    torch.save({"state_dict": part}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"audio_encoder\.4\.conv_block\.1\.bias is missing"):
        convert(tmp_path / "w.pth", tmp_path / "out.pt", "ours")
    checkpoint.save(tmp_path / "odd.pt", {"kind": "generator", "model": part, "config": {"structure": "wav2lip"}})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_generator(tmp_path / "odd.pt")
