"""Markdown, LaTeX and CSV of the same table."""

import csv
import io
import re

import pytest

from synctalklip.errors import MetricError
from synctalklip.tables.render import (
    Cell,
    Column,
    Row,
    Table,
    comma_separated,
    latex,
    latex_text,
    markdown,
    pipe_table,
    write_tables,
)

TABLE = Table(
    "Table 7: A & B_1, 95 % of $x",
    "method",
    ("clips",),
    (Column("LSE_D", False, 3), Column("WER", False, 1, percent=True)),
    (
        (
            "toy|x, cross",
            (Row("Ours_1 & co", ("7",), (Cell(1.2345, 1.0, 1.5, bold=True), Cell(0.1234, spread=0.005))),),
        ),
        ("real", (Row("[Theirs]", ("–",), (Cell(float("inf")), Cell()), source="A. Author, 2020"),)),
    ),
    ("100 % of it.",),
)


def test_markdown_by_hand():
    assert markdown(TABLE) == (
        "Table 7: A & B_1, 95 % of $x\n\n"
        "| method | clips | LSE_D ↓ | WER ↓ (%) |\n| --- | --: | --: | --: |\n"
        "| *toy\\|x, cross* | | | |\n| Ours_1 & co | 7 | **1.234** [1.000, 1.500] | 12.3 ± 0.5 |\n"
        "| *real* | | | |\n| [Theirs] † | – | ∞ | – |\n\n- 100 % of it.\n"
    )


def test_pipe_tables_keep_their_cells_and_can_be_padded():
    rows = [["a|b", "1"], ["two\nlines", "22"]]
    assert pipe_table(["name", "n"], rows) == "| name | n |\n| --- | --: |\n| a\\|b | 1 |\n| two lines | 22 |"
    assert pipe_table(["name", "n"], rows, padded=True).splitlines() == [
        "| name      |   n |", "| --------- | --: |", "| a\\|b      |   1 |", "| two lines |  22 |",
    ]  # fmt: skip


def test_a_star_says_that_a_difference_is_no_chance_and_bold_that_a_row_is_best():
    column = Column("x", True, 1, signed=True)
    cells = (Cell(1.0, 0.5, 1.5, p=0.049), Cell(1.0, bold=True), Cell(1.0, p=0.05))
    table = Table("", "method", (), (column,) * 3, (("", (Row("a", (), cells),)),), ())
    row = markdown(table).splitlines()[2]
    assert row == r"| a | +1.0\* [+0.5, +1.5] p = 0.049 | **+1.0** | +1.0 p = 0.050 |"
    assert r"+1.0{*} & \textbf{+1.0} & +1.0" in latex(table)


def test_latex_escapes_and_is_balanced():
    text = latex(TABLE)
    assert r"\caption{A \& B\_1, 95 \% of \$x}" in text  # LaTeX numbers by itself
    assert r"method & clips & LSE\_D $\downarrow$ & WER $\downarrow$ (\%) \\" in text
    assert r"Ours\_1 \& co & 7 & \textbf{1.234} & 12.3 $\pm$ 0.5 \\" in text
    assert r" &  & {\scriptsize {[}1.000, 1.500]} &  \\" in text
    assert r"{[}Theirs] $\dagger$ & -- & $\infty$ & -- \\" in text
    assert r"\multicolumn{4}{l}{\textit{toy|x, cross}} \\" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "tabular", "minipage"]
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "minipage", "table"]
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {3}


def test_latex_text_has_no_command_left():
    assert latex_text("a_b & 5 % #1 {x} ~ ^ \\ < ±") == (
        r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} $<$ $\pm$"
    )


def test_csv_keeps_full_precision_in_the_printed_unit():
    first, second = csv.DictReader(io.StringIO(comma_separated(TABLE)))
    assert list(first) == ["block", "method", "clips", "LSE_D", "LSE_D low", "LSE_D high", "WER (%)", "WER sd (%)",
                           "source"]  # fmt: skip
    assert (float(first["LSE_D"]), float(first["WER (%)"])) == pytest.approx((1.2345, 12.34))
    assert (first["block"], first["WER sd (%)"], first["source"]) == ("toy|x, cross", "0.5", "")
    assert (second["LSE_D"], second["WER (%)"], second["source"]) == ("inf", "", "A. Author, 2020")


def test_signs_and_small_p_values():
    column = Column("x", True, 2, signed=True)
    assert [column.number(value) for value in (0.5, -0.5, float("-inf"))] == ["+0.50", "−0.50", "−∞"]
    assert Cell(0.5, 0.1, 0.6, p=0.0004).certainty(column) == "[+0.10, +0.60] p < 0.001"
    assert Cell(0.5, spread=0.25).deviation(column) == "± 0.25"


def test_files_are_written_in_the_wanted_formats(tmp_path):
    text = write_tables([TABLE, TABLE], tmp_path / "new" / "table", ["md", "csv"])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"table.md", "table.csv", "table_2.csv"}
    assert (tmp_path / "new" / "table.md").read_text() == text
    with pytest.raises(MetricError, match="'docx' is unknown; choose from md, tex, csv"):
        write_tables([TABLE], tmp_path / "table", ["docx"])
