"""Tables, and how they are written in the terminal, Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Rich
from rich.text import Text

from harness.errors import visible
from harness.store.files import disk_errors, write_atomic

MISSING = "-"


@dataclass(frozen=True)
class Lines:
    """The text of a table cell with further, smaller lines below."""

    main: str
    sub: str = ""


CellText = str | Lines


@dataclass(frozen=True)
class Table:
    """A formatted table. rows: as many cells as headers; a row of one cell is a heading for the rows after it.

    rules: indices of rows with a line above. data: the tidy numbers, for the CSV file. more: tables to be shown below it.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[CellText, ...], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    more: tuple[Table, ...] = ()
    words: bool = False
    """Mostly text: columns align to the left."""


def split(cell: CellText) -> tuple[str, str]:
    """A cell's main text and its smaller lines."""
    return (cell.main, cell.sub) if isinstance(cell, Lines) else (cell, "")


def number(value: float, places: int) -> str:
    """A number with fixed decimals, without negative zero."""
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text


def percent(share: float) -> str:
    """A relative difference with its sign, as "+6%", "-0.3%" or "0%"; "" for one above 1000 %, where a percentage says nothing."""
    size = abs(100 * share)
    if not size <= 1000:
        return ""
    places = 0 if size >= 0.95 else 1 if size >= 0.095 else 2
    text = number(100 * share, places)
    return f"{'' if float(text) == 0 or text.startswith('-') else '+'}{text if float(text) else '0'}%"


def signed(value: float, places: str = ".3g") -> str:
    """A difference with its sign and the format `places` (".0%" for a percentage); zero, also after rounding, has no sign."""
    text = format(value, "+" + places)
    return text[1:] if not float(text.rstrip("%")) else text


def p_text(n: float, p: float | None) -> str:
    """The p value of a difference of n seeds, None where they allow no test."""
    if p is None:
        return "one seed: not tested" if n < 2 else "equal in all seeds: not tested"
    return f"p = {p:.2g}" if p >= 1e-12 else "p < 1e-12"


def decimals(values: Iterable[float]) -> int:
    """Decimals with which the smallest of the values keeps three significant digits; 0 to 4, and 2 without values."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    return min(4, max(0, 2 - math.floor(math.log10(min(sizes))))) if sizes else 2


def terminal(table: Table) -> Group:
    """The table for rich; smaller lines follow the main text of a cell."""
    drawn = Rich(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(table.headers):
        drawn.add_column(Text(header), justify="left" if i == 0 or table.words else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        if index in table.rules:
            drawn.add_section()
        if len(row) == 1:
            drawn.add_row(Text(split(row[0])[0], "bold"), *[""] * (len(table.headers) - 1))
            continue
        drawn.add_row(*map(_rich_text, row))
    parts: list[RenderableType] = [Text(table.title, "bold"), drawn, *(Text(f"  {note}", "dim") for note in table.notes)]
    for other in table.more:
        parts += [Text(""), terminal(other)]
    return Group(*parts)


def _rich_text(cell: CellText) -> Text:
    main, sub = split(cell)
    return Text.assemble(main, ("\n" + sub, "dim")) if sub else Text(main)


def markdown(table: Table) -> str:
    """GitHub's Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{pretty(table.title)}**", "", line([pretty(header) for header in table.headers])]
    lines.append("|---|" + ("---|" if table.words else "---:|") * (len(table.headers) - 1))
    for row in table.rows:
        if len(row) == 1:
            lines.append(line([f"**{split(row[0])[0]}**", *[""] * (len(table.headers) - 1)]))
            continue
        pairs = [split(cell) for cell in row]
        lines.append(line([pretty("<br>".join([main, *sub.splitlines()])) for main, sub in pairs]))
    text = "\n".join(lines) + "\n" + "".join(f"\n- {pretty(note)}" for note in table.notes) + ("\n" if table.notes else "")
    return "\n".join([text, *map(markdown, table.more)])


def pretty(text: str) -> str:
    """The text with typographic signs."""
    for plain, sign in (("x100", "×100"), ("+-", "±"), ("|x - z|^2", "‖x − z‖²"), ("<=", "≤")):
        text = text.replace(plain, sign)
    return re.sub(r"\bmu\b", "μ", text)


_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%_#${}"},
        **{"~": r"\textasciitilde{}", "^": r"\^{}", "\\": "/", "−": "--", "<": r"$<$", ">": r"$>$"},
        **{"μ": r"$\mu$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\le$", "⟨": r"$\langle$", "⟩": r"$\rangle$"},
    }
)


def latex_text(text: str) -> str:
    """Plain text with LaTeX's special characters escaped."""
    parts = (part.translate(_LATEX) for part in pretty(text).split("‖x − z‖²"))
    return r"$\|x-z\|^2$".join(parts).encode("ascii", "replace").decode()


def latex(table: Table) -> str:
    """A table environment: the title as caption, a booktabs tabular, the notes below. Needs booktabs, and makecell for smaller lines."""
    columns = "l" + ("l" if table.words else "r") * (len(table.headers) - 1)
    body = []
    for index, row in enumerate(table.rows):
        if index in table.rules or (len(row) == 1 and index):
            body.append(r"\midrule")
        if len(row) == 1:
            body.append(rf"\multicolumn{{{len(table.headers)}}}{{l}}{{\textit{{{latex_text(split(row[0])[0])}}}}} \\")
            continue
        body.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
    notes = [rf"  \par\smallskip\raggedright\footnotesize {latex_text(note.rstrip('.'))}." for note in table.notes]
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        rf"  \caption{{{latex_text(table.title.rstrip('.'))}.}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        rf"    {' & '.join(map(latex_text, table.headers))} \\",
        r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(["\n".join(lines) + "\n", *map(latex, table.more)])


def _latex_cell(cell: CellText) -> str:
    main, sub = split(cell)
    small = "".join(rf"\\ {{\scriptsize {latex_text(line)}}}" for line in sub.splitlines())
    return rf"\makecell[r]{{{latex_text(main)}{small}}}" if small else latex_text(main)


def printed(text: str) -> bytes:
    """The bytes of a file that a person reads: control characters of records and file names as escapes."""
    return visible(text).encode()


def write(table: Table, folder: Path) -> list[Path]:
    """Writes folder/<name>.md, .tex and .csv, each atomically, and returns their paths."""
    with disk_errors(folder, "create a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "tex": latex(table), "csv": table.data.to_csv(index=False)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_atomic(paths[-1], printed(text), durable=False)
    return paths
