"""Verdicts, and targets and claims held against measured runs whose figures can be worked out by hand."""

import math
from pathlib import Path

import pytest
from run_factory import READERS, ROWS, write_evaluation, write_run, write_sweep, write_table2

from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.tables.claims import Claim, Comparison, claims_table, judge_target, verdict
from synctalklip.tables.runs import Run, find_runs


def run(tmp_path, name: str, seed: int, lse_d: list[float], errors: list[int]) -> Run:
    rows = [
        {"id": f"clip{i}", "frames": 10, "lse_d": d, "WER.words": 6, "WER.word_errors": e}
        for i, (d, e) in enumerate(zip(lse_d, errors))
    ]
    return write_run(tmp_path / f"{name}{seed}", rows, name, readers=READERS)


@pytest.fixture
def runs(tmp_path):
    return {
        "ours": [run(tmp_path, "ours", 1, [0.5, 0.7], [1, 1]), run(tmp_path, "ours", 2, [0.7, 0.9], [2, 2])],
        "other": [run(tmp_path, "other", 1, [0.9, 1.1], [1, 1]), run(tmp_path, "other", 2, [0.9, 1.1], [1, 1])],
    }


def line(table: str, column: str) -> list[str]:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    (found,) = [row for row in rows if column in row]
    return found


def test_means_over_seeds_and_the_verdict(runs):
    table = claims_table([Claim("ours", "other", "lse_d"), Claim("ours", "other", "WER")], runs, samples=50, seed=1)
    # LSE-D: (0.6 + 0.8) / 2 against 1.0, on every clip 0.3 lower. WER: (2/12 + 4/12) / 2 against 2/12.
    assert line(table, "LSE-D")[3:] == ["0.700", "1.000", "−0.300 [−0.300, −0.300]", "lower", "clearly"]
    assert line(table, "WER")[3:] == ["25.0", "16.7", "+8.3 [+8.3, +8.3]", "lower", "no"]


def test_a_margin_allows_to_be_worse_or_asks_for_more(runs):
    verdicts = {
        by: line(claims_table([Claim("ours", "other", "WER", by)], runs, 50, 1), "WER")[-1] for by in (-10, -8, 1)
    }
    assert verdicts == {-10: "clearly", -8: "no", 1: "no"}


def test_claims_about_what_was_not_trained_are_left_out(runs):
    assert "ours" not in claims_table([Claim("ours", "absent", "lse_d")], runs, 50, 1)


def test_a_column_that_was_not_measured_is_named(runs):
    with pytest.raises(MetricError, match="lse_c"):
        claims_table([Claim("ours", "other", "lse_c")], runs, 50, 1)


@pytest.mark.parametrize(
    ("gain", "worst", "strict", "said"),
    [
        (1.0, 0.5, True, "clearly"),
        (1.0, 0.0, False, "clearly"),
        (1.0, 0.0, True, "yes"),
        (1.0, -0.5, False, "yes"),
        (1.0, math.nan, False, "yes"),
        (0.0, -1.0, False, "yes"),
        (0.0, -1.0, True, "no"),
        (-0.1, -1.0, False, "no"),
        (math.nan, math.nan, False, "no"),
    ],
)
def test_a_verdict_is_one_of_three(gain, worst, strict, said):
    assert verdict(gain, worst, strict) == said


@pytest.fixture
def sweep(tmp_path):
    write_sweep(tmp_path)
    return tmp_path


def target(root: Path, **entry) -> Comparison | None:
    entry = {"name": "aim", "row": f"{ROWS}/synctalklip", **entry}
    return judge_target(entry | ({"other": f"{ROWS}/{entry['other']}"} if "other" in entry else {}), root, 50, 1)


@pytest.mark.parametrize(
    ("entry", "value", "gap", "met"),
    [
        ({"column": "psnr_face", "at_least": 30.0}, 31, 1, True),
        ({"column": "psnr_face", "at_least": 31.0}, 31, 0, True),
        ({"column": "psnr_face", "at_least": 32.0}, 31, -1, False),
        # 7 of 24 words, the recordings 3 of 24: 16.7 points apart, on every clip.
        ({"column": "WER", "at_most": 30.0}, 29.167, -0.833, True),
        ({"column": "WER", "other": "ground_truth", "within": 17.0}, 29.167, -0.333, True),
        ({"column": "WER", "other": "ground_truth", "within": 10.0}, 29.167, 6.667, False),
        ({"column": "lse_c", "other": "ground_truth", "share": 0.85}, 0.35, 0.01, True),
        ({"column": "lse_c", "other": "ground_truth", "share": 0.9}, 0.35, -0.01, False),
        ({"column": "WER", "other": "talklip"}, 29.167, -16.667, True),
        ({"column": "WER", "other": "wav2lip"}, 29.167, 12.5, False),
        # As good is not better.
        ({"column": "lse_c", "other": "talklip"}, 0.35, 0, False),
        ({"column": "lse_c", "other": "wav2lip"}, 0.35, 0.05, True),
    ],
)
def test_verdicts_on_targets(sweep, entry, value, gap, met):
    found = target(sweep, **entry)
    assert (found.value, found.gap[0]) == pytest.approx((value, gap), abs=1e-3)
    assert (found.verdict != "no") is met


def test_a_verdict_is_clear_when_the_whole_interval_is_on_its_side(sweep):
    assert target(sweep, column="WER", other="ground_truth", within=17.0).verdict == "clearly"
    assert target(sweep, column="WER", at_most=29.2).verdict == "yes"
    found = target(sweep, column="WER", other="talklip")
    assert found.target_cells() == [
        "aim", "SyncTalklip", "WER", "29.2", "< 45.8", "−16.67 [−16.67, −16.67]", "clearly",
    ]  # fmt: skip


def test_seeds_are_averaged_and_rows_of_table_2_are_read(sweep):
    write_evaluation(sweep / ROWS / "synctalklip" / "seed2", "SyncTalklip", [0, 0, 0, 1], generated_sha256="b")
    # (7/24 + 1/24) / 2
    assert target(sweep, column="WER", at_most=20.0).value == pytest.approx(100 / 6)
    write_table2(sweep / "t", {"AV-SyncNet": [0, 0, 3, 0]})
    found = target(sweep, row="t#AV-SyncNet", column="errors", at_most=20.0)
    assert (found.value, found.model, found.verdict) == (pytest.approx(12.5), "AV-SyncNet", "yes")
    assert find_runs("t/absent#AV-SyncNet", sweep) == []
    with pytest.raises(SyncTalklipError, match=r"table2\.json: holds no 'other'"):
        find_runs("t#other", sweep)


def test_rows_that_were_not_measured_are_no_verdict_and_other_judges_are_refused(sweep):
    assert target(sweep, column="WER", other="absent") is None
    readers = {"WER": READERS["WER"] | {"sha256": "another"}}
    write_evaluation(sweep / ROWS / "foreign" / "seed1", "x", [0] * 4, readers=readers)
    with pytest.raises(SyncTalklipError, match="scored by different files as WER"):
        target(sweep, column="WER", other="foreign")
    with pytest.raises(SyncTalklipError, match="not measured in 'avs_u'"):
        target(sweep, column="avs_u", at_least=1.0)
