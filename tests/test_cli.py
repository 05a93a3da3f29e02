"""What every script does before its own work."""

import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from synctalklip.cli import CONFIGS, RENAMED, entry, read_arguments, refuse_renamed
from synctalklip.errors import SyncTalklipError


@pytest.mark.parametrize(("old", "name"), RENAMED.items())
def test_a_key_of_an_earlier_version_is_refused_by_name(old, name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("train_generator", ["expert.path=x"])
        refuse_renamed(composed)
        # What a config file of the user's own can add.
        added = compose("train_generator", ["expert.path=x", f"+{old}=1"])
    with pytest.raises(SyncTalklipError, match=rf"^{old} is called {name}: rename it"):
        refuse_renamed(added)


PLAIN = ("video", "audio", "output")
NAMES = [
    *["é ü.mp4", "顔 (1).mp4", "a'b.mp4", 'a"b.mp4', "a=b.mp4", "a,b.mp4", "(x", "[x]y.mp4", "[1].mp4", "#1.mp4"],
    *["a&b.mp4", "a\\", "a\\'b", "a\\\\'", "123", "1e5", "true", "~a", "{a}.mp4", "  b", "a;b|c", "$HOME", "a:b"],
    *["\udcff.mp4", "'q'x"],
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_files_are_taken_as_they_are(name):
    words = read_arguments([f"video={name}", f"run.dir=/{name}"], PLAIN)
    words += read_arguments(["seed=2", f"./{name}", f"/{name}", f"../{name}"], PLAIN)
    read = OverridesParser.create().parse_overrides(words)
    assert [override.value() for override in read] == [name, f"/{name}", 2, f"./{name}", f"/{name}", f"../{name}"]
    assert [override.key_or_group for override in read] == ["video", "run.dir", "seed", *PLAIN]


def test_one_file_may_be_given_twice():
    words = ["a.mp4", "seed=2", "a.mp4", "b.mp4"]
    assert read_arguments(words, PLAIN) == ["video='a.mp4'", "seed=2", "audio='a.mp4'", "output='b.mp4'"]


def test_what_is_meant_for_hydra_stays():
    written = ["video=[{face:0,audio:a.wav}]", "checkpoint='a b'", "jobs=${run.dir}/x", "audio=null", "seed=2", "~swap"]
    assert read_arguments(written, PLAIN) == written
    sweep = ["-m", "expert.path=a,b", "seed=1,2"]
    assert read_arguments(sweep) == sweep


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["seed=(a b"],
            "error: seed=(a b: cannot be read as key=value; a text with such signs is written \"seed='(a b'\"",
        ),
        (["device=a,b"], "error: device=a,b: has several values, which need -m; .* written \"device='a,b'\""),
        (["face.mp4", "speech.wav"], "error: face.mp4 speech.wav: give video, audio, output in this order"),
        (["a${b}.mp4", "b", "c"], "error: a${b}.mp4: holds ${"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generate.py", *words])
    with pytest.raises(SystemExit) as ended:
        entry("generate", PLAIN)(lambda cfg: None)()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in sentence.split(" .* "):
        assert part in said
