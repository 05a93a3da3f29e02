"""A small expert and a narrow generator for the tests of stage 2."""

from dataclasses import asdict
from pathlib import Path

import torch

from synctalklip import checkpoint
from synctalklip.avsyncnet.model import AVSyncNet, AVSyncNetConfig
from synctalklip.data.text import Tokenizer
from synctalklip.generator.trainer import Trainer

SIZES = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "resnet_width": 4,
    "decoder_layers": 1,
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 32,
    "decoder_attention_heads": 2,
}
NARROW = ["generator.width=0.0625", "discriminator.width=0.0625", "trainer.batch_size=20", "trainer.threads=1"]


def write_expert(path: Path, prepared: Path, roi_mode: str, **settings) -> Path:
    """A fairseq checkpoint of an untrained AV-SyncNet that `load_expert` reads."""
    tokenizer = Tokenizer.load(prepared / "tokenizer.model")
    config = AVSyncNetConfig(vocab_size=tokenizer.size, num_classes=[], **SIZES | settings)
    torch.manual_seed(0)
    state = {
        "cfg": {"model": {"_name": "avsyncnet", **asdict(config)}},
        "model": AVSyncNet(config).state_dict(),
        "task_state": {"tokenizer": tokenizer.model, "roi_mode": roi_mode},
    }
    checkpoint.save(path, state)
    return path


def first_batch(trainer: Trainer) -> dict:
    return next(iter(trainer.data.loader("train")))


def assert_equal_states(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run_killed(trainer: Trainer, step: int, monkeypatch) -> None:
    """Train until the process dies before the update of `step`."""
    whole = Trainer.generator_step

    def dies(self, batch):
        if self.step == step:
            raise KeyboardInterrupt
        return whole(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "generator_step", dies)
        try:
            trainer.run()
        except KeyboardInterrupt:
            return
    raise AssertionError(f"the run ended before step {step}")


def assert_same_run(a: Trainer, b: Trainer) -> None:
    """Weights, moments, schedule and averages are equal, bit for bit."""
    assert a.step == b.step
    assert_equal_states(a.generator.state_dict(), b.generator.state_dict())
    assert_equal_states(a.discriminator.state_dict(), b.discriminator.state_dict())
    for own, other in ((a.g_optimizer, b.g_optimizer), (a.d_optimizer, b.d_optimizer)):
        states = own.state_dict()["state"], other.state_dict()["state"]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            assert_equal_states(states[0][key], states[1][key])
    assert a.switch.state() == b.switch.state()
    assert a.monitor.state() == b.monitor.state()
    assert (a.average is None) == (b.average is None)
    if a.average is not None:
        assert_equal_states(a.average.module.state_dict(), b.average.module.state_dict())
