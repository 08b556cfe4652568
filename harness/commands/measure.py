"""`harness measure`: measures a study or a finished run, prints its numbers, writes them as CSV, and draws its figures."""

from __future__ import annotations

import contextlib
import importlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from harness.config.identity import short_hash
from harness.console import Console
from harness.errors import HarnessError
from harness.reporting import paper_values, printing
from harness.stats.intervals import Interval
from harness.stats.measured import Number, Sample, measured_difference, measured_mean
from harness.stats.uncertainty import combined_error, errors_away, plus_minus
from harness.store import feature_measurements, measurements
from harness.store.measurements import MeasurementRow
from harness.store.runs import RunFolder
from harness.sweep.table import emit
from harness.theory.studies import STUDIES, single_run
from harness.theory.studies.common import StudyContext, judged, verdict
from harness.training import trained_runs

HOW_TO_READ = (
    "estimate ± its Monte-Carlo standard error; over seeds: mean [95 % interval], from the spread over seeds and the Monte-Carlo error. "
    "se: distance from the true value in standard errors; where few draws or seeds estimate the error, the distance that has the same "
    "probability with a known error."
)
MOST_ROWS = 60
"""If one quantity has more rows than this, the terminal shows only their number."""
MOST_LEVELS = 40
"""If the noise levels are a longer text than this, a file name has their hash instead."""
HEADERS = ("quantity", "of", "at", "estimate", "truth", "verdict")
SAME_OVER_SEEDS = ("quantity", "coupling", "case", "x", "t", "path", "label", "protocol")
"""Columns that are equal in rows of different training seeds."""


def run_study(name: str, context: StudyContext, console: Console, output: Path | None = None) -> int:
    """Measures one of STUDIES, shows and writes its rows, and draws its figures. Returns the exit code 0, also when numbers differ.

    A study with a SCALE writes its rows to that scale. Rows of other runs or noise levels than the study's own get a name of their own.
    output: where to write, by default the results folder (see `printing.output_folder`). Raises HarnessError, with the command that trains
    them, when runs are missing.
    """
    started = time.monotonic()
    place = printing.output_folder(context.store.root, output, console)
    study = importlib.import_module(STUDIES[name])
    check_done(name, context)
    scale = getattr(study, "SCALE", context.scale)
    if scale != context.scale:
        emit(console, f"{name} is the same at every scale: its numbers and figures are those of the {scale} scale")
        context = replace(context, scale=scale)
    with shown_progress(console, context) as reporting:
        rows = study.measure(reporting)
    suffix = _suffix(context)
    if suffix:
        emit(console, "These are not the study's own runs and noise levels: numbers and figures go to files of their own")
    return _deliver(measurements.variant(name, suffix), rows, context, console, time.monotonic() - started, place)


def _suffix(context: StudyContext) -> str:
    """What is not at its default, for a file name; "" if everything is."""
    of_runs = context.selection.without_default_seeds().suffix() if context.selection else ""
    levels = "-".join(map(str, context.levels or ()))
    return of_runs + (f"-t-{levels if len(levels) <= MOST_LEVELS else short_hash(levels, 8)}" if levels else "")


def run_one(
    folder: Path, what: Sequence[str], context: StudyContext, console: Console, output: Path | None = None, step: int | None = None
) -> int:
    """Measures `what` (see `single_run.WHAT`) on one finished run; its numbers and figures go to separate folders.

    output: as for `run_study`. step: of a kept checkpoint, whose weights are measured instead of the last ones.
    """
    started = time.monotonic()
    place = printing.output_folder(context.store.root, output, console)
    trained = trained_runs.load(RunFolder(folder), context.device, step=step)
    context = replace(context, keep=partial(feature_measurements.write, place))
    with shown_progress(console, context) as reporting:
        rows = single_run.measure(trained, what, reporting)
    name = trained.run.id if step is None else f"{trained.run.id}-step-{step}"
    return _deliver(f"runs/{name}", rows, context, console, time.monotonic() - started, place)


@contextlib.contextmanager
def shown_progress(console: Console, context: StudyContext) -> Iterator[StudyContext]:
    """The context with its progress shown: a bar with the elapsed time on a terminal, else one line per part."""
    title = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = SpinnerColumn(), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), title
    bar = Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal)
    with warnings.catch_warnings(), bar:
        # torch warns about its own use of torch.jit.script in forward-mode differentiation
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        task = bar.add_task("starting", total=None)

        def progress(part: str, number: int, total: int) -> None:
            bar.update(task, description=part, completed=number - 1, total=total, refresh=True)
            if not console.is_terminal:
                emit(console, f"[{number}/{total}] {part}")

        yield replace(context, progress=progress, note=lambda text: emit(console, text))


def check_done(name: str, context: StudyContext) -> None:
    """Raises HarnessError, with the command that trains them, when runs of a study are not done."""
    folders = [context.store.folder(run.id) for run in context.runs]
    missing = [folder for folder in folders if folder.result() is None]
    if missing:
        states = [f"{folder.id} is {folder.state()}" for folder in missing[:3]] + (["..."] if len(missing) > 3 else [])
        what = f"{len(missing)} of the {len(folders)} runs that {name} measures are not done"
        raise HarnessError(what, where=context.store.runs, found="; ".join(states), expected="done", nearest=context.sweep_command)


