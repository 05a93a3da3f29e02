"""Shipped models: small folders that go wherever the checkpoint of their run goes."""

import pytest
import torch
from prepared_factory import make_prepared
from stage2_factory import write_expert

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.checkpoint import CheckpointError
from synctalklip.generator.model import TalkingFaceGenerator, load_generator, save_generator
from synctalklip.public_weights.convert import ship
from synctalklip.syncnet.lse import SyncNetInfo, build_syncnet, load_syncnet, save_syncnet


@pytest.fixture
def expert(tmp_path):
    prepared = make_prepared(tmp_path / "prepared", {"train": 1})
    return write_expert(tmp_path / "expert.pt", prepared, "landmark")


def assert_nearly_equal(model, shipped):
    weights = shipped.state_dict()
    for name, value in model.state_dict().items():
        assert weights[name].dtype == value.dtype
        assert torch.allclose(weights[name].float(), value.float(), rtol=1e-3, atol=1e-6), name


def test_an_avsyncnet_ships_with_tokenizer_and_card(expert, tmp_path):
    size = ship(expert, tmp_path / "shipped", "# A lip reader\n")
    before, after = load_expert(expert), load_expert(tmp_path / "shipped")
    assert_nearly_equal(before.model, after.model)
    assert (after.roi_mode, after.tokenizer.model) == (before.roi_mode, before.tokenizer.model)
    assert size < 0.75 * expert.stat().st_size
    assert (tmp_path / "shipped" / "README.md").read_text() == "# A lip reader\n"


def test_a_generator_ships_with_the_names_of_its_experts(expert, tmp_path):
    torch.manual_seed(0)
    sizes = {"width": 0.0625, "least_channels": 4, "residuals": "few", "output": "blend", "speech": "levels"}
    generator = TalkingFaceGenerator(load_expert(expert).encoder_config, "landmark", **sizes)
    save_generator(tmp_path / "generator.pt", generator, 7, "e" * 64, "f" * 64)
    ship(tmp_path / "generator.pt", tmp_path / "shipped", "")
    assert_nearly_equal(generator, load_generator(tmp_path / "shipped", roi_mode="landmark"))
    state = checkpoint.load(tmp_path / "shipped")
    assert (state["step"], state["expert_sha256"], state["syncnet_sha256"]) == (7, "e" * 64, "f" * 64)


def test_a_syncnet_ships(tmp_path):
    config = {"structure": "small", "embedding": 8, "width": 2}
    syncnet = build_syncnet(**config)
    save_syncnet(tmp_path / "syncnet.pt", syncnet, config, SyncNetInfo("small", "toy", 3))
    ship(tmp_path / "syncnet.pt", tmp_path / "shipped", "")
    loaded, info = load_syncnet(tmp_path / "shipped")
    assert_nearly_equal(syncnet, loaded)
    assert info == SyncNetInfo("small", "toy", 3)


def test_a_shipped_model_is_known_by_the_file_it_was_made_from(expert, tmp_path):
    ship(expert, tmp_path / "shipped", "")
    known = checkpoint.origins(tmp_path / "shipped")
    assert known == {checkpoint.file_hash(tmp_path / "shipped"), checkpoint.file_hash(expert)}
    assert checkpoint.origins(expert) == {checkpoint.file_hash(expert)}


def test_what_is_no_model_does_not_ship(tmp_path):
    checkpoint.save(tmp_path / "other.pt", {"kind": "diary", "model": {}})
    with pytest.raises(CheckpointError, match="'diary'"):
        ship(tmp_path / "other.pt", tmp_path / "shipped", "")
