"""Intervals and tests over training seeds. Small n is the rule here, so each result says how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import special

ALPHA = 0.05
BOOTSTRAP_FROM = 10
"""Seeds from which the interval is a bootstrap. Below, resampling n values gives far too narrow an interval (with n = 3 one of 10
distinct resamples decides), so it is Student's t."""


@dataclass(frozen=True)
class Interval:
    """Mean of n values with its 95 % interval; low and high are None for n = 1. method: how it was made."""

    mean: float
    low: float | None
    high: float | None
    n: int
    method: str


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval over training seeds: Student's t below BOOTSTRAP_FROM values, percentile bootstrap (10,000) from there."""
    values = [float(value) for value in values]
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, None, None, n, "one seed: no interval")
    if n < BOOTSTRAP_FROM:
        half = special.stdtrit(n - 1, 1 - ALPHA / 2) * stdev(values) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, n, f"Student's t, {n - 1} degrees of freedom")
    draws = np.random.default_rng(0).choice(np.asarray(values), (10_000, n)).mean(1)
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(mean, float(low), float(high), n, "percentile bootstrap")


@dataclass(frozen=True)
class Paired:
    """left - right on the seeds that both have. p: two-sided paired t test (None below two seeds). effect: mean / sd of the differences
    (Cohen's d_z), infinite when they are all equal; for `from_errors` the difference over its standard error. unit: what n counts."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    effect: float | None
    n: int
    relative: float | None
    """Mean difference over the mean of right."""
    unit: str = "seeds"


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Paired | None:
    """Compares values by training seed; None when no seed is common."""
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    differences = [left[seed] - right[seed] for seed in seeds]
    base = fmean(right[seed] for seed in seeds)
    found = one_sample(differences)
    return Paired(found.mean, found.low, found.high, found.p, found.effect, found.n, found.mean / abs(base) if base else None)


def one_sample(differences: Sequence[float]) -> Paired:
    """Tests whether the mean of the differences is zero (t test, two-sided)."""
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return Paired(mean, None, None, None, None, n, None)
    sd = stdev(differences)
    if sd == 0:
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0, None if mean == 0 else math.copysign(math.inf, mean), n, None)
    half = special.stdtrit(n - 1, 1 - ALPHA / 2) * sd / math.sqrt(n)
    p = 2 * special.stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n)))
    return Paired(mean, mean - half, mean + half, float(p), mean / sd, n, None)


def welch(left: Sequence[float], right: Sequence[float]) -> Paired:
    """mean(left) - mean(right) of independent groups (Welch's t test, two-sided); no test below two values. effect: over the pooled sd."""
    a, b = fmean(left), fmean(right)
    relative = (a - b) / abs(b) if b else None
    n = min(len(left), len(right))
    if n < 2:
        return Paired(a - b, None, None, None, None, n, relative, "seeds, unpaired")
    va, vb = stdev(left) ** 2 / len(left), stdev(right) ** 2 / len(right)
    se = math.sqrt(va + vb)
    if se == 0:
        return Paired(a - b, a - b, a - b, 1.0 if a == b else 0.0, None, n, relative, "seeds, unpaired")
    freedom = (va + vb) ** 2 / (va**2 / (len(left) - 1) + vb**2 / (len(right) - 1))
    half = special.stdtrit(freedom, 1 - ALPHA / 2) * se
    p = 2 * special.stdtr(freedom, -abs(a - b) / se)
    spread = math.sqrt((stdev(left) ** 2 + stdev(right) ** 2) / 2)
    return Paired(a - b, a - b - half, a - b + half, float(p), (a - b) / spread, n, relative, "seeds, unpaired")


def from_errors(left: float, left_se: float, right: float = 0.0, right_se: float = 0.0) -> Paired:
    """left - right of two independent estimates with known standard errors (normal test, two-sided), where there are no seeds to pair."""
    difference, se = left - right, math.hypot(left_se, right_se)
    relative = difference / abs(right) if right else None
    if se == 0 or math.isnan(se):
        exact = se == 0
        p = None if not exact else 1.0 if difference == 0 else 0.0
        ends = (difference, difference) if exact else (None, None)
        return Paired(difference, *ends, p, None, 1, relative, "estimate, exact" if exact else "estimate of unknown error")
    half = special.ndtri(1 - ALPHA / 2) * se
    p = float(2 * special.ndtr(-abs(difference) / se))
    return Paired(difference, difference - half, difference + half, p, difference / se, 1, relative, "Monte-Carlo estimate")


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted
