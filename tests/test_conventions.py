"""What the house agreed on and a reader can rely on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "synctalklip"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def test_fairseq_is_imported_behind_one_door():
    pattern = re.compile(r"^\s*(import|from)\s+fairseq", re.MULTILINE)
    sources = [*PACKAGE.rglob("*.py"), *SCRIPTS]
    users = {path.relative_to(ROOT).parts[:2] for path in sources if pattern.search(path.read_text())}
    assert users == {("synctalklip", "avsyncnet")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_thin(script):
    assert len(script.read_text().splitlines()) <= 60


def test_inference_does_not_pay_for_fairseq():
    code = (
        "import sys, synctalklip.inference.synthesize, synctalklip.avsyncnet.expert; sys.exit('fairseq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_lock_pins_with_hashes_and_names_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==\S+.*\\$", lock, re.MULTILINE)
    assert {"torch", "torchaudio", "ve-fairseq", "hydra-core", "face-alignment", "jiwer"} <= set(pins)
    assert len(pins) == len(re.findall(r"^[A-Za-z0-9].*==", lock, re.MULTILINE))
    assert "://" not in lock
