"""Means over training seeds and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from harness.stats.student import half_width

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
ROUNDING = 1e-12
"""A spread below this share of the values is rounding, not spread."""
Bounds = tuple[float | None, float | None]
"""The least and the greatest value that a quantity can have; None: no such value."""


@dataclass(frozen=True)
class Interval:
    """Mean of n values with its 95 % interval. low and high are None where n values do not give one; method says how or why not."""

    mean: float
    low: float | None
    high: float | None
    n: int
    method: str


def interval(values: Sequence[float], bounds: Bounds = (None, None)) -> Interval:
    """Mean and 95 % interval over training seeds: Student's t with n - 1 degrees of freedom at every n >= 2, cut at the bounds.

    For normal errors the coverage is exactly 95 % at every n. (The percentile bootstrap covers 90 % at n = 10.) Cutting removes only values
    that the quantity cannot have, so it never lowers the coverage. Where a quantity is skewed because it lies near a bound, Student's t
    covers less: 93 % for a share of 0.9 with a standard deviation of 0.05, 88 % where the standard deviation is as large as the distance
    from the bound (tests/test_error_rates.py). No interval: for one value, and for equal values, such as three times 0 missing modes, which
    do not show how much the next seed may differ.
    """
    values = [float(value) for value in values]
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, None, None, n, "one seed: no interval")
    sd = spread(values)
    if sd == 0:
        return Interval(mean, None, None, n, f"{n} equal values: no interval")
    return t_interval(mean, sd / math.sqrt(n), n - 1, n, f"Student's t, {degrees(n - 1)}", bounds)


def t_interval(mean: float, se: float, df: float, n: int, method: str, bounds: Bounds = (None, None)) -> Interval:
    """mean -+ t se with df degrees of freedom, cut at the bounds but never at the mean."""
    half = float(half_width(se, df, ALPHA))
    low, high = mean - half, mean + half
    least, greatest = bounds
    cut_low = low if least is None else max(low, min(least, mean))
    cut_high = high if greatest is None else min(high, max(greatest, mean))
    cut = "" if (cut_low, cut_high) == (low, high) else ", cut at the bounds"
    return Interval(mean, cut_low, cut_high, n, method + cut)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation of two or more values; 0 where it is only rounding."""
    sd = stdev(values)
    return sd if sd > ROUNDING * max(map(abs, values)) else 0.0


def degrees(df: float) -> str:
    """The text "2 degrees of freedom"."""
    return f"{df:.3g} degree{'' if df == 1 else 's'} of freedom"
