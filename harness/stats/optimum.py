"""Which of several conditions is lowest, and how sure that is; rank correlations. Conditions are compared on the same training seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from harness.stats.intervals import ALPHA, Interval, degrees, interval, t_interval
from harness.stats.student import largest_of

Values = Mapping[float, Mapping[int, float]]
"""Values by condition and training seed."""
Pairs = tuple[Sequence[float], Sequence[float]]
"""Two columns of equal length."""


@dataclass(frozen=True)
class Lowest:
    """The condition with the lowest mean over n seeds. candidates: the conditions that cannot be told from the lowest; () for one seed."""

    best: float
    candidates: tuple[float, ...]
    n: int
    method: str

    @property
    def low(self) -> float | None:
        """The smallest candidate; None without an interval."""
        return min(self.candidates, default=None)

    @property
    def high(self) -> float | None:
        """The greatest candidate; None without an interval."""
        return max(self.candidates, default=None)


def lowest(values: Values) -> Lowest | None:
    """The condition with the lowest mean, with Hsu's 95 % confidence set (multiple comparisons with the best); None for no common seed.

    A condition is left out where one-sided t tests say that it is above another one, at 5 % over all comparisons (Dunnett). The error is
    that of a two-way layout (condition + seed), pooled over the k conditions, with (k - 1)(n - 1) degrees of freedom, so that three seeds
    of many conditions suffice. It assumes equal variances: positive values that span decades are given as logarithms. Only seeds that all
    conditions have count.
    """
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in values.values()))) if values else []
    if not seeds:
        return None
    conditions = list(values)
    table = np.array([[values[condition][seed] for seed in seeds] for condition in conditions])
    means = table.mean(1)
    best, (k, n) = float(conditions[int(means.argmin())]), table.shape
    if n < 2 or k < 2:
        return Lowest(best, (), n, "one seed: no interval" if n < 2 else "one condition: no interval")
    residuals = table - means[:, None] - table.mean(0) + table.mean()
    df = (k - 1) * (n - 1)
    critical = largest_of(k - 1, df, ALPHA) * float(np.sqrt(2 * (residuals**2).sum() / df / n))
    chosen = tuple(float(condition) for condition, mean in zip(conditions, means, strict=True) if mean - means.min() <= critical)
    return Lowest(best, chosen, n, f"Hsu's confidence set, {df} degrees of freedom")


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None for fewer than 3 pairs or where one side is constant."""
    if len(left) < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(column: Sequence[float]) -> np.ndarray:
    """The ranks from 1 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(column, float), return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def mean_correlation(by_seed: Mapping[int, Sequence[Pairs]]) -> Interval | None:
    """The mean over seeds of each seed's rank correlation, averaged over its groups of pairs, with its interval over the seeds.

    A rank correlation changes in steps, so equal values do not mean that it is known exactly: its spread over the seeds is taken to be at
    least one step, the effect of exchanging two neighbours in one group. Groups without a correlation do not count; None if none has one.
    """
    means, steps = [], []
    for groups in by_seed.values():
        known = [(len(left), value) for left, right in groups if (value := rank_correlation(left, right)) is not None]
        if known:
            means.append(fmean(value for _, value in known))
            steps += [12 / (size**3 - size) / len(known) for size, _ in known]
    n = len(means)
    if n < 2:
        return interval(means) if means else None
    sd = max(stdev(means), *steps)
    return t_interval(fmean(means), sd / math.sqrt(n), n - 1, n, f"Student's t, {degrees(n - 1)}", (-1.0, 1.0))
