"""Differences and their tests: over training seeds, and between estimates with standard errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from harness.statistics.intervals import CONFIDENCE


@dataclass(frozen=True)
class Difference:
    """A difference left - right with its 95 % interval and two-sided test; low, high, p and effect are None if no test is possible."""

    mean: float
    n: int
    relative: float | None = None
    """Mean difference over the mean of right."""
    unit: str = "seeds"
    """What n counts: training seeds, or an estimate."""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    effect: float | None = None
    """Mean over standard deviation (paired: of the differences, Cohen's d_z; Welch: pooled), infinite where that is 0; by `from_errors`:
    mean over standard error."""


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """left - right by training seed (paired t test); None without a common seed."""
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    differences = [left[seed] - right[seed] for seed in seeds]
    base, sd = fmean(right[seed] for seed in seeds), stdev(differences) if len(seeds) > 1 else 0.0
    return _tested(fmean(differences), base, len(seeds), "seeds", sd, lambda: stats.ttest_1samp(differences, 0.0))


def welch(left: Sequence[float], right: Sequence[float]) -> Difference:
    """mean(left) - mean(right) of independent groups (Welch's t test)."""
    n, base = min(len(left), len(right)), fmean(right)
    pooled = math.sqrt((stdev(left) ** 2 + stdev(right) ** 2) / 2) if n > 1 else 0.0
    return _tested(fmean(left) - base, base, n, "seeds, unpaired", pooled, lambda: stats.ttest_ind(left, right, equal_var=False))


def _tested(mean: float, base: float, n: int, unit: str, sd: float, test: Callable[[], Any]) -> Difference:
    """A difference with the interval and p of one of scipy's t tests, without its warning about nearly equal values."""
    difference = Difference(mean, n, mean / abs(base) if base else None, unit)
    if n < 2:
        return difference
    if sd == 0:
        effect = math.copysign(math.inf, mean) if mean else None
        return replace(difference, low=mean, high=mean, p=0.0 if mean else 1.0, effect=effect)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        outcome = test()
    low, high = map(float, outcome.confidence_interval(CONFIDENCE))
    return replace(difference, low=low, high=high, p=float(outcome.pvalue), effect=mean / sd)


def from_errors(left: float, left_se: float, right: float = 0.0, right_se: float = 0.0) -> Difference:
    """left - right of two independent estimates with known standard errors (normal test). NaN: an unknown error, so no test."""
    mean, se = left - right, math.hypot(left_se, right_se)
    relative = mean / abs(right) if right else None
    if se == 0:
        return Difference(mean, 1, relative, "estimate, exact", mean, mean, 0.0 if mean else 1.0)
    if math.isnan(se):
        return Difference(mean, 1, relative, "estimate of unknown error")
    low, high = map(float, stats.norm.interval(CONFIDENCE, mean, se))
    return Difference(mean, 1, relative, "Monte-Carlo estimate", low, high, float(2 * stats.norm.sf(abs(mean) / se)), mean / se)
