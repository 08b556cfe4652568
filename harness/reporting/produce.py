"""The actions of `harness report`: one experiment, everything, two sides compared, event files for TensorBoard."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pandas as pd

from harness.config import experiments
from harness.config.experiments import OtherData
from harness.config.parts import SMOKE_TEST
from harness.config.selection import Selection
from harness.data.catalogue import REGISTRY
from harness.errors import HarnessError
from harness.locations import results_root
from harness.reporting import claims, figure_cache, figure_requests, load, overview, printing, rehearsed, tables, why_mu, why_mu_table
from harness.reporting.cells import ExperimentCells, all_cells, experiment_cells
from harness.reporting.checks import checks_table
from harness.reporting.experiment_table import experiment_table
from harness.reporting.figure_requests import Request
from harness.reporting.load import LoadedResults
from harness.reporting.tables import Table
from harness.reporting.values import CellValues
from harness.reporting.verdicts import Evidence, Verdict
from harness.store import measurements
from harness.store.records import RecordSet
from harness.theory.studies import STUDIES


def experiment(
    root: Path, selection: Selection, records: RecordSet | None = None, output: Path | None = None, rehearsal: bool = False
) -> int:
    """One experiment at one scale, of one set of records: its table, verdicts and sample grids. Raises HarnessError for unknown names.

    output: the folder to write to; by default the results folder `root` (see `printing.output_folder`). rehearsal: report the runs of a
    rehearsal, which are marked as such, without verdicts; those of a smoke test with verdicts that say that they are none.
    """
    loaded = load.read(root, records, selection.scale, rehearsal)
    cells, cell_values = experiment_cells(selection, loaded), CellValues(loaded)
    table = experiment_table(cells, cell_values)
    measured = _measured(selection, loaded)
    judged = claims.judge(Evidence(cells, cell_values, measured))
    verdicts = _own(cells.name, judged) or [verdict for verdict in judged if verdict.judged]
    verdicts = _shown(verdicts, loaded)
    out = printing.console()
    folder = printing.output_folder(root, output, out) / "tables" / loaded.part
    paths = tables.write(_with_verdicts(table, verdicts), folder)
    printing.print_records(out, loaded, selection.scale)
    printing.print_experiment(cells, table, verdicts, paths, loaded)
    if cells.name == "why_mu":
        why_mu_report(root, selection, records, folder)
    return 0


def _measured(selection: Selection, loaded: LoadedResults, root: Path | None = None) -> pd.DataFrame:
    """The measurements of the scale; of the selected study, those of this selection alone. root: where they are if not with the runs."""
    suffix = selection.without_default_seeds().suffix()
    measured = measurements.read(root or loaded.root, loaded.damage, loaded.records, selection.experiment, suffix)
    return measured[measured.scale == selection.scale]


def why_mu_report(
    root: Path, selection: Selection, records: RecordSet | None, folder: Path, measured_root: Path | None = None
) -> list[Request]:
    """Prints the tables of the measurements of a selection of `why_mu`, writes them to `folder`, and returns their figures, not drawn yet.

    measured_root: the results folder of the measurements, by default `root`, that of the runs.
    """
    scale, chosen = selection.scale, selection.without_default_seeds()
    loaded, out = load.read(root, records, scale), printing.console()
    all_models = why_mu.models(_measured(selection, loaded, measured_root), CellValues(loaded))
    for models in all_models:
        table = _labelled(why_mu_table.table(models, scale), loaded)
        title = "; ".join([table.title, *chosen.changes()])
        table = replace(table, name=table.name + chosen.suffix(), title=title)
        out.print(tables.terminal(table))
        printing.lines(out, [f"Written: {', '.join(map(str, tables.write(table, folder)))}"], "dim")
    printing.print_damage(out, loaded.damage)
    return figure_requests.why_mu(all_models, scale)


def table_of(root: Path, selection: Selection, seeds: tuple[int, ...]) -> Table:
    """The table of an experiment from own runs of these training seeds alone. Raises HarnessError for unknown names."""
    loaded = load.read(root, "own")
    return experiment_table(experiment_cells(replace(selection, seeds=seeds), loaded), CellValues(loaded))


def _shown(verdicts: list[Verdict], loaded: LoadedResults) -> list[Verdict]:
    """The verdicts that a report shows: of a smoke test marked ones, of a rehearsal none, which are judged so that this code runs too."""
    if not loaded.rehearsal:
        return verdicts
    if not rehearsed.smoke_text(loaded.runs.values()):
        return []
    return [replace(verdict, text=f"{verdict.text} [{SMOKE_TEST}, not a result]") for verdict in verdicts]


def _own(name: str, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on the claims that the paper bases on this experiment."""
    return [verdict for verdict in verdicts if verdict.experiment == name]


