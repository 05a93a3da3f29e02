"""Aggregation, intervals, tests, blocks, seeds and the three ways to write a table."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from run_factory import READERS, write_run

from synctalklip.cli import CONFIGS
from synctalklip.errors import MetricError
from synctalklip.metrics.statistics import Parts, bootstrap, holm, paired_difference, permutation_test
from synctalklip.tables.blocks import read_published
from synctalklip.tables.columns import choose
from synctalklip.tables.render import Cell, Column, Row, Table, comma_separated, latex, latex_text, write_tables
from synctalklip.tables.runs import aggregate, load_run, parts_of
from synctalklip.tables.table import Layout, build_tables, markdown_table

COLUMNS = {metric.key: metric for metric in choose(None, ["WER"])} | {
    metric.key: metric for metric in choose(["readers.clip", "readers.cer"], ["WER"])
}
ROWS = [
    {"id": "a", "frames": 10, "psnr_face": 30.0, "lse_d": 1.0, "WER.word_errors": 1, "WER.words": 1},
    {"id": "b", "frames": 30, "psnr_face": 20.0, "lse_d": 2.0, "WER.word_errors": 0, "WER.words": 9},
]
SYNCNET = {"name": "SyncNet (small, trained on toy)", "sha256": "x", "protocol": "face_crop", "ends": "overlap"}


def layout(**changes) -> Layout:
    settings = {
        "title": "", "columns": None, "rows": None, "intervals": False, "against": None, "permutations": 100
    } | changes  # fmt: skip
    return Layout(**settings)


def cells(table: str, name: str) -> list[str]:
    """The row of a method in a Markdown table."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_aggregation_by_hand(tmp_path):
    run = write_run(tmp_path / "run", ROWS, readers=READERS)
    assert aggregate(run, COLUMNS["psnr_face"]) == pytest.approx((10 * 30 + 30 * 20) / 40)
    assert aggregate(run, COLUMNS["lse_d"]) == pytest.approx(1.5)
    assert aggregate(run, COLUMNS["WER"]) == pytest.approx(0.1)
    assert aggregate(run, COLUMNS["WER.clip"]) == pytest.approx((1 / 1 + 0 / 9) / 2)
    assert math.isnan(aggregate(run, COLUMNS["lse_c"]))


def test_infinite_psnr_is_shown_only_when_all_clips_are(tmp_path):
    some = write_run(tmp_path / "some", [dict(ROWS[0], psnr_face="inf"), ROWS[1]])
    assert aggregate(some, COLUMNS["psnr_face"]) == 20
    every = write_run(tmp_path / "all", [dict(row, psnr_face="inf") for row in ROWS])
    assert math.isinf(aggregate(every, COLUMNS["psnr_face"]))
    assert "∞" in markdown_table([every], samples=10, seed=1)


def test_clip_without_transcript_counts_in_no_rate(tmp_path):
    rows = [*ROWS, {"id": "c", "frames": 5, "lse_d": 1.0, "WER.word_errors": "", "WER.words": ""}]
    assert aggregate(write_run(tmp_path / "run", rows, readers=READERS), COLUMNS["WER"]) == pytest.approx(0.1)


def test_bootstrap_is_deterministic_and_covers():
    rng = np.random.default_rng(0)

    def interval(values, samples, seed):
        return bootstrap(Parts.of(values, np.ones(len(values))), samples, seed)

    values = rng.normal(3, 1, 50)
    assert interval(values, 500, 1) == interval(values, 500, 1) != interval(values, 500, 2)
    assert interval(np.full(9, 2.0), 100, 1) == (2.0, 2.0)
    covered = 0
    for _ in range(200):
        low, high = interval(rng.normal(3, 1, 50), 300, 1)
        covered += low <= 3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_paired_difference_is_tighter_than_the_rows():
    rng = np.random.default_rng(3)
    level, ones = rng.normal(8, 2, 40), np.ones(40)
    ours, theirs = Parts.of(level - 0.5 + 0.01 * rng.random(40), ones), Parts.of(level, ones)
    difference, low, high = paired_difference(ours, theirs, 300, seed=1)
    assert low <= difference <= high < 0
    values = bootstrap(theirs, 300, seed=1)
    assert high - low < 0.5 * (values[1] - values[0])


def test_permutations_of_few_clips_are_counted_out():
    # Three clips, all better by 1: of the 8 exchanges only none and all give a difference as large.
    ones = np.ones(3)
    assert permutation_test(Parts.of(np.full(3, 2.0), ones), Parts.of(ones, ones), 100, seed=1) == 2 / 8


def test_equal_methods_are_told_apart_no_more_often_than_by_chance():
    rng = np.random.default_rng(5)
    ones = np.ones(20)
    pairs = [(Parts.of(rng.normal(size=20), ones), Parts.of(rng.normal(size=20), ones)) for _ in range(200)]
    found = [permutation_test(*pair, permutations=200, seed=1) < 0.05 for pair in pairs]
    assert 0.01 <= np.mean(found) <= 0.1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


