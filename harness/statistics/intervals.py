"""Means over training seeds and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats
from scipy.special import stdtrit

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
BOOTSTRAP_FROM = 10
"""Seeds from which the interval is a bootstrap. Below, it is Student's t: resampling few values gives far too narrow an interval (3 values
have only 10 distinct resamples)."""


@dataclass(frozen=True)
class Interval:
    """Mean of n values with its 95 % interval; low and high are None for n = 1. method: how the interval was computed."""

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
        half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * stdev(values) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, n, f"Student's t, {n - 1} degree{'s' if n > 2 else ''} of freedom")
    rng = np.random.default_rng(0)
    bootstrap = stats.bootstrap((values,), np.mean, n_resamples=10_000, confidence_level=CONFIDENCE, method="percentile", rng=rng)
    low, high = bootstrap.confidence_interval
    return Interval(mean, float(low), float(high), n, "percentile bootstrap")
