"""Values of cells: final values and curves over training seeds, each from records of one protocol."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.reporting.cells import Cell
from harness.reporting.load import LoadedResults
from harness.reporting.statistics import Interval, interval
from harness.store.records import FIELDS, Record


@dataclass(frozen=True)
class Metric:
    """How a metric is shown. factor: by which shown values are multiplied. better: "lower", "higher" or "" where neither is."""

    name: str
    title: str
    better: str = "lower"
    factor: float = 1.0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID"),
        Metric("kid", "KID x100", factor=100.0),
        Metric("is", "IS", "higher"),
        Metric("w2", "W2"),
        Metric("in_mode", "in mode", "higher"),
        Metric("mode_tv", "mode TV"),
        Metric("modes_missing", "modes missing"),
        Metric("precision", "precision", "higher"),
        Metric("recall", "recall", "higher"),
        Metric("class_tv", "class TV"),
        Metric("classes_missing", "classes missing"),
        Metric("pair_cost", "E|x - z|^2", ""),
        Metric("endpoint_fid", "FID of endpoints"),
        Metric("endpoint_w2", "W2 of endpoints"),
    )
}
QUALITY = ("fid", "kid", "is", "w2", "in_mode", "mode_tv", "modes_missing")
COVERAGE = ("precision", "recall", "class_tv", "classes_missing")
_NO_ROWS = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class Value:
    """A metric of a cell at the fixed last step: one value per seed, and separately the evaluation noise."""

    metric: str
    values: Mapping[int, float]
    noise: float | None
    """Standard deviation between evaluation resamplings of one model, pooled over the seeds."""
    samples: int | None
    """Samples of one evaluation."""
    protocol: str

    @cached_property
    def interval(self) -> Interval:
        return interval(list(self.values.values()))


@dataclass(frozen=True)
class Column:
    """One metric over the cells of one data set, of one protocol. left_out: runs of other protocols, each with its protocol."""

    metric: str
    protocol: str | None
    cells: Mapping[str, Value]
    left_out: tuple[str, ...] = ()


class CellValues:
    """Finds the values of runs and cells among loaded results; reads their frame once."""

    def __init__(self, loaded: LoadedResults) -> None:
        self.loaded = loaded
        frame = loaded.frame
        self._final: dict[str, dict[str, Record]] = {}
        for row in frame[frame.final][list(FIELDS)].itertuples(index=False, name=None):
            record = _record(row)
            self._final.setdefault(record.run, {})[record.metric] = record
        curves = frame[~frame.final]
        self._where: Mapping[tuple[str, str], Any] = (
            curves.groupby(["run", "metric"], observed=True, sort=False).indices if len(curves) else {}
        )
        self._step, self._value, self._seconds = (curves[name].to_numpy() for name in ("step", "value", "seconds"))
        self._protocol = curves.protocol.cat.codes.to_numpy()
        self._protocols = list(curves.protocol.cat.categories)
        self._known: dict[tuple[object, ...], pd.DataFrame] = {}

    def metrics(self, cells: Iterable[Cell]) -> list[str]:
        """Metrics with final values of these cells, in the order of METRICS, without class shares."""
        available = {metric for cell in cells for run in cell.runs.values() for metric in self._final.get(run, ())}
        return [name for name in METRICS if name in available]

    def final(self, run: str, metric: str) -> Record | None:
        """The final record of a run, at its fixed last step."""
        record, entry = self._final.get(run, {}).get(metric), self.loaded.runs.get(run)
        return record if record and entry and record.step == entry.run.train.steps else None

    def column(self, cells: Sequence[Cell], metric: str) -> Column:
        """The values of one metric, of the protocol that most runs share; runs of other protocols are named."""
        runs = {(cell.key, seed): run for cell in cells for seed, run in sorted(cell.runs.items())}
        records = {key: record for key, run in runs.items() if (record := self.final(run, metric))}
        if not records:
            return Column(metric, None, {})
        counts = Counter(record.protocol for record in records.values())
        protocol = max(counts, key=lambda name: (counts[name], name))
        left_out = [f"{runs[key]}: {metric} of protocol {row.protocol}" for key, row in records.items() if row.protocol != protocol]
        values = {}
        for cell in cells:
            own = {seed: row for (key, seed), row in records.items() if key == cell.key and row.protocol == protocol}
            if own:
                noise = [row.sd for row in own.values() if row.sd is not None]
                pooled = math.sqrt(fmean(sd**2 for sd in noise)) if noise else None
                samples = next(iter(own.values())).n
                values[cell.key] = Value(metric, {seed: float(row.value) for seed, row in own.items()}, pooled, samples, protocol)
        return Column(metric, protocol, values, tuple(left_out))

    def curve(self, run: str, metric: str) -> pd.Series:
        """Values of one run over training, by step; of the protocol that most of them share."""
        rows = self._where.get((run, metric), _NO_ROWS)
        return self._of_protocol(rows, self._usual([rows])) if len(rows) else pd.Series(dtype=float)

    def curves(self, cell: Cell, metric: str, protocol: str | None = None) -> pd.DataFrame:
        """Values by step (rows) and seed (columns), of one protocol: the one given, else the one that most values share."""
        key = (cell.data, cell.key, tuple(cell.runs.values()), metric, protocol)
        if key not in self._known:
            groups = {seed: self._where[run, metric] for seed, run in sorted(cell.runs.items()) if (run, metric) in self._where}
            code = self._usual(groups.values()) if protocol is None else self._code(protocol)
            parts = {seed: self._of_protocol(rows, code) for seed, rows in groups.items()}
            self._known[key] = pd.DataFrame({seed: part for seed, part in parts.items() if len(part)}).sort_index()
        return self._known[key]

    def _of_protocol(self, rows: np.ndarray[Any, Any], code: int) -> pd.Series:
        rows = rows[self._protocol[rows] == code]
        return pd.Series(self._value[rows], index=self._step[rows]).sort_index()

    def _usual(self, groups: Iterable[np.ndarray[Any, Any]]) -> int:
        codes = np.concatenate([_NO_ROWS, *groups])
        return int(np.bincount(self._protocol[codes]).argmax()) if len(codes) else -1

    def _code(self, protocol: str) -> int:
        return self._protocols.index(protocol) if protocol in self._protocols else -1

    def at_seconds(self, run: str, metric: str, protocol: str | None, seconds: float) -> float | None:
        """The value of the last evaluation within the first `seconds` of a run's training."""
        rows = self._where.get((run, metric), _NO_ROWS)
        rows = rows[(self._protocol[rows] == self._code(protocol or "")) & (self._seconds[rows] <= seconds)]
        return float(self._value[rows[self._step[rows].argmax()]]) if len(rows) else None

    def trained(self, run: str) -> float | None:
        """Seconds of training of a finished run, without evaluations."""
        entry = self.loaded.runs.get(run)
        seconds = (entry.result or {}).get("seconds") if entry else None
        return float(seconds) if isinstance(seconds, (int, float)) else None

    def predictor_steps(self, run: Run) -> int | None:
        """Training steps of a run's frozen predictor, 0 where they are unknown; None without a frozen predictor."""
        coupling = run.coupling
        if not isinstance(coupling, GeneratorAugmented) or coupling.predictor != "frozen":
            return None
        entry = self.loaded.runs.get(coupling.frozen or "")
        return coupling.frozen_step or (entry.run.train.steps if entry else 0)

    def best(self, cell: Cell, metric: str, protocol: str | None) -> tuple[Interval, tuple[int, int]] | None:
        """The best value over training, one per seed, with the earliest and the latest step at which it occurred."""
        curves = self.curves(cell, metric, protocol)
        if curves.empty:
            return None
        lower = METRICS[metric].better == "lower"
        values = curves.min() if lower else curves.max()
        steps = curves.idxmin() if lower else curves.idxmax()
        return interval(list(values)), (int(steps.min()), int(steps.max()))


def _record(row: Sequence[Any]) -> Record:
    """The record of a row of `LoadedResults.frame`, where NaN stands for a missing number."""
    fields: dict[str, Any] = dict(zip(FIELDS, (None if value != value else value for value in row), strict=True))
    for name in ("step", "images", "n", "resamplings"):
        fields[name] = None if fields[name] is None else int(fields[name])
    return Record(**fields)
