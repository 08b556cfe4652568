"""Values of cells: final values and curves over training seeds. Values that are compared come from records of one protocol."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.data.catalogue import REGISTRY
from harness.reporting.cells import Cell
from harness.reporting.load import LoadedResults
from harness.reporting.other_networks import OtherNetworks, own_metric
from harness.reporting.other_networks import read as read_others
from harness.stats.intervals import Bounds, Interval, interval
from harness.store.records import FIELDS, Record, parted_name


@dataclass(frozen=True)
class Metric:
    """How a metric is shown. better: "lower", "higher", or "" for neither. factor: shown values are multiplied by it."""

    name: str
    title: str
    better: str = "lower"
    factor: float = 1.0
    bounds: Bounds = (0.0, None)
    """The least and the greatest value that it can have, where they do not depend on the data set (see `bounds_of`)."""


class Metrics(dict[str, Metric]):
    """Metrics by name. That of samples of several steps (fid/2-steps), or of another feature network (fid@dinov2), follows from that of one
    step by the network of the data set, and is not listed."""

    def __missing__(self, name: str) -> Metric:
        metric, network = own_metric(name)
        if network:
            return replace(self[metric], name=name, title=f"{self[metric].title} ({network})")
        metric, steps = parted_name(name)
        if steps == 1:
            raise KeyError(name)
        return replace(self[metric], name=name, title=f"{self[metric].title}, {steps} steps")


METRICS = Metrics(
    (metric.name, metric)
    for metric in (
        Metric("fid", "FID"),
        Metric("kid", "KID x100", factor=100.0, bounds=(None, None)),
        Metric("is", "IS", "higher", bounds=(1.0, None)),
        Metric("w2", "W2"),
        Metric("in_mode", "in mode", "higher", bounds=(0.0, 1.0)),
        Metric("mode_tv", "mode TV", bounds=(0.0, 1.0)),
        Metric("modes_missing", "modes missing"),
        Metric("precision", "precision", "higher", bounds=(0.0, 1.0)),
        Metric("recall", "recall", "higher", bounds=(0.0, 1.0)),
        Metric("class_tv", "class TV", bounds=(0.0, 1.0)),
        Metric("classes_missing", "classes missing"),
        Metric("rare_share", "rare class", ""),
        Metric("pair_cost", "E|x - z|^2", ""),
        Metric("loss", "training loss per row", ""),
        Metric("endpoint_fid", "FID of endpoints"),
        Metric("endpoint_w2", "W2 of endpoints"),
    )
)
OWN_CLASSIFIER = ("digits", "fashion-mnist")
"""Data sets whose images are measured by a classifier of their own classes instead of Inception."""
QUALITY = ("fid", "kid", "is", "w2", "in_mode", "mode_tv", "modes_missing")
COVERAGE = ("rare_share", "precision", "recall", "class_tv", "classes_missing")


def step_counts(cells: Iterable[Cell]) -> range:
    """The numbers of steps with which models of these cells are measured: 1, and more where an evaluation has times."""
    return range(1, max((len(cell.run.evaluation.times) for cell in cells), default=0) + 2)


def bounds_of(metric: str, data: str) -> Bounds:
    """The least and the greatest value that a metric of samples of a data set can have; None: no such value.

    KID is the unbiased estimate, which may be negative. IS lies between 1 and the number of classes that its classifier tells apart.
    """
    low, high = METRICS[metric].bounds
    dataset, metric = REGISTRY.get(data), parted_name(metric)[0]
    if dataset is None:
        return low, high  # the classes that a set of the user's own is measured by are those of no classifier
    of_classes = metric in ("modes_missing", "classes_missing") or (metric == "is" and dataset.base in OWN_CLASSIFIER)
    return low, float(dataset.classes) if of_classes and dataset.classes else high


@dataclass(frozen=True)
class Value:
    """A metric of a cell at the fixed last step."""

    metric: str
    values: Mapping[int, float]
    """By training seed."""
    noise: float | None
    """Standard deviation between evaluation resamplings of one model, pooled over the seeds."""
    samples: int | None
    """Samples per evaluation."""
    protocol: str
    bounds: Bounds = (None, None)
    """The least and the greatest value that the metric can have."""

    @cached_property
    def interval(self) -> Interval:
        return interval(list(self.values.values()), self.bounds)


@dataclass(frozen=True)
class Column:
    """One metric of the cells of a data set, by key, all of one protocol. left_out: texts on runs of other protocols."""

    metric: str
    protocol: str | None
    cells: Mapping[str, Value]
    left_out: tuple[str, ...] = ()

    def by_seed(self, key: str) -> Mapping[int, float]:
        """The values of a cell by training seed, {} if it has none."""
        return self.cells[key].values if key in self.cells else {}


class CellValues:
    """The values of runs and cells among loaded results. The records are indexed once, since a report asks for the same values often."""

    def __init__(self, loaded: LoadedResults) -> None:
        self.loaded = loaded
        frame = loaded.frame
        self._final: dict[str, dict[str, Record]] = {}
        for row in frame[frame.final][list(FIELDS)].itertuples(index=False, name=None):
            record = _record(row)
            self._final.setdefault(record.run, {})[record.metric] = record
        self._points = frame[~frame.final]
        self._steps, self._values = self._points.step.to_numpy(), self._points.value.to_numpy()
        self._protocols = self._points.protocol.cat.codes.to_numpy() if len(frame) else np.array([], dtype=int)
        """Columns of `_points`; protocols as positions among their categories, which are sorted."""
        self._rows: Mapping[tuple[str, str], Any] = {}
        """Positions in `_points` by run and metric."""
        if len(self._points):
            self._rows = self._points.groupby(["run", "metric"], observed=True, sort=False).indices
        self._curves: dict[tuple[object, ...], pd.DataFrame] = {}

    @cached_property
    def others(self) -> OtherNetworks:
        """What feature networks beside those of the data sets have measured of these runs."""
        return read_others(self.loaded)

    def content(self, run: str) -> str:
        """A hash of all that is known about a run: where it was made, and its records; "" if it was not loaded."""
        entry = self.loaded.runs.get(run)
        if entry is None:
            return ""
        made = (entry.source, entry.state, entry.commit, sorted(entry.devices), [path.name for path in entry.samples])
        return hashlib.sha256(repr(made).encode() + self._contents.get(run, b"")).hexdigest()

    @cached_property
    def _contents(self) -> Mapping[str, bytes]:
        """The hashes of all records of each run, one after the other."""
        frame = self.loaded.frame
        if not len(frame):
            return {}
        rows = pd.util.hash_pandas_object(frame.drop(columns="check"), index=False).to_numpy()
        names, codes = frame.run.cat.categories, frame.run.cat.codes.to_numpy()
        order = np.argsort(codes, kind="stable")
        parts = np.split(rows[order], np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
        return {name: part.tobytes() for name, part in zip(names, parts, strict=True)}

    def metrics(self, cells: Iterable[Cell]) -> list[str]:
        """Metrics with final values of these cells, in the order of METRICS, without class shares."""
        available = {metric for cell in cells for run in cell.runs.values() for metric in self._final.get(run, ())}
        return [name for name in METRICS if name in available]

    def final(self, run: str, metric: str) -> Record | None:
        """The final record of a run, at its fixed last step."""
        finals = self.others.finals if own_metric(metric)[1] else self._final
        record, entry = finals.get(run, {}).get(metric), self.loaded.runs.get(run)
        return record if record and entry and record.step == entry.run.train.steps else None

    def column(self, cells: Sequence[Cell], metric: str) -> Column:
        """The values of one metric, of the protocol that most runs share."""
        runs = {(cell.key, seed): run for cell in cells for seed, run in cell.runs.items()}
        records = {key: record for key, run in runs.items() if (record := self.final(run, metric))}
        if not records:
            return Column(metric, None, {})
        counts = Counter(record.protocol for record in records.values())
        protocol = max(counts, key=lambda name: (counts[name], name))
        left_out = [f"{runs[key]}: {metric} of protocol {row.protocol}" for key, row in records.items() if row.protocol != protocol]
        values = {}
        for cell in cells:
            cell_records = {seed: row for (key, seed), row in records.items() if key == cell.key and row.protocol == protocol}
            if cell_records:
                noise = [row.sd for row in cell_records.values() if row.sd is not None]
                pooled = math.sqrt(fmean(sd**2 for sd in noise)) if noise else None
                samples = next(iter(cell_records.values())).n
                by_seed = {seed: float(row.value) for seed, row in cell_records.items()}
                values[cell.key] = Value(metric, by_seed, pooled, samples, protocol, bounds_of(metric, cell.data))
        return Column(metric, protocol, values, tuple(left_out))

    def curve(self, run: str, metric: str) -> pd.Series:
        """Values of one run over training, by step; of the protocol that most of them share."""
        rows = self._rows_of(run, metric)
        return self._by_step(rows, self._usual_protocol(rows))

    def curves(self, cell: Cell, metric: str, protocol: str | None = None) -> pd.DataFrame:
        """Values by step (rows) and seed (columns), of one protocol: the one given, else the one that most values share."""
        key = (*cell.runs.values(), metric, protocol)
        if key not in self._curves:
            rows = {seed: self._rows_of(run, metric) for seed, run in cell.runs.items()}
            code = self._code(protocol) if protocol else self._usual_protocol(np.concatenate([*rows.values()]))
            by_seed = {seed: self._by_step(part, code) for seed, part in rows.items()}
            self._curves[key] = pd.DataFrame({seed: curve for seed, curve in by_seed.items() if len(curve)}).sort_index()
        return self._curves[key]

    def curve_protocol(self, cells: Iterable[Cell], metric: str) -> str | None:
        """The protocol that most values of the curves of these cells share; None without values."""
        rows = [self._rows_of(run, metric) for cell in cells for run in cell.runs.values()]
        code = self._usual_protocol(np.concatenate(rows)) if rows else -2
        return str(self._points.protocol.cat.categories[code]) if code >= 0 else None

    def finished_curves(self, cell: Cell, metric: str) -> pd.DataFrame:
        """`curves` of the seeds that have finished, at the steps that all of these have.

        Tests use these: the mean over a part of the training is another quantity than that over all of it.
        """
        curves = self.curves(cell, metric)
        return curves[[seed for seed in curves if self.final(cell.runs[seed], metric)]].dropna()

    def _rows_of(self, run: str, metric: str) -> np.ndarray:
        """The positions in `_points` of a run's records of a metric."""
        rows: np.ndarray = np.asarray(self._rows.get((run, metric), ()), dtype=int)
        return rows

    def _code(self, protocol: str) -> int:
        """The position of a protocol among the categories, -2 if no record has it."""
        categories = list(self._points.protocol.cat.categories) if len(self._points) else []
        return categories.index(protocol) if protocol in categories else -2

    def _usual_protocol(self, rows: np.ndarray) -> int:
        """The most frequent protocol of these records, the first in the alphabet of several; by its position among the categories."""
        codes = self._protocols[rows]
        return int(np.bincount(codes[codes >= 0]).argmax()) if (codes >= 0).any() else -2

    def _by_step(self, rows: np.ndarray, protocol: int) -> pd.Series:
        """The values of these records that have this protocol, by step."""
        rows = rows[self._protocols[rows] == protocol]
        rows = rows[np.argsort(self._steps[rows], kind="stable")]
        return pd.Series(self._values[rows], index=pd.Index(self._steps[rows], name="step"), name="value")

    def at_seconds(self, run: str, metric: str, protocol: str | None, seconds: float) -> float | None:
        """The value of the last evaluation within the first `seconds` of a run's training."""
        points = self._points.iloc[self._rows_of(run, metric)]
        points = points[(points.protocol == protocol) & (points.seconds <= seconds)]
        return float(points.value[points.step.idxmax()]) if len(points) else None

    def predictor_steps(self, run: Run) -> int | None:
        """Training steps of a run's frozen predictor, 0 where they are unknown; None without a frozen predictor."""
        coupling = run.coupling
        if not isinstance(coupling, GeneratorAugmented) or coupling.predictor != "frozen":
            return None
        entry = self.loaded.runs.get(coupling.frozen or "")
        return coupling.frozen_step or (entry.run.train.steps if entry else 0)

    def best(self, cell: Cell, metric: str, protocol: str | None) -> tuple[float, int, int] | None:
        """The mean over seeds of the best value over training, and the first and the last step at which a seed had its best value.

        It counts the evaluations of the curve and the final value, so for the same seeds it is never worse than the final value. Being
        chosen among noisy values, it is too good on average.
        """
        curves, choose = self.curves(cell, metric, protocol), min if METRICS[metric].better == "lower" else max
        best = []
        for seed, run in cell.runs.items():
            points = [(value, step) for step, value in curves[seed].dropna().items()] if seed in curves else []
            final = self.final(run, metric)
            if final is not None and final.protocol == protocol:
                points.append((final.value, final.step))
            if points:
                best.append(choose(points, key=lambda point: point[0]))
        if not best:
            return None
        steps = [int(step) for _, step in best]
        return fmean(value for value, _ in best), min(steps), max(steps)


def _record(row: Sequence[Any]) -> Record:
    """The record of a row of `LoadedResults.frame`, in which NaN stands for a missing number."""
    fields: dict[str, Any] = dict(zip(FIELDS, (None if value != value else value for value in row), strict=True))
    for name in ("step", "images", "n", "resamplings"):
        fields[name] = None if fields[name] is None else int(fields[name])
    return Record(**fields)
