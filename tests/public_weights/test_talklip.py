"""Public stage 2 files become checkpoints that inference and training take, with the same outputs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from media_factory import full_disk

from synctalklip import checkpoint
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig
from synctalklip.checkpoint import CheckpointError
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import Discriminator
from synctalklip.generator.model import DISCRIMINATOR_KIND, KIND, build_generator, load_generator, start_from
from synctalklip.public_weights.convert import convert
from synctalklip.public_weights.talklip import read_generator

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden vectors (../shared/golden) are not here")
ENCODER = "audio_encoder.w2v_model."


def golden(name):
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "golden_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = json.loads((GOLDEN / f"state_dict_{name}.json").read_text())
    return module, {key: module.golden_tensor(key, tuple(shape)) for key, shape in stored.items()}


def encoder(dim, **sizes):
    """One layer and a thin ResNet at the given width."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "encoder_ffn_embed_dim": 8, "encoder_attention_heads": dim // 64, **sizes}
    return AVHubert(AVHubertConfig(encoder_embed_dim=dim, conv_pos=4, resnet_width=2, **sizes), [6], False).eval()


def extras(dim, heard):
    """What public files hold beside the U-Net."""
    weights = {ENCODER + key: value for key, value in heard.state_dict().items()}
    return weights | {
        "sync_net.Linearaudio.weight": torch.zeros(dim, dim),
        "sync_net.Linearaudio.bias": torch.zeros(dim),
    }


def write(path, weights, prefix="", zipped=True):
    state = {
        "state_dict": {prefix + key: value for key, value in weights.items()},
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
        "global_step": 60000,
        "global_epoch": 12,
    }
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


@needs_golden
@torch.no_grad()
def test_converted_generator_paints_what_the_public_one_did(tmp_path):
    module, weights = golden("generator")
    heard = encoder(64)
    path = write(tmp_path / "g.pth", weights | extras(64, heard), "module.")
    lines = "\n".join(convert(path, tmp_path / "talklip.pt", "ours", heads=1))
    generator = load_generator(tmp_path / "talklip.pt", roi_mode="center88")
    with np.load(GOLDEN / "generator.npz") as vectors:
        stored = {key: torch.from_numpy(np.asarray(vectors[key])) for key in vectors}
    speech = module.golden_input("speech", (20, 2, 64)).transpose(0, 1).reshape(40, 64)[stored["index"]]
    found = generator(module.golden_input("face", (3, 6, 96, 96), 0, 1), speech)
    torch.testing.assert_close(found, stored["frames"], atol=1e-4, rtol=0)
    audio = module.golden_input("audio", (1, 104, 7))
    assert torch.equal(generator.encode_speech(audio), heard.encode(audio))
    assert "step 60000" in lines
    assert "left out: 4" in lines
    assert all(name in lines for name in ("sync_net.Linearaudio.weight", ENCODER + "label_embs_concat", "optimizer"))
    state = checkpoint.load(tmp_path / "talklip.pt")
    assert state["source"] == {"file": "g.pth", "sha256": checkpoint.file_hash(path)}
    fresh = build_generator(state["config"])
    start_from(fresh, tmp_path / "talklip.pt", KIND)
    assert all(torch.equal(value, state["model"][name]) for name, value in fresh.state_dict().items())


@needs_golden
@torch.no_grad()
def test_converted_discriminator_judges_as_the_public_one_did(tmp_path):
    module, weights = golden("discriminator")
    lines = convert(write(tmp_path / "d.pth", weights, zipped=False), tmp_path / "d.pt", "ours")
    assert "14,113,793 parameters" in lines[0]
    discriminator = Discriminator()
    start_from(discriminator, tmp_path / "d.pt", DISCRIMINATOR_KIND)
    with np.load(GOLDEN / "generator.npz") as vectors:
        expected = torch.from_numpy(vectors["disc_prob"])
    found = discriminator(module.golden_input("face", (3, 6, 96, 96), 0, 1)[:, 3:]).sigmoid()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(CheckpointError, match="'discriminator' checkpoint, a 'generator' one"):
        load_generator(tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        start_from(Discriminator(width=0.5), tmp_path / "d.pt", DISCRIMINATOR_KIND)
    with full_disk(), pytest.raises(SyncTalklipError, match="free some space"):
        convert(tmp_path / "d.pth", tmp_path / "full.pt", "ours")
    assert not (tmp_path / "full.pt").exists()


def unet(dim, heard):
    """Weights of the public U-Net that take no memory, and the encoder's."""
    config = {"width": 1.0, "least_channels": 4, "residuals": "full", "output": "paint", "speech": "bottleneck"}
    with torch.device("meta"):
        model = build_generator({**config, "roi_mode": "landmark", "encoder": vars(heard.config)})
    weights = {key: torch.zeros(()).expand(value.shape) for key, value in model.state_dict().items()}
    return weights | extras(dim, heard)


@pytest.mark.parametrize(("dim", "heads"), [(768, 12), (1024, 16)])
def test_the_width_of_the_speech_is_read_off_the_weights(dim, heads):
    weights = unet(dim, encoder(dim))
    config, kept, _ = read_generator(weights, Path("g.pth"), "center88")
    assert (config["encoder"]["encoder_embed_dim"], config["encoder"]["encoder_attention_heads"]) == (dim, heads)
    drawn = sum(v.numel() for k, v in weights.items() if "running" not in k and "num_b" not in k and ENCODER not in k)
    # The published numbers of learned values without the audio encoder, the head of the contrastive loss included.
    assert drawn == {768: 34_469_683, 1024: 35_059_763}[dim]
    assert not any(name.startswith("sync_net") for name in kept)


def test_other_files_are_refused_with_a_reason(tmp_path):
    heard = encoder(64)
    weights = unet(64, heard)
    without = {key: value for key, value in weights.items() if key != "audio_map.bias"}
    odd = {key: value for key, value in weights.items() if not key.startswith(ENCODER)}
    for bad, message in (
        (without, "audio_map.bias is missing"),
        (weights | {"new.weight": torch.zeros(1)}, "new.weight is unexpected"),
        (odd, "no generator or discriminator of TalkLip's or Wav2Lip's structure"),
        ({"binary_pred.0.weight": torch.zeros(1, 512, 1, 1)}, "is missing"),
        ({"w": "text"}, "does not hold tensors"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            convert(write(tmp_path / "x.pth", bad), tmp_path / "out.pt", "ours", heads=1)
        assert str(tmp_path / "x.pth") in str(caught.value)
    path = write(tmp_path / "x.pth", weights)
    with pytest.raises(CheckpointError, match="no public model has 64 dimensions; give their number with heads="):
        convert(path, tmp_path / "out.pt", "ours")
    with pytest.raises(CheckpointError, match="becomes one file"):
        convert(path, tmp_path / "folder", "ours")
    with pytest.raises(CheckpointError, match="only models of stage 1"):
        convert(path, tmp_path / "out.pt", "fairseq")
    checkpoint.save(tmp_path / "own.pt", {"kind": "generator", "model": {}})
    with pytest.raises(CheckpointError, match="ready to use"):
        convert(tmp_path / "own.pt", tmp_path / "out.pt", "ours")
    checkpoint.save(tmp_path / "own.pt", {"epoch": 1})
    with pytest.raises(CheckpointError, match="holds epoch"):
        convert(tmp_path / "own.pt", tmp_path / "out.pt", "ours")
    assert not (tmp_path / "out.pt").exists()
