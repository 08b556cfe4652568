"""The tidy frame of an experiment at one scale: one row per metric of each model and baseline. `experiment_table` formats it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd

from harness.config import presets
from harness.config.parts import Independent
from harness.reporting import paper_values
from harness.reporting.cells import Cell, ExperimentCells, settings_hash
from harness.reporting.load import LoadedResults
from harness.reporting.other_networks import OtherNetwork
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues, Column, Value, bounds_of, step_counts
from harness.stats.differences import paired
from harness.stats.intervals import Interval, interval
from harness.store.records import few_step_name, parted_name

BASELINES = {
    "heldout": "real data, held out",
    "heldout-at-n": "real data, held out, equal n",
    "train-resampled": "training set resampled",
    "gaussian-fit": "Gaussian fit",
    "noise": "pure noise",
}
COLUMNS = (
    *("scale", "data", "model", "key", "kind", "metric", "seeds", "seeds_wanted", "step", "protocol", "mean", "low", "high", "interval"),
    *("evaluation_sd", "samples", "values", "best", "best_first_step", "best_last_step", "paper", "paper_pm", "published", "against"),
    *("difference", "difference_low", "difference_high", "difference_seeds", "p", "relative", "resamplings", "se", "records"),
)
"""All columns that a frame may have. Values are in the metric's own unit (KID not times 100); kind is "model" or "baseline"."""
_TEXTS = ("scale", "data", "model", "key", "kind", "metric", "protocol", "interval", "values", "against", "records")
NUMBERS = tuple(name for name in COLUMNS if name not in _TEXTS)
PRINTED_ONLY = ("paper_pm", "relative")
"""Columns for printed tables only, not for the CSV file."""
WALL_CLOCK = "at wall-clock"
"""End of the key of a row in Table 3: GC stopped at iCT-IC's wall-clock time."""

Row = dict[str, Any]


def experiment_frame(experiment: ExperimentCells, cell_values: CellValues) -> pd.DataFrame:
    """The frame, with those of COLUMNS that have a value. Cells without values have rows too."""
    metrics = cell_values.metrics(experiment.cells)
    quality = [name for name in QUALITY if name in metrics] or ["fid", "kid", "is"]
    quality[1:1] = [few_step_name(quality[0], count) for count in step_counts(experiment.cells)[1:]]
    coverage = [name for name in COVERAGE if name in metrics]
    parts = [_rows(experiment, cell_values, data, quality, compared=True) for data in experiment.data]
    parts += [_rows(experiment, cell_values, data, coverage, compared=False) for data in experiment.data]
    for network in networks_of(experiment, cell_values):
        names = cell_values.others.metrics(network, runs_of(experiment))
        parts += [_rows(experiment, cell_values, data, names, compared=True, network=network) for data in experiment.data]
    return pd.DataFrame([row for rows in parts for row in rows])


def runs_of(experiment: ExperimentCells) -> list[str]:
    """The ids of all runs of an experiment."""
    return [run for cell in experiment.cells for run in cell.runs.values()]


def networks_of(experiment: ExperimentCells, cell_values: CellValues) -> list[OtherNetwork]:
    """The feature networks beside that of the data set which have measured runs of an experiment."""
    return cell_values.others.of(runs_of(experiment))


def _rows(
    experiment: ExperimentCells,
    cell_values: CellValues,
    data: str,
    metrics: Sequence[str],
    compared: bool,
    network: OtherNetwork | None = None,
) -> list[Row]:
    """The rows of one data set and some metrics. compared: with the best value over training and the difference from another model.

    network: which measured them, if it is not that of the data set: it has measured no training, and the paper has no such values.
    """
    rows = []
    columns = {name: cell_values.column(experiment.of(data), name) for name in metrics}
    for cell in experiment.of(data):
        other = _compared_with(experiment, cell) if compared else None
        for name, column in columns.items():
            row = _model_row(experiment, cell, column) | {"records": _sources(cell, column.cells.get(cell.key), cell_values)}
            if compared and network is None and name == metrics[0] and (best := cell_values.best(cell, name, column.protocol)):
                row |= dict(zip(("best", "best_first_step", "best_last_step"), best, strict=True))
            if network is None and (paper := _paper_value(experiment, cell, name)):
                row |= {"paper": paper[0] / METRICS[name].factor, "paper_pm": paper[1]}
            if published := _published_by_ect(experiment, cell, name):
                row["published"] = published
            if other and (difference := paired(column.by_seed(cell.key), column.by_seed(other.key))):
                row |= {"against": other.key, "difference": difference.mean, "difference_low": difference.low}
                row |= {"difference_high": difference.high, "difference_seeds": difference.n, "p": difference.p}
                row["relative"] = difference.relative
            rows.append(row)
    if compared and network is None and experiment.name == "table3":
        rows += _wall_clock_rows(experiment, cell_values, data, columns)
    loaded = cell_values.loaded
    if network:
        loaded = replace(loaded, baselines=cell_values.others.baselines.get(network.label, []))
    return rows + _baseline_rows(experiment, loaded, data, columns)


def _model_row(experiment: ExperimentCells, cell: Cell, column: Column) -> Row:
    value = column.cells.get(cell.key)
    row: Row = {"scale": experiment.scale, "data": cell.data, "model": cell.label, "key": cell.key, "kind": "model"}
    row |= {"metric": column.metric, "seeds": len(value.values) if value else 0, "seeds_wanted": len(cell.wanted)}
    row |= {"step": cell.run.train.steps, "protocol": column.protocol}
    if value:
        row |= _interval(value.interval) | {"evaluation_sd": value.noise, "samples": value.samples}
        row |= {"values": " ".join(f"{seed}:{number:.8g}" for seed, number in value.values.items())}
    return row


