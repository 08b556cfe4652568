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
from harness.reporting.experiment_frame import BASELINES, COLUMNS, NUMBERS, PRINTED_ONLY, WALL_CLOCK, experiment_frame
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues
from harness.statistics.intervals import ALPHA

_SHORT = {"precision": "prec.", "classes_missing": "missing", "modes_missing": "missing", "class_tv": "class TV"}
_COUNTS = ("classes_missing", "modes_missing")
_OWN_CLASSIFIER = ("digits", "fashion-mnist")
_WALL_CLOCK = (
    "stopped at iCT-IC's wall-clock time: the last evaluation of GC within the seconds that iCT-IC of its seed trained for, as recorded; "
    "meaningful only if both ran on equal machines under equal load"
)
_MODELS = {"ic": "IC", "gc-0.5": "GC (mu=0.5)"}


def experiment_table(experiment: ExperimentCells, cell_values: CellValues) -> Table:
    """The table <experiment>-<scale>: the cells, then the baselines. Missing values are shown as missing.

    Overrides, added couplings and seeds other than the default follow in its name and title, so that it does not replace the plain table.
    """
    experiment = experiment.samplers()
    data = experiment_frame(experiment, cell_values)
    frame = data.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, float))
    suffix, changes = (experiment.variant.suffix(), experiment.variant.changes()) if experiment.variant else ("", ())
    name = f"{experiment.name}-{experiment.scale}{suffix}"
    caption = "; ".join([f"{experiment.scale} scale", *changes])
    title = f"{re.split(r'[;.] ', experiment.title or experiment.name)[0].rstrip('.')} ({caption})"
    quality = _table(name, title, experiment, frame, [metric for metric in QUALITY if metric in set(frame.metric)] or ["fid"], True)
    coverage = [metric for metric in COVERAGE if metric in set(frame.metric)]
    more = [_table(f"{name}-coverage", f"{title}: diversity", experiment, frame, coverage, False)] if coverage else []
    if paper := paper_values.table(experiment.name):
        more.append(paper)
    notes = (*experiment.notes, *_notes(experiment, cell_values, frame), *_missing(experiment, cell_values))
    return replace(quality, notes=notes, data=data.drop(columns=list(PRINTED_ONLY), errors="ignore"), more=tuple(more))


def _table(name: str, title: str, experiment: ExperimentCells, frame: pd.DataFrame, metrics: Sequence[str], compared: bool) -> Table:
    """The printed rows of some metrics. compared: with best values over training, comparisons, and the paper's values if it has any."""
    frame = frame[frame.metric.isin(metrics)]
    headers = ["model", "n", *(_SHORT.get(metric, METRICS[metric].title) for metric in metrics)]
    if compared:
        headers += [f"best {METRICS[metrics[0]].title}", f"against {_MODELS.get(experiment.against, experiment.against)}"]
        headers += ["the paper"] * bool(frame.paper.notna().any())
    rows: list[tuple[CellText, ...]] = []
    rules = set()
    for data in experiment.data:
        of_data = frame[frame.data == data]
        means = of_data[of_data.kind == "model"].groupby("metric")["mean"]
        places = {str(metric): _decimals(str(metric), values) for metric, values in means}
        if len(experiment.data) > 1:
            rows.append((paper_values.data_name(data),))
        if (of_data.kind == "baseline").any():
            rules.add(len(rows) + of_data.key.nunique())
        for _, part in of_data.groupby(["key", "model"], sort=False, dropna=False):
            rows.append(_row(part, metrics, places, len(headers)))
    rows += _absent(experiment, len(headers), "the paper" in headers) if compared else []
    return Table(name, title, tuple(headers), tuple(rows), rules=frozenset(rules))


def _row(rows: pd.DataFrame, metrics: Sequence[str], places: Mapping[str, int], width: int) -> tuple[CellText, ...]:
    """The row of one model or baseline, with as many cells as `width`. Only models are compared."""
    values: dict[str, Any] = {row.metric: row for row in rows.itertuples(index=False)}
    first = next(iter(values.values()))
    if first.kind == "baseline":
        n = f"n={int(first.samples)}"
    else:
        seeds = int(rows.seeds.max())
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


def _decimals(metric: str, means: pd.Series) -> int:
    return 1 if metric in _COUNTS else max(2, min(3, decimals(means.dropna() * METRICS[metric].factor)))


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
    """The relative difference from the other model, and below whether it is significant."""
    if pd.isna(row.relative):
        return MISSING
    if pd.isna(row.p):
        verdict = "one seed: no test"
    elif row.p >= ALPHA:
        verdict = f"inconclusive\np = {row.p:.2g}"
    else:
        lower = METRICS[row.metric].better == "lower"
        verdict = f"{'better' if (row.difference < 0) == lower else 'worse'}\np = {row.p:.2g}"
    return Lines(f"{row.relative:+.0%}", verdict)


def _paper(rows: pd.DataFrame) -> CellText:
    """The paper's values, the first one as main text."""
    given = rows[rows.paper.notna()].itertuples()
    texts = [(METRICS[row.metric].title, paper_values.text(row.paper * METRICS[row.metric].factor, row.paper_pm)) for row in given]
    return Lines(texts[0][1], "\n".join(f"{title} {text}" for title, text in texts[1:])) if texts else MISSING


