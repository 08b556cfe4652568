"""The printed table of an experiment at one scale: its tidy frame formatted once, with the paper's table below."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.data.catalogue import main_metric
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.experiment_frame import COLUMNS, NUMBERS, PRINTED_ONLY, experiment_frame, networks_of, runs_of
from harness.reporting.experiment_notes import table_notes
from harness.reporting.findings import findings
from harness.reporting.other_networks import own_metric
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number, p_text, signed, split
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues
from harness.stats.intervals import ALPHA
from harness.store.records import parted_name

_SHORT = {"precision": "prec.", "classes_missing": "missing", "modes_missing": "missing", "class_tv": "class TV"}
_GIVEN = {"the paper": "paper", "ECT's authors": "published"}
"""Columns of values that others report, by their headings."""
_COUNTS = ("classes_missing", "modes_missing")
_MODELS = {"ic": "IC", "gc-0.5": "GC (mu=0.5)"}


def experiment_table(experiment: ExperimentCells, cell_values: CellValues) -> Table:
    """The table <experiment>-<scale>: the cells, then the baselines. Missing values are shown as missing.

    Overrides, added couplings and seeds other than the default follow in its name and title, so that it does not replace the plain table;
    the set of records follows in its title.
    """
    experiment, loaded = experiment.samplers(), cell_values.loaded
    data = experiment_frame(experiment, cell_values)
    data = data.assign(records=loaded.set_name) if loaded.rehearsal else data
    frame = data.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, float))
    suffix, changes = (experiment.variant.suffix(), experiment.variant.changes()) if experiment.variant else ("", ())
    name = f"{experiment.name}-{experiment.scale}{suffix}"
    used = loaded.find(run for cell in experiment.cells for run in cell.runs.values() if cell_values.final(run, main_metric(cell.data)))
    caption = "; ".join([f"{experiment.scale} scale", *changes, loaded.label_of(used)])
    title = f"{re.split(r'[;.] ', experiment.title or experiment.name)[0].rstrip('.')} ({caption})"
    shown = [metric for metric in frame.metric.unique() if parted_name(metric)[0] in QUALITY]
    of_networks = [(other, cell_values.others.metrics(other, runs_of(experiment))) for other in networks_of(experiment, cell_values)]
    distances = [metric for _, metrics in of_networks for metric in metrics if parted_name(own_metric(metric)[0])[0] == "fid"]
    quality = _table(name, title, experiment, frame, [*(shown or ["fid"]), *distances], True)
    coverage = [metric for metric in COVERAGE if metric in set(frame.metric)]
    more = [_table(f"{name}-coverage", f"{title}: diversity", experiment, frame, coverage, False)] if coverage else []
    for other, metrics in of_networks:
        more.append(_table(f"{name}-{other.measuring.folder}", f"{title}: measured by {other.label}", experiment, frame, metrics, False))
    if paper := paper_values.table(experiment.name):
        more.append(paper)
    notes = (*experiment.notes, *findings(experiment, cell_values), *table_notes(experiment, cell_values, frame))
    return replace(quality, notes=notes, data=data.drop(columns=list(PRINTED_ONLY), errors="ignore"), more=tuple(more))


def _table(name: str, title: str, experiment: ExperimentCells, frame: pd.DataFrame, metrics: Sequence[str], compared: bool) -> Table:
    """The printed rows of some metrics. compared: with best values over training, comparisons, and the paper's values if it has any."""
    records = [record for record in frame.itertuples(index=False) if record.metric in metrics]
    headers = ["model", "n", *(_SHORT.get(metric, METRICS[metric].title) for metric in metrics)]
    if not compared and own_metric(metrics[0])[1]:  # the title of the table names the network
        headers[2:] = [_SHORT.get(name, METRICS[name].title) for name in (own_metric(metric)[0] for metric in metrics)]
    if compared:
        headers += [f"best {METRICS[metrics[0]].title} (optimistic)", f"against {_MODELS.get(experiment.against, experiment.against)}"]
        headers += [name for name, column in _GIVEN.items() if any(not pd.isna(getattr(record, column)) for record in records)]
    rows: list[tuple[CellText, ...]] = []
    rules = set()
    for data in experiment.data:
        means: dict[str, list[float]] = {}
        groups: dict[tuple[str, str], list[Any]] = {}
        for record in (record for record in records if record.data == data):
            groups.setdefault((_key(record), record.model), []).append(record)
            if record.kind == "model":
                means.setdefault(record.metric, []).append(record.mean)
        places = {metric: _decimals(metric, values) for metric, values in means.items()}
        if len(experiment.data) > 1:
            rows.append((paper_values.data_name(data),))
        if any(group[0].kind == "baseline" for group in groups.values()):
            rules.add(len(rows) + len({key for key, _ in groups if key}))
        rows += [_row(group, metrics, places, headers) for group in groups.values()]
    return Table(name, title, tuple(headers), tuple(rows), rules=frozenset(rules))


