"""The measurements of `why_mu` beside the records of the same runs: values by mu and grid, preferred mu, rank correlations.

A criterion is a number that is better when it is lower: the metric of samples, and what could explain it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from harness.data.catalogue import REGISTRY, main_metric
from harness.reporting.values import METRICS, CellValues
from harness.stats.intervals import Bounds, Interval, interval
from harness.stats.optimum import Lowest, Pairs, lowest, mean_correlation
from harness.store.measurements import CLOSED_FORM, grid_of_case

QUALITY, BIAS, SPREAD, UNEVEN, GRADIENT, RELATIVE = "quality", "bias", "spread", "uneven", "gradient", "relative-gradient"
WITHIN_IC, WITHIN_GC, BETWEEN, RATIO = "gradient-ic", "gradient-gc", "gradient-between", "gradient-ratio"
TITLES = {
    BIAS: "bias E|f - f_ideal|^2 / d",
    UNEVEN: "distance of the spread from 1, |ln spread|",
    GRADIENT: "variance of the gradient",
    "discrepancy": "R(theta)",
    "cost": "transport cost c(t)",
}
"""The criteria that may explain the quality, as the tables name them."""
SIGNED = (UNEVEN, BETWEEN)
"""Criteria whose values may be 0 or below, which are compared as they are and not as logarithms."""


@dataclass(frozen=True)
class Models:
    """The models of one data set. frame: columns criterion, n (intervals of the grid), mu, seed, value, run. closed: the same of the closed
    form, without seed and run. t: the noise level of c(t), None where it was not measured.
    """

    data: str
    frame: pd.DataFrame
    closed: pd.DataFrame
    cell_values: CellValues
    t: float | None = None

    @property
    def metric(self) -> str:
        """The metric of samples."""
        return main_metric(self.data)

    @property
    def quality(self) -> str:
        """The metric of samples, as tables name it."""
        return METRICS[self.metric].title

    @cached_property
    def grids(self) -> list[int]:
        """The numbers of intervals, ascending."""
        return sorted(self.frame.n.unique().tolist())

    @cached_property
    def criteria(self) -> list[str]:
        """The criteria that were measured, quality first."""
        measured = set(self.frame.criterion)
        return [name for name in (QUALITY, *TITLES) if name in measured]

    def title(self, criterion: str) -> str:
        """A criterion as the tables name it."""
        if criterion == QUALITY:
            return self.quality
        return f"{TITLES[criterion]} at t = {self.t:g}" if criterion == "cost" else TITLES[criterion]

    def seeds(self) -> list[int]:
        """The training seeds."""
        return sorted(int(seed) for seed in self.frame.seed.unique())

    @cached_property
    def _values(self) -> dict[tuple[str, int], dict[float, dict[int, float]]]:
        """The values by criterion and grid, then by mu and seed, both ascending."""
        values: dict[tuple[str, int], dict[float, dict[int, float]]] = {}
        columns = self.frame[["criterion", "n", "mu", "seed", "value"]].sort_values(["mu", "seed"])
        for criterion, n, mu, seed, value in columns.itertuples(index=False):
            values.setdefault((criterion, n), {}).setdefault(float(mu), {})[int(seed)] = float(value)
        return values

    def by_mu(self, criterion: str, n: int) -> dict[float, dict[int, float]]:
        """The values on one grid, by mu (ascending) and seed."""
        return self._values.get((criterion, n), {})

    @cached_property
    def _closed(self) -> dict[tuple[str, int], dict[float, float]]:
        """The closed form by criterion and grid, then by mu, ascending."""
        values: dict[tuple[str, int], dict[float, float]] = {}
        for criterion, n, mu, value in self.closed[["criterion", "n", "mu", "value"]].sort_values("mu").itertuples(index=False):
            values.setdefault((criterion, n), {})[float(mu)] = float(value)
        return values

    def closed_form(self, criterion: str, n: int) -> dict[float, float]:
        """The closed form on one grid, by mu (ascending)."""
        return self._closed.get((criterion, n), {})

    def at(self, criterion: str, n: int, mu: float, bounds: Bounds = (None, None)) -> Interval | None:
        """The mean over seeds and its interval; None without a value."""
        values = self.by_mu(criterion, n).get(mu)
        return interval(list(values.values()), bounds) if values else None

    def preferred(self, criterion: str, n: int) -> Lowest | None:
        """The mu at which a criterion is lowest, over the seeds that all mu have."""
        values = self.by_mu(criterion, n)
        if criterion not in SIGNED:
            values = {mu: {seed: math.log(value) for seed, value in by_seed.items() if value > 0} for mu, by_seed in values.items()}
        return lowest(values)

    def closed_form_prefers(self, criterion: str, n: int) -> float | None:
        """The mu, among those that were measured on this grid, at which the closed form is lowest; None where it has no such quantity."""
        values, measured = self.closed_form(criterion, n), self.by_mu(criterion, n)
        return min((mu for mu in values if mu in measured), key=lambda mu: values[mu], default=None)

    def correlation(self, criterion: str, across: bool) -> Interval | None:
        """Spearman's rank correlation of a criterion with quality, by seed, then over seeds: within each N and averaged, or across all mu
        and N. Across grids the variance of the gradient is divided by that of mu = 0, since the weights of the loss grow with N."""
        name = RELATIVE if criterion == GRADIENT and across else criterion
        by_seed: dict[int, list[Pairs]] = {}
        for seed in self.seeds():
            groups: list[Pairs] = [self._pairs(name, n, seed) for n in self.grids]
            left, right = ([value for group in groups for value in group[side]] for side in (0, 1))
            by_seed[seed] = [(left, right)] if across else groups
        return mean_correlation(by_seed)

    def _pairs(self, criterion: str, n: int, seed: int) -> tuple[list[float], list[float]]:
        """A criterion and the quality of one seed's models on one grid, where both are known."""
        left, right = self.by_mu(criterion, n), self.by_mu(QUALITY, n)
        known = [mu for mu in left if seed in left[mu] and seed in right.get(mu, {})]
        return [left[mu][seed] for mu in known], [right[mu][seed] for mu in known]

    def curves(self, metric: str, n: int, mu: float) -> pd.DataFrame:
        """A metric over training, by step (rows) and seed (columns)."""
        part = self.frame[(self.frame.n == n) & (self.frame.mu == mu)]
        runs: Mapping[int, str] = dict(zip(part.seed.astype(int), part.run, strict=True))
        curves = {seed: self.cell_values.curve(run, metric) for seed, run in sorted(runs.items())}
        return pd.DataFrame({seed: curve for seed, curve in curves.items() if len(curve)}).dropna()


