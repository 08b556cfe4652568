"""How often the tests and intervals of harness.stats err, by simulation; `pytest -rA` prints the tables.

The columns of a table are 2, 3, 5 and 10 training seeds, unless it says otherwise; errors are normal, unless a line says otherwise. A size
is the rate, in per cent, at which a true null hypothesis is rejected at 5 %; a coverage is the rate at which a 95 % interval contains the
true value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from harness.stats import differences as d
from harness.stats.differences import Difference, beyond, from_errors, paired, seeds_needed, unpaired, unpaired_variance
from harness.stats.intervals import interval
from harness.stats.measured import measured_difference, measured_mean
from harness.stats.optimum import lowest
from harness.stats.student import combined, half_width, largest_of, p_value
from harness.store.measurements import MeasurementRow

SEEDS = (2, 3, 5, 10)
REPEATS = 40_000
"""The standard error of a rate of 5 % is 0.11 %."""
SIZES, COVERAGES = (3.5, 6.5), (93.5, 96.5)
SHARES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Monte-Carlo standard errors in units of the standard deviation over seeds."""
DRAWS = 1437

Sums = tuple[np.ndarray, np.ndarray, np.ndarray | float]
"""Means, their estimated variances and degrees of freedom, over REPEATS."""


def table(title: str, lines: dict[str, list[float]], columns: tuple = SEEDS) -> None:
    print(f"\n{title}\n{'':58}" + "".join(f"{column!s:>8}" for column in columns))
    for name, values in lines.items():
        print(f"{name:58}" + "".join(f"{value:8.2f}" for value in values))


def within(lines: dict[str, list[float]], band: tuple[float, float]) -> None:
    outside = {name: values for name, values in lines.items() if not band[0] <= min(values) <= max(values) <= band[1]}
    assert not outside


def over_seeds(values: np.ndarray) -> Sums:
    """The mean over the seeds (the last axis)."""
    n = values.shape[-1]
    return values.mean(-1), values.var(-1, ddof=1) / n, n - 1


def error_rate(sums: Sums) -> float:
    """In per cent, how often the mean differs from its true value 0 significantly."""
    mean, variance, df = sums
    return 100 * float((p_value(mean, np.sqrt(variance), df) < 0.05).mean())


def normal(rng: np.random.Generator, *shape: int, sd: float = 1.0, repeats: int = REPEATS) -> np.ndarray:
    return sd * rng.standard_normal((repeats, *shape))


def estimated_error(rng: np.random.Generator, se: float, df: float) -> tuple[np.ndarray, tuple[np.ndarray, float]]:
    """A Monte-Carlo error, and its variance as estimated with df degrees of freedom."""
    return normal(rng, sd=se), (se**2 * rng.chisquare(df, REPEATS) / df, df)


def beside(values: np.ndarray, *errors: tuple[np.ndarray, tuple[np.ndarray, float]]) -> Sums:
    """The mean over seeds of values that share Monte-Carlo errors, as harness.stats.measured computes it."""
    mean, variance, df = over_seeds(values)
    total, freedom = combined([(variance, df), *(estimate for _, estimate in errors)])
    return mean + sum(error for error, _ in errors), total, freedom


def rows(values: np.ndarray, error: float, se: float, draws: int, quantity: str = "cost", first: int | None = 0) -> list[MeasurementRow]:
    seeds = [None] if first is None else range(first, first + len(values))
    return [MeasurementRow(quantity, "digits", float(v) + error, se=se, n=draws, seed=s) for s, v in zip(seeds, values, strict=True)]


# ---------------------------------------------------------------------------------------------------- the sizes of tests over seeds


