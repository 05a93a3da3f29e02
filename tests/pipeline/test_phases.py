"""Times of phases that ran and of phases that are still to run."""

import pytest

from synctalklip.pipeline.phases import Phase, elapsed, seconds_to_go


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
