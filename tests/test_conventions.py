"""What the house agreed on and a reader can rely on."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "synctalklip"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Rooms and files at the top of the package, from what asks nothing of the others to what asks all: data flows down this
# list, and no import runs up it.
ORDER = (
    *("errors", "checkpoint", "cli", "device", "progress", "losses", "distance"),
    *("data", "metrics", "tables"),
    *("avsyncnet", "syncnet", "generator", "inference", "public_weights"),
    *("evaluation", "study", "app", "benchmark", "pipeline"),
)


def imports_of(module: str, path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative path"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


IMPORTS = {module: imports_of(module, path) for module, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_no_import_runs_up_the_order_of_the_rooms():
    assert {room_of(module) for module in MODULES if module != "synctalklip"} == set(ORDER)
    place = {room: number for number, room in enumerate(ORDER)}
    upward = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others - {"synctalklip"}
        if place[room_of(other)] > place[room_of(module)]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()


def test_a_room_has_one_door():
    """Names are imported from where they are defined; a package that offers some itself is imported from alone."""
    packages = [module for module, path in MODULES.items() if path.name == "__init__.py"]
    offering = [package for package in packages if IMPORTS[package]]
    scripts = {str(path): imports_of(path.stem, path) for path in SCRIPTS}
    past_the_door = [
        f"{user} imports {other} past {package}"
        for package in offering
        for user, others in {**IMPORTS, **scripts}.items()
        for other in others
        if other.startswith(f"{package}.") and not user.startswith(package)
    ]
    assert not past_the_door


def test_a_file_can_be_read_in_one_sitting():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > 400} == {}


def test_the_package_does_not_read_the_tests():
    helpers = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {"tests", *helpers} & {name.split(".")[0] for name in names}, module
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
                assert node.right.value != "tests", module
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "tests/" not in node.value, module


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


def test_the_page_adds_packages_and_changes_none():
    """`make app` and `make test` install its lock over the other one."""
    pins, with_page = (
        dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-app.lock")
    )
    assert pins.items() <= with_page.items()
    assert "gradio" in with_page
    assert "://" not in (ROOT / "requirements-app.lock").read_text()