def test_sizes_of_tests_over_seeds():
    rng = np.random.default_rng(0)
    lines: dict[str, list[float]] = {"paired t, sides correlated by 0.8": [], "Student's t, unpaired, equal variances": []}
    lines |= {"Student's t, unpaired, variances 1:2": [], "values of own draws, Monte-Carlo error = spread over seeds": []}
    sizes = list(lines.values())
    for n in SEEDS:
        common, left, right = normal(rng, n, sd=2), normal(rng, n), normal(rng, n)
        sums = over_seeds((common + left) - (common + right))
        sizes[0].append(error_rate(sums))
        pair = [dict(enumerate(side[0])) for side in (common + left, common + right)]
        assert paired(*pair).p == pytest.approx(float(p_value(sums[0][0], math.sqrt(sums[1][0]), n - 1)))
        for line, wider in ((sizes[1], 1.0), (sizes[2], math.sqrt(2))):
            other = wider * right
            variance, df = unpaired_variance([(left.var(1, ddof=1), n), (other.var(1, ddof=1), n)])
            line.append(error_rate((left.mean(1) - other.mean(1), variance, df)))
            public = unpaired(left[0], other[0])
            assert (public.se, public.df) == pytest.approx((math.sqrt(variance[0]), df))
        own = left + right  # the second one stands for the Monte-Carlo error of each seed's own draws
        sizes[3].append(error_rate(over_seeds(own)))
        assert measured_mean(rows(own[0], 0.0, 1.0, DRAWS, "discrepancy")).high == pytest.approx(interval(own[0]).high)
    table("Size (%) of tests over seeds at 5 %, band 3.5 to 6.5", lines)
    within(lines, SIZES)


def test_sizes_for_groups_of_different_sizes():
    rng = np.random.default_rng(1)
    lines: dict[str, list[float]] = {}
    ratios = (0.5, 1.0, 2.0)
    for small, large in ((2, 3), (2, 5), (3, 5), (3, 10), (5, 10)):
        line = lines[f"{small} and {large} seeds"] = []
        for ratio in ratios:
            left, right = normal(rng, small, sd=math.sqrt(ratio)), normal(rng, large)
            variance, df = unpaired_variance([(left.var(1, ddof=1), small), (right.var(1, ddof=1), large)])
            line.append(error_rate((left.mean(1) - right.mean(1), variance, df)))
            public = unpaired(left[0], right[0])
            assert (public.se, public.df) == pytest.approx((math.sqrt(variance[0]), df[0]))
    title = "Size (%) of the unpaired test for groups of different sizes, by the ratio of the variances (smaller group to larger)"
    table(title, lines, ratios)
    within({name: sizes for name, sizes in lines.items() if not name.startswith("2")}, SIZES)
    within(lines, (1.0, 6.5))  # two seeds beside more: never too often, but often too seldom


# -------------------------------------------------------------------------------------- measurements: spread and Monte-Carlo error


def test_coverage_of_means_with_a_shared_monte_carlo_error():
    rng = np.random.default_rng(2)
    lines: dict[str, list[float]] = {}
    for share in SHARES:
        line = lines[f"Monte-Carlo error {share:g} times the spread over seeds"] = []
        for n in SEEDS:
            values, error = normal(rng, n), estimated_error(rng, share, DRAWS - 1)
            sums = beside(values, error)
            line.append(100 - error_rate(sums))
            if share:
                public = measured_mean(rows(values[0], error[0][0], math.sqrt(error[1][0][0]), DRAWS))
                half = half_width(np.sqrt(sums[1][0]), sums[2][0], 0.05)
                assert (public.mean, public.high - public.mean) == pytest.approx((sums[0][0], half))
    line = lines["no spread over seeds, Monte-Carlo error alone"] = []
    for n in SEEDS:
        line.append(100 - error_rate(beside(np.zeros((REPEATS, n)), estimated_error(rng, 1.0, DRAWS - 1))))
    table("Coverage (%) of measured_mean over seeds that share their draws, band 93.5 to 96.5", lines)
    within(lines, COVERAGES)