def test_table_has_arrows_counts_bold_and_judges(tmp_path):
    infinite = [dict(row, lse_d=0.5, psnr_face="inf") for row in ROWS]
    runs = [
        write_run(tmp_path / "gt", infinite, "Ground truth", "ground_truth", syncnet=SYNCNET),
        write_run(tmp_path / "still", [dict(row, lse_d=3) for row in ROWS], "Still", "still_mouth", syncnet=SYNCNET),
        write_run(tmp_path / "ours", ROWS, "ours", syncnet=SYNCNET),
    ]
    table = markdown_table(runs, samples=50, seed=1)
    head = table.splitlines()[0]
    assert "PSNR face ↑" in head
    assert "LSE-D ↓" in head
    assert cells(table, "Ground truth")[1:] == ["2", "∞", "0.500 [0.500, 0.500]"]
    assert cells(table, "Still")[-1] == "3.000 [3.000, 3.000]"
    assert cells(table, "ours")[-1] == "**1.500** [1.000, 2.000]"
    assert "SyncNet (small, trained on toy) (x), protocol face_crop, ends overlap" in table
    assert "2 clips, 40 frames" in table


def test_every_reader_is_a_column_with_its_own_footnote(tmp_path):
    readers = READERS | {"WER3": {"name": "conformer", "sha256": "c", "decoding": "forced", "beam": 1}}
    rows = [row | {"WER3.words": 4, "WER3.word_errors": 1} for row in ROWS]
    table = markdown_table([write_run(tmp_path / "run", rows, readers=readers)], samples=10, seed=1)
    head = table.splitlines()[0]
    assert head.index("WER ↓ (%)") < head.index("WER3 ↓ (%)")
    assert cells(table, "ours")[-1].startswith("25.0 [")
    (note,) = [line for line in table.splitlines() if line.startswith("- WER3:")]
    assert "conformer" in note
    assert "given the true words" in note
    assert "over 8 words" in note


def test_runs_of_one_name_are_seeds_of_one_row(tmp_path):
    runs = [
        write_run(tmp_path / f"s{seed}", [dict(row, lse_d=seed) for row in ROWS], generated_sha256=str(seed))
        for seed in (1, 2, 3)
    ]
    table = markdown_table(runs, samples=10, seed=1)
    # Mean of 1, 2, 3 and their standard deviation with n - 1.
    assert cells(table, "ours")[1:3] == ["3", "2"]
    assert cells(table, "ours")[-1] == "2.000 ± 1.000 [2.000, 2.000]"
    assert "standard deviation over seeds" in table
    with pytest.raises(MetricError, match="listed twice"):
        markdown_table([runs[0], runs[0]], samples=10, seed=1)


def test_settings_and_corpora_are_blocks(tmp_path):
    silent = [{"id": row["id"], "frames": row["frames"], "open_frames": 3, "open_counted": 10} for row in ROWS]
    runs = [
        write_run(tmp_path / "own", ROWS),
        write_run(tmp_path / "silent", silent, setting="silent"),
        write_run(tmp_path / "other", [dict(row, id=row["id"] * 2) for row in ROWS], corpus="grid"),
    ]
    table = markdown_table(runs, samples=10, seed=1)
    headings = [line.split("*")[1] for line in table.splitlines() if line.startswith("| *")]
    assert headings == ["toy", "toy, silent", "grid"]
    assert "open in silence ↓ (%)" in table
    assert "30.0 [30.0, 30.0]" in table


def test_columns_are_blank_in_settings_where_they_mean_nothing(tmp_path):
    rows = [dict(row, open_frames=3, open_counted=10) for row in ROWS]
    settings = ("reconstruction", "cross", "silent")
    runs = [write_run(tmp_path / setting, rows, setting, readers=READERS, setting=setting) for setting in settings]
    table = markdown_table(runs, samples=10, seed=1)
    assert table.startswith("| method | clips | PSNR face ↑ | LSE-D ↓ | open in silence ↓ (%) | WER ↓ (%) |")
    shown = {setting: [cell != "–" for cell in cells(table, setting)[2:]] for setting in settings}
    assert shown == {
        "reconstruction": [True, True, False, True],
        "cross": [False, True, False, True],
        "silent": [False, False, True, False],
    }


