"""Differences and their tests over training seeds: paired and unpaired t tests, equivalence, seeds needed, several tests at once.

Differences of measurements, which also have a Monte-Carlo error: harness.stats.measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from harness.stats import student
from harness.stats.intervals import ALPHA, spread
from harness.stats.student import Numbers

PAIRED = "seeds"
UNPAIRED = "seeds, unpaired"
ONE_SEED = "Monte-Carlo estimate, one seed"
"""Unit of a difference whose error is that of measuring one trained network: it says nothing about another training seed."""
MONTE_CARLO = "Monte-Carlo estimate"
EXACT = "estimate, exact"
UNKNOWN_ERROR = "estimate of unknown error"
MOST_SEEDS = 10_000
"""`seeds_needed` counts up to here."""


@dataclass(frozen=True)
class Difference:
    """A difference left - right with its 95 % interval and two-sided t test; low, high, p, se and df are None if no test is possible."""

    mean: float
    n: int
    """Training seeds on each side (of the smaller side), 1 for estimates."""
    relative: float | None = None
    """Mean difference over the absolute mean of right."""
    unit: str = PAIRED
    """What n counts: PAIRED or UNPAIRED training seeds; else one of the units of estimates."""
    low: float | None = None
    high: float | None = None
    p: float | None = None
    effect: float | None = None
    """Mean over sd (paired: Cohen's d_z; unpaired: over the pooled sd); without seeds, mean over se."""
    se: float | None = None
    df: float | None = None
    """Degrees of freedom of se, possibly effective ones."""
    sd: float | None = None
    """Standard deviation over seeds of the differences (paired) or within a side (unpaired)."""
    monte_carlo: float = 0.0
    """The part of se that more seeds do not reduce."""

    @property
    def one_seed(self) -> bool:
        """Whether only one training seed was seen, so that the difference cannot decide about what was trained."""
        return self.unit == ONE_SEED or (self.unit in (PAIRED, UNPAIRED) and self.n < 2)


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Difference | None:
    """left - right by training seed (paired t test, exact for normal differences); None without a common seed."""
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    differences = [left[seed] - right[seed] for seed in seeds]
    mean, base, n = fmean(differences), fmean(right[seed] for seed in seeds), len(seeds)
    if n < 2:
        return Difference(mean, n, relative(mean, base))
    sd = spread_of_differences([left[seed] for seed in seeds], [right[seed] for seed in seeds])
    return tested(mean, sd**2 / n, n - 1, n, PAIRED, base, sd)


def unpaired(left: Sequence[float], right: Sequence[float]) -> Difference:
    """mean(left) - mean(right) of independent groups of seeds: Student's t test for groups of one size, else with both variances.

    Simulated sizes at 5 %: of Student's test, for 2, 3, 5 or 10 seeds on each side, 5.0 % at equal variances and at most 5.4 % at a ratio
    of 1:2. Welch's test on groups of one size has 2.3 % for two and 3.5 % for three seeds. For 2 and 5 seeds at ratios from 2:1 to 1:2,
    Student's has 3 to 9 % and Welch's 5 to 8 %. Groups of different sizes therefore have the degrees of freedom of `student.combined`: 3.6
    to 6.2 % with at least three seeds in each; with two in one of them at most 5.6 %, often less.
    """
    n_left, n_right = len(left), len(right)
    mean, base, n = fmean(left) - fmean(right), fmean(right), min(n_left, n_right)
    if n < 2:
        return Difference(mean, n, relative(mean, base), UNPAIRED)
    variances = spread(left) ** 2, spread(right) ** 2
    within = math.sqrt(((n_left - 1) * variances[0] + (n_right - 1) * variances[1]) / (n_left + n_right - 2))
    variance, df = unpaired_variance([(variances[0], n_left), (variances[1], n_right)])
    return tested(mean, float(variance), float(df), n, UNPAIRED, base, within)


def unpaired_variance(groups: Sequence[tuple[Numbers, int]]) -> tuple[Numbers, Numbers]:
    """Variance of a sum of independent means, and its degrees of freedom; groups: (variance over the seeds, number of seeds >= 2)."""
    if len({n for _, n in groups}) == 1:
        return sum(variance / n for variance, n in groups), sum(n - 1 for _, n in groups)
    return student.combined([(variance / n, n - 1) for variance, n in groups])


def from_errors(
    left: float, left_se: float, right: float = 0.0, right_se: float = 0.0, left_df: float = math.inf, right_df: float = math.inf
) -> Difference:
    """left - right of two independent estimates with standard errors, whose degrees of freedom are infinite where the errors are known.

    NaN: an unknown error, so no test.
    """
    mean, se = left - right, math.hypot(left_se, right_se)
    if math.isnan(se):
        return Difference(mean, 1, relative(mean, right), UNKNOWN_ERROR)
    if se == 0:
        return Difference(mean, 1, relative(mean, right), EXACT, mean, mean, 0.0 if mean else 1.0)
    variance, df = student.combined([(left_se**2, left_df), (right_se**2, right_df)])
    return tested(mean, float(variance), float(df), 1, MONTE_CARLO, right, None)


def tested(
    mean: float, variance: float, df: float, n: int, unit: str, base: float, sd: float | None, monte_carlo: float = 0.0
) -> Difference:
    """A difference with the interval and p of the t distribution with df degrees of freedom.

    Without variance there is no test: equal differences over two or more seeds, such as 1 missing mode more each time, do not show how
    much the next seed may differ. Only a difference of exactly 0 has p = 1.
    """
    share = relative(mean, base)
    if variance == 0:
        return Difference(mean, n, share, unit, p=None if mean else 1.0)
    se = math.sqrt(variance)
    half, p = float(student.half_width(se, df, ALPHA)), float(student.p_value(mean, se, df))
    effect = mean / (sd or se)
    return Difference(mean, n, share, unit, mean - half, mean + half, p, effect, se, float(df), sd or None, monte_carlo)


def relative(mean: float, base: float) -> float | None:
    return mean / abs(base) if base else None


def spread_of_differences(left: Sequence[float], right: Sequence[float]) -> float:
    """Standard deviation of left - right, pair by pair; 0 where it is only the rounding of left and right."""
    sd = spread([a - b for a, b in zip(left, right, strict=True)])
    return sd if sd > 1e-14 * max(map(abs, (*left, *right))) else 0.0


def equivalence_p(difference: Difference, margin: float) -> float | None:
    """p of two one-sided tests that the difference lies between -margin and margin, on its own t distribution; None without a test."""
    if difference.unit == EXACT:
        return 0.0 if abs(difference.mean) < margin else 1.0
    if difference.se is None or difference.df is None:
        return None
    return float(student.equivalence_p(difference.mean, difference.se, difference.df, margin))


def equivalent(difference: Difference, margin: float, alpha: float = ALPHA) -> bool:
    """Whether two one-sided tests at alpha show that the difference lies within the margin; never without a test or for one seed."""
    p = equivalence_p(difference, margin)
    return p is not None and p < alpha and not difference.one_seed


def beyond(difference: Difference, margin: float) -> Difference:
    """How far the difference lies outside the margin, |difference| - margin, as a difference: negative where it lies within.

    Its p is that of two one-sided tests where it lies within, so that "significantly negative" means "equivalent"; else that of the
    two-sided test of the margin that it exceeds. It has no relative difference and no effect size.
    """
    distance = abs(difference.mean) - margin
    moved = replace(difference, mean=distance, relative=None, effect=None)
    if difference.unit == EXACT:
        return replace(moved, low=distance, high=distance, p=float(distance == 0))
    if difference.se is None or difference.df is None:
        return replace(moved, low=None, high=None, p=None)
    half = float(student.half_width(difference.se, difference.df, ALPHA))
    within = float(student.equivalence_p(difference.mean, difference.se, difference.df, margin))
    outside = float(student.p_value(distance, difference.se, difference.df))
    return replace(moved, low=distance - half, high=distance + half, p=within if distance < 0 else outside)


def seeds_needed(difference: Difference, effect: float, power: float = 0.8, alpha: float = ALPHA) -> int | None:
    """The least number of seeds (on each side, if unpaired) with which a true difference `effect` is found with this power.

    By the noncentral t distribution from the spread over seeds of this difference, which two or three seeds know only roughly. None where
    no spread is known or the effect is 0. MOST_SEEDS + 1 stands for more than MOST_SEEDS, also where the Monte-Carlo error is too large.
    """
    if difference.sd is None or effect == 0 or difference.unit not in (PAIRED, UNPAIRED):
        return None
    if _power(difference, effect, MOST_SEEDS, alpha) < power:
        return MOST_SEEDS + 1
    low, high = 1, MOST_SEEDS  # more seeds have more power: bisection between too few and enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(difference, effect, middle, alpha) >= power else (middle, high)
    return high


def seeds_text(seeds: int | None) -> str:
    """The result of `seeds_needed` in words."""
    if seeds is None:
        return "an unknown number of seeds"
    return f"more than {MOST_SEEDS:,} seeds" if seeds > MOST_SEEDS else f"{seeds:,} seeds"


def _power(difference: Difference, effect: float, n: int, alpha: float) -> float:
    sides = 2 if difference.unit == UNPAIRED else 1
    assert difference.sd is not None
    parts = [(sides * difference.sd**2 / n, sides * (n - 1)), (difference.monte_carlo**2, math.inf)]
    variance, df = student.combined(parts)
    return float(student.power(effect, math.sqrt(variance), df, alpha))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values in the given order: the j-th smallest of m, times m - j + 1, made monotone and at most 1."""
    adjusted, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, place in enumerate(sorted(range(m), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (m - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
