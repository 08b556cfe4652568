"""`harness measure`: a study, or one finished run; its numbers in the terminal, as CSV, and drawn."""

from __future__ import annotations

import contextlib
import importlib
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from harness.config import experiments
from harness.errors import HarnessError
from harness.locations import project_root
from harness.reporting import paper_values
from harness.store import measurements
from harness.store.runs import RunFolder
from harness.theory.studies.common import Row, Setting, verdict

MOST_ROWS = 60
"""Rows of one quantity beyond which the terminal gets the count alone."""
HEADERS = ("quantity", "of", "at", "estimate", "truth", "verdict")
WIDTH = 110
"""Columns of the table where the output is no terminal."""


def run_study(name: str, setting: Setting, console: Console) -> int:
    """One of STUDIES: measured, shown, written, drawn. Returns the exit code 0: a number that differs from theory is a result.

    A study may name the SCALE that its numbers belong to whatever scale is asked for. Raises HarnessError, with the command that makes
    them, when runs are missing.
    """
    started = time.monotonic()
    study = importlib.import_module(f"harness.theory.studies.{name}")
    setting = replace(setting, mend=sweep_command(name, setting))
    check_done(name, setting)
    scale = getattr(study, "SCALE", setting.scale)
    if scale != setting.scale:
        told = f"{name} is the same at every scale: its numbers and figures are those of the {scale} scale"
        console.print(told, soft_wrap=True, highlight=False)
        setting = replace(setting, scale=scale)
    with _without_notices():
        rows = study.measure(setting)
    return _deliver(name, Path(), rows, setting, console, time.monotonic() - started)


def run_one(folder: Path, what: Sequence[str], setting: Setting, console: Console) -> int:
    """`what` ("discrepancy", "transport", "proxy") of one finished run; numbers and figures go to folders of its own."""
    from harness.theory.studies import single_run
    from harness.training import trained_runs

    started = time.monotonic()
    single_run.check(what)
    found = trained_runs.load(RunFolder(folder), setting.device, torch.float32)
    with _without_notices():
        rows = single_run.measure(found, what, setting)
    return _deliver(found.run.id, Path("runs"), rows, setting, console, time.monotonic() - started)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Keeps torch's notice about its own use of torch.jit.script, where it differentiates forward, out of the output."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        yield


def sweep_command(name: str, setting: Setting) -> str:
    """The command that makes the runs of a study."""
    parts = ["harness", "sweep", name, "--scale", setting.scale]
    ids = {run.id for run in setting.runs}
    seeds = sorted({run.seed for run in setting.runs})
    if ids != {run.id for run in experiments.expand(name, setting.scale)}:
        parts += ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
        if ids != {run.id for run in experiments.expand(name, setting.scale, seeds)}:
            parts.append("(and the same --set and --coupling)")
    if setting.store.root.resolve() != (project_root() / "results").resolve():
        parts += ["--results", str(setting.store.root)]
    return " ".join(parts)


def check_done(name: str, setting: Setting) -> None:
    """Raises HarnessError, with the command that makes them, when runs of a study are not done."""
    folders = [setting.store.folder(run.id) for run in setting.runs]
    missing = [folder for folder in folders if folder.result() is None]
    if missing:
        told = [f"{folder.id} is {folder.state()}" for folder in missing[:3]] + (["..."] if len(missing) > 3 else [])
        raise HarnessError(
            f"{len(missing)} of the {len(folders)} runs that {name} measures are not done",
            where=setting.store.runs,
            found="; ".join(told),
            expected="done",
            nearest=setting.mend,
        )


def _deliver(name: str, below: Path, rows: Sequence[Row], setting: Setting, console: Console, seconds: float) -> int:
    kept = [{key: value for key, value in found.items() if key != "says"} for found in rows]
    path = measurements.write(setting.store.root, setting.scale, str(below / name), kept)
    show(rows, console, f"{name}, {setting.scale} scale, measured in {seconds:.0f} s on {setting.device}")
    console.print(f"Written: {path}", soft_wrap=True, highlight=False)
    folder = setting.store.root / "figures"
    for drawn in _draw(path, setting.scale, folder / below / name if below.name else folder):
        console.print(f"Figure:  {drawn}.pdf, .png, .csv", soft_wrap=True, highlight=False)
    return 0


def _draw(path: Path, scale: str, folder: Path) -> list[Path]:
    from harness.reporting.drawing import draw_all
    from harness.reporting.figures_measured import measured_figures

    rows = measurements.read_file(path, scale)
    return [folder / drawn.name for drawn in draw_all(measured_figures(rows, scale), folder)]


def show(rows: Sequence[Row], console: Console, title: str) -> None:
    """quantity, estimate +- error, truth, verdict: a table for each data set."""
    if not console.is_terminal and console.width < WIDTH:
        console = Console(file=console.file, width=WIDTH)
    console.print(title, highlight=False)
    for data in dict.fromkeys(found["data"] for found in rows):
        _show(over_seeds([found for found in rows if found["data"] == data]), console, paper_values.data_name(data))


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Rows that differ in nothing but run and training seed as one: their mean, with the error over the seeds."""
    groups: dict[tuple, list[Row]] = {}
    for number, found in enumerate(rows):
        rest = ("quantity", "coupling", "case", "x", "t", "path", "label", "protocol")
        key = tuple(found.get(name) for name in rest) if found.get("seed") is not None else (number,)
        groups.setdefault(key, []).append(found)
    made: list[Row] = []
    for group in groups.values():
        made += [_mean(group)] if len(group) > 1 and len({found["seed"] for found in group}) == len(group) else group
    return made


def _mean(group: Sequence[Row]) -> Row:
    values = [found["value"] for found in group]
    made = group[0] | {"value": fmean(values), "se": stdev(values) / math.sqrt(len(group)), "seed": None}
    if group[0].get("truth") is not None:
        errors = [found.get("truth_se") or 0.0 for found in group]
        made |= {"truth": fmean(found["truth"] for found in group), "truth_se": math.hypot(*errors) / len(group)}
    return made | {"case": " ".join([*filter(None, [group[0].get("case")]), f"({len(group)} seeds)"])}


def _show(rows: Sequence[Row], console: Console, title: str) -> None:
    counts: dict[str, int] = {}
    for found in rows:
        counts[found["quantity"]] = counts.get(found["quantity"], 0) + 1
    cells = [_cells(found) for found in rows if counts[found["quantity"]] <= MOST_ROWS]
    used = [column for column in range(len(HEADERS)) if any(row[column] for row in cells)]
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for header in (HEADERS[column] for column in used):
        right, words = header in ("at", "estimate", "truth"), header in ("quantity", "of")
        table.add_column(header, justify="right" if right else "left", no_wrap=not words, overflow="fold")
    for row in cells:
        table.add_row(*(row[column] for column in used))
    if cells:
        console.print(table)
    for quantity, count in counts.items():
        if count > MOST_ROWS:
            console.print(f"{title}, {quantity}: {count:,} rows, in the file", highlight=False)


def _cells(found: Row) -> tuple[str, ...]:
    seed = None if found.get("seed") is None else f"s{found['seed']}"
    who = " ".join(str(part) for part in (found.get("coupling"), seed, found.get("case")) if part)
    at = f"{found['x']:g}" if found.get("x") is not None else ""
    numbers = _number(found["value"], found.get("se")), _number(found.get("truth"), found.get("truth_se"))
    return found["quantity"], who, at, *numbers, verdict(found)


def _number(value: float | None, se: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.5g}" + (f" ± {se:.2g}" if se and not math.isnan(se) else "")