def test_sizes_of_differences_of_measurements():
    """Paired by seed: both sides share their draws over the seeds, with independent errors. Against batch-OT: 16 or 32 assignments."""
    rng = np.random.default_rng(3)
    lines: dict[str, list[float]] = {}
    for share in SHARES[1:]:
        by_seed = lines[f"paired, Monte-Carlo error of each side {share:g} times the spread"] = []
        apart = lines[f"unpaired, Monte-Carlo error of each side {share:g} times the spread"] = []
        for n in SEEDS:
            left, right = normal(rng, n), normal(rng, n)
            errors = [estimated_error(rng, share, DRAWS - 1) for _ in range(2)]
            sums = beside(left - right, errors[0], (-errors[1][0], errors[1][1]))
            by_seed.append(error_rate(sums))
            sides = [rows(v[0], e[0][0], math.sqrt(e[1][0][0]), DRAWS) for v, e in zip((left, right), errors, strict=True)]
            public = measured_difference(*sides)
            assert (public.mean, public.se, public.df) == pytest.approx((sums[0][0], math.sqrt(sums[1][0]), sums[2][0]))
            variance, df = unpaired_variance([(left.var(1, ddof=1), n), (right.var(1, ddof=1), n)])
            total, freedom = combined([(variance, df), *(estimate for _, estimate in errors)])
            apart.append(error_rate((sums[0], total, freedom)))
            public = measured_difference(sides[0], rows(right[0], errors[1][0][0], math.sqrt(errors[1][1][0][0]), DRAWS, first=50))
            assert (public.se, public.df) == pytest.approx((math.sqrt(total[0]), freedom[0]))
    table("Size (%) of measured_difference at 5 %, band 3.5 to 6.5", lines)
    within(lines, SIZES)


def test_sizes_against_what_has_no_seed():
    rng = np.random.default_rng(4)
    lines: dict[str, list[float]] = {}
    for draws, share in ((32, 0.1), (32, 0.3), (32, 1.0), (32, 3.0), (16, 0.3), (16, 1.0), (4, 0.3), (4, 1.0)):
        line = lines[f"networks - batch-OT of {draws} assignments, error {share:g}"] = []
        for n in SEEDS:
            values, error = normal(rng, n), estimated_error(rng, share, draws - 1)
            sums = beside(values, (-error[0], error[1]))
            line.append(error_rate(sums))
            right = rows(np.zeros(1), error[0][0], math.sqrt(error[1][0][0]), draws, first=None)
            public = measured_difference(rows(values[0], 0.0, 0.0, DRAWS), right)
            assert (public.mean, public.se, public.df) == pytest.approx((sums[0][0], math.sqrt(sums[1][0]), sums[2][0]))
    table("Size (%) of trained networks against batch-OT, band 3.5 to 6.5 (for 2 seeds beside few draws only below 6.5)", lines)
    within({name: sizes[1:] for name, sizes in lines.items()}, SIZES)
    within({name: sizes[:1] for name, sizes in lines.items()}, (1.0, 6.5))


def test_sizes_of_the_monte_carlo_error_alone():
    rng = np.random.default_rng(5)
    draws = (4, 8, 16, DRAWS)
    lines: dict[str, list[float]] = {"one estimate against a known value": [], "two estimates": []}
    for n in draws:
        mean, (variance, df) = estimated_error(rng, 1.0, n - 1)
        lines["one estimate against a known value"].append(error_rate((mean, variance, df)))
        other, (more, _) = estimated_error(rng, 1.0, n - 1)
        total, freedom = combined([(variance, df), (more, df)])
        lines["two estimates"].append(error_rate((mean - other, total, freedom)))
        public = from_errors(mean[0], math.sqrt(variance[0]), other[0], math.sqrt(more[0]), df, df)
        assert (public.se, public.df) == pytest.approx((math.sqrt(total[0]), freedom[0]))
    table("Size (%) of from_errors at 5 %, by the number of draws, band 3.5 to 6.5", lines, draws)
    within(lines, SIZES)


# ------------------------------------------------------------------------------------------------------- intervals of single values

LAWS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float, tuple[float | None, float | None]]] = {
    "normal, no bounds": (lambda rng, shape: 5 + rng.standard_normal(shape), 5.0, (None, None)),
    "FID: gamma, mean 2, sd 0.5, at least 0": (lambda rng, shape: rng.gamma(16, 0.125, shape), 2.0, (0.0, None)),
    "share: beta, mean 0.9, sd 0.03, in [0, 1]": (lambda rng, shape: rng.beta(89.1, 9.9, shape), 0.9, (0.0, 1.0)),
    "KID: normal, mean 0.5, sd 1": (lambda rng, shape: 0.5 + rng.standard_normal(shape), 0.5, (0.0, None)),
}


