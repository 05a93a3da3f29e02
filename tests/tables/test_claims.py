"""Claims of a paper held against measured runs."""

import pytest
from run_factory import READERS, write_run

from synctalklip.errors import MetricError
from synctalklip.tables.claims import Claim, claims_table
from synctalklip.tables.runs import Run


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
