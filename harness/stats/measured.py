"""Measurements over training seeds: each value also has a Monte-Carlo error, which all seeds may share.

A value of seed s is mu + A_s + M_s, where A_s differs from seed to seed and M_s is the Monte-Carlo error. The studies measure all seeds of
a quantity on the same addressed draws (x, z), so that M_s is the same for all: the mean over n seeds has the variance sd^2/n + se^2, where
sd is the standard deviation over seeds, and more seeds reduce only the first part. Where the draws belong to the run (OWN_DRAWS), sd
contains both errors, and the variance is sd^2/n. How much of M_s is common is not stored with a row; all of it is assumed to be, which is
right for networks that hardly differ and else gives too wide an interval. For the same reason the errors of two sides are taken as
independent.

Rows of exact laws and of the ideal flow have no seed; only their Monte-Carlo error counts. So it does for one trained network, and then the
result speaks about this network only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

from harness.stats import student
from harness.stats.differences import (
    ONE_SEED,
    PAIRED,
    UNPAIRED,
    Difference,
    from_errors,
    relative,
    tested,
    unpaired_variance,
)
from harness.stats.intervals import Bounds, Interval, degrees, spread, t_interval

OWN_DRAWS = frozenset({"pair-cost", "discrepancy", "discrepancy-at", "theorem1", "gradient"})
"""Quantities whose draws are addressed by the run or its seed, and so are independent from seed to seed."""

KNOWN_ERRORS = frozenset({"theorem2"})
"""Quantities whose standard error is known, or half of a 95 % interval over 1.96; their n is not a number of draws."""


class MeasuredRow(Protocol):
    """A measured number: a MeasurementRow, or a row of `itertuples` of the frame of measurements, where NaN stands for None."""

    @property
    def quantity(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def se(self) -> Any: ...
    @property
    def n(self) -> Any: ...
    @property
    def seed(self) -> Any: ...


@dataclass(frozen=True)
class Number:
    """A number with its Monte-Carlo standard error (NaN: unknown) and the degrees of freedom of that error."""

    value: float
    se: float
    df: float

    @property
    def log(self) -> Number:
        """ln of a positive number; its error is linearised."""
        return Number(math.log(self.value), self.se / self.value, self.df)


@dataclass(frozen=True)
class Sample:
    """Numbers by training seed; the seed None stands for what was not trained. shared: all seeds were measured on the same draws."""

    numbers: dict[int | None, Number]
    shared: bool

    @property
    def trained(self) -> bool:
        return set(self.numbers) != {None}

    @property
    def mean(self) -> float:
        return fmean(number.value for number in self.numbers.values())

    @property
    def sd(self) -> float:
        """Standard deviation over two or more seeds."""
        return spread([number.value for number in self.numbers.values()])

    @property
    def monte_carlo(self) -> tuple[float, float]:
        """Variance of the mean by the Monte-Carlo error alone, NaN where it is unknown, and its degrees of freedom."""
        square = fmean(number.se**2 for number in self.numbers.values())
        df = min(number.df for number in self.numbers.values())
        return (square, df) if self.shared else (square / len(self.numbers), df * len(self.numbers))

    def of(self, seeds: Iterable[int | None]) -> Sample:
        return Sample({seed: self.numbers[seed] for seed in seeds}, self.shared)

    @property
    def log(self) -> Sample:
        return Sample({seed: number.log for seed, number in self.numbers.items()}, self.shared)


def sample(rows: Iterable[MeasuredRow]) -> Sample:
    """The rows of one quantity; several rows of a seed are averaged, with errors taken as fully correlated.

    Raises ValueError for no rows.
    """
    by_seed: dict[int | None, list[MeasuredRow]] = {}
    quantities = set()
    for row in rows:
        quantities.add(row.quantity)
        by_seed.setdefault(None if _missing(row.seed) else int(row.seed), []).append(row)
    if not by_seed:
        raise ValueError("no rows of measurements")
    return Sample({seed: _number(part) for seed, part in by_seed.items()}, not quantities <= OWN_DRAWS)


def _number(rows: Sequence[MeasuredRow]) -> Number:
    errors = [math.nan if _missing(row.se) else float(row.se) for row in rows]
    return Number(fmean(float(row.value) for row in rows), fmean(errors), min(map(freedom, rows)))


def freedom(row: MeasuredRow) -> float:
    """Degrees of freedom of a row's standard error: its draws less 1; infinite where it states none."""
    return math.inf if _missing(row.n) or row.quantity in KNOWN_ERRORS else max(1.0, float(row.n) - 1)


def _missing(number: Any) -> bool:
    return number is None or bool(number != number)