def _notes(experiment: ExperimentCells, cell_values: CellValues, frame: pd.DataFrame) -> list[str]:
    """How the values were measured, what was left out, and how to complete the table."""
    notes = []
    for data in experiment.data:
        of_data = frame[(frame.data == data) & frame.metric.isin(QUALITY)]
        measured = of_data[(of_data.kind == "model") & of_data["mean"].notna()]
        if measured.key.str.endswith(WALL_CLOCK).any():
            notes.append(_WALL_CLOCK)
        if len(measured) and not (of_data.kind == "baseline").any() and experiment.selection:
            command = experiment.selection.command("harness reproduce")
            notes.append(f"{paper_values.data_name(data)}: no baselines yet; to measure them: {command}")
        if baselines := cell_values.loaded.baselines_of(data, set(measured.protocol)):
            notes += [f"{paper_values.data_name(data)}: {why}" for why in baselines.absent.values()]
            notes += _other_n(of_data[of_data.kind == "baseline"], measured)
        notes += _methods(experiment, data, measured)
        for metric in of_data.metric.unique():
            notes += [f"left out: {text}" for text in cell_values.column(experiment.of(data), metric).left_out]
    if set(experiment.data) & set(_OWN_CLASSIFIER):
        notes.append(
            "FID, KID and IS use the features of a classifier of this data set, not Inception: not comparable with the paper's values"
        )
    if experiment.name == "table1":
        notes += [note for data in experiment.data for note in _times_below_noise(frame[frame.data == data])]
    return list(dict.fromkeys(notes))


def _other_n(baselines: pd.DataFrame, models: pd.DataFrame) -> list[str]:
    """What the held-out images of another n than the models' samples can be compared with, and how their value at equal n is estimated."""
    other = baselines[~baselines.samples.isin(models.samples)]
    if other.empty or models.empty:
        return []
    label, n, count = other.model.iloc[0], models.samples.iloc[0], other.samples.iloc[0]
    text = f"{label}: another n than the models' {n:,.0f} samples, so do not compare it with the other rows: the metrics depend on n"
    if (at_n := BASELINES["heldout-at-n"]) in set(baselines.model):
        text += (
            f"; {at_n}: an estimate of what {n:,.0f} held-out images would give, from these {count:,.0f} and the bias of as many resampled "
            "training images; se of both"
        )
    return [text]


def _methods(experiment: ExperimentCells, data: str, measured: pd.DataFrame) -> list[str]:
    """Step, interval, evaluation noise and protocol of the values of one data set."""
    models = measured[measured.seeds_wanted.notna()]
    if models.empty:
        return []
    prefix = f"{paper_values.data_name(data)}: " if len(experiment.data) > 1 else ""
    cells = experiment.of(data)
    steps = ", ".join(f"{step:,}" for step in sorted({cell.run.train.steps for cell in cells}))
    protocols = models.groupby("metric", sort=False).protocol.first()
    hashes = ", ".join(f"{METRICS[str(name)].title} {protocol}" for name, protocol in protocols.items())
    main = METRICS[main_metric(data)].title
    return [
        f"{prefix}n: training seeds. Mean over seeds at the fixed last step ({steps}); "
        f"[95 % interval over seeds: {'; '.join(models.interval.unique())}]; "
        f"sd: between {cells[0].run.evaluation.resamplings} evaluations of {int(models.samples.iloc[0]):,} samples of one model",
        f"{prefix}best {main}: lowest over training, one evaluation per point; optimistically biased, not a final value",
        f"{prefix}protocols: {hashes}",
        f"against: relative difference in {main} from that model with the same settings, paired by training seed (t test, alpha = {ALPHA})",
    ]


def _times_below_noise(rows: pd.DataFrame) -> list[str]:
    """The factor by which pure noise exceeds each model in the main metric."""
    data, metric = rows.data.iloc[0], main_metric(rows.data.iloc[0])
    rows = rows[(rows.metric == metric) & rows["mean"].notna()]
    noise, models = rows[rows.model == "pure noise"], rows[rows.kind == "model"]
    if noise.empty or models.empty:
        return []
    level = noise["mean"].iloc[0]
    parts = ", ".join(f"{model} {level / mean:.1f}" for model, mean in zip(models.model, models["mean"], strict=True))
    return [f"{paper_values.data_name(data)}: times below pure noise in {METRICS[metric].title} ({level:.3g}): {parts}"]


def _missing(experiment: ExperimentCells, cell_values: CellValues) -> list[str]:
    """How many runs are published ones, and which wanted runs have no final values, by state and seeds."""
    loaded = cell_values.loaded
    entries = [entry for cell in experiment.cells for entry in loaded.find(cell.runs.values())]
    published = sum(entry.source == "published" for entry in entries)
    notes = [f"{published} of {len(entries)} runs are read from published records"] if published else []
    notes += [f"missing: {paper_values.data_name(data)}, {reason}" for data, reason in experiment.absent.items()]
    labels: dict[tuple[str, str, str], list[str]] = {}
    for cell in experiment.cells:
        states: dict[str, list[str]] = {}
        for seed in sorted(cell.wanted):
            if cell_values.final(cell.runs[seed], main_metric(cell.data)) is None:
                states.setdefault(loaded.state(cell.runs[seed]), []).append(str(seed))
        for state, seeds in states.items():
            labels.setdefault((state, paper_values.data_name(cell.data), ", ".join(seeds)), []).append(cell.label)
    return notes + [f"missing ({state}): {data}, {', '.join(names)}; seeds {seeds}" for (state, data, seeds), names in labels.items()]