def cut_coverage(values: np.ndarray, truth: float, bounds: tuple[float | None, float | None]) -> np.ndarray:
    """Whether each interval contains the truth, as `interval` computes it for each row of values."""
    mean, variance, df = over_seeds(values)
    half = half_width(np.sqrt(variance), df, 0.05)
    low, high = mean - half, mean + half
    if bounds[0] is not None:
        low = np.maximum(low, np.minimum(bounds[0], mean))
    if bounds[1] is not None:
        high = np.minimum(high, np.maximum(bounds[1], mean))
    public = interval(values[0], bounds)
    assert (public.low, public.high) == pytest.approx((low[0], high[0]))
    return (low <= truth) & (truth <= high)


def test_coverage_of_intervals_over_seeds():
    rng = np.random.default_rng(6)
    lines: dict[str, list[float]] = {}
    for name, (draw, truth, bounds) in LAWS.items():
        line = lines[name] = []
        for n in SEEDS:
            values = draw(rng, (REPEATS, n))
            covered = cut_coverage(values, truth, bounds)
            assert (covered == cut_coverage(values, truth, (None, None))).all(), "bounds that hold never lower the coverage"
            line.append(100 * float(covered.mean()))
    table("Coverage (%) of interval over seeds, cut at the bounds, band 93.5 to 96.5", lines)
    within(lines, COVERAGES)


SKEWED: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float, tuple[float | None, float | None]]] = {
    "share: beta, mean 0.9, sd 0.05": (lambda rng, shape: rng.beta(31.5, 3.5, shape), 0.9, (0.0, 1.0)),
    "share: beta, mean 0.97, sd 0.03": (lambda rng, shape: rng.beta(30.4, 0.94, shape), 0.97, (0.0, 1.0)),
    "FID: gamma, sd = mean": (lambda rng, shape: rng.gamma(1, 1, shape), 1.0, (0.0, None)),
    "missing modes of 8: binomial, mean 0.3": (lambda rng, shape: rng.binomial(8, 0.3 / 8, shape).astype(float), 0.3, (0.0, 8.0)),
    "missing modes of 8: binomial, mean 1": (lambda rng, shape: rng.binomial(8, 1 / 8, shape).astype(float), 1.0, (0.0, 8.0)),
    "missing modes of 8: binomial, mean 3": (lambda rng, shape: rng.binomial(8, 3 / 8, shape).astype(float), 3.0, (0.0, 8.0)),
}


def test_what_holds_for_skewed_quantities_near_a_bound():
    """No interval of a few values knows how skewed they are, and Student's covers less. Equal counts get no interval at all."""
    rng = np.random.default_rng(7)
    lines: dict[str, list[float]] = {}
    for name, (draw, truth, bounds) in SKEWED.items():
        given, covered = lines[f"{name}: interval given"], lines[f"{name}: coverage"] = [], []
        for n in SEEDS:
            values = draw(rng, (REPEATS, n))
            differ = values[values.var(1) > 0]
            given.append(100 * len(differ) / REPEATS)
            covered.append(100 * float(cut_coverage(differ, truth, bounds).mean()))
            assert interval(np.zeros(n), bounds).low is None
    table("Skewed quantities near a bound (%): intervals given, and coverage of these", lines)
    within({name: values for name, values in lines.items() if name.endswith("coverage")}, (82.0, 100.0))


def test_coverage_of_the_set_of_lowest_conditions():
    """All conditions are equal, and one of them is the lowest; other truths are covered at least as often."""
    rng = np.random.default_rng(10)
    lines: dict[str, list[float]] = {}
    for k in (3, 11):
        line = lines[f"lowest of {k} conditions"] = []
        for n in SEEDS:
            values = normal(rng, k, n) + normal(rng, 1, n, sd=3)
            means = values.mean(2)
            residuals = values - means[:, :, None] - values.mean(1, keepdims=True) + values.mean((1, 2), keepdims=True)
            df = (k - 1) * (n - 1)
            reach = largest_of(k - 1, df, 0.05) * np.sqrt(2 * (residuals**2).sum((1, 2)) / df / n)
            chosen = means - means.min(1, keepdims=True) <= reach[:, None]
            line.append(100 * float(chosen.mean()))
            public = [lowest({float(i): dict(enumerate(row)) for i, row in enumerate(conditions)}) for conditions in values[:20]]
            assert [each.candidates for each in public] == [tuple(map(float, np.flatnonzero(row))) for row in chosen[:20]]
    table("Coverage (%) of the set of conditions that may be the lowest, band 93.5 to 96.5", lines)
    within(lines, COVERAGES)


