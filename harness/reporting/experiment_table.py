"""The printed table of an experiment at one scale: its tidy frame formatted once, with the paper's table below."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.data.catalogue import main_metric
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.experiment_frame import COLUMNS, NUMBERS, PRINTED_ONLY, WALL_CLOCK, experiment_frame
from harness.reporting.statistics import ALPHA
from harness.reporting.tables import MISSING, CellText, Lines, Table, decimals, number
from harness.reporting.values import COVERAGE, METRICS, QUALITY, CellValues

_SHORT = {"precision": "prec.", "classes_missing": "missing", "modes_missing": "missing", "class_tv": "class TV"}
_COUNTS = ("classes_missing", "modes_missing")
_OWN_CLASSIFIER = ("digits", "fashion-mnist")
_WALL_CLOCK = (
    "stopped at iCT-IC's wall-clock time: the last evaluation of GC within the seconds that iCT-IC of its seed trained for, as recorded; "
    "meaningful only if both ran on equal machines under equal load"
)
_MODELS = {"ic": "IC", "gc-0.5": "GC (mu=0.5)"}


def experiment_table(experiment: ExperimentCells, cell_values: CellValues) -> Table:
    """The table <experiment>-<scale>: the cells, then the baselines. Missing values are shown as missing."""
    experiment = experiment.samplers()
    frame = experiment_frame(experiment, cell_values)
    name = f"{experiment.name}-{experiment.scale}"
    title = f"{re.split(r'[;.] ', experiment.title or experiment.name)[0].rstrip('.')} ({experiment.scale} scale)"
    full = frame.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, float))
    quality = _Part(experiment, full, QUALITY)
    coverage = _Part(experiment, full, COVERAGE)
    notes = (*experiment.notes, *_notes(experiment, cell_values, quality), *_missing(experiment, cell_values))
    more = []
    if coverage.metrics:
        more.append(Table(f"{name}-coverage", f"{title}: diversity", coverage.headers(), tuple(coverage.rows()), rules=coverage.rules))
    if paper := paper_values.table(experiment.name):
        more.append(paper)
    data = frame.drop(columns=list(PRINTED_ONLY), errors="ignore")
    return Table(name, title, quality.headers(), tuple(quality.rows()), notes, quality.rules, data, tuple(more))


class _Part:
    """The rows of a frame for some metrics, as one printed table. The first table also shows best values and comparisons."""

    def __init__(self, experiment: ExperimentCells, frame: pd.DataFrame, metrics: Sequence[str]) -> None:
        self.experiment = experiment
        self.frame = frame[frame.metric.isin(metrics)]
        self.compared = metrics == QUALITY
        self.metrics = [name for name in metrics if name in set(self.frame.metric)] or ["fid"] * self.compared
        self.paper = self.compared and bool(self.frame.paper.notna().any())
        self.rules: frozenset[int] = frozenset()

    def headers(self) -> tuple[str, ...]:
        headers = ["model", "n", *(_SHORT.get(name, METRICS[name].title) for name in self.metrics)]
        if self.compared:
            against = self.experiment.against
            headers += [f"best {METRICS[self.metrics[0]].title}", f"against {_MODELS.get(against, against)}"]
        return (*headers, *["the paper"] * self.paper)

    def rows(self) -> list[tuple[CellText, ...]]:
        """The formatted rows; sets `rules`."""
        rows: list[tuple[CellText, ...]] = []
        for data in self.experiment.data:
            own = self.frame[self.frame.data == data]
            means = own[own.kind == "model"].groupby("metric")["mean"]
            places = {str(metric): _decimals(str(metric), values) for metric, values in means}
            if len(self.experiment.data) > 1:
                rows.append((paper_values.data_name(data),))
            if (own.kind == "baseline").any():
                self.rules |= {len(rows) + own.key.nunique()}
            rows += [self._row(part, places) for _, part in own.groupby(["key", "model"], sort=False, dropna=False)]
        return rows + (self._absent() if self.compared else [])

    def _row(self, rows: pd.DataFrame, places: Mapping[str, int]) -> tuple[CellText, ...]:
        """The row of one model or baseline from its rows of the frame. Only models are compared."""
        values: dict[str, Any] = {row.metric: row for row in rows.itertuples(index=False)}
        first = next(iter(values.values()))
        compared: list[CellText] = [""] * (2 * self.compared + self.paper)
        if first.kind == "baseline":
            n = f"n={int(first.samples)}"
        else:
            seeds = int(rows.seeds.max())
            n = f"{seeds} of {int(first.seeds_wanted)}" if seeds < first.seeds_wanted else str(seeds)
        if self.compared and not pd.isna(first.seeds_wanted):
            compared = [_best(first, places[first.metric]), _comparison(first), *[_paper(rows)] * self.paper]
        cells = [_value(values[name], places[name]) if name in values else MISSING for name in self.metrics]
        return (first.model, n, *cells, *compared)

    def _absent(self) -> list[tuple[CellText, ...]]:
        """The paper's rows of data sets that the experiment leaves out, as missing."""
        rows: list[tuple[CellText, ...]] = []
        paper = paper_values.paper().get(self.experiment.name, {})
        for data in self.experiment.absent:
            rows.append((paper_values.data_name(data),))
            for row in (row for row in paper.get("rows", ()) if row["data"] == data):
                for length, steps in paper.get("steps", {}).items():
                    label = f"{paper_values.MODELS[row['model']]}, {steps:,} steps"
                    value = [paper_values.text(*row[length])] if self.paper else []
                    rows.append((label, "0", *[MISSING] * (len(self.metrics) + 2), *value))
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
        verdict = f"not separable\np = {row.p:.2g}"
    else:
        lower = METRICS[row.metric].better == "lower"
        verdict = f"{'better' if (row.difference < 0) == lower else 'worse'}\np = {row.p:.2g}"
    return Lines(f"{row.relative:+.0%}", verdict)


