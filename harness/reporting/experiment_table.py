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
from harness.reporting.experiment_frame import COLUMNS, NUMBERS, PRINTED_ONLY, experiment_frame
from harness.reporting.experiment_notes import table_notes
from harness.reporting.findings import findings
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number, p_text, signed
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues
from harness.stats.intervals import ALPHA

_SHORT = {"precision": "prec.", "classes_missing": "missing", "modes_missing": "missing", "class_tv": "class TV"}
_COUNTS = ("classes_missing", "modes_missing")
_MODELS = {"ic": "IC", "gc-0.5": "GC (mu=0.5)"}


def experiment_table(experiment: ExperimentCells, cell_values: CellValues) -> Table:
    """The table <experiment>-<scale>: the cells, then the baselines. Missing values are shown as missing.

    Overrides, added couplings and seeds other than the default follow in its name and title, so that it does not replace the plain table;
    the set of records follows in its title.
    """
    experiment, loaded = experiment.samplers(), cell_values.loaded
    data = experiment_frame(experiment, cell_values)
    frame = data.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, float))
    suffix, changes = (experiment.variant.suffix(), experiment.variant.changes()) if experiment.variant else ("", ())
    name = f"{experiment.name}-{experiment.scale}{suffix}"
    used = loaded.find(run for cell in experiment.cells for run in cell.runs.values() if cell_values.final(run, main_metric(cell.data)))
    caption = "; ".join([f"{experiment.scale} scale", *changes, loaded.label_of(used)])
    title = f"{re.split(r'[;.] ', experiment.title or experiment.name)[0].rstrip('.')} ({caption})"
    quality = _table(name, title, experiment, frame, [metric for metric in QUALITY if metric in set(frame.metric)] or ["fid"], True)
    coverage = [metric for metric in COVERAGE if metric in set(frame.metric)]
    more = [_table(f"{name}-coverage", f"{title}: diversity", experiment, frame, coverage, False)] if coverage else []
    if paper := paper_values.table(experiment.name):
        more.append(paper)
    notes = (*experiment.notes, *findings(experiment, cell_values), *table_notes(experiment, cell_values, frame))
    return replace(quality, notes=notes, data=data.drop(columns=list(PRINTED_ONLY), errors="ignore"), more=tuple(more))


def _table(name: str, title: str, experiment: ExperimentCells, frame: pd.DataFrame, metrics: Sequence[str], compared: bool) -> Table:
    """The printed rows of some metrics. compared: with best values over training, comparisons, and the paper's values if it has any."""
    records = [record for record in frame.itertuples(index=False) if record.metric in metrics]
    headers = ["model", "n", *(_SHORT.get(metric, METRICS[metric].title) for metric in metrics)]
    if compared:
        headers += [f"best {METRICS[metrics[0]].title} (optimistic)", f"against {_MODELS.get(experiment.against, experiment.against)}"]
        headers += ["the paper"] * any(not pd.isna(record.paper) for record in records)
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
        rows += [_row(group, metrics, places, len(headers)) for group in groups.values()]
    rows += _absent(experiment, len(headers), "the paper" in headers) if compared else []
    return Table(name, title, tuple(headers), tuple(rows), rules=frozenset(rules))


def _key(record: Any) -> str:
    """The key of a model, "" for baselines, which have none."""
    return record.key if isinstance(record.key, str) else ""


def _row(rows: Sequence[Any], metrics: Sequence[str], places: Mapping[str, int], width: int) -> tuple[CellText, ...]:
    """The row of one model or baseline, with as many cells as `width`. rows: of its metrics. Only models are compared."""
    values: dict[str, Any] = {row.metric: row for row in rows}
    first = next(iter(values.values()))
    if first.kind == "baseline":
        n = f"n={int(first.samples)}"
    else:
        seeds = int(max(row.seeds for row in rows if not pd.isna(row.seeds)))
        n = f"{seeds} of {int(first.seeds_wanted)}" if seeds < first.seeds_wanted else str(seeds)
    cells = [first.model, n, *(_value(values[name], places[name]) if name in values else MISSING for name in metrics)]
    compared: list[CellText] = [""] * (width - len(cells))
    if compared and not pd.isna(first.seeds_wanted):
        compared = [_best(first, places[first.metric]), _comparison(first), _paper(rows)][: len(compared)]
    return (*cells, *compared)


def _absent(experiment: ExperimentCells, width: int, with_paper: bool) -> list[tuple[CellText, ...]]:
    """The paper's rows of data sets that the experiment leaves out, as missing."""
    rows: list[tuple[CellText, ...]] = []
    paper = paper_values.paper().get(experiment.name, {})
    for data in experiment.absent:
        rows.append((paper_values.data_name(data),))
        for row in (row for row in paper.get("rows", ()) if row["data"] == data):
            for length, steps in paper.get("steps", {}).items():
                label = f"{paper_values.MODELS[row['model']]}, {steps:,} steps"
                value = [paper_values.text(*row[length])] if with_paper else []
                rows.append((label, "0", *[MISSING] * (width - 2 - len(value)), *value))
    return rows


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
    return Lines(number(row.mean * factor, places), "\n".join(lines))


def _best(row: Any, places: int) -> CellText:
    if pd.isna(row.best):
        return MISSING
    first, last = int(row.best_first_step), int(row.best_last_step)
    steps = f"step {first:,}" if first == last else f"steps {first:,}-{last:,}"
    return Lines(number(row.best * METRICS[row.metric].factor, places), steps)


def _comparison(row: Any) -> CellText:
    """The relative difference from the other model, and below what its test says."""
    if pd.isna(row.difference):
        return MISSING
    share = MISSING if pd.isna(row.relative) else signed(row.relative, ".0%")
    p = p_text(row.difference_seeds, None if pd.isna(row.p) else row.p)
    if pd.isna(row.p):
        return Lines(share, p)
    lower = METRICS[row.metric].better == "lower"
    verdict = "inconclusive" if row.p >= ALPHA else "better" if (row.difference < 0) == lower else "worse"
    return Lines(share, f"{verdict}\n{p}")


def _paper(rows: Sequence[Any]) -> CellText:
    """The paper's values, the first one as main text."""
    given = [row for row in rows if not pd.isna(row.paper)]
    texts = [(METRICS[row.metric].title, paper_values.text(row.paper * METRICS[row.metric].factor, row.paper_pm)) for row in given]
    return Lines(texts[0][1], "\n".join(f"{title} {text}" for title, text in texts[1:])) if texts else MISSING
