"""The phases of a pipeline: their command lines, which ran, and how long the rest takes."""

import math
import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from synctalklip.errors import SyncTalklipError
from synctalklip.pipeline.phases import Phase, as_override, choose, elapsed, plan_phases, seconds_to_go


def test_elapsed_counts_time_side_by_side_once():
    phases = [Phase("a", "", 0.0, 10.0), Phase("b", "", 5.0, 10.0), Phase("c", "", 100.0, 1.0)]
    assert elapsed(phases) == 16.0


NEEDS = {"b": ["a"], "c": ["a"], "d": ["b", "c"]}
LEFT = {"a": 10.0, "b": 20.0, "c": 5.0, "d": 1.0}


@pytest.mark.parametrize(
    ("left", "at_once", "running", "seconds"),
    [
        (LEFT, 1, [], 36),  # all of it
        (LEFT, 2, [], 31),  # a, then b beside c, then d
        ({"b": 20.0, "c": 5.0, "d": 1.0}, 2, ["b", "c"], 21),  # what is finished does not count
        ({"x": 3.0, "y": 4.0, "z": 5.0}, 2, [], 8),  # z begins when x has ended
        ({"x": 3.0, "y": 4.0, "z": 5.0}, 2, ["y", "z"], 7),  # x begins when y has ended
        ({}, 2, [], 0),
    ],
)
def test_seconds_to_go_are_those_of_the_schedule(left, at_once, running, seconds):
    assert seconds_to_go(left, NEEDS, at_once, running) == seconds


def texts(count):
    """Strings of what a path or a name may hold; ${ begins an interpolation."""
    draw = random.Random(1)
    return ["".join(draw.choices('ab/. \\"\\"\'=,:{}[]()%é$-0_', k=draw.randrange(9))) for _ in range(count)]


VALUES = [
    None, True, False, 0, -3, 0.1, 1e-5, 2.5e30, math.inf, "", "null", "True", "nan", "0", "1e3", "-",
    "a=b", "\\", 'a\\"',    "SyncTalklip(conv)", "../shared/grid", "checkpoints/a_1/spm.model", [],
    [1, "two words", [None]], {"a-b": {"c": "d e"}},
]  # fmt: skip


@pytest.mark.parametrize("value", [*VALUES, texts(300)], ids=str)
def test_hydra_reads_an_argument_as_it_was(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={as_override(value)}"])
    read = plain(override.value())
    assert read == value
    assert type(read) is type(value)


def plain(value):
    """Hydra keeps how a string was quoted."""
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.text if hasattr(value, "text") else value


def test_a_name_that_no_command_line_carries_is_refused():
    with pytest.raises(SyncTalklipError, match="'a b': is no name"):
        as_override({"a b": 1})


def config(**phases):
    entries = {name: {"script": name, **entry} for name, entry in phases.items()}
    return {
        "run": {"name": "all"},
        "expand": None,
        "given": [],
        "shared": {"both": {"x": 1, "y": "a b"}},
        "phases": entries,
    }


def test_arguments_of_a_phase_count_more_than_shared_ones():
    plan = plan_phases(config(one={"shared": ["both"], "args": {"x": 2}, "run": "elsewhere"}, two={}))
    assert plan[0].command == "scripts/one.py x=2 'y=\"a b\"' run.name=elsewhere"
    assert plan[0].folder == "outputs/elsewhere"
    assert plan[1].command == "scripts/two.py run.name=all/two"
    assert plan[1].needs == ("one",), "a phase that does not say needs all before it"


def test_what_needs_a_given_phase_needs_what_that_needs():
    wanted = config(a={}, b={"needs": ["a"]}, c={"needs": ["b"]}, d={"needs": ["c", "a"]})
    wanted["given"] = ["b", "c"]
    plan = plan_phases(wanted)
    assert {phase.name: phase.needs for phase in plan} == {"a": (), "d": ("a",)}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"a": {"needs": ["b"]}}, r"phases\.a\.needs: there is no phase 'b'; choose from a"),
        ({"a": {"needs": ["b"]}, "b": {"needs": ["a"]}}, "phases: a needs b needs a|phases: b needs a needs b"),
        ({"a": {"script": None}}, r"phases\.a: names no script"),
        ({"a": {"shared": ["c"]}}, r"phases\.a\.shared: there are no arguments 'c'"),
        ({"a": {"argss": {}}}, r"phases\.a\.argss: is no setting of a phase"),
    ],
)
def test_mistakes_are_named(phases, message):
    with pytest.raises(SyncTalklipError, match=message):
        plan_phases(config(**phases))


def test_some_of_the_phases():
    plan = plan_phases(config(a={}, b={}, c={}))
    assert [phase.name for phase in choose(plan, ["c", "a"])] == ["a", "c"]
    assert choose(plan, None) == plan
    with pytest.raises(SyncTalklipError, match="only: there is no phase 'x'; choose from a, b, c"):
        choose(plan, ["x"])
    with pytest.raises(SyncTalklipError, match="given: there is no phase 'x'"):
        plan_phases(config(a={}) | {"given": ["x"]})
