"""A table once, as text for the terminal, Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table as Rich
from rich.text import Text

from harness.store.files import write_atomic

MISSING = "-"


@dataclass(frozen=True)
class Small:
    """A cell with further, smaller lines."""

    main: str
    sub: str = ""


Shown = str | Small


@dataclass(frozen=True)
class Table:
    """rows: as many cells as headers; a row of one cell is a heading over the rows after it. rules: rows before which a line stands.

    data: the numbers behind it, tidy, for the CSV. more: tables that belong next to it but share no cell with it.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
    more: tuple[Table, ...] = ()
    words: bool = False
    """Mostly text: columns align to the left."""


def split(cell: Shown) -> tuple[str, str]:
    """A cell's main text and its smaller one."""
    return (cell.main, cell.sub) if isinstance(cell, Small) else (cell, "")


def terminal(table: Table) -> Group:
    """For rich. The second lines of cells stand below the first."""
    drawn = Rich(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(table.headers):
        drawn.add_column(Text(header), justify="left" if i == 0 or table.words else "right", overflow="fold")
    for number, row in enumerate(table.rows):
        if number in table.rules:
            drawn.add_section()
        if len(row) == 1:
            drawn.add_row(Text(split(row[0])[0], "bold"), *[""] * (len(table.headers) - 1))
            continue
        drawn.add_row(*map(_two_lines, row))
    parts = [Text(table.title, "bold"), drawn, *(Text(f"  {note}", "dim") for note in table.notes)]
    for other in table.more:
        parts += [Text(""), terminal(other)]
    return Group(*parts)


def _two_lines(cell: Shown) -> Text:
    main, sub = split(cell)
    return Text.assemble(main, ("\n" + sub, "dim")) if sub else Text(main)


def show(console: Console, table: Table) -> None:
    console.print(terminal(table))


def markdown(table: Table) -> str:
    """GitHub's Markdown; smaller lines below."""

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
    """Typographic signs where the medium has them."""
    for plain, sign in (("x100", "×100"), ("+-", "±"), ("|x - z|^2", "‖x − z‖²"), ("<=", "≤")):
        text = text.replace(plain, sign)
    return re.sub(r"\bmu\b", "μ", text)


_ESCAPES = str.maketrans({"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"})
_SIGNS = {
    "μ": r"$\mu$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "‖x − z‖²": r"$\|x-z\|^2$",
    "≤": r"$\le$",
    "<": r"$<$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
    ">": r"$>$",
    "^": r"\^{}",
    "−": "--",
}


def latex_text(text: str) -> str:
    """Plain text with what LaTeX would misread escaped."""
    text = pretty(text).replace("\\", "/").translate(_ESCAPES)
    for sign, macro in _SIGNS.items():
        text = text.replace(sign, macro)
    return text.encode("ascii", "replace").decode()


def latex(table: Table) -> str:
    """A booktabs tabular in a table environment; needs booktabs and, for second lines, makecell."""
    columns = "l" + ("l" if table.words else "r") * (len(table.headers) - 1)
    head = " & ".join(latex_text(header) for header in table.headers)
    body = []
    for number, row in enumerate(table.rows):
        if number in table.rules or (len(row) == 1 and number):
            body.append(r"\midrule")
        if len(row) == 1:
            body.append(rf"\multicolumn{{{len(table.headers)}}}{{l}}{{\textit{{{latex_text(split(row[0])[0])}}}}} \\")
            continue
        body.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        rf"  \caption{{{latex_text('. '.join([table.title, *(note.rstrip('.') for note in table.notes)]))}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        rf"    {head} \\",
        r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(["\n".join(lines) + "\n", *map(latex, table.more)])


def _latex_cell(cell: Shown) -> str:
    main, sub = split(cell)
    small = "".join(rf"\\ {{\scriptsize {latex_text(line)}}}" for line in sub.splitlines())
    return rf"\makecell[r]{{{latex_text(main)}{small}}}" if small else latex_text(main)


def write(table: Table, folder: Path) -> list[Path]:
    """folder/<name>.md, .tex and .csv, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown(table), "tex": latex(table), "csv": table.data.to_csv(index=False)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_atomic(paths[-1], text.encode(), durable=False)
    return paths