def test_judges_may_differ_between_corpora_but_not_between_settings(tmp_path):
    runs = [
        write_run(tmp_path / f"{corpus}{setting}", ROWS, corpus=corpus, setting=setting, syncnet=SYNCNET | {
            "name": f"SyncNet of {corpus}", "sha256": digest})
        for corpus, setting, digest in (("toy", "reconstruction", "1"), ("real", "reconstruction", "2"),
                                        ("toy", "cross", "2"))
    ]  # fmt: skip
    table = markdown_table(runs[:2], samples=10, seed=1)
    for corpus in ("toy", "real"):
        assert any(f"SyncNet of {corpus}" in line and line.endswith(f"({corpus}).") for line in table.splitlines())
    with pytest.raises(MetricError, match="different files as syncnet"):
        markdown_table(runs, samples=10, seed=1)


def test_published_percentages_are_given_as_printed(tmp_path):
    run = write_run(tmp_path / "x", ROWS, readers=READERS)
    entry = {"method": "T", "corpus": "toy", "source": "S", "grade": "read", "values": {"WER": 23.8}}
    tables = build_tables([run], layout(), 10, 1, read_published({"a": entry}, ["WER"]))
    assert cells(write_tables(tables, tmp_path / "t", ["md"]), "T †")[-1] == "23.8"


def test_layouts_choose_rows_columns_and_tests(tmp_path):
    better = [dict(row, lse_d=row["lse_d"] - 0.5) for row in ROWS]
    runs = [write_run(tmp_path / "a", ROWS, "a"), write_run(tmp_path / "b", better, "b")]
    main, tests = build_tables(runs, layout(columns=["lse_d"], rows=["b", "a"], against="a"), samples=50, seed=1)
    assert [row.name for _, rows in main.blocks for row in rows] == ["b", "a"]
    ((_, (row,)),) = tests.blocks
    # Two clips: 4 exchanges, of which 2 are as large.
    assert (row.name, row.cells[0].value, row.cells[0].p) == ("b", -0.5, 0.5)
    with pytest.raises(MetricError, match="no 'lse'"):
        build_tables(runs, layout(columns=["lse"]), samples=10, seed=1)
    with pytest.raises(MetricError, match="no run is named c"):
        build_tables(runs, layout(rows=["c"]), samples=10, seed=1)


def test_a_family_of_tests_is_chosen_by_its_columns(tmp_path):
    rows = [dict(row, lse_c=row["frames"] / 100) for row in ROWS]
    better = [dict(row, lse_d=row["lse_d"] - 0.5) for row in rows]
    runs = [write_run(tmp_path / "a", rows, "a"), write_run(tmp_path / "b", better, "b")]
    _, every = build_tables(runs, layout(against="a"), samples=20, seed=1)
    main, some = build_tables(runs, layout(against="a", tested=["lse_d"]), samples=20, seed=1)
    assert [column.key for column in every.columns] == ["psnr_face", "lse_d", "lse_c"]
    assert [column.key for column in main.columns] == ["psnr_face", "lse_d", "lse_c"]
    assert [column.key for column in some.columns] == ["lse_d"]
    assert any("over the 1 tests of this table" in note for note in some.notes)


def test_psnr_of_the_lower_half_is_shown_by_name_only(tmp_path):
    run = write_run(tmp_path / "a", [dict(row, psnr_lower=row["psnr_face"] - 3.01) for row in ROWS])
    (table,) = build_tables([run], layout(), 10, 1)
    assert [column.key for column in table.columns] == ["psnr_face", "lse_d"]
    (table,) = build_tables([run], layout(columns=["psnr_lower"]), 10, 1)
    assert [column.label for column in table.columns] == ["PSNR lower"]


def test_published_rows_carry_a_dagger_and_are_never_best(tmp_path):
    entry = {"method": "Other", "corpus": "toy", "source": "Paper 2020", "grade": "read", "values": {"lse_d": 0.1}}
    runs = [write_run(tmp_path / "a", ROWS, "a"), write_run(tmp_path / "b", [dict(r, lse_d=3) for r in ROWS], "b")]
    tables = build_tables(runs, layout(), 10, 1, read_published({"x": entry}, []))
    text = write_tables(tables, tmp_path / "out", ["md"])
    assert cells(text, "Other †")[-1] == "0.100"
    assert "**1.500**" in cells(text, "a")[-1]
    assert "Paper 2020; read in the source" in text
    with pytest.raises(MetricError, match="'lsed'"):
        read_published({"x": entry | {"values": {"lsed": 1}}}, [])
    with pytest.raises(MetricError, match="grade"):
        read_published({"x": entry | {"grade": "rumour"}}, [])


def test_published_files_that_ship_are_read_side_by_side():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("table", ["run.dir=x", "published=[lrs2,lrs3]"])
    rows = read_published(OmegaConf.to_container(cfg.published), [])
    assert {row.corpus for row in rows} == {"lrs2", "lrs3"}
    assert [dict(row.values) for row in rows if row.method == "Wav2Lip (reproduced)"] == [
        {"lse_c": 6.77, "lse_d": 7.15}, {"lse_c": 7.15, "lse_d": 7.0},
    ]  # fmt: skip


