"""Aggregation, intervals and the Markdown table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.table import METRICS, aggregate, bootstrap, load_run, markdown_table, paired_difference

BY_KEY = {metric.key: metric for metric in METRICS}


def write_run(path: Path, rows: list[dict], name: str = "ours", kind: str = "generator", **summary) -> Path:
    path.mkdir(parents=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "name": name,
        "kind": kind,
        "corpus": "toy",
        "split": "test",
        "clips": len(rows),
        "protocol": "p",
    } | summary
    (path / "summary.json").write_text(json.dumps(summary))
    return path


ROWS = [
    {"id": "a", "frames": 10, "psnr_face": 30.0, "lse_d": 1.0, "word_errors": 1, "words": 1},
    {"id": "b", "frames": 30, "psnr_face": 20.0, "lse_d": 2.0, "word_errors": 0, "words": 9},
]


def test_aggregation_by_hand(tmp_path):
    run = load_run(write_run(tmp_path / "run", ROWS))
    assert aggregate(run, BY_KEY["psnr_face"]) == pytest.approx((10 * 30 + 30 * 20) / 40)
    assert aggregate(run, BY_KEY["lse_d"]) == pytest.approx(1.5)
    assert aggregate(run, BY_KEY["word_errors"]) == pytest.approx(0.1)
    assert np.isnan(aggregate(run, BY_KEY["lse_c"]))


def test_infinite_psnr_is_shown_only_when_all_clips_are(tmp_path):
    some = [dict(ROWS[0], psnr_face="inf"), ROWS[1]]
    assert aggregate(load_run(write_run(tmp_path / "some", some)), BY_KEY["psnr_face"]) == 20
    every = load_run(write_run(tmp_path / "all", [dict(row, psnr_face="inf") for row in ROWS]))
    assert np.isinf(aggregate(every, BY_KEY["psnr_face"]))
    assert "∞" in markdown_table([every], samples=10, seed=1)


def test_clip_without_transcript_counts_in_no_rate(tmp_path):
    rows = [*ROWS, {"id": "c", "frames": 5, "psnr_face": 25.0, "lse_d": 1.0, "word_errors": "", "words": ""}]
    assert aggregate(load_run(write_run(tmp_path / "run", rows)), BY_KEY["word_errors"]) == pytest.approx(0.1)


def test_bootstrap_is_deterministic_and_covers():
    rng = np.random.default_rng(0)
    ones = np.ones(50)
    values = rng.normal(3, 1, 50)
    assert bootstrap(values, ones, 500, seed=1) == bootstrap(values, ones, 500, seed=1)
    assert bootstrap(values, ones, 500, seed=1) != bootstrap(values, ones, 500, seed=2)
    covered = 0
    for _ in range(200):
        low, high = bootstrap(rng.normal(3, 1, 50), ones, 300, seed=1)
        covered += low <= 3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_of_equal_clips_is_a_point():
    assert bootstrap(np.full(9, 2.0), np.ones(9), 100, seed=1) == (2.0, 2.0)


def test_table_has_arrows_counts_bold_and_judges(tmp_path):
    judge = {"syncnet": {"name": "SyncNet (small, trained on toy)", "sha256": "x"}}
    truth = write_run(
        tmp_path / "gt", [dict(r, lse_d=0.5, psnr_face="inf") for r in ROWS], "Ground truth", "ground_truth", **judge
    )
    still = write_run(tmp_path / "still", [dict(r, lse_d=3) for r in ROWS], "Still mouth", "still_mouth", **judge)
    ours = write_run(tmp_path / "ours", ROWS, "ours", **judge)
    table = markdown_table([load_run(path) for path in (truth, still, ours)], samples=50, seed=1, differences=True)
    head, _, first, second, third, *_ = table.splitlines()
    assert "PSNR face ↑" in head
    assert "LSE-D ↓" in head
    assert "WER ↓ (%)" in head
    assert first.startswith("| Ground truth | 2 | ∞ | 0.500 [0.500, 0.500]")
    assert "3.000 [3.000, 3.000]" in second
    assert "**1.500** [1.000, 2.000]" in third
    assert "SyncNet (small, trained on toy)" in table
    assert "over 10 words" not in table  # no reader took part
    assert "Difference to Ground truth" in table


def test_paired_difference_is_tighter_than_the_rows(tmp_path):
    rng = np.random.default_rng(3)
    level = rng.normal(8, 2, 40)
    base = [{"id": str(i), "frames": 10, "lse_d": value} for i, value in enumerate(level)]
    better = [dict(row, lse_d=row["lse_d"] - 0.5 + 0.01 * i % 3) for i, row in enumerate(base)]
    one, other = load_run(write_run(tmp_path / "a", base)), load_run(write_run(tmp_path / "b", better[::-1]))
    difference, low, high = paired_difference(other, one, BY_KEY["lse_d"], 300, seed=1)
    assert low <= difference <= high < 0
    values = bootstrap(level, np.ones(40), 300, seed=1)
    assert high - low < 0.5 * (values[1] - values[0])


def test_missing_clips_and_other_judges_are_errors(tmp_path):
    whole = load_run(write_run(tmp_path / "whole", ROWS, syncnet={"name": "s", "sha256": "1"}))
    part = load_run(write_run(tmp_path / "part", ROWS[:1]))
    with pytest.raises(MetricError, match="part lacks clip b"):
        markdown_table([whole, part], samples=10, seed=1)
    other = load_run(write_run(tmp_path / "other", ROWS, syncnet={"name": "s", "sha256": "2"}))
    with pytest.raises(MetricError, match="different files as syncnet"):
        markdown_table([whole, other], samples=10, seed=1)
    with pytest.raises(MetricError, match="run scripts/evaluate"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(MetricError, match="2 were evaluated"):
        load_run(write_run(tmp_path / "cut", ROWS[:1], clips=2))
    with pytest.raises(MetricError, match="at least one run"):
        markdown_table([], samples=10, seed=1)