@pytest.mark.parametrize("df", [1, 2, 10, 100])
def test_the_largest_of_one_is_students(df):
    assert largest_of(1, df, 0.05) == pytest.approx(stats.t.ppf(0.95, df), rel=1e-3)
    assert largest_of(2, 10, 0.05) == pytest.approx(2.15, abs=0.005)  # Dunnett (1955), table 1a


# ------------------------------------------------------------------------------------------------------------ equivalence and power


def test_size_of_equivalence_at_the_margin():
    """The true difference is the margin: "equivalent" is an error, and so is "outside the margin"."""
    rng = np.random.default_rng(8)
    lines: dict[str, list[float]] = {
        "margin of 1 sd: found within": [],
        "margin of 4 sd: found within": [],
        "margin of 4 sd: found outside": [],
    }
    for n in SEEDS:
        values = normal(rng, n)
        for margin in (1.0, 4.0):
            mean, variance, df = over_seeds(values + margin)
            few = [
                beyond(Difference(float(m), n, p=0.5, se=float(s), df=df), margin)
                for m, s in zip(mean[:9], variance[:9] ** 0.5, strict=True)
            ]
            distance, se = np.abs(mean) - margin, np.sqrt(variance)
            one_sided = p_value(distance, se, df) / 2
            inside, outside = (distance < 0) & (one_sided < 0.05), (distance > 0) & (2 * one_sided < 0.05)
            assert [each.mean < 0 and each.p < 0.05 for each in few] == list(inside[:9])
            assert [each.mean > 0 and each.p < 0.05 for each in few] == list(outside[:9])
            lines[f"margin of {margin:g} sd: found within"].append(100 * float(inside.mean()))
            if margin == 4:
                lines[f"margin of {margin:g} sd: found outside"].append(100 * float(outside.mean()))
    table("Errors (%) of two one-sided tests at the margin, at most 5.5", lines)
    assert max(map(max, lines.values())) <= 5.5 and min(lines["margin of 4 sd: found within"]) >= 4.5


@pytest.mark.parametrize("unit", [d.PAIRED, d.UNPAIRED])
def test_seeds_needed_have_the_power(unit):
    rng = np.random.default_rng(9)
    sizes = (3.0, 1.5, 1.0, 0.7, 0.5)
    lines: dict[str, list[float]] = {}
    for share in (0.0, 0.15):
        seeds = [seeds_needed(Difference(9.9, 3, unit=unit, sd=1.0, monte_carlo=share), size) for size in sizes]
        lines[f"seeds needed, Monte-Carlo error {share:g} sd"] = [float(n) for n in seeds]
        for name, less in (("power with them", 0), ("power with one less", 1)):
            lines[f"{name}, Monte-Carlo error {share:g} sd"] = [
                power(rng, unit, n - less, size, share) for n, size in zip(seeds, sizes, strict=True)
            ]
    table(f"Power (%) of the {unit} test with seeds_needed, by the effect in sd", lines, sizes)
    enough, fewer = ([v for name, values in lines.items() if name.startswith(f"power with {w}") for v in values] for w in ("them", "one"))
    assert min(enough) > 78 and max(value for value in fewer if not math.isnan(value)) < 82
    assert fmean(enough) > 80


def power(rng: np.random.Generator, unit: str, n: int, effect: float, share: float) -> float:
    """In per cent, how often an effect is found with n seeds, on each side if unpaired."""
    if n < 2:
        return math.nan
    repeats = REPEATS // 4
    error = normal(rng, sd=share, repeats=repeats)
    if unit == d.PAIRED:
        mean, variance, df = over_seeds(effect + normal(rng, n, repeats=repeats))
    else:
        left, right = over_seeds(effect + normal(rng, n, repeats=repeats)), over_seeds(normal(rng, n, repeats=repeats))
        mean, variance, df = left[0] - right[0], left[1] + right[1], 2 * (n - 1)
    if share:
        variance, df = combined([(variance, df), (np.full(repeats, share**2), math.inf)])
    mean = mean + error
    return 100 * float(((p_value(mean, np.sqrt(variance), df) < 0.05) & (mean > 0)).mean())
