"""Tables over seeds."""

import numpy as np
import pytest
from test_table import ROWS, write_run

from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.spread import spread_table
from synctalklip.metrics.table import load_run


def runs_of(tmp_path, name: str, values: list[float], **options):
    runs = []
    for seed, value in enumerate(values):
        rows = [dict(row, psnr_face=value) for row in ROWS]
        path = write_run(tmp_path / f"{name}{seed}", rows, name, generated_sha256=f"{name}{seed}", **options)
        runs.append(load_run(path))
    return runs


def test_mean_and_standard_deviation_by_hand(tmp_path):
    truth = load_run(write_run(tmp_path / "gt", [dict(r, psnr_face="inf") for r in ROWS], "Truth", "ground_truth"))
    good, bad = runs_of(tmp_path, "good", [30.0, 31.0, 35.0]), runs_of(tmp_path, "bad", [20.0])
    table = spread_table([truth, good[0], bad[0], *good[1:]])
    head, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert head.startswith("| method | runs | clips | PSNR face ↑ |")
    assert rows[0].startswith("| Truth | 1 | 2 | ∞ |")
    # 32 and the root of (4 + 1 + 9) / 2.
    assert rows[1].startswith(f"| good | 3 | 2 | **32.00** ± {np.sqrt(7):.2f} |")
    assert rows[2].startswith("| bad | 1 | 2 | 20.00 |")
    assert "differ in their seed alone" in table


def test_the_same_generator_twice_is_no_second_seed(tmp_path):
    one = runs_of(tmp_path, "a", [30.0])[0]
    other = load_run(write_run(tmp_path / "again", ROWS, "a", generated_sha256="a0"))
    with pytest.raises(MetricError, match="the same generator is listed twice as 'a'"):
        spread_table([one, other])


def test_runs_of_other_clips_are_refused(tmp_path):
    whole = runs_of(tmp_path, "a", [30.0])[0]
    part = load_run(write_run(tmp_path / "part", ROWS[:1], "b"))
    with pytest.raises(MetricError, match="lacks clip b"):
        spread_table([whole, part])
    with pytest.raises(MetricError, match="at least one run"):
        spread_table([])
