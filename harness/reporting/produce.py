"""What `harness report` does: one experiment in the terminal, or everything at hand, with tables, figures and the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from harness.config import experiments
from harness.data.catalogue import REGISTRY
from harness.errors import HarnessError
from harness.reporting import claims, load, overview, tables
from harness.reporting.cells import ExperimentCells, all_cells, experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.load import Book
from harness.reporting.tables import Table
from harness.reporting.values import Numbers
from harness.reporting.verdicts import Evidence, Outcome, Verdict
from harness.store import measurements

STYLES = {"supported": "bold green", "contradicted": "bold red", "not separable": "yellow", "not run": "dim"}


def console() -> Console:
    """For tables: a pipe or a file gets whole rows."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, 120))


def experiment(root: Path, name: str, scale: str, seeds: Sequence[int] | None, settings: Sequence[str], couplings: Sequence[str]) -> int:
    """One experiment at one scale: table, verdicts of Table 1, where the sample grids lie. Raises HarnessError for unknown names."""
    book = load.read(root)
    found = experiment_cells(name, scale, book, seeds, settings, couplings)
    numbers = Numbers(book)
    table = experiment_table(found, numbers, _title(name))
    verdicts = _about(name, claims.judge(Evidence(found, numbers, _at_scale(measurements.read(root, book.damage), scale))))
    paths = tables.write(_with_verdicts(table, verdicts), root / "tables")
    out = console()
    tables.show(out, table)
    out.print()
    for verdict in verdicts:
        print_verdict(out, verdict)
    _samples(out, found, book)
    out.print(Text(f"Written: {', '.join(map(str, paths))}", "dim"), soft_wrap=True)
    _damage(out, book)
    return 0