def _deliver(name: str, rows: Sequence[MeasurementRow], context: StudyContext, console: Console, seconds: float, place: Path) -> int:
    """Writes the rows below `place` and shows them. name: that of their file; figures of a file in a folder go to a folder of their own."""
    from harness.reporting import produce
    from harness.reporting.drawing import draw_all
    from harness.reporting.figure_requests import figures_of
    from harness.reporting.figures_measured import measured_figures

    path = measurements.write(place, context.scale, name, rows)
    show(rows, console, f"{path.stem}, {context.scale} scale, measured in {seconds:.0f} s on {context.device}")
    verdicts = [verdict(row) for row in rows]
    judged, differ = sum(map(bool, verdicts)), sum(text.startswith(("DIFFERS", "ABOVE")) for text in verdicts)
    emit(console, f"{len(rows):,} numbers; {judged:,} have a known value or sign, and {differ:,} of these differ from it")
    emit(console, f"Written: {path}")
    figures = place / "figures"
    folder = figures / name if "/" in name else figures
    drawings = measured_figures(measurements.read_file(path, context.scale), context.scale)
    if context.selection and context.selection.experiment == "why_mu" and not context.levels:
        drawings += figures_of(produce.why_mu_report(context.store.root, context.selection, "own", place / "tables", place))
    for figure in draw_all(drawings, folder):
        emit(console, f"Figure:  {folder / figure.name}.pdf, .png, .csv")
    return 0


def show(rows: Sequence[MeasurementRow], console: Console, title: str) -> None:
    """Prints quantity, estimate, truth and verdict in one table per data set, and how to read its errors."""
    console.print(title, highlight=False)
    for data in dict.fromkeys(row.data for row in rows):
        _show_table(over_seeds([row for row in rows if row.data == data]), console, paper_values.data_name(data))
    console.print(HOW_TO_READ, highlight=False)


@dataclass(frozen=True)
class Shown:
    """A line of the table: a row, or the mean of rows over training seeds with its 95 % interval. away: its distance from its truth."""

    row: MeasurementRow
    away: float | None
    over_seeds: Interval | None = None


def over_seeds(rows: Sequence[MeasurementRow]) -> list[Shown]:
    """One line for rows that differ only in run and training seed; their interval is that of tables, figures and verdicts."""
    groups: dict[tuple[object, ...], list[MeasurementRow]] = {}
    for number, row in enumerate(rows):
        key = (number,) if row.seed is None else tuple(getattr(row, name) for name in SAME_OVER_SEEDS)
        groups.setdefault(key, []).append(row)
    shown: list[Shown] = []
    for group in groups.values():
        distinct = len({row.seed for row in group}) == len(group) > 1
        shown += [_mean(group)] if distinct else [Shown(row, row.errors_away) for row in group]
    return shown


def _mean(group: Sequence[MeasurementRow]) -> Shown:
    """The mean over seeds. Its distance from the mean of the truths is the normal deviate with the p of its t test."""
    mean, case = measured_mean(group), " ".join([*filter(None, [group[0].case]), f"({len(group)} seeds)"])
    row = replace(group[0], value=mean.mean, se=None, seed=None, case=case, truth=None, truth_se=None)
    truths = [row.truth for row in group if row.truth is not None]
    if truths:
        row = replace(row, truth=fmean(truths), truth_se=combined_error(*(row.truth_se for row in group)) / len(group))
    truth = 0.0 if row.stated_negative else row.truth
    if truth is None:
        return Shown(row, None, mean)
    known = Sample({None: Number(truth, (0.0 if row.stated_negative else row.truth_se) or 0.0, math.inf)}, shared=True)
    gap = measured_difference(group, known)
    away = 0.0 if gap.mean == 0 else math.nan if gap.se is None or gap.df is None else errors_away(gap.mean, 0.0, gap.se, df=gap.df)
    return Shown(row, away, mean)


def _show_table(shown: Sequence[Shown], console: Console, title: str) -> None:
    counts = Counter(line.row.quantity for line in shown)
    lines = [_cells(line) for line in shown if counts[line.row.quantity] <= MOST_ROWS]
    used = [column for column in range(len(HEADERS)) if any(line[column] for line in lines)]
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for header in (HEADERS[column] for column in used):
        right, words = header in ("at", "estimate", "truth"), header in ("quantity", "of")
        table.add_column(header, justify="right" if right else "left", no_wrap=not words, overflow="fold")
    for line in lines:
        table.add_row(*(line[column] for column in used))
    if lines:
        console.print(table)
    for quantity, count in counts.items():
        if count > MOST_ROWS:
            console.print(f"{title}, {quantity}: {count:,} rows, in the file", highlight=False)


def _cells(shown: Shown) -> tuple[str, ...]:
    row, mean = shown.row, shown.over_seeds
    subject = " ".join(filter(None, (row.coupling, "" if row.seed is None else f"s{row.seed}", row.case)))
    truth = "" if row.truth is None else plus_minus(row.truth, row.truth_se or None)
    estimate = plus_minus(row.value, row.se or None)
    if mean and mean.low is not None and mean.high is not None:
        estimate = f"{estimate} [{mean.low:.5g}, {mean.high:.5g}]"
    return row.quantity, subject, "" if row.x is None else f"{row.x:g}", estimate, truth, judged(shown.away, row.stated_negative)
