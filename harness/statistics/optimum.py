"""Which of several conditions is lowest, and how sure that is; rank correlations. Conditions are compared on the same training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from harness.statistics.intervals import ALPHA, Interval, interval

Values = Mapping[float, Mapping[int, float]]
"""Values by condition and training seed."""


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

    A condition is left out where a one-sided t test says that it is above another one, at 5 % over all comparisons (Bonferroni). The
    error is that of a two-way layout (condition + seed), pooled over the k conditions, with (k - 1)(n - 1) degrees of freedom, so that
    three seeds of many conditions suffice. It assumes equal variances: give positive values that span decades as logarithms. Only the
    seeds that all conditions have count.
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
    critical = float(stats.t.ppf(1 - ALPHA / (k - 1), df)) * float(np.sqrt(2 * (residuals**2).sum() / df / n))
    chosen = tuple(float(condition) for condition, mean in zip(conditions, means, strict=True) if mean - means.min() <= critical)
    return Lowest(best, chosen, n, f"Hsu's confidence set, {df} degrees of freedom")


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None for fewer than 3 pairs or where one side is constant."""
    if len(left) < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    return float(stats.spearmanr(left, right).statistic)


def mean_correlation(by_seed: Mapping[int, Sequence[float | None]]) -> Interval | None:
    """The mean over seeds of each seed's mean rank correlation (over the groups that have one), with its interval over the seeds."""
    known = [[value for value in values if value is not None] for values in by_seed.values()]
    means = [fmean(values) for values in known if values]
    return interval(means, (-1.0, 1.0)) if means else None