def _key(record: Any) -> str:
    """The key of a model, "" for baselines, which have none."""
    return record.key if isinstance(record.key, str) else ""


def _row(rows: Sequence[Any], metrics: Sequence[str], places: Mapping[str, int], headers: Sequence[str]) -> tuple[CellText, ...]:
    """The row of one model or baseline, with as many cells as `headers`. rows: of its metrics. Only models are compared."""
    values: dict[str, Any] = {row.metric: row for row in rows}
    first = next(iter(values.values()))
    if first.kind == "baseline":
        n = f"n={int(first.samples)}"
    else:
        seeds = int(max(row.seeds for row in rows if not pd.isna(row.seeds)))
        n = f"{seeds} of {int(first.seeds_wanted)}" if seeds < first.seeds_wanted else str(seeds)
    cells = [first.model, n, *(_value(values[name], places[name]) if name in values else MISSING for name in metrics)]
    compared: list[CellText] = [""] * (len(headers) - len(cells))
    if compared and not pd.isna(first.seeds_wanted):
        given = (_given(rows, _GIVEN[header]) for header in headers if header in _GIVEN)
        compared = [_best(first, places[first.metric]), _comparison(rows), *given]
    return (*cells, *compared)


def _decimals(metric: str, means: Sequence[float]) -> int:
    return 1 if metric in _COUNTS else max(2, min(3, decimals(mean * METRICS[metric].factor for mean in means)))


def _value(row: Any, places: int) -> CellText:
    """Mean over seeds, [95 % interval], sd of evaluation."""
    if pd.isna(row.mean):
        return MISSING
    factor, lines = METRICS[row.metric].factor, []
    varies = row.low < row.high
    if varies:
        lines.append(f"[{number(row.low * factor, places)}, {number(row.high * factor, places)}]")
    name, spread = ("se", row.se) if pd.isna(row.evaluation_sd) else ("sd", row.evaluation_sd)
    if spread > 0 or (spread == 0 and (varies or row.kind == "baseline")):
        lines.append(f"{name} {spread * factor:.2g}")
    if row.kind == "model" and own_metric(row.metric)[1]:
        lines.append(f"n = {int(row.seeds)}")  # other networks need not have measured all runs
    return Lines(number(row.mean * factor, places), "\n".join(lines))


def _best(row: Any, places: int) -> CellText:
    if pd.isna(row.best):
        return MISSING
    first, last = int(row.best_first_step), int(row.best_last_step)
    steps = f"step {first:,}" if first == last else f"steps {first:,}-{last:,}"
    return Lines(number(row.best * METRICS[row.metric].factor, places), steps)


def _comparison(rows: Sequence[Any]) -> CellText:
    """The relative difference of the first metric from the other model, and below what its test says; then those of further steps."""
    main, lines = split(_compared(rows[0]))
    for row in rows[1:]:
        metric, steps = parted_name(row.metric)
        if metric == rows[0].metric and not pd.isna(row.difference):
            share, test = split(_compared(row))
            lines += f"\n{steps} steps {share}: {test.replace(chr(10), ', ')}"
    return Lines(main, lines.strip()) if lines else main


def _compared(row: Any) -> CellText:
    """The relative difference from the other model in one metric, and below what its test says."""
    if pd.isna(row.difference):
        return MISSING
    share = MISSING if pd.isna(row.relative) else signed(row.relative, ".0%")
    p = p_text(row.difference_seeds, None if pd.isna(row.p) else row.p)
    if pd.isna(row.p):
        return Lines(share, p)
    lower = METRICS[row.metric].better == "lower"
    verdict = "inconclusive" if row.p >= ALPHA else "better" if (row.difference < 0) == lower else "worse"
    return Lines(share, f"{verdict}\n{p}")


def _given(rows: Sequence[Any], column: str) -> CellText:
    """The values of a column of _GIVEN, the first one as main text."""
    texts = []
    for row, value in ((row, getattr(row, column)) for row in rows if not pd.isna(getattr(row, column))):
        pm = row.paper_pm if column == "paper" else None
        texts.append((METRICS[row.metric].title, paper_values.text(value * METRICS[row.metric].factor, pm)))
    return Lines(texts[0][1], "\n".join(f"{title} {text}" for title, text in texts[1:])) if texts else MISSING