def measured_mean(rows: Iterable[MeasuredRow] | Sample, bounds: Bounds = (None, None)) -> Interval:
    """Mean over seeds with its 95 % interval from the spread over seeds and the Monte-Carlo error; n counts the seeds.

    Of one network, and of what was not trained, the interval is that of the Monte-Carlo error alone, as `method` says; there is none where
    that is unknown. Without any spread over seeds and without a Monte-Carlo error there is no interval either.
    """
    numbers = rows if isinstance(rows, Sample) else sample(rows)
    n, (monte_carlo, df) = len(numbers.numbers), numbers.monte_carlo
    if n < 2:
        what = "one seed, Monte-Carlo error of its network" if numbers.trained else "Monte-Carlo error"
        if math.isnan(monte_carlo):
            return Interval(numbers.mean, None, None, n, f"{what} unknown: no interval")
        return t_interval(numbers.mean, math.sqrt(monte_carlo), df, n, f"{what} alone" if numbers.trained else what, bounds)
    parts = [(numbers.sd**2 / n, n - 1.0)]
    what = "Student's t"
    if numbers.shared and monte_carlo > 0:
        parts.append((monte_carlo, df))
        what = "Student's t of the spread over seeds and the Monte-Carlo error that they share"
    variance, effective = student.combined(parts)
    if variance == 0:
        return Interval(numbers.mean, None, None, n, f"{n} equal values: no interval")
    return t_interval(numbers.mean, math.sqrt(variance), float(effective), n, f"{what}, {degrees(float(effective))}", bounds)


def measured_difference(left: Iterable[MeasuredRow] | Sample, right: Iterable[MeasuredRow] | Sample, less: float = 0.0) -> Difference:
    """mean(left) - mean(right) - less over training seeds, as `measured_sum` tests it; `relative` is relative to right."""
    left, right = (side if isinstance(side, Sample) else sample(side) for side in (left, right))
    return measured_sum([(1.0, left), (-1.0, right)], less, right.mean)


def measured_sum(terms: Sequence[tuple[float, Sample]], less: float = 0.0, base: float = 0.0) -> Difference:
    """The sum of factor * mean over (factor, sample), minus the known number `less`, with its t test against 0.

    - Seeds that all trained samples have, if at least two: paired by seed.
    - Else, with at least two seeds in each trained sample: unpaired, with the variance of each.
    - Else, with a trained sample: the Monte-Carlo error alone, in the unit ONE_SEED, since it speaks about this network only.
    - Without a trained sample: the Monte-Carlo error alone, in the unit MONTE_CARLO.
    base: what `relative` divides by; 0 for none.
    """
    trained = [(factor, numbers) for factor, numbers in terms if numbers.trained]
    fixed = [(factor, numbers) for factor, numbers in terms if not numbers.trained]
    seeds = set.intersection(*(set(numbers.numbers) for _, numbers in trained)) if trained else set()
    several = bool(trained) and min(len(numbers.numbers) for _, numbers in trained) > 1
    is_paired = len(seeds) > 1
    if seeds and (is_paired or not several):
        trained = [(factor, numbers.of(sorted(seeds, key=str))) for factor, numbers in trained]
    mean = sum(factor * numbers.mean for factor, numbers in (*trained, *fixed)) - less
    if not several:
        variance, df = student.combined(_errors([*trained, *fixed]))
        difference = from_errors(mean, math.sqrt(variance), left_df=float(df))
        return replace(difference, unit=ONE_SEED if trained else difference.unit, relative=relative(mean, base))
    if is_paired:
        unit, n = PAIRED, len(seeds)
        sd = spread([sum(factor * numbers.numbers[seed].value for factor, numbers in trained) for seed in trained[0][1].numbers])
        over_seeds = (sd**2 / n, n - 1.0)
    else:
        unit, n = UNPAIRED, min(len(numbers.numbers) for _, numbers in trained)
        groups = [(factor**2 * numbers.sd**2, len(numbers.numbers)) for factor, numbers in trained]
        sd, over_seeds = math.sqrt(fmean(variance for variance, _ in groups)), unpaired_variance(groups)
    # the spread over seeds contains the error of own draws; where the error of a trained network is unknown, only that spread is left
    shared = [(variance, df) for variance, df in _errors(term for term in trained if term[1].shared) if not math.isnan(variance)]
    monte_carlo = [*shared, *_errors(fixed)]
    known = sum(variance for variance, _ in monte_carlo)
    if math.isnan(known):
        return Difference(mean, n, relative(mean, base), unit, sd=sd)
    variance, df = student.combined([over_seeds, *monte_carlo])
    return tested(mean, float(variance), float(df), n, unit, base, sd, math.sqrt(known))


def _errors(terms: Iterable[tuple[float, Sample]]) -> list[tuple[float, float]]:
    """The Monte-Carlo variance of each term and its degrees of freedom."""
    return [(factor**2 * numbers.monte_carlo[0], numbers.monte_carlo[1]) for factor, numbers in terms]
