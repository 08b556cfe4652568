"""Medians of repeated measurements, such as running times, whose law is skewed and unknown, with intervals that hold for any law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from scipy.special import bdtr

from harness.stats.intervals import CONFIDENCE


@dataclass(frozen=True)
class MedianInterval:
    """The median of n values. The median of their law lies in [low, high] with at least the probability `confidence`.

    Fewer than six values have no 95 % interval: low and high are then the extremes, and `confidence` is what they cover, 94 % for five
    values, 75 % for three. One value has no interval: low and high are None.
    """

    median: float
    low: float | None
    high: float | None
    n: int
    confidence: float


def median_interval(values: Sequence[float], level: float = CONFIDENCE) -> MedianInterval:
    """The k-th smallest and the k-th largest value with the largest k that covers the median at `level`, for independent values of any law.

    Each value lies below the median with probability 1/2, so the coverage is 1 - 2 P(B < k) with B binomial (n, 1/2). values: at least one.
    """
    ordered, n = sorted(values), len(values)
    if n < 2:
        return MedianInterval(ordered[0], None, None, n, 0.0)
    k = max((k for k in range(2, n // 2 + 1) if _coverage(k, n) >= level), default=1)
    return MedianInterval(median(ordered), ordered[k - 1], ordered[n - k], n, min(level, _coverage(k, n)))


@cache
def _coverage(k: int, n: int) -> float:
    """The probability that the median lies between the k-th smallest and the k-th largest of n values."""
    return 1 - 2 * float(bdtr(k - 1, n, 0.5))