def _about(name: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on the claims that rest on this experiment; for one that is not the paper's, on all that its runs allow."""
    return _own(name, verdicts) or [verdict for verdict in verdicts if verdict.outcome is not Outcome.NOT_RUN]


def _own(name: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    figure = {"sweep_mu": "figure5"}.get(name, name)
    return [verdict for verdict in verdicts if verdict.figure.lower().replace(" ", "") == figure]


def _with_verdicts(table: Table, verdicts: Sequence[Verdict]) -> Table:
    """The table as it is written to files: with the verdicts, which the terminal tells in full below it."""
    told = tuple(f"{verdict.id} ({verdict.figure}): {verdict.text}: {verdict.outcome}" for verdict in verdicts)
    return replace(table, notes=(*table.notes, *told))


def everything(root: Path, scale: str | None = None) -> int:
    """Claims first, then every table, figure and the page, for every scale at hand or the one given.

    Of laws in closed form the numbers stand in the table of checks; `harness measure` draws them.
    """
    from harness.reporting.drawing import draw_all
    from harness.reporting.figures import training_figures
    from harness.reporting.figures_ablations import ablation_figures
    from harness.reporting.figures_measured import measured_figures
    from harness.reporting.page import Content, write_page

    started, out = time.monotonic(), console()
    book = load.read(root)
    measured = measurements.read(root, book.damage)
    numbers = Numbers(book)
    there = list(dict.fromkeys([*book.scales, *measured.scale.unique()]))
    scales = [one for one in there if scale in (None, one)]
    if not scales:
        out.print(f"No records of {scale or 'any scale'} below {root} yet. harness sweep table1 makes some.")
        _damage(out, book)
        return 0
    verdicts, found_tables, figures = [], {}, []
    for one in scales:
        whole, at = all_cells(one, book), _at_scale(measured, one)
        judged = claims.judge(Evidence(whole, numbers, at))
        studies = _studies(one, book)
        found_tables[one] = [_with_verdicts(experiment_table(found, numbers), _own(found.name, judged)) for found in studies]
        found_tables[one] += _checks(at, one)
        verdicts += judged
        figures += [*training_figures(whole, numbers), *ablation_figures(studies, numbers)]
        figures += measured_figures(at[at.data.isin(list(REGISTRY))], one)
    summary = overview.claims_table(verdicts)
    ledger = [overview.ledger_table(book), *(table for table in [overview.protocols_table(book)] if table)]
    for table in [summary, *ledger, *(table for found in found_tables.values() for table in found)]:
        tables.write(table, root / "tables")
    drawn = draw_all(figures, root / "figures")
    page = write_page(Content(book, numbers, verdicts, found_tables, drawn, ledger), root / "report.html")
    count = sum(len(found) for found in found_tables.values()) + 1 + len(ledger)
    runs = sum(entry.done for entry in book.entries.values())
    _print_claims(out, verdicts, summary)
    told = [
        f"{runs} of {len(book.entries)} runs done, {len(book.frame):,} records",
        f"{count} tables in {root / 'tables'}",
        f"{len(figures)} figures in {root / 'figures'}",
        f"the page in {page} ({page.stat().st_size / 1e6:.1f} MB)",
        f"{time.monotonic() - started:.1f} s",
    ]
    out.print("\n" + "; ".join(told), soft_wrap=True, highlight=False)
    _damage(out, book)
    return 0


def _at_scale(measurements: pd.DataFrame, scale: str) -> pd.DataFrame:
    return measurements[measurements.scale == scale]


def _title(name: str) -> str:
    """The experiment's own title, or what its REPORT says."""
    found = experiments.load(name)
    return found.report["title"] if isinstance(found.report, dict) and "title" in found.report else found.title


def _studies(scale: str, book: Book) -> list[ExperimentCells]:
    """The experiments that have models of this scale at hand, Table 1 first; of the others, models besides Table 1's. One that cannot be
    expanded is told among the damage."""
    found: list[ExperimentCells] = []
    common: set[str] = set()
    for name in sorted(experiments.names(), key=lambda name: (name != "table1", not name.startswith("table"), name)):
        try:
            one = experiment_cells(name, scale, book)
            one = replace(one, title=_title(name))
        except HarnessError as error:
            book.damage.append(f"experiment {name} has no table at the {scale} scale: {error.what}")
            continue
        runs = {run for cell in one.cells if cell.run.objective.kind != "denoiser" and cell.scale == scale for run in cell.runs.values()}
        if (runs - common) & book.entries.keys():
            found.append(one)
        if name == "table1":
            common = runs
    return found


def _checks(measurements: pd.DataFrame, scale: str) -> list[Table]:
    table = overview.checks_table(measurements)
    return [replace(table, name=f"{table.name}-{scale}", title=f"{table.title} ({scale} scale)")] if table else []


def _print_claims(out: Console, verdicts: Sequence[Verdict], summary: Table) -> None:
    """The claims by scale, then the evidence for those that were run."""
    out.print(Text(summary.title, "bold"))
    scales = summary.headers[1:]
    shown = {(verdict.id, verdict.scale): verdict for verdict in verdicts}
    for name in dict.fromkeys(verdict.id for verdict in verdicts):
        text = next(verdict.text for verdict in verdicts if verdict.id == name)
        outcomes = [(f"{scale}: {shown[name, scale].outcome}  ", STYLES[shown[name, scale].outcome]) for scale in scales]
        out.print(Text.assemble((f"{name:<4}", "bold"), text, "\n    ", *outcomes), soft_wrap=True)
        for scale in scales:
            if shown[name, scale].outcome is not Outcome.NOT_RUN:
                for line in shown[name, scale].evidence(4):
                    out.print(Text(f"       {line}", "dim"), soft_wrap=True)
    for note in summary.notes:
        out.print(Text(f"  {note}", "dim"), soft_wrap=True)


def print_verdict(out: Console, verdict: Verdict) -> None:
    """The claim with its outcome, then its evidence, a test a line."""
    head = (f"{verdict.id} ", "bold"), f"{verdict.text}, at the {verdict.scale} scale: ", (verdict.outcome.upper(), STYLES[verdict.outcome])
    out.print(Text.assemble(*head), soft_wrap=True)
    for line in verdict.evidence():
        out.print(Text(f"   {line}", "dim"), soft_wrap=True)


def _samples(out: Console, found: ExperimentCells, book: Book) -> None:
    """The youngest sample grid of the first seed of each cell."""
    lines = []
    for cell in found.cells:
        entries = [book.entries[run] for _, run in sorted(cell.runs.items()) if run in book.entries and book.entries[run].samples]
        if entries:
            lines.append(f"   {cell.label}: {entries[0].samples[-1]}")
    if lines:
        out.print(Text("Sample grids (first seed; the others lie beside):", "bold"))
        out.print(Text("\n".join(lines)), soft_wrap=True)


def _damage(out: Console, book: Book) -> None:
    for text in dict.fromkeys(book.damage):
        out.print(Text(f"Warning: {text}", "yellow"), soft_wrap=True)


def compare(root: Path, left: str, right: str) -> int:
    """Two record sets side by side, each a scale of `root` or a results folder."""
    from harness.reporting.record_sets import comparison, record_set

    table, damage = comparison(record_set(root, left), record_set(root, right))
    paths = tables.write(table, root / "tables")
    out = console()
    tables.show(out, table)
    out.print(Text(f"Written: {', '.join(map(str, paths))}", "dim"), soft_wrap=True)
    for text in damage:
        out.print(Text(f"Warning: {text}", "yellow"), soft_wrap=True)
    return 0


def tensorboard(root: Path, scale: str | None) -> int:
    """The curves as TensorBoard event files."""
    from harness.reporting.tensorboard_events import write_events

    book = load.read(root)
    out, folder = console(), root / "tensorboard"
    count = write_events(book, folder, scale)
    out.print(f"{count} runs written. Look at them with: tensorboard --logdir {folder}", soft_wrap=True, highlight=False)
    _damage(out, book)
    return 0
