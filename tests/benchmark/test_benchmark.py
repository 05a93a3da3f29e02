"""The naive forms give what ours give, and ours do without what makes them slow. Nothing here is timed."""

import re
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.avsyncnet.hubert import AVHubert
from synctalklip.avsyncnet.transformer import Attention
from synctalklip.benchmark.timing import Comparison, count_flops
from synctalklip.cli import CONFIGS
from synctalklip.losses import cosine_logits
from synctalklip.tables.render import pipe_table

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "resnet_width": 2,
    "resnet_blocks": [1, 1, 1, 1],
}


class Watch(TorchDispatchMode):
    """Counts what waits for a device, and keeps the size of the largest tensor that was made."""

    def __init__(self):
        super().__init__()
        self.waits, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.waits += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return made


def padding(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


def test_cosine_logits_equal_the_broadcast_without_its_tensor():
    generator = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(30, 16, generator=generator), torch.randn(20, 16, generator=generator)
    found = []
    for form in (cosine_logits, naive.broadcast_cosine_logits):
        pair = [features.clone().requires_grad_(), codebook.clone().requires_grad_()]
        with Watch() as watch:
            logits = form(*pair)
            logits.square().sum().backward()
        found.append((logits, *(x.grad for x in pair), watch.largest))
    (*ours, largest), (*expected, naive_largest) = found
    for value, other in zip(ours, expected):
        torch.testing.assert_close(value, other, atol=1e-3, rtol=1e-4)
    assert naive_largest == 30 * 20 * 16
    assert largest <= 30 * 20


def test_masking_waits_for_the_device_no_more_often_when_there_are_more_clips():
    def waits(work):
        with Watch() as watch:
            work()
        return watch.waits

    torch.manual_seed(0)
    settings = AVHubertConfig(**SMALL, modality_dropout=0.0, encoder_layerdrop=0.0)
    model = AVHubert(settings, [12]).train()
    counts = {"masks": [], "pass": [], "naive": []}
    for batch in (2, 9):
        mask = padding([20, 14] + [17] * (batch - 2))
        audio, video = torch.randn(batch, 104, 20), torch.randn(batch, 1, 20, 88, 88)
        targets = [torch.zeros(batch, 20, dtype=torch.long)]
        generator = torch.Generator().manual_seed(0)
        counts["masks"].append(waits(lambda mask=mask: masking.draw_masks(AVHubertConfig(), mask.shape, mask)))
        one_pass = (audio, video, mask, targets, True, False, generator)
        counts["pass"].append(waits(lambda args=one_pass: model(*args)))
        rng = np.random.default_rng(0)
        counts["naive"].append(waits(lambda mask=mask, rng=rng: naive.span_mask(mask, 0.3, 5, rng)))
    assert counts["masks"] == [0, 0]
    assert counts["pass"][0] == counts["pass"][1]
    assert counts["naive"] == [2, 9]


def test_span_masks_hide_what_the_loop_hides():
    mask, rng = padding([100, 60, 37, 100]), np.random.default_rng(0)
    lengths = (~mask).sum(1)
    ours = [masking.span_mask(lengths, 100, 0.3, 5, equalize=True).float() for _ in range(200)]
    loop = [torch.from_numpy(naive.span_mask(mask, 0.3, 5, rng)).float() for _ in range(200)]
    shares = [torch.stack(draws).mean((0, 2)) for draws in (ours, loop)]
    torch.testing.assert_close(*shares, atol=0.01, rtol=0)


def test_substituted_frames_come_from_where_the_loop_takes_them():
    video = torch.arange(40.0).view(1, 1, 40, 1, 1).repeat(2, 1, 1, 2, 2)
    lengths = torch.tensor([40, 30])
    hidden = masking.span_mask(lengths, 40, 0.3, 5, equalize=False, generator=torch.Generator().manual_seed(1))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    seen = [set(), set()]
    for _ in range(300):
        shown = (
            masking.mask_video(video, masking.same_clip_sources(hidden, lengths, generator)),
            naive.same_clip_substitution(video, hidden, lengths, rng),
        )
        for places, frames in zip(seen, shown):
            values = frames[:, 0, :, 0, 0]
            assert torch.equal(values[~hidden], video[:, 0, :, 0, 0][~hidden])
            places.update(zip(hidden.nonzero()[:, 0].tolist(), values[hidden].tolist()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_equals_the_explicit_one(dtype):
    torch.manual_seed(0)
    layer, x = Attention(32, 4, 0.0), torch.randn(2, 9, 32)
    visible = ~padding([9, 5])[:, None, None]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        q, (k, v) = layer._split(layer.q_proj(x)), layer.keys_values(x)
        expected = layer.out_proj(naive.attention(q, k, v, visible).transpose(1, 2).flatten(2))
        found = layer(x, x, visible)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, **({"atol": 0.01, "rtol": 0.02} if dtype == torch.bfloat16 else {}))


def test_flops_are_those_of_the_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert count_flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 3 * 5 * 7
    attention = Attention(8, 2, 0.0)
    x = torch.randn(1, 6, 8)
    assert count_flops(lambda: attention(x, x)) == 4 * 2 * 6 * 8 * 8 + 2 * 2 * 6 * 6 * 8


def test_tables_are_aligned():
    rows = [Comparison("one", 0.001, 0.02).row(), Comparison("another", 0.01, 0.01).row()]
    lines = pipe_table(["what", "ours ms", "naive ms", "ratio"], rows, padded=True).splitlines()
    assert lines[2] == "| one     |    1.00 |    20.00 | 20.0x |"
    assert len({len(line) for line in lines}) == 1


def test_the_whole_benchmark_runs_small():
    from synctalklip.benchmark.stage1 import run

    quick = ["encoder=tiny", "frames=12", "clip_frames=6", "repeats=1", "peak_size=64", "classes=20", "vocabulary=12"]
    quick += ["search={clips: 2, tokens: 3, beams: [1, 2]}", "sound_seconds=[1]", "device=cpu"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        report = run(compose("benchmark", overrides=["run.name=test", "run.dir=unused", *quick]))
    parts = ["cosine logits", "log filterbank", "span masks", "same-clip", "self-attention", "without video"]
    for name in [*parts, "greedy", "beam search of 2"]:
        assert re.search(rf"\| {name}.*\d+\.\d+x \|", report) or re.search(rf"\| .*{name}.*\d+\.\d+x \|", report), name
    steps = re.findall(r"\| (pre-training|fine-tuning), tiny, 12 frames +\| +(fp32|bf16) ", report)
    assert len(set(steps)) == 4


def test_the_bare_name_of_a_stage_is_enough():
    command = [sys.executable, "scripts/benchmark.py", "stage1", "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "stage: stage1\n" in done.stdout


def test_a_step_of_stage_2_is_timed_in_all_its_phases_and_teaches_both_players(tmp_path):
    from accelerate.state import AcceleratorState

    from synctalklip.benchmark import stage2

    narrow = ["generator=tiny", "generator.width=0.0625", "discriminator=tiny", "audio_encoder=all"]
    small = [f"encoder.{name}={value}" for name, value in SMALL.items()]
    small += ["encoder=tiny", "device=cpu", "stage2.clip_frames=15", "stage2.windows=2"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("benchmark", ["run.name=x", "run.dir=x", *small])
        cfg.stage2.settings = narrow
        players = stage2.make_players(cfg, tmp_path, stage2.PLAIN)
    batch = stage2.fake_batch(cfg, torch.device("cpu"))
    assert len(batch["clip"]) == 2 * 2 * 5
    before = [
        {name: value.clone() for name, value in net.state_dict().items()} for net in (players.generator, players.critic)
    ]
    spent = stage2.step_seconds(players, batch, torch.device("cpu"))
    assert stage2.data_seconds(cfg, players, tmp_path / "clips") > 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert tuple(spent) == stage2.PHASES
    for old, net in zip(before, (players.generator, players.critic)):
        assert any(not torch.equal(old[name], value) for name, value in net.state_dict().items())


def test_inference_is_measured_for_every_size_and_precision():
    from synctalklip.benchmark.inference import run

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("benchmark", ["run.name=x", "run.dir=x", "device=cpu", "repeats=1", "inference.images=2"])
    cfg.inference.sizes = {"tiny": 16}
    rows = re.findall(r"\| tiny +\| +(fp32|bf16) \| +[\d.]+ \| +(\d+) \|", run(cfg))
    assert [name for name, _ in rows] == ["fp32", "bf16"]
    assert all(int(rate) > 0 for _, rate in rows)