def _with_verdicts(table: Table, verdicts: Sequence[Verdict]) -> Table:
    """The table with the verdicts as notes, for its files; the terminal shows them in full."""
    notes = tuple(f"{verdict.id} ({verdict.figure}): {verdict.text}: {verdict.summary}" for verdict in verdicts)
    return replace(table, notes=(*table.notes, *notes))


def _labelled(table: Table, loaded: LoadedResults) -> Table:
    """The table with its set of records in the caption and in the CSV file."""
    return replace(table, title=f"{table.title} ({loaded.label})", data=table.data.assign(records=loaded.set_name))


@dataclass(frozen=True)
class _Scale:
    """What there is to show of a scale. cells: all runs. available: its experiments with records. rows: its measurements."""

    cells: ExperimentCells
    available: list[ExperimentCells]
    rows: pd.DataFrame
    why_mu_models: list[why_mu.Models]
    requests: list[Request]


def _scale(name: str, loaded: LoadedResults, measured: pd.DataFrame, cell_values: CellValues) -> _Scale:
    cells, rows, available = all_cells(name, loaded), measured[measured.scale == name], _experiments(name, loaded)
    of_custom = _measured_on_custom(name, loaded)
    models = [*why_mu.models(rows, cell_values), *why_mu.models(of_custom, cell_values)]
    requests = _figures_of(name, cells, available, rows, models, cell_values)
    return _Scale(cells, available, rows, models, requests + figure_requests.measured(of_custom, name, loaded.records))


