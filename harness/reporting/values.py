"""Numbers of a cell: final values and curves over training seeds, one protocol a column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import pandas as pd

from harness.config.run import Run
from harness.data.catalogue import main_metric
from harness.reporting.cells import Cell
from harness.reporting.load import Book
from harness.reporting.statistics import Interval, interval


@dataclass(frozen=True)
class Metric:
    """How a metric is shown. factor: of the shown value. better: "lower", "higher" or "" where neither is."""

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
MAIN = ("fid", "w2")
QUALITY = ("fid", "kid", "is", "w2", "in_mode", "mode_tv", "modes_missing")
_NO_ROWS = np.array([], dtype=np.int64)
COVERAGE = ("precision", "recall", "class_tv", "classes_missing")


@dataclass(frozen=True)
class Value:
    """A metric of a cell at the fixed last step: one value a seed, and the evaluation noise of one model apart."""

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
    """One metric over the cells of one data set, of one protocol. left_out: runs that do not fit, with the reason."""

    metric: str
    protocol: str | None
    cells: Mapping[str, Value]
    left_out: tuple[str, ...] = ()


class Numbers:
    """Looks values up in a book; one pass over the frame."""

    def __init__(self, book: Book) -> None:
        self.book = book
        frame = book.frame
        self._final: dict[str, dict[str, object]] = {}
        for row in frame[frame.final].itertuples(index=False):
            self._final.setdefault(row.run, {})[row.metric] = row
        curves = frame[~frame.final]
        self._where: dict[tuple[str, str], np.ndarray] = (
            curves.groupby(["run", "metric"], observed=True, sort=False).indices if len(curves) else {}
        )
        self._step, self._value, self._seconds = (curves[name].to_numpy() for name in ("step", "value", "seconds"))
        self._protocol = curves.protocol.cat.codes.to_numpy()
        self._protocols = list(curves.protocol.cat.categories)
        self._known: dict[tuple[object, ...], pd.DataFrame] = {}

    def metrics(self, cells: Iterable[Cell]) -> list[str]:
        """Metrics at hand for these cells, in the order of METRICS; class shares aside."""
        there = {metric for cell in cells for run in cell.runs.values() for metric in self._final.get(run, ())}
        return [name for name in METRICS if name in there]

    def main(self, cells: Iterable[Cell]) -> str:
        """The metric that models are judged by: W2 for points, else FID."""
        return next((self.main_of(cell.run) for cell in cells), "fid")

    def main_of(self, run: Run) -> str:
        """The metric that a run is judged by."""
        return main_metric(run.data.name)

    def final(self, run: str, metric: str) -> object | None:
        """The final record of a run, at its fixed last step."""
        row = self._final.get(run, {}).get(metric)
        entry = self.book.entries.get(run)
        return row if row is not None and entry and row.step == entry.run.train.steps else None

    def column(self, cells: Sequence[Cell], metric: str) -> Column:
        """The values of one metric, of the protocol that most runs share; the others are named."""
        rows = {(cell.key, seed): row for cell in cells for seed, run in cell.runs.items() if (row := self.final(run, metric)) is not None}
        if not rows:
            return Column(metric, None, {})
        counts = Counter(row.protocol for row in rows.values())
        protocol = max(counts, key=lambda name: (counts[name], name))
        names = {(cell.key, seed): run for cell in cells for seed, run in cell.runs.items()}
        left_out = [f"{names[key]}: {metric} of protocol {row.protocol}" for key, row in rows.items() if row.protocol != protocol]
        found = {}
        for cell in cells:
            own = {seed: rows[cell.key, seed] for seed in sorted(cell.runs) if (cell.key, seed) in rows}
            own = {seed: row for seed, row in own.items() if row.protocol == protocol}
            if own:
                noise = [row.sd for row in own.values() if row.sd is not None and not math.isnan(row.sd)]
                pooled = math.sqrt(fmean(sd**2 for sd in noise)) if noise else None
                n = next(iter(own.values())).n
                values = {seed: float(row.value) for seed, row in own.items()}
                found[cell.key] = Value(metric, values, pooled, None if math.isnan(n) else int(n), protocol)
        return Column(metric, protocol, found, tuple(left_out))

    def curve(self, run: str, metric: str) -> pd.Series:
        """Values of one run over training, by step; of the protocol that most of them share."""
        rows = self._where.get((run, metric), _NO_ROWS)
        return self._of_protocol(rows, self._usual([rows])) if len(rows) else pd.Series(dtype=float)

    def curves(self, cell: Cell, metric: str, protocol: str | None = None) -> pd.DataFrame:
        """Values by step (rows) and seed (columns), of one protocol: that given, else the one that most values share."""
        key = (cell.data, cell.key, tuple(cell.runs.values()), metric, protocol)
        if key not in self._known:
            rows = {seed: self._where[run, metric] for seed, run in sorted(cell.runs.items()) if (run, metric) in self._where}
            code = self._usual(rows.values()) if protocol is None else self._code(protocol)
            parts = {seed: self._of_protocol(one, code) for seed, one in rows.items()}
            self._known[key] = pd.DataFrame({seed: part for seed, part in parts.items() if len(part)}).sort_index()
        return self._known[key]

    def _of_protocol(self, rows: np.ndarray, code: int) -> pd.Series:
        rows = rows[self._protocol[rows] == code]
        return pd.Series(self._value[rows], index=self._step[rows]).sort_index()

    def _usual(self, groups: Iterable[np.ndarray]) -> int:
        codes = np.concatenate([_NO_ROWS, *groups])
        return int(np.bincount(self._protocol[codes]).argmax()) if len(codes) else -1

    def _code(self, protocol: str) -> int:
        return self._protocols.index(protocol) if protocol in self._protocols else -1

    def at_seconds(self, run: str, metric: str, protocol: str | None, seconds: float) -> float | None:
        """The value of the last evaluation that a run had behind it after so many seconds of training."""
        rows = self._where.get((run, metric), _NO_ROWS)
        rows = rows[(self._protocol[rows] == self._code(protocol or "")) & (self._seconds[rows] <= seconds)]
        return float(self._value[rows[self._step[rows].argmax()]]) if len(rows) else None

    def trained(self, run: str) -> float | None:
        """Seconds of training of a finished run, evaluations left out."""
        entry = self.book.entries.get(run)
        found = (entry.result or {}).get("seconds") if entry else None
        return float(found) if isinstance(found, (int, float)) else None

    def best(self, cell: Cell, metric: str, protocol: str | None) -> tuple[Interval, tuple[int, int]] | None:
        """Best value over training, a seed each, with the earliest and latest step it was met at."""
        curves = self.curves(cell, metric, protocol)
        if curves.empty:
            return None
        lower = METRICS[metric].better == "lower"
        values = curves.min() if lower else curves.max()
        steps = curves.idxmin() if lower else curves.idxmax()
        return interval(list(values)), (int(steps.min()), int(steps.max()))


def decimals(values: Iterable[float], significant: int = 3) -> int:
    """Decimals at which the smallest of the values keeps that many significant digits; 0 to 4."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return 2
    return min(4, max(0, significant - 1 - math.floor(math.log10(min(sizes)))))
