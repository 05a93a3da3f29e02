"""The record of results, and what its pages make of it."""

import pytest
from run_factory import write_evaluation

from synctalklip.errors import SyncTalklipError
from synctalklip.tables.pages import _score_table, what_ran
from synctalklip.tables.record import PAPER, Record, measure, read_record, write_record

ENTRY = {
    "title": "T", "groups": {"": ["truth"], "ours": ["b", "a"]}, "against": "A", "tested": ["WER"],
    "columns": ["psnr_face", "lse_c", "readers"], "shown": ["lse_c", "readers"],
}  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """A misreads 2 of 6 words in each clip, B 1; two seeds of B."""
    return {
        "truth": [write_evaluation(tmp_path / "t", "Truth", [0, 0, 0, 0], 0.9, kind="ground_truth")],
        "a": [write_evaluation(tmp_path / "a", "A", [2, 2, 2, 2], 0.5001)],
        "b": [write_evaluation(tmp_path / f"b{i}", "B", [1, 1, 1, 1], 0.5, generated_sha256=f"{i}") for i in (1, 2)],
    }


def test_measured_values_stand_in_the_printed_unit_with_their_family_of_tests(runs):
    scores, differences, notes = measure("t", runs, ENTRY, samples=50, permutations=100, seed=1)
    (wer,) = [line for line in scores if (line["row"], line["column"]) == ("b", "WER")]
    assert (wer["model"], wer["seeds"], wer["clips"], float(wer["spread"])) == ("B", 2, 4, 0.0)
    assert [float(wer[end]) for end in ("value", "low", "high")] == pytest.approx([100 / 6] * 3)
    # PSNR and LSE-C are in no test. B is 16.7 points better on all of 4 clips: 2 of 16 exchanges are as large.
    assert [(line["model"], line["column"], line["tests"]) for line in differences] == [
        ("Truth", "WER", 2), ("B", "WER", 2),
    ]  # fmt: skip
    assert [float(line["p"]) for line in differences] == pytest.approx([2 * 2 / 16] * 2)
    assert float(differences[1]["value"]) == pytest.approx(-100 / 6)
    assert [note.split(":")[0] for note in notes[1:]] == ["LSE-C", "WER"]


def test_a_record_is_read_back_as_it_was_written(runs, tmp_path):
    scores, differences, notes = measure("t", runs, ENTRY, samples=50, permutations=100, seed=1)
    settings = {"generator": {"t/a": {"x": "1", "only": "2"}, PAPER: {"x": "3"}}}
    record = Record({"notes": {"t": notes}}, scores, differences, [], [], settings)
    write_record(record, tmp_path / "record")
    found = read_record(tmp_path / "record")
    assert (found.facts, found.settings, found.comparisons) == (record.facts, settings, [])
    assert found.scores == [{name: str(value) for name, value in line.items()} for line in scores]
    (tmp_path / "record" / "scores.csv").unlink()
    with pytest.raises(SyncTalklipError, match="holds no whole record"):
        read_record(tmp_path / "record")


def test_rows_that_look_alike_are_both_best_and_the_recordings_never_are(runs, tmp_path):
    scores, *_ = measure("t", runs, ENTRY, samples=0, permutations=0, seed=1)
    write_record(Record({}, scores), tmp_path / "record")
    lines = read_record(tmp_path / "record").scores
    table = _score_table(lines, ENTRY | {"groups": {"": ["truth"], "ours": ["b"]}})
    bold = {row.name: [cell.bold for cell in row.cells] for _, rows in table.blocks for row in rows}
    # 0.5001 and 0.5 are both printed as 0.500.
    assert bold == {"Truth": [False, False], "B": [True, True], "A": [True, False]}
    assert [title for title, _ in table.blocks] == ["", "ours", "others"], "a row of no group is not lost"


def test_settings_are_told_apart_from_the_reference_and_from_the_paper():
    line = {"table": "t", "column": "WER"}
    scores = [line | {"row": row, "model": row.upper()} for row in ("a", "b")]
    ours = {"lr": "0.1", "w.rec": "1", "w.lip": "2", "expert": "outputs/x/checkpoints/best.pt", "log": "5"}
    other = ours | {"w.lip": "3", "expert": "outputs/y/checkpoints/best.pt", "log": "6"}
    paper = ours | {"lr": "0.2", "w.rec": "9", "expert": "z", "log": "7"}
    entry = {
        "title": "G", "tables": ["t"], "reference": "a", "ignored": ["log"], "ignored_beside_paper": ["expert"],
        "columns": {"rec / lip": {"keys": ["w.rec", "w.lip"], "between": " / "}},
    }  # fmt: skip
    record = Record({}, scores, settings={"g": {"t/a": ours, "t/b": other, PAPER: paper}})
    said = what_ran(record, "g", entry, {"t": {"title": "T"}})
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in said["table"].splitlines()]
    assert cells[2:] == [["*T*", ""], ["A", "1 / 2"], ["B", "1 / 3"], ["*beside them*", ""],
                         ["the paper's configuration", "9 / 2"]]  # fmt: skip
    assert said["apart"] == {"T": "- B: `expert` y (x)."}
    assert said["paper"].splitlines()[2:] == ["| `lr` | 0.1 | 0.2 |"]
    assert what_ran(Record({}), "g", entry, {"t": {"title": "T"}})["table"] == ""