@contextmanager
def _little_garbage_collection() -> Iterator[None]:
    """Garbage collection less often, also in the processes that draw: a report makes many objects that stay until its end.

    By default a tenth of its time is spent on looking through them.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_little_garbage_collection()
def everything(
    root: Path, scale: str | None = None, records: RecordSet | None = None, output: Path | None = None, rehearsal: bool = False
) -> int:
    """Claims, then every table, figure and the page, of one set of records, for every scale that has records, or for the one given.

    What is made from another set than the usual one is written beside the usual files and does not replace them. Laws in closed form
    appear in the table of checks only; `harness measure theory` draws them. output, rehearsal: as for `experiment`.
    """
    from harness.reporting.page import write_page

    started, out = time.monotonic(), printing.console()
    loaded = load.read(root, records, scale, rehearsal)
    measured = measurements.read(root, loaded.damage, loaded.records)
    cell_values = CellValues(loaded)
    scales = [name for name in dict.fromkeys([*loaded.scales, *measured.scale.unique()]) if scale in (None, name)]
    if not scales:
        printing.print_records(out, loaded, scale)
        command = _selection("table1", scale, root).command("harness publish" if loaded.records == "published" else "harness sweep")
        kind = "" if loaded.records == "both" else f"{loaded.records} "
        printing.lines(out, [f"No {kind}records of {scale or 'any scale'} below {root} yet. To make some: {command}"])
        printing.print_damage(out, loaded.damage)
        return 0
    folder = printing.output_folder(root, output, out)
    shown = {name: _scale(name, loaded, measured, cell_values) for name in scales}
    requests = [request for of_scale in shown.values() for request in of_scale.requests]
    verdicts: list[Verdict] = []
    by_scale: dict[str, list[Table]] = {}
    with figure_cache.drawing(requests, folder / "figures" / loaded.part, cell_values) as figures:  # beside the verdicts and tables
        for name, of_scale in shown.items():
            judged = _shown(claims.judge(Evidence(of_scale.cells, cell_values, of_scale.rows)), loaded)
            made = [(cells, experiment_table(cells, cell_values)) for cells in of_scale.available]
            by_scale[name] = [_with_verdicts(table, _own(cells.name, judged)) for cells, table in made]
            by_scale[name] += (_labelled(table, loaded) for table in [checks_table(of_scale.rows)] if table)
            by_scale[name] += (_labelled(why_mu_table.table(models, name), loaded) for models in of_scale.why_mu_models)
            verdicts += judged
        summary = _labelled(overview.claims_table(verdicts), loaded)
        ledger = [_labelled(overview.ledger_table(loaded), loaded), *filter(None, [overview.protocols_table(loaded)])]
        written = [summary, _labelled(overview.claim_tests_table(verdicts), loaded), *ledger, *chain.from_iterable(by_scale.values())]
        for table in written:
            tables.write(table, folder / "tables" / loaded.part)
        drawn = figures()
    page = write_page(folder / f"report{loaded.part and '-'}{loaded.part}.html", cell_values, verdicts, by_scale, drawn, ledger)
    printing.print_records(out, loaded, scale)
    printing.print_claims(out, verdicts, summary)
    done = sum(entry.done for entry in loaded.runs.values())
    summary_lines = [
        f"{done} of {len(loaded.runs)} runs done, {len(loaded.frame):,} records",
        f"{len(written)} tables in {folder / 'tables' / loaded.part}",
        f"{len(drawn)} figures in {folder / 'figures' / loaded.part}",
        f"the page in {page} ({page.stat().st_size / 1e6:.1f} MB)",
        f"{time.monotonic() - started:.1f} s",
    ]
    printing.lines(out, ["", "; ".join(summary_lines)])
    if loaded.records != "published" and (others := measurements.variants(root, scale)):
        names = ", ".join(f"{path.parent.parent.name}/{path.stem}" for path in others)
        printing.lines(out, [f"Measurements with other options, which `harness report STUDY` shows with the same options: {names}"])
    printing.print_damage(out, loaded.damage)
    return 0


def figures_of_scale(loaded: LoadedResults, scale: str) -> list[Request]:
    """All figures that the report has of a scale, not drawn yet."""
    measured = measurements.read(loaded.root, loaded.damage, loaded.records)
    rows, cell_values = measured[measured.scale == scale], CellValues(loaded)
    why_mu_models = why_mu.models(rows, cell_values)
    return _figures_of(scale, all_cells(scale, loaded), _experiments(scale, loaded), rows, why_mu_models, cell_values)


def _figures_of(
    scale: str,
    cells: ExperimentCells,
    available: Sequence[ExperimentCells],
    rows: pd.DataFrame,
    why_mu_models: Sequence[why_mu.Models],
    cell_values: CellValues,
) -> list[Request]:
    """The figures of a scale. cells: all runs. available: its experiments with records. rows: its measurements."""
    requests = [*figure_requests.training(cells, cell_values), *figure_requests.ablations(available, cell_values)]
    requests += [*figure_requests.longer(available, cell_values), *figure_requests.rare(available, cell_values)]
    requests += figure_requests.few_steps(cells, cell_values)
    requests += figure_requests.measured(rows[rows.data.isin(list(REGISTRY))], scale, cell_values.loaded.records)
    return requests + figure_requests.why_mu(why_mu_models, scale)


def verdicts_of_scale(loaded: LoadedResults, scale: str) -> list[Verdict]:
    """The verdicts on the paper's claims at a scale."""
    measured = measurements.read(loaded.root, loaded.damage, loaded.records)
    return claims.judge(Evidence(all_cells(scale, loaded), CellValues(loaded), measured[measured.scale == scale]))