def _sources(cell: Cell, value: Value | None, cell_values: CellValues) -> str:
    """Where the runs of a value come from: "own", "published", or how many of each, as "1 own, 2 published"."""
    entries = cell_values.loaded.find(cell.runs[seed] for seed in (value.values if value else ()))
    counts = Counter(entry.source for entry in entries)
    return next(iter(counts), "") if len(counts) < 2 else ", ".join(f"{counts[name]} {name}" for name in sorted(counts))


def _interval(values: Interval) -> Row:
    return {"mean": values.mean, "low": values.low, "high": values.high, "interval": values.method}


def _compared_with(experiment: ExperimentCells, cell: Cell) -> Cell | None:
    """The cell of the coupling `experiment.against` with the same objective and settings, else the first of the same objective.

    None if that is this cell.
    """
    prefix = "" if cell.run.objective.kind == "ict" else f"{cell.run.objective.kind}-"
    cells = [other for other in experiment.of(cell.data) if other.slug == prefix + experiment.against]
    alike = [other for other in cells if settings_hash(other.run) == settings_hash(cell.run)]
    other = next(iter(alike or cells), None)
    return None if other is None or other.key == cell.key else other


def _paper_value(experiment: ExperimentCells, cell: Cell, metric: str) -> tuple[float, float | None] | None:
    """The paper's value and its +- for this cell, in the paper's unit: from this table, else for plain cells from Table 1.

    None at other scales than the paper's.
    """
    if cell.scale != "paper":
        return None
    if experiment.name == "table2":
        lengths = paper_values.paper()["table2"]["steps"]
        length = next((name for name, steps in lengths.items() if steps == cell.run.train.steps), "")
        return paper_values.value("table2", cell.data, cell.slug, length) if metric == "fid" else None
    if experiment.name == "table3":
        dropout = "dropout" if any(cell.run.network.dropout) else "reference"
        variant = {"gc-0.5-online": "online", "gc-0.5": dropout}.get(cell.slug, "")
        if value := paper_values.value("table3", cell.data, variant, metric):
            return value
    return None if cell.differs else paper_values.value("table1", cell.data, cell.key, metric)


def _published_by_ect(experiment: ExperimentCells, cell: Cell, metric: str) -> float | None:
    """What ECT's authors report for ECT-IC of this training length, with one and with two steps; None at other scales than the paper's."""
    if cell.scale != "paper" or experiment.name != "table2" or cell.slug != "ect-ic" or parted_name(metric)[0] != "fid":
        return None
    lengths = paper_values.paper()["table2"]["steps"]
    length = next((name for name, steps in lengths.items() if steps == cell.run.train.steps), "")
    value = paper_values.value("table2", cell.data, "ecm", few_step_name(length, parted_name(metric)[1]))
    return value[0] if value else None


def _wall_clock_rows(experiment: ExperimentCells, cell_values: CellValues, data: str, columns: Mapping[str, Column]) -> list[Row]:
    """GC at the time when IC of the same seed had ended, one evaluation per seed; without values, one row for the main metric."""
    cell = experiment.cell(data, "gc-0.5")
    if cell is None:
        return []
    with presets.of_data(known=cell_values.loaded.custom_sets):
        independent = {seed: cell_values.loaded.runs.get(presets.make(cell.scale, data, Independent(), seed).id) for seed in cell.runs}
    limits = {seed: entry.training_seconds for seed, entry in independent.items() if entry}
    label = f"{cell.label}, stopped at iCT-IC's wall-clock time"
    common = {"scale": experiment.scale, "data": data, "model": label, "key": f"{cell.key} {WALL_CLOCK}", "kind": "model"}
    rows = []
    for name, column in columns.items():
        stopped = [
            cell_values.at_seconds(cell.runs[seed], name, column.protocol, limit) for seed, limit in limits.items() if limit is not None
        ]
        values = [value for value in stopped if value is not None]
        if values:
            row = common | {"metric": name, "seeds": len(values), "protocol": column.protocol}
            row["records"] = _sources(cell, column.cells.get(cell.key), cell_values)
            rows.append(row | _interval(interval(values, bounds_of(name, data))))
    return rows or [common | {"metric": next(iter(columns)), "seeds": 0}]


def _baseline_rows(experiment: ExperimentCells, loaded: LoadedResults, data: str, columns: Mapping[str, Column]) -> list[Row]:
    """The baselines of the columns' protocols, so of the models' n. Held-out data of another n has a row of its own, which says so."""
    baselines = loaded.baselines_of(data, {column.protocol for column in columns.values() if column.protocol})
    if baselines is None:
        return []
    values = {(value["row"], value["metric"]): value for value in baselines.rows}
    of_models = {value.samples for column in columns.values() for value in column.cells.values()}
    rows = []
    for (name, title), (metric, column) in product(BASELINES.items(), columns.items()):
        value = values.get((name, metric))
        other_n = value is not None and name == "heldout" and value["n"] not in of_models
        if value and (other_n or value["protocol"] == column.protocol):
            title += f" (n = {value['n']:,})" if other_n else ""
            row: Row = {"scale": experiment.scale, "data": data, "model": title, "kind": "baseline", "metric": metric}
            row |= {"protocol": value["protocol"], "mean": value["value"], "evaluation_sd": value.get("sd"), "samples": value["n"]}
            rows.append(row | {"resamplings": value["resamplings"], "se": value.get("se"), "records": baselines.source})
    return rows
