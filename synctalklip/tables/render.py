"""Tables as Markdown, LaTeX (booktabs) and CSV: numbers in, text out; nothing is measured here.

Marks mean one thing each: bold is the best generated row of its column and block, a star a difference with p < 0.05, a
dagger a row that was printed elsewhere; `TWIN` and `PAST` say of a value that its judge may be fooled.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_text
from synctalklip.data.encode import write_bytes
from synctalklip.errors import MetricError

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "∞": r"$\infty$", "±": r"$\pm$", "≤": r"$\leq$", "−": r"$-$", "–": "--", "†": r"$\dagger$",
    "‡": r"$\ddagger$", "§": r"\S{}",
    "[": "{[}", "*": "{*}",  # both would be arguments of the line break before a row
}  # fmt: skip

TWIN, PAST = "‡", "§"
"""Marks of a value whose judge has the structure and the training clips of what taught the model, and of one that is
better than the recordings'."""
SIGNIFICANT = 0.05
"""p values below it get a star."""


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        label: heading without the arrow.
        higher_is_better: direction of the arrow.
        digits: decimals printed.
        percent: values are shares; they are printed times 100.
        signed: print a plus before positive numbers.
        key: its name in configs.
    """

    label: str
    higher_is_better: bool
    digits: int
    percent: bool = False
    signed: bool = False
    key: str = ""

    @property
    def unit(self) -> str:
        return " (%)" if self.percent else ""

    @property
    def heading(self) -> str:
        return f"{self.label} {'↑' if self.higher_is_better else '↓'}{self.unit}"

    def number(self, value: float) -> str:
        """A value as it is printed."""
        if math.isnan(value):
            return "–"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        text = f"{self.scaled(value):{'+' if self.signed else ''}.{self.digits}f}"
        return text.replace("-", "−")

    def scaled(self, value: float) -> float:
        return 100 * value if self.percent else value


@dataclass(frozen=True)
class Cell:
    """A value and what is known about it; NaN stands for what is not."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    p: float = math.nan
    bold: bool = False
    mark: str = ""

    @property
    def star(self) -> str:
        """Of a difference that chance hardly gives."""
        return "*" if self.p < SIGNIFICANT else ""

    def deviation(self, column: Column) -> str:
        """The standard deviation as it is printed; empty where there is none."""
        return "" if math.isnan(self.spread) else f"± {column.scaled(self.spread):.{column.digits}f}"

    def certainty(self, column: Column) -> str:
        """Interval and p value as they are printed; empty where there are none."""
        texts = []
        if not math.isnan(self.low) and not math.isnan(self.value):
            texts.append(f"[{column.number(self.low)}, {column.number(self.high)}]")
        if not math.isnan(self.p):
            texts.append("p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}")
        return " ".join(texts)


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        name: first column.
        counts: texts of the columns between name and numbers.
        cells: one a column.
        source: where a published row was printed; empty for measured ones.
    """

    name: str
    counts: tuple[str, ...]
    cells: tuple[Cell, ...]
    source: str = ""

    @property
    def label(self) -> str:
        return f"{self.name} †" if self.source else self.name


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: caption.
        first: heading of the names.
        counts: headings of the texts.
        columns: of the numbers.
        blocks: heading (empty for a table of one block) and rows.
        notes: footnotes.
    """

    title: str
    first: str
    counts: tuple[str, ...]
    columns: tuple[Column, ...]
    blocks: tuple[tuple[str, tuple[Row, ...]], ...]
    notes: tuple[str, ...]


def bullets(notes: Iterable[str]) -> str:
    """The notes below a table, as Markdown."""
    return "\n".join(f"- {note}" for note in notes)


