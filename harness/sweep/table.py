"""Tables for the terminal: what all runs share is shown once in the title, what differs is a column."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.errors import printable

IN_NAME = ("data.name", "objective.kind", "coupling", "seed")
"""Parameters that the name of a run folder contains."""
STYLES = {"done": "green", "running": "cyan", "queued": "blue", "failed": "bold red", "stalled": "yellow", "blocked": "magenta"}


def is_run(parameters: Mapping[str, Any]) -> bool:
    """True for the parameters of a run, False for those of a baselines job."""
    return "train.steps" in parameters


def factored(parameters: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The parameters that all runs share, and the keys that differ and are not in a run's name. Baselines jobs are left out."""
    parameters = [values for values in parameters if is_run(values)]
    if not parameters:
        return {}, []
    keys = list(dict.fromkeys(key for values in parameters for key in values))
    first = parameters[0]
    common = {key: first[key] for key in keys if key in first and all(values.get(key) == first[key] for values in parameters)}
    return common, [key for key in keys if key not in common and key not in IN_NAME]


def title(common: Mapping[str, Any], special: Collection[str]) -> str:
    """The shared parameters as one line; those at their defaults are left out."""
    return "  ".join(f"{key}={show(value)}" for key, value in common.items() if key in special)


def show(value: object) -> str:
    """A value in a cell."""
    if isinstance(value, (list, tuple)):
        return "(" + ",".join(show(item) for item in value) + ")"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def counted(runs: int, baselines: int, detail: str = "") -> str:
    """6 runs and 1 baselines job. detail: text after the number of runs."""
    text = f"{runs} run{'' if runs == 1 else 's'}{detail}"
    return text + (f" and {baselines} baselines job{'' if baselines == 1 else 's'}" if baselines else "")


def duration(seconds: float | None) -> str:
    """Seconds as text: 4 s, 3:05, 2:00:10, 3 d 4 h."""
    if seconds is None:
        return "-"
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds >= 2 * 86400:
        return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def render(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Text:
    """An aligned table; cells that hold a state get its colour. right: headers of the columns that are aligned to the right.

    rich's own table takes half a second for 1,000 rows.
    """
    cells = [list(headers), *([printable(cell).replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    text = Text()
    for number, row in enumerate(cells):
        for header, cell, width in zip(headers, row, widths, strict=True):
            padded = cell.rjust(width) if header in right else cell.ljust(width)
            text.append(padded + "  ", "bold" if number == 0 else STYLES.get(cell))
        text.rstrip()
        text.append("\n")
    text.rstrip()
    return text


def emit(console: Console, text: Text | str) -> None:
    """Prints without wrapping or cropping, so that a pipe gets complete rows."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)
