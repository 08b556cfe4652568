"""`harness measure`: a study, or one finished run; its numbers in the terminal, as CSV, and drawn."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from harness.reporting import measured
from harness.studies.common import Row, Setting, verdict

MOST_ROWS = 60
"""Rows of one quantity beyond which the terminal gets the count alone."""


def run_study(name: str, setting: Setting, console: Console) -> int:
    """One of STUDIES: measured, shown, written, drawn. Returns the exit code 0: a number that differs from theory is a result."""
    started = time.monotonic()
    rows = importlib.import_module(f"harness.studies.{name}").measure(setting)
    return _deliver(name, rows, setting, console, time.monotonic() - started)


def run_one(folder: Path, what: Sequence[str], setting: Setting, console: Console) -> int:
    """`what` ("discrepancy", "transport", "proxy") of one finished run."""
    from harness import finished
    from harness.store import RunFolder
    from harness.studies import one

    started = time.monotonic()
    found = finished.load(RunFolder(folder), setting.device, torch.float32)
    rows = one.measure(found, what, setting)
    return _deliver(f"run-{found.run.id}", rows, setting, console, time.monotonic() - started)


def _deliver(name: str, rows: Sequence[Row], setting: Setting, console: Console, seconds: float) -> int:
    path = measured.write(setting.store.root, setting.scale, name, rows)
    show(rows, console, f"{name}, {setting.scale} scale, measured in {seconds:.0f} s on {setting.device}")
    console.print(f"Written: {path}", soft_wrap=True, highlight=False)
    for drawn in _draw(path, setting):
        console.print(f"Figure:  {drawn}.pdf, .png, .csv", soft_wrap=True, highlight=False)
    return 0


def _draw(path: Path, setting: Setting) -> list[Path]:
    from harness.reporting.drawing import draw_all
    from harness.reporting.figures_measured import measured_figures

    rows = measured.read_file(path, setting.scale)
    folder = setting.store.root / "figures"
    return [folder / drawn.name for drawn in draw_all(measured_figures(rows, setting.scale), folder)]


def show(rows: Sequence[Row], console: Console, title: str) -> None:
    """quantity, estimate +- error, truth, verdict."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("quantity", "of", "at", "estimate", "truth", "verdict"):
        table.add_column(header, justify="right" if header in ("at", "estimate", "truth") else "left")
    counts: dict[str, int] = {}
    for found in rows:
        counts[found["quantity"]] = counts.get(found["quantity"], 0) + 1
    for found in rows:
        if counts[found["quantity"]] <= MOST_ROWS:
            table.add_row(*_cells(found))
    if table.rows:
        console.print(table)
    for quantity, count in counts.items():
        if count > MOST_ROWS:
            console.print(f"{quantity}: {count:,} rows, in the file", highlight=False)


def _cells(found: Row) -> list[str]:
    who = " ".join(str(found[key]) for key in ("data", "coupling", "case") if found.get(key))
    at = f"{found['x']:g}" if found.get("x") is not None else ""
    numbers = _number(found["value"], found.get("se")), _number(found.get("truth"), found.get("truth_se"))
    return [found["quantity"], who, at, *numbers, verdict(found)]


def _number(value: float | None, se: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.5g}" + (f" ± {se:.2g}" if se and not math.isnan(se) else "")