def _selection(experiment: str, scale: str | None, root: Path) -> Selection:
    """An experiment in this results folder, at the default scale if `scale` is None."""
    selection = Selection(experiment, results=None if root == results_root() else root)
    return replace(selection, scale=scale) if scale else selection


def _experiments(scale: str, loaded: LoadedResults) -> list[ExperimentCells]:
    """The experiments that have records of this scale: Table 1 first, then those with runs that are not in Table 1.

    Then the same for each of the user's own data sets. An experiment that cannot be expanded is reported as damage, unless it has no runs
    on that data set.
    """
    return [cells for data in ((), *((name,) for name in _custom_sets(scale, loaded))) for cells in _experiments_on(data, scale, loaded)]


def _custom_sets(scale: str, loaded: LoadedResults) -> list[str]:
    """The user's own data sets that have runs of this scale."""
    return sorted({entry.run.data.name for entry in loaded.of_scale(scale) if entry.run.data.custom})


def _measured_on_custom(scale: str, loaded: LoadedResults) -> pd.DataFrame:
    """What the studies have measured on the user's own data sets, at their own settings. It is no evidence for the paper's claims."""
    parts = []
    for data in _custom_sets(scale, loaded) if loaded.records != "published" else ():
        for study in STUDIES:
            if (loaded.root / "measured" / scale / f"{measurements.variant(study, f'-{data}')}.csv").is_file():
                rows = measurements.read(loaded.root, loaded.damage, "own", study, f"-{data}")
                parts.append(rows[(rows.data == data) & (rows.scale == scale)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(measurements.COLUMNS))


def _experiments_on(data: tuple[str, ...], scale: str, loaded: LoadedResults) -> list[ExperimentCells]:
    """data: in the place of the data sets of the scale, () for these."""
    available: list[ExperimentCells] = []
    common: set[str] = set()
    for name in sorted(experiments.names(), key=lambda name: (name != "table1", not name.startswith("table"), name)):
        try:
            cells = experiment_cells(replace(_selection(name, scale, loaded.root), data=data), loaded)
        except OtherData:
            continue
        except HarnessError as error:
            loaded.damage.append(f"experiment {name} has no table at the {scale} scale: {error.what}")
            continue
        runs = {run for cell in cells.samplers().cells if cell.scale == scale for run in cell.runs.values()}
        if (runs - common) & loaded.runs.keys():
            available.append(cells)
        if name == "table1":
            common = runs
    return available


def compare(root: Path, left: str, right: str, records: RecordSet | None = None, output: Path | None = None) -> int:
    """Two sides beside each other: each a scale of `root`, a set of records of `root`, or a results folder. output: as for `experiment`."""
    from harness.reporting.comparison import comparison, side

    sides = side(root, left, records), side(root, right, records)
    table = comparison(*sides)
    out = printing.console()
    paths = tables.write(table, printing.output_folder(root, output, out) / "tables")
    out.print(tables.terminal(table))
    printing.lines(out, [f"Written: {', '.join(map(str, paths))}"], "dim")
    printing.print_damage(out, [text for shown in sides for text in shown.cell_values.loaded.damage])
    return 0


def tensorboard(root: Path, scale: str | None, records: RecordSet | None = None, output: Path | None = None) -> int:
    """The curves of one set of records as TensorBoard event files. output: as for `experiment`."""
    from harness.reporting.tensorboard_events import write_events

    loaded = load.read(root, records, scale)
    out = printing.console()
    printing.print_records(out, loaded, scale)
    folder = printing.output_folder(root, output, out) / "tensorboard" / loaded.part
    count = write_events(loaded, folder, scale)
    printing.lines(out, [f"{count} runs written. To view them: tensorboard --logdir {folder}"])
    printing.print_damage(out, loaded.damage)
    return 0
