"""One place decides about the precision, by what the device computes in."""

import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from synctalklip import device
from synctalklip.device import choose_precision, has_bf16, record_precision
from synctalklip.errors import SyncTalklipError

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
NARROW = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def machine(monkeypatch):
    """Plays a CPU: its instructions, what ATen uses of them, and whether oneDNN may use those of bf16."""

    def play(instructions: dict, aten: str, onednn: bool) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: aten)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)

    return play


@pytest.mark.parametrize(
    ("instructions", "aten", "onednn", "expected"),
    [
        ({"avx512_bf16": True}, "AVX512", True, True),
        ({"amx_bf16": True, "avx512_bf16": True}, "AVX512", True, True),
        ({"avx512_f": True}, "AVX512", True, False),  # oneDNN says yes here, and emulates
        ({"avx2": True}, "AVX2", False, False),
        ({"amx_bf16": True}, "AVX2", True, False),  # a wide machine under ATEN_CPU_CAPABILITY=avx2
        ({"amx_bf16": True}, "AVX512", False, False),  # and under ONEDNN_MAX_CPU_ISA=AVX2
    ],
)
def test_auto_is_bf16_only_where_the_cpu_computes_in_it(machine, instructions, aten, onednn, expected):
    machine(instructions, aten, onednn)
    assert has_bf16(CPU) is expected
    chosen = choose_precision("auto", CPU)
    assert chosen.name == ("bf16" if expected else "fp32")
    assert aten in chosen.reason
    assert chosen.mixed_precision == ("bf16" if expected else "no")


def test_bf16_by_name_is_done_and_warned_of_once(machine, caplog):
    machine({"avx2": True}, "AVX2", False)
    with caplog.at_level(logging.WARNING):
        assert choose_precision("bf16", CPU).name == "bf16"
    assert [record.message for record in caplog.records] == [
        f"bf16 is emulated on {device.describe_device(CPU)}: 10 to 49 times slower than fp32"
    ]
    caplog.clear()
    machine({"amx_bf16": True}, "AVX512", True)
    assert choose_precision("bf16", CPU).name == "bf16"
    assert not caplog.records


def test_a_run_keeps_the_precision_it_began_with(machine):
    machine({"avx2": True}, "AVX2", False)
    assert choose_precision("auto", CPU, begun="bf16").name == "bf16"
    machine({"amx_bf16": True}, "AVX512", True)
    assert choose_precision("auto", CPU, begun="fp32").name == "fp32"
    with pytest.raises(SyncTalklipError, match="began in fp32 and bf16 is asked for"):
        choose_precision("bf16", CPU, begun="fp32")


def test_an_unknown_precision_is_named():
    with pytest.raises(SyncTalklipError, match="precision is 'fp8'; use one of auto, fp32, bf16"):
        choose_precision("fp8", CPU)


def test_the_saved_configuration_says_what_was_chosen_and_why(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("seed: 1\ntrainer:\n  precision: auto\n  steps: 4\n")
    chosen = choose_precision("auto", CPU)
    with caplog.at_level(logging.INFO):
        record_precision(chosen, "trainer.precision", tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved.trainer == {"precision": chosen.name, "precision_reason": chosen.reason, "steps": 4}
    assert saved.seed == 1
    assert f"precision {chosen.name} (auto: " in caplog.text


def test_autocast_is_bf16_or_nothing():
    product = torch.ones(2, 2)
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with device.Precision(name, "").autocast(CPU):
            assert (product @ product).dtype == dtype
    with device.Precision("bf16", "").autocast(CPU, enabled=False):
        assert (product @ product).dtype == torch.float32


def test_no_configuration_chooses_bf16_by_itself():
    named = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "configs").rglob("*.yaml"))
        for line in path.read_text().splitlines()
        if re.search(r"bf16|bfloat16|mixed_precision", line.partition("#")[0])
    ]
    assert named == []


def test_a_narrow_resnet_keeps_to_its_memory_on_avx2():
    """Its gradients are those of the strided convolution in the other layout, hundreds of times."""
    code = """
        import torch
        from synctalklip.avsyncnet.frontend import BasicBlock

        assert torch.backends.cpu.get_cpu_capability() == "AVX2"
        torch.manual_seed(0)
        torch.set_num_threads(1)
        for width, out in ((4, 8), (4, 4), (2, 16)):
            block = BasicBlock(width, out, 2, "relu").to(memory_format=torch.channels_last)
            image = torch.randn(40, width, 22, 22).to(memory_format=torch.channels_last).requires_grad_()
            conv = block.downsample[0]
            strided = torch.nn.functional.conv2d(image.detach().contiguous(), conv.weight, stride=2)
            torch.testing.assert_close(conv(image), strided, rtol=1e-5, atol=1e-5)
            for _ in range(150):
                block(image).square().sum().backward()
            assert torch.isfinite(image.grad).all()
        print("whole")
    """
    environment = os.environ | NARROW | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-2000:]