def models(rows: pd.DataFrame, cell_values: CellValues) -> list[Models]:
    """The models of each data set among the measurements of one scale, with the quality of their runs' records."""
    rows = rows[rows.quantity.str.startswith("mu-") & rows.data.isin([*REGISTRY, *cell_values.loaded.custom_sets])]
    known = rows.case.str.fullmatch(r"N=\d+") & rows.x.between(0, 1) & ((rows.quantity != f"mu-{SPREAD}") | (rows.value > 0))
    known &= (rows.coupling == CLOSED_FORM) | (rows.seed.notna() & (rows.run != ""))
    if unknown := int((~known).sum()):
        cell_values.loaded.damage.append(f"{unknown} measurements of why_mu without a grid, mu, seed or run, or out of range; left out")
    rows = rows[known]
    return [_of_data(str(data), part, cell_values) for data, part in rows.groupby("data") if (part.coupling != CLOSED_FORM).any()]


def _of_data(data: str, rows: pd.DataFrame, cell_values: CellValues) -> Models:
    rows = rows.assign(criterion=rows.quantity.str.removeprefix("mu-"), n=rows.case.map(grid_of_case), mu=rows.x)
    levels = rows.t[rows.criterion == "cost"].dropna()
    t = float(levels.max()) if len(levels) else None
    rows = rows[(rows.criterion != "cost") | (rows.t == t)]
    closed, measured = rows[rows.coupling == CLOSED_FORM], rows[rows.coupling != CLOSED_FORM]
    usual = measured.groupby("criterion").protocol.transform(lambda protocols: protocols.mode().iloc[0])
    measured = measured[measured.protocol == usual]
    columns = ["criterion", "n", "mu", "seed", "value", "run"]
    frame = pd.concat([measured[columns], _quality(measured, cell_values, main_metric(data))[columns]], ignore_index=True)
    return Models(data, _with_derived(frame), _with_derived(closed[columns]), cell_values, t)


def _quality(measured: pd.DataFrame, cell_values: CellValues, metric: str) -> pd.DataFrame:
    """The final metric of every measured run, of the protocol that most of them share."""
    runs = measured.drop_duplicates("run").assign(criterion=QUALITY)
    records = [cell_values.final(run, metric) for run in runs.run]
    protocols = pd.Series([record.protocol if record else None for record in records], index=runs.index, dtype=object)
    usual = protocols.dropna().mode()
    values = pd.Series([record.value if record else math.nan for record in records], index=runs.index, dtype=float)
    return runs.assign(value=values)[protocols == usual.iloc[0]] if len(usual) else runs[:0]


def _with_derived(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with |ln spread|, and with the variance of the gradient over that of mu = 0 on the same grid and seed."""
    spread = frame[frame.criterion == SPREAD]
    uneven = spread.assign(criterion=UNEVEN, value=[abs(math.log(value)) for value in spread.value])
    gradient = frame[frame.criterion == GRADIENT]
    keys = list(zip(gradient.n, gradient.seed.fillna(-1), strict=True))  # the closed form has no seed
    base = {key: value for key, mu, value in zip(keys, gradient.mu, gradient.value, strict=True) if mu == 0}
    relative = gradient.assign(criterion=RELATIVE, value=gradient.value / [base.get(key, math.nan) for key in keys])
    return pd.concat([frame, uneven, relative.dropna(subset="value")], ignore_index=True)