def _paper(rows: pd.DataFrame) -> CellText:
    """The paper's values, the first one as main text."""
    given = rows[rows.paper.notna()].itertuples()
    texts = [(METRICS[row.metric].title, paper_values.text(row.paper * METRICS[row.metric].factor, row.paper_pm)) for row in given]
    return Lines(texts[0][1], "\n".join(f"{title} {text}" for title, text in texts[1:])) if texts else MISSING


def _notes(experiment: ExperimentCells, cell_values: CellValues, part: _Part) -> list[str]:
    """How the numbers were computed, and what is to be known about them."""
    notes: dict[str, None] = {}
    for data in experiment.data:
        own = part.frame[part.frame.data == data]
        measured = own[(own.kind == "model") & own["mean"].notna()]
        if measured.key.str.endswith(WALL_CLOCK).any():
            notes[_WALL_CLOCK] = None
        if len(measured) and not (own.kind == "baseline").any() and experiment.selection:
            command = experiment.selection.command("harness reproduce")
            notes[f"{paper_values.data_name(data)}: no baselines yet; to measure them: {command}"] = None
        notes |= dict.fromkeys(_methods(experiment, data, measured, part.metrics))
        columns = (cell_values.column(experiment.of(data), name) for name in part.metrics)
        notes |= dict.fromkeys(f"left out: {text}" for column in columns for text in column.left_out)
    if set(experiment.data) & set(_OWN_CLASSIFIER):
        text = "FID, KID and IS use the features of a classifier of this data set, not Inception: not comparable with the paper's values"
        notes[text] = None
    if experiment.name == "table1":
        notes |= dict.fromkeys(note for data in experiment.data for note in _times_below_noise(part.frame[part.frame.data == data]))
    return list(notes)


def _methods(experiment: ExperimentCells, data: str, measured: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Step, interval, evaluation noise and protocol of the values of one data set."""
    models = measured[measured.seeds_wanted.notna()]
    if models.empty:
        return []
    prefix = f"{paper_values.data_name(data)}: " if len(experiment.data) > 1 else ""
    cells = experiment.of(data)
    steps = ", ".join(f"{step:,}" for step in sorted({cell.run.train.steps for cell in cells}))
    protocols = {name: models[models.metric == name].protocol for name in metrics}
    hashes = ", ".join(f"{METRICS[name].title} {values.iloc[0]}" for name, values in protocols.items() if len(values))
    main = METRICS[metrics[0]].title
    return [
        f"{prefix}n: training seeds. Mean over seeds at the fixed last step ({steps}); "
        f"[95 % interval over seeds: {'; '.join(models.interval.unique())}]; "
        f"sd: between {cells[0].run.evaluation.resamplings} evaluations of {int(models.samples.iloc[0]):,} samples of one model",
        f"{prefix}best {main}: lowest over training, one evaluation per point; optimistically biased, not a final value",
        f"{prefix}protocols: {hashes}",
        f"against: relative difference in {main} from that model with the same settings, paired by training seed (t test, alpha = 0.05)",
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
    entries = cell_values.loaded.runs
    recorded = [entries[run] for cell in experiment.cells for run in cell.runs.values() if run in entries]
    published = sum(entry.source == "published" for entry in recorded)
    notes = [f"{published} of {len(recorded)} runs are read from published records"] if published else []
    notes += [f"missing: {paper_values.data_name(data)}, {reason}" for data, reason in experiment.absent.items()]
    labels: dict[tuple[str, str, str], list[str]] = {}
    for cell in experiment.cells:
        states: dict[str, list[str]] = {}
        for seed in sorted(cell.wanted):
            if cell_values.final(cell.runs[seed], main_metric(cell.data)) is None:
                entry = entries.get(cell.runs[seed])
                states.setdefault(entry.state if entry else "not run", []).append(str(seed))
        for state, seeds in states.items():
            labels.setdefault((state, paper_values.data_name(cell.data), ", ".join(seeds)), []).append(cell.label)
    return notes + [f"missing ({state}): {data}, {', '.join(names)}; seeds {seeds}" for (state, data, seeds), names in labels.items()]
