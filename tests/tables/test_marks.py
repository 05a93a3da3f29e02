"""Marks of values whose judge may be fooled, and the columns of the lips and of a second SyncNet."""

import pytest
from run_factory import SYNCNET, write_run

from synctalklip.errors import MetricError
from synctalklip.tables.record import measure
from synctalklip.tables.render import latex, markdown
from synctalklip.tables.table import Layout, build_tables

LIPS = {"name": "landmarks of DlibFaces", "reading": "crops x 3", "max_lag": 10}


def layout(*columns: str) -> Layout:
    return Layout("", columns, None, intervals=False, against=None, permutations=0)


def clips(count: int = 3, **columns: float) -> list[dict]:
    return [{"id": f"c{i}", "frames": 10, **columns} for i in range(count)]


def runs(tmp_path, truth: dict, **models: dict) -> list:
    """The recordings and some generators, judged by one SyncNet; a model named twin was taught by its like."""
    made = [write_run(tmp_path / "truth", clips(**truth), "Ground truth", "ground_truth", syncnet=SYNCNET, lips=LIPS)]
    for name, columns in models.items():
        judge = SYNCNET | ({"twin": "the SyncNet that taught it"} if name == "twin" else {})
        made.append(write_run(tmp_path / name, clips(**columns), name, syncnet=judge, lips=LIPS))
    return made


def lines(table) -> dict[str, str]:
    return {line.split("|")[1].strip(): line for line in markdown(table).splitlines() if line.startswith("|")}


def test_better_sync_than_the_recordings_is_marked_and_never_best(tmp_path):
    made = runs(
        tmp_path, {"lse_c": 0.6, "lse_d": 0.8}, past={"lse_c": 0.7, "lse_d": 0.9}, below={"lse_c": 0.5, "lse_d": 0.85},
        low={"lse_c": 0.4, "lse_d": 0.7},
    )  # fmt: skip
    (table,) = build_tables(made, layout("lse_c", "lse_d"), 0, 0)
    found = lines(table)
    assert "| 0.700§ | 0.900 |" in found["past"]
    assert "| **0.500** | **0.850** |" in found["below"]
    # For a distance the other side is the better one.
    assert "| 0.400 | 0.700§ |" in found["low"]
    assert "§" not in found["Ground truth"]
    assert [note for note in table.notes if note.startswith("§")] == [
        "§ better than the recordings: the model has learned the judge, or overshoots; never bold."
    ]
    assert r"0.700\S{}" in latex(table)


def test_the_recordings_of_another_sentence_are_no_end_of_the_scale(tmp_path):
    truth, ours = (
        write_run(tmp_path / kind, clips(lse_c=value), kind, kind, setting="cross", syncnet=SYNCNET)
        for kind, value in (("ground_truth", 0.1), ("generator", 0.5))
    )
    (table,) = build_tables([truth, ours], layout("lse_c"), 0, 0)
    assert "§" not in markdown(table)


def test_a_twin_of_the_judge_is_marked_in_the_judges_columns_alone(tmp_path):
    made = runs(
        tmp_path, {"lse_c": 0.6, "lip_correlation": 1.0}, twin={"lse_c": 0.5, "lip_correlation": 0.4},
        other={"lse_c": 0.4, "lip_correlation": 0.3},
    )  # fmt: skip
    (table,) = build_tables(made, layout("lse_c", "lip_correlation"), 0, 0)
    found = lines(table)
    assert "| 0.500‡ | **0.40** |" in found["twin"]
    assert "‡" not in found["other"]
    assert any(note.startswith("‡ the judge has the structure and the training clips") for note in table.notes)


def test_without_a_mark_there_is_no_note_of_it(tmp_path):
    (table,) = build_tables(runs(tmp_path, {"lse_c": 0.6}, ours={"lse_c": 0.5}), layout("lse_c"), 0, 0)
    assert not [note for note in table.notes if note[0] in "‡§"]


def test_lips_columns_and_their_judge(tmp_path):
    columns = {"lip_correlation": 0.5, "lip_lag": -2, "lip_lag_size": 2, "lip_spread": 0.4, "lmd": 1.25}
    truth = {"lip_correlation": 1, "lip_lag_size": 0, "lip_spread": 1, "lmd": 0, "lips_closed": 2, "bilabials": 2}
    made = runs(tmp_path, truth, ours=columns | {"lips_closed": 1, "bilabials": 4}, wide={"lip_spread": 1.2})
    (table,) = build_tables(made, layout("lip_correlation", "lip_lag", "lip_spread", "lmd", "closure"), 0, 0)
    assert [column.heading for column in table.columns] == [
        "lip correlation ↑", "lip lag ↓", "lip spread ↑", "LMD ↓", "lips closed at p, b, m ↑ (%)"
    ]  # fmt: skip
    assert "| 0.50 | 2.00 | 0.40 | 1.25 | 25 |" in lines(table)["ours"]
    assert "1.20§" in lines(table)["wide"]
    assert any("by landmarks of DlibFaces, reading crops x 3" in note for note in table.notes)


def test_marks_reach_the_record(tmp_path):
    made = runs(tmp_path, {"lse_c": 0.6}, twin={"lse_c": 0.7}, ours={"lse_c": 0.5})
    by_row = {run.summary["name"]: [run] for run in made}
    entry = {"columns": ["lse_c"], "shown": ["lse_c"], "tested": ["lse_c"], "against": None}
    scores, _, notes = measure("grid", by_row, entry, 10, 10, 0)
    assert {line["row"]: line["mark"] for line in scores} == {"Ground truth": "", "twin": "‡§", "ours": ""}
    assert sum(note[0] in "‡§" for note in notes) == 2


def test_runs_of_different_landmarks_are_not_compared(tmp_path):
    one = write_run(tmp_path / "a", clips(lip_correlation=0.5), "a", lips=LIPS)
    other = write_run(tmp_path / "b", clips(lip_correlation=0.5), "b", lips=LIPS | {"max_lag": 5})
    with pytest.raises(MetricError, match=r"different max_lag \(10, 5\) as lips"):
        build_tables([one, other], layout("lip_correlation"), 0, 0)
