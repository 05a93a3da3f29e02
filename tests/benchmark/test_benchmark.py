"""The naive forms give what ours give, and ours do without what makes them slow. Nothing here is timed."""

import ctypes
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from synctalklip import device
from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import AVHubertConfig
from synctalklip.avsyncnet.hubert import AVHubert
from synctalklip.avsyncnet.transformer import Attention
from synctalklip.benchmark import naive, parts
from synctalklip.benchmark.parts import count_flops
from synctalklip.cli import CONFIGS
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import cosine_logits
from synctalklip.tables.render import pipe_table

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SMALL = {
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "resnet_width": 8,
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
    rows = [["one", "1.00", "20.00", "20.0x"], ["another", "10.00", "10.00", "1.0x"]]
    lines = pipe_table(["what", "ours ms", "naive ms", "ratio"], rows, padded=True).splitlines()
    assert lines[2] == "| one     |    1.00 |    20.00 | 20.0x |"
    assert len({len(line) for line in lines}) == 1


class Clock:
    """Stands in for `time` of the module that measures: only work takes time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, *costs: float):
        """Takes the first cost at the first call, the second at the second, the last from then on."""
        costs = list(costs)

        def call() -> None:
            self.now += costs.pop(0) if len(costs) > 1 else costs[0]

        return call


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (100, [parts.Timing(5.0, 3), parts.Timing(8.0, 3)]),
        (45, [parts.Timing(5.0, 1), parts.Timing(8.0, 1)]),  # 20 s at first, 13 s, and 13 s do not fit
        (30, [parts.Timing(9.0, 1, warm=False), parts.Timing(11.0, 1, warm=False)]),
    ],
)
def test_a_part_takes_as_many_calls_as_fit_and_says_so(seconds, expected, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(parts, "time", clock)
    works = [clock.work(9.0, 5.0), clock.work(11.0, 8.0)]
    found = parts.measure(works, CPU, parts.Budget(seconds, repeats=3))
    assert found == expected
    assert clock.now <= seconds
    assert {one.count for one in found} == {"1, the first" if seconds == 30 else str(expected[0].repeats)}


def test_a_short_task_is_timed_many_calls_in_a_row(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(parts, "time", clock)
    calls = []
    short = clock.work(0.001)
    (found,) = parts.measure([lambda: (calls.append(1), short())], CPU, parts.Budget(60, repeats=3))
    assert found.seconds == pytest.approx(0.001)
    assert len(calls) == 2 + 3 * 21


def config(*overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("benchmark", overrides=["run.name=test", "run.dir=unused", "device=cpu", *overrides])


def test_a_precision_is_measured_once(monkeypatch):
    cfg = config()
    for able, names in ((False, ["fp32"]), (True, ["fp32", "bf16"])):
        monkeypatch.setattr(device, "has_bf16", lambda _, able=able: able)
        assert [precision.name for precision in parts.precisions(cfg, CPU)] == names
    assert [precision.name for precision in parts.precisions(config("precision=fp32"), CPU)] == ["fp32"]
    with pytest.raises(SyncTalklipError, match="fp16"):
        parts.precisions(config("precision=[fp16]"), CPU)


def test_the_device_chooses_the_size_unless_it_is_asked_for():
    assert list(parts.encoders(parts.sized(config(), CPU))) == ["tiny"]
    assert list(parts.encoders(parts.sized(config(), torch.device("cuda")))) == ["base", "large"]
    assert parts.sized(config("size=full", "sizes.full.frames=70"), CPU).frames == 70
    assert list(parts.encoders(parts.sized(config("encoder=base"), CPU))) == ["base"]
    with pytest.raises(SyncTalklipError, match=r"huge.*small, full"):
        parts.sized(config("size=huge"), CPU)


def test_what_is_measured_is_shown_before_it_ends(capsys):
    shown = []

    def measure(budget) -> list[list[str]]:
        shown.append(capsys.readouterr().err)
        return [["one", "7"]]

    section = parts.Section("Title", ("what", "ms"), [parts.Part("one thing", measure), parts.Part("another", measure)])
    report = parts.report(config("seconds=5"), CPU, [section])
    assert shown[0].endswith("2 parts, 5 s for each at most\n[ 1/2] one thing ... ")
    assert re.fullmatch(r"\d+\.\d s(, more than it had)?\n\[ 2/2\] another \.\.\. ", shown[1])
    assert torch.backends.cpu.get_cpu_capability() in report
    assert ("computes in bf16" if device.has_bf16(CPU) else "emulates bf16") in report
    assert "Title:" in report
    assert report.count("| one") == 2


@pytest.mark.trains
def test_the_whole_benchmark_runs_small(capsys):
    from synctalklip.benchmark.stage1 import run

    quick = ["encoder=tiny", "repeats=1", "classes=20", "vocabulary=12", "sound_seconds=[1]"]
    quick += [f"sizes.small.{name}" for name in ("frames=12", "clip_frames=6", "peak_size=64")]
    quick += ["search={clips: 2, tokens: 3, beams: [1, 2]}", "memory={steps: 1, frames: 12}"]
    report = run(config(*quick))
    named = ["cosine logits", "log filterbank", "span masks", "same-clip", "self-attention", "without video"]
    for name in [*named, "greedy", "beam search of 2"]:
        assert re.search(rf"\| .*{name}.*\d+\.\d+x \| +\d", report), name
    steps = re.findall(r"\| (pre-training|fine-tuning), tiny, 12 frames +\| +(fp32|bf16) ", report)
    assert {kind for kind, _ in steps} == {"pre-training", "fine-tuning"}
    assert len(set(steps)) == len(steps) == 2 * len(parts.precisions(config(), CPU))
    assert re.search(r"\| kept, as by every script +\|( +\d+ \|){4} +1\.00 \| +1 \|", report)
    assert re.search(r"\| as the C library has it +\|( +\d+ \|){4} +\d+\.\d\d \| +1 \|", report)
    lines = re.findall(r"\[ ?(\d+)/(\d+)\] .+ \.\.\. \d+\.\d s(?:, more than it had)?\n", capsys.readouterr().err)
    assert lines == [(str(number), str(8 + len(steps) + 1)) for number in range(1, 8 + len(steps) + 2)]


def test_the_bare_name_of_a_stage_is_enough():
    command = [sys.executable, "scripts/benchmark.py", "stage1", "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "stage: stage1\n" in done.stdout


def narrow_stage2():
    """Called where Hydra knows the configurations, which the benchmark composes more of."""
    small = [f"encoder.{name}={value}" for name, value in SMALL.items()]
    small += ["encoder=tiny", "stage2.clip_frames=15", "repeats=1", "stage2.contrastive={frames: 8, dim: 4}"]
    cfg = compose("benchmark", ["run.name=x", "run.dir=x", "device=cpu", *small])
    cfg.sizes.small.generator = [
        "generator=tiny",
        "generator.width=0.0625",
        "discriminator=tiny",
        "audio_encoder.trainable=all",
    ]
    return cfg


@pytest.mark.trains
def test_a_step_of_stage_2_is_the_trainers_and_timed_in_all_its_phases(tmp_path):
    from synctalklip.benchmark import stage2

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = parts.sized(narrow_stage2(), CPU)
        stage2.write_expert(cfg, tmp_path / "expert.pt")
        stage2.write_clips(tmp_path / "clips", cfg.stage2.clips, cfg.stage2.clip_frames, 0)
        form = stage2.Form(cfg, tmp_path, list(cfg.stage2.plain), CPU)
        form.step()
        straight = stage2.Form(cfg, tmp_path, list(cfg.stage2.plain), CPU)
    spent = form.median_phases(1)
    assert tuple(spent) == stage2.PHASES
    assert all(value > 0 for value in spent.values())
    # Timing changes nothing: the networks are those of the trainer's own step.
    painted, _ = straight.trainer.generator_step(straight.batch)
    straight.trainer.discriminator_step(painted)
    for name in ("generator", "objective.discriminator"):
        ours, theirs = (attrgetter(name)(one.trainer).state_dict() for one in (form, straight))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


@pytest.mark.trains
def test_stage_2_is_measured_in_both_forms():
    from synctalklip.benchmark.stage2 import run

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        report = run(narrow_stage2())
    assert re.search(r"\| insertion of 60 faces into 2 clips .*\d+\.\d+x \|", report)
    assert re.search(r"\| contrastive, 8 frames of 4, 4 negatives .*\d+\.\d+x \|", report)
    for form, names in (("ours", "fp32|bf16"), ("plain", "fp32")):
        assert re.search(rf"\| {form} +\| +({names}) \|( +\d+ \|){{7}} +\d+\.\d \| +\d+ \| +1 \|", report), form


def test_inference_is_measured_for_every_size_and_precision():
    from synctalklip.benchmark.inference import run

    cfg = config("repeats=1", "inference.images=2", "inference.frames=4")
    cfg.inference.sizes, cfg.inference.videos = {"tiny": 16}, [[360, 288]]
    report = run(cfg)
    rows = re.findall(r"\| tiny +\| +(fp32|bf16) \| +[\d.]+ \| +([\d.]+) \| +1 \|", report)
    assert [name for name, _ in rows] == [precision.name for precision in parts.precisions(cfg, CPU)]
    assert all(float(rate) > 0 for _, rate in rows)
    ((rate, shares),) = re.findall(r"\| 360 x 288 \| +\w+ \| +([\d.]+) \|((?: +\d+ % \|){9}) +1 \|", report)
    assert float(rate) > 0
    assert 95 <= sum(int(share) for share in re.findall(r"\d+", shares)) <= 105


def test_sync_is_measured_whole_and_by_windows():
    from synctalklip.benchmark.inference import run_sync

    report = run_sync(config("repeats=1", "sync.frames=7"))
    for structure in ("small", "public"):
        assert re.search(rf"\| SyncNet {structure}, 7 frames .*\d+\.\d+x \| +1 \|", report)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no such settings")
def test_a_script_takes_freed_memory_again_without_new_pages():
    code = """
import ctypes, resource, sys
from synctalklip.cli import entry
if sys.argv[1] == "script":
    entry("benchmark")
libc = ctypes.CDLL(None)
libc.malloc.restype, size = ctypes.c_void_p, 1 << 26
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = [
        int(subprocess.run([sys.executable, "-c", code, how], cwd=ROOT, capture_output=True, text=True).stdout)
        for how in ("script", "none")
    ]
    assert faults[0] <= 4
    assert faults[1] >= 16