def pipe_table(header: Sequence[str], rows: Iterable[Sequence[str]], padded: bool = False) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    Args:
        header: headings.
        rows: cells; a bar or a line break inside a cell does not end it.
        padded: give all cells of a column one width, for a terminal.
    """
    lines = [[" ".join(cell.replace("|", r"\|").splitlines()) for cell in row] for row in (header, *rows)]
    # GitHub asks for three dashes.
    widths = [max(3, *map(len, column)) if padded else 3 for column in zip(*lines)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    if padded:
        lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in lines]
    return "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in (lines[0], rule, *lines[1:])
    )


def markdown(table: Table) -> str:
    """Pipe table with its title above and its footnotes below."""
    header = [table.first, *table.counts, *(column.heading for column in table.columns)]
    lines = []
    for heading, rows in table.blocks:
        if heading:
            lines.append([f"*{heading}*", *[""] * (len(header) - 1)])
        for row in rows:
            cells = [_markdown_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
            lines.append([row.label, *row.counts, *cells])
    parts = [table.title, pipe_table(header, lines), bullets(table.notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_cell(cell: Cell, column: Column) -> str:
    text = column.number(cell.value) + cell.star.replace("*", r"\*") + cell.mark
    value = f"**{text}**" if cell.bold else text
    return " ".join(filter(None, [value, cell.deviation(column), cell.certainty(column)]))


def latex_text(text: str) -> str:
    """Text in which nothing is a command."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(table: Table) -> str:
    """A `table` environment; it needs the packages booktabs and graphicx, and shrinks to the width of the page.

    Intervals stand below the values. "Table 1:" in front of a title is left to LaTeX, which numbers by itself.
    """
    header = [table.first, *table.counts, *(column.heading for column in table.columns)]
    lines = [r"\begin{table}[t]", r"\centering"]
    caption = re.sub(r"^Table \d+: ", "", table.title)
    lines += [rf"\caption{{{latex_text(caption)}}}"] if caption else []
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(latex_text, header)) + r" \\"]
    for heading, rows in table.blocks:
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\textit{{{latex_text(heading)}}}}} \\")
        for row in rows:
            lines += _latex_row(row, table.columns)
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
    lines += [latex_text(note) + r"\par" for note in table.notes]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table}"]) + "\n"


def _latex_row(row: Row, columns: Sequence[Column]) -> list[str]:
    """A line of values and, where there are any, a line of intervals."""
    values = [latex_text(text) for text in (row.label, *row.counts)]
    below = [""] * len(values)
    for cell, column in zip(row.cells, columns, strict=True):
        value, beside = (
            latex_text(column.number(cell.value) + cell.star + cell.mark),
            latex_text(cell.deviation(column)),
        )
        value = rf"\textbf{{{value}}}" if cell.bold else value
        values.append(f"{value} {beside}".rstrip())
        certainty = latex_text(cell.certainty(column))
        below.append(rf"{{\scriptsize {certainty}}}" if certainty else "")
    return [" & ".join(line) + r" \\" for line in (values, below) if any(line)]


def comma_separated(table: Table) -> str:
    """Full precision in the printed unit; low, high, sd and p stand in columns of their own where there are any."""
    rows = [(heading, row) for heading, rows in table.blocks for row in rows]
    sourced = any(row.source for _, row in rows)
    fields = []
    for index, column in enumerate(table.columns):
        cells = [row.cells[index] for _, row in rows]
        for name, suffix in (("value", ""), ("low", " low"), ("high", " high"), ("spread", " sd"), ("p", " p")):
            if name == "value" or any(not math.isnan(getattr(cell, name)) for cell in cells):
                unit = "" if name == "p" else column.unit
                fields.append((index, name, f"{column.label}{suffix}{unit}"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["block", table.first, *table.counts, *(title for _, _, title in fields)]
    writer.writerow([*head, "source"] if sourced else head)
    for heading, row in rows:
        values = [_csv_number(getattr(row.cells[i], name), table.columns[i], name) for i, name, _ in fields]
        line = [heading, row.name, *row.counts, *values]
        writer.writerow([*line, row.source] if sourced else line)
    return text.getvalue()


def _csv_number(value: float, column: Column, name: str) -> str:
    if math.isnan(value):
        return ""
    return repr(float(value if name == "p" else column.scaled(value)))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write records as CSV with the columns of all of them in the order of first use; none give an empty file."""
    rows, text = list(rows), io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if rows:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_tables(tables: Sequence[Table], stem: str | Path, formats: Sequence[str]) -> str:
    """Write tables to `<stem>.md`, `<stem>.tex` and `<stem>.csv`; the CSV of a second table is `<stem>_2.csv`.

    Args:
        tables: in order.
        stem: path without its ending.
        formats: of md, tex, csv.

    Returns:
        The Markdown.

    Raises:
        MetricError: an unknown format.
    """
    unknown = [name for name in formats if name not in ("md", "tex", "csv")]
    if unknown:
        raise MetricError(f"formats: {unknown[0]!r} is unknown; choose from md, tex, csv")
    text = "\n".join(markdown(table) for table in tables)
    files: dict[str, str] = {}
    if "md" in formats:
        files[".md"] = text
    if "tex" in formats:
        files[".tex"] = "% Needs \\usepackage{booktabs,graphicx}.\n" + "\n".join(latex(table) for table in tables)
    if "csv" in formats:
        files |= {f"_{i}.csv" if i > 1 else ".csv": comma_separated(table) for i, table in enumerate(tables, 1)}
    for ending, content in files.items():
        write_text(f"{stem}{ending}", content)
    return text