def test_missing_clips_are_counted_and_win_nothing(tmp_path):
    whole = write_run(tmp_path / "whole", ROWS, "whole")
    part = write_run(tmp_path / "part", [dict(ROWS[0], lse_d=0.1)], "part", missing=["b"])
    table = markdown_table([whole, part], samples=10, seed=1)
    assert "part (toy): 1 of 2 clips are missing or unreadable (b)" in table
    assert "**" not in cells(table, "part")[-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"syncnet": SYNCNET | {"sha256": "2"}}, "different files as syncnet"),
        ({"syncnet": SYNCNET | {"protocol": "whole_frame"}}, "different protocol"),
        ({"protocol": "another"}, "differ in protocol"),
        ({"split": "valid"}, "differ in split"),
        ({"readers": {"WER": READERS["WER"] | {"beam": 5}}}, "different beam"),
    ],
)
def test_runs_that_were_measured_otherwise_are_refused(tmp_path, changes, reason):
    first = write_run(tmp_path / "first", ROWS, "first", syncnet=SYNCNET, readers=READERS)
    other = write_run(tmp_path / "other", ROWS, **({"syncnet": SYNCNET, "readers": READERS} | changes))
    with pytest.raises(MetricError, match=reason):
        markdown_table([first, other], samples=10, seed=1)


def test_other_clips_and_damaged_folders_are_named(tmp_path):
    whole, part = write_run(tmp_path / "whole", ROWS), write_run(tmp_path / "part", ROWS[:1], "part")
    with pytest.raises(MetricError, match="part lacks clip b"):
        markdown_table([whole, part], samples=10, seed=1)
    with pytest.raises(MetricError, match="run scripts/evaluate"):
        load_run(tmp_path / "nowhere")
    (part.path / "summary.json").write_text('{"name": "x", "kind": "y", "corpus": "z", "split": "test"}')
    with pytest.raises(MetricError, match="does not say 'setting'"):
        load_run(part.path)
    with pytest.raises(MetricError, match="2 were evaluated"):
        write_run(tmp_path / "cut", ROWS[:1], clips=2)
    with pytest.raises(MetricError, match="at least one run"):
        markdown_table([], samples=10, seed=1)


def test_latex_escapes_and_csv_keeps_every_digit(tmp_path):
    assert latex_text("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"
    column = Column("WER", False, 1, percent=True)
    table = Table("T_1", "method", ("clips",), (column,), (("", (Row("a_b", ("2",), (Cell(1 / 3, bold=True),)),)),), ())
    text = latex(table)
    assert r"\textbf{33.3}" in text
    assert r"a\_b & 2 &" in text
    assert r"\toprule" in text
    (row,) = csv.DictReader(io.StringIO(comma_separated(table)))
    assert float(row["WER (%)"]) == pytest.approx(100 / 3, abs=1e-12)
    write_tables([table], tmp_path / "t", ["md", "tex", "csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.md", "t.tex"]
    with pytest.raises(MetricError, match="'html'"):
        write_tables([table], tmp_path / "t", ["html"])


def test_parts_follow_the_order_of_the_clips(tmp_path):
    run = write_run(tmp_path / "run", ROWS)
    assert parts_of([run], COLUMNS["lse_d"], ["b", "a", "c"]).numerator.tolist() == [[2.0, 1.0, 0.0]]
    assert json.loads((run.path / "summary.json").read_text())["clips"] == 2


@pytest.mark.parametrize("kind", ["ground_truth", "generator"])
def test_a_run_counts_once_whatever_its_path(tmp_path, kind):
    write_run(tmp_path / "a" / "seed1", ROWS, kind=kind)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    runs = [load_run(tmp_path / name / "seed1") for name in ("a", "b")]
    with pytest.raises(MetricError, match="is listed twice as 'ours'"):
        markdown_table(runs, samples=10, seed=1)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("clips.csv", b"\xff\xfe"),
        ("clips.csv", b"id,frames\na,1,2,3\nb,1"),
        ("clips.csv", b"frames\n1\n2"),
        ("summary.json", b"[1]"),
        ("summary.json", b"[" * 100_000),
        ("summary.json", b"\xff"),
    ],
)
def test_damaged_evaluations_are_named(tmp_path, file, content):
    write_run(tmp_path / "run", ROWS)
    (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(MetricError, match=r"run.* (holds no finished evaluation|damaged|different clips)"):
        load_run(tmp_path / "run")


def test_a_value_that_is_no_number_is_named(tmp_path):
    run = write_run(tmp_path / "run", [{**ROWS[0], "psnr_face": "much"}, ROWS[1]])
    with pytest.raises(MetricError, match=r"clips\.csv: psnr_face of clip a is 'much', no number"):
        run.column("psnr_face")
