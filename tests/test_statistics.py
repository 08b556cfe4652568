"""Intervals and tests by their definitions, and compared with scipy. How often they err: test_error_rates.py."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain, combinations
from statistics import fmean, stdev, variance

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from harness.stats import differences as d
from harness.stats.differences import Difference, beyond, equivalent, from_errors, holm, paired, seeds_needed, seeds_text, unpaired
from harness.stats.intervals import interval
from harness.stats.measured import measured_difference, measured_mean, measured_sum, sample
from harness.stats.student import combined
from harness.store.measurements import MeasurementRow

VALUES = (1.2, 1.5, 1.1, 1.9)
OTHERS = (1.0, 1.6, 0.7, 1.2)
NUMBERS = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


# ----------------------------------------------------------------------------------------------------------- intervals of values


@pytest.mark.parametrize("n", [2, 4, 10, 40])
def test_the_interval_is_students_at_every_n(n):
    values = list(oracle.norm.rvs(size=n, random_state=1))
    mean = interval(values)
    assert (mean.low, mean.high) == pytest.approx(oracle.t.interval(0.95, n - 1, fmean(values), oracle.sem(values)))
    assert (mean.mean, mean.n) == (pytest.approx(fmean(values)), n) and "Student" in mean.method and f"{n - 1} degree" in mean.method


@given(st.lists(NUMBERS, min_size=2, max_size=10), NUMBERS, NUMBERS)
def test_bounds_cut_the_interval_and_never_the_mean(values, bound, other_bound):
    least, greatest = sorted((bound, other_bound))
    plain, cut = interval(values), interval(values, (least, greatest))
    if plain.low is None:
        assert cut == plain and len(set(values)) == 1
        return
    assert cut.low <= cut.mean <= cut.high and plain.low <= cut.low and cut.high <= plain.high
    if least <= plain.mean <= greatest:
        assert (cut.low, cut.high) == (max(least, plain.low), min(greatest, plain.high))
    assert ("cut" in cut.method) == ((cut.low, cut.high) != (plain.low, plain.high))


def test_missing_modes_are_not_negative():
    mean = interval([0.0, 1.0, 0.0], (0, 8))
    assert mean.low == 0 and mean.high == pytest.approx(1 / 3 + oracle.t.ppf(0.975, 2) / 3)


def test_without_spread_there_is_no_interval():
    assert (interval([2.0]).low, interval([2.0]).high) == (None, None) and "one seed" in interval([2.0]).method
    assert interval([0.0, 0.0, 0.0]).high is None and "3 equal values" in interval([0.0, 0.0, 0.0]).method
    assert interval([0.3, 0.1 + 0.2]).low is None  # equal but for rounding


# ------------------------------------------------------------------------------------------------------ differences over seeds


def test_paired_is_scipys_test():
    difference = paired(dict(enumerate(VALUES)), dict(enumerate(OTHERS)) | {9: 4.0})
    expected = oracle.ttest_rel(VALUES, OTHERS)
    assert (difference.p, difference.df, difference.n, difference.unit) == (pytest.approx(expected.pvalue), 3, 4, d.PAIRED)
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    mean, sd = fmean(gaps := [a - b for a, b in zip(VALUES, OTHERS, strict=True)]), stdev(gaps)
    numbers = (difference.mean, difference.sd, difference.se, difference.effect, difference.relative)
    assert numbers == pytest.approx((mean, sd, sd / 2, mean / sd, mean / fmean(OTHERS)))


def test_unpaired_is_scipys_test_for_groups_of_one_size():
    difference, expected = unpaired(VALUES, OTHERS), oracle.ttest_ind(VALUES, OTHERS)
    assert (difference.p, difference.df, difference.n, difference.unit) == (pytest.approx(expected.pvalue), 6, 4, d.UNPAIRED)
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert difference.sd == pytest.approx(math.sqrt((variance(VALUES) + variance(OTHERS)) / 2))


def test_groups_of_different_sizes_keep_their_own_variances():
    difference = unpaired(VALUES, OTHERS[:3])
    expected = oracle.ttest_ind(VALUES, OTHERS[:3], equal_var=False)
    assert difference.mean / difference.se == pytest.approx(expected.statistic)
    assert 2 <= difference.df <= 5 and difference.p == pytest.approx(2 * oracle.t.sf(abs(expected.statistic), difference.df))


def test_one_seed_allows_no_test():
    for difference in (paired({0: 1.0}, {0: 2.0}), unpaired([1.0], [2.0, 3.0])):
        assert difference.p is None and difference.se is None and difference.one_seed and not equivalent(difference, 1e9)
        assert seeds_needed(difference, 1.0) is None
    assert paired({0: 1.0}, {1: 2.0}) is None


def test_equal_differences_allow_no_test(recwarn):
    """One missing mode more with each of two seeds does not show that the next seed has one more, too."""
    for difference in (
        paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}),
        paired({0: 0.3, 1: 0.1 + 0.2}, {0: 0.1, 1: 0.1}),
        unpaired([1.0, 1.0], [2.0, 2.0]),
    ):
        assert (difference.p, difference.low, difference.effect) == (None, None, None) and not difference.one_seed
        assert not equivalent(difference, 1e9)
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert not recwarn


def test_estimates_with_known_and_with_estimated_errors():
    known = from_errors(1.0, 0.3, 0.2, 0.4)
    assert known.p == pytest.approx(2 * oracle.norm.sf(0.8 / 0.5), rel=1e-5) and known.unit == d.MONTE_CARLO and not known.one_seed
    few = from_errors(1.0, 0.4, 0.2, 0.0, left_df=7)
    assert few.p == pytest.approx(2 * oracle.t.sf(2, 7)) and few.df == pytest.approx(7)
    assert from_errors(1.0, 0.0, 2.0, 0.0).p == 0 and from_errors(1.0, 0.0, 1.0, 0.0).p == 1
    unknown = from_errors(1.0, math.nan)
    assert (unknown.p, unknown.unit) == (None, d.UNKNOWN_ERROR)


# -------------------------------------------------------------------------------------- equivalence, seeds needed, several tests


@given(st.lists(NUMBERS, min_size=3, max_size=8, unique=True), st.floats(0.01, 100))
def test_equivalent_is_two_one_sided_tests_and_an_interval_of_90_percent_inside_the_margin(values, margin):
    difference = paired(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    upper = oracle.ttest_1samp(values, margin, alternative="less").pvalue
    lower = oracle.ttest_1samp(values, -margin, alternative="greater").pvalue
    assert d.equivalence_p(difference, margin) == pytest.approx(max(upper, lower), rel=1e-6, abs=1e-12)
    low, high = oracle.t.interval(0.9, len(values) - 1, fmean(values), oracle.sem(values))
    assert equivalent(difference, margin) == (-margin < low and high < margin)


def test_equivalence_of_exact_numbers():
    assert equivalent(from_errors(1.0, 0.0, 1.02), 0.03) and not equivalent(from_errors(1.0, 0.0, 1.04), 0.03)
    assert not equivalent(from_errors(1.0, math.nan, 1.0), 0.03)


@pytest.mark.parametrize(("gap", "significant"), [(0.0, True), (0.02, True), (0.029, False), (0.031, False), (0.06, True), (-0.06, True)])
def test_beyond_is_negative_inside_the_margin(gap, significant):
    distance = beyond(from_errors(1 + gap, 0.005, 1.0), 0.03)
    assert distance.mean == pytest.approx(abs(gap) - 0.03) and (distance.p < 0.05) == significant
    assert distance.low < distance.mean < distance.high
    exact = beyond(from_errors(1 + gap, 0.0, 1.0), 0.03)
    assert exact.p == 0 and exact.mean == pytest.approx(abs(gap) - 0.03)
    assert beyond(from_errors(1 + gap, math.nan, 1.0), 0.03).p is None


def test_seeds_needed_are_those_of_the_textbook():
    """Cohen (1988): d = 0.5, alpha = 0.05 two-sided, power 0.8 takes 34 pairs, or 64 in each of two groups; d = 1 takes 10, or 17."""
    paired_ten, groups = Difference(0.3, 10, unit=d.PAIRED, sd=2.0), Difference(0.3, 10, unit=d.UNPAIRED, sd=2.0)
    assert [seeds_needed(paired_ten, effect) for effect in (1.0, 2.0, -1.0)] == [34, 10, 34]
    assert [seeds_needed(groups, effect) for effect in (1.0, 2.0)] == [64, 17]
    assert seeds_needed(paired_ten, 1e-4) > d.MOST_SEEDS and "more than 10,000" in seeds_text(seeds_needed(paired_ten, 1e-4))
    assert seeds_needed(paired_ten, 0.0) is None and seeds_needed(Difference(0.3, 3), 1.0) is None
    assert seeds_needed(paired_ten, 1e6) == 2
    assert seeds_needed(replace(paired_ten, monte_carlo=0.2), 1.0) > 34
    assert seeds_needed(replace(paired_ten, monte_carlo=1.0), 1.0) > d.MOST_SEEDS  # no number of seeds helps


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """The adjusted p of a hypothesis is the largest Bonferroni p of all sets of hypotheses that contain it."""
    places = range(len(p_values))
    sets = list(chain.from_iterable(combinations(places, size) for size in range(1, len(p_values) + 1)))
    expected = [max(min(1.0, len(part) * min(p_values[j] for j in part)) for part in sets if i in part) for i in places]
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == []


# -------------------------------------------------------------------------------------------- degrees of freedom of several parts


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(1, 50)), min_size=1, max_size=4))
def test_combined_degrees_of_freedom(parts):
    total, df = combined(parts)
    assert float(total) == pytest.approx(sum(variance for variance, _ in parts))
    if len({df for _, df in parts}) == 1:  # Satterthwaite's formula
        assert float(df) == pytest.approx(float(total) ** 2 / sum(variance**2 / df for variance, df in parts))
    assert min(df for _, df in parts) * (1 - 1e-9) <= float(df)
    (variance, own), *_ = parts
    assert combined([(variance, own), (0.0, 5)]) == (pytest.approx(variance), pytest.approx(own))


# ------------------------------------------------------------------------------------------------------------------- measurements


def rows(values: dict[int | None, float], se: float | None = 0.1, n: int | None = 1000, quantity: str = "cost") -> list[MeasurementRow]:
    return [MeasurementRow(quantity, "digits", value, "gc", x=1.0, se=se, n=n, seed=seed) for seed, value in values.items()]


THREE = {0: 1.0, 1: 1.3, 2: 1.1}
SD = stdev(THREE.values())


def test_the_mean_over_seeds_adds_the_monte_carlo_error_that_seeds_share():
    mean, plain = measured_mean(rows(THREE, 0.1)), interval(list(THREE.values()))
    half = (mean.high - mean.low) / 2
    assert mean.mean == pytest.approx(plain.mean) and mean.n == 3 and "Monte-Carlo" in mean.method
    se = math.sqrt(SD**2 / 3 + 0.1**2)
    assert oracle.norm.ppf(0.975) * se < half < oracle.t.ppf(0.975, 2) * se
    for without in (rows(THREE, 0.0), rows(THREE, None), rows(THREE, 0.1, quantity="pair-cost")):
        mean = measured_mean(without)
        assert (mean.low, mean.high) == pytest.approx((plain.low, plain.high)) and "Monte-Carlo" not in mean.method
    same = measured_mean(rows(dict.fromkeys(range(3), 1.0), 0.1))
    assert (same.low, same.high) == pytest.approx((1 - 0.196, 1 + 0.196), abs=1e-3)
    assert measured_mean(rows(dict.fromkeys(range(3), 1.0), 0.0)).low is None


@pytest.mark.parametrize(("seed", "words"), [(0, "one seed"), (None, "Monte-Carlo error")])
def test_one_network_and_an_exact_law_have_their_monte_carlo_error(seed, words):
    mean = measured_mean(rows({seed: 2.0}, 0.1, 8))
    assert (mean.low, mean.high) == pytest.approx(oracle.t.interval(0.95, 7, 2.0, 0.1)) and words in mean.method and mean.n == 1
    assert measured_mean(rows({seed: 2.0}, None)).low is None
    assert measured_mean(rows({seed: 0.1}, 0.1, 8), (0.0, None)).low == 0.0


def test_rows_come_from_a_file_or_from_a_study():
    left = rows(THREE) + rows({None: 1.2}, 0.05, 16)
    frame = pd.DataFrame([vars(row) for row in left])
    assert frame.seed.isna().sum() == 1
    for part, expected in ((frame[frame.seed.notna()], left[:3]), (frame[frame.seed.isna()], left[3:])):
        assert measured_mean(part.itertuples()) == measured_mean(expected)
    with pytest.raises(ValueError, match="no rows"):
        sample([])


def test_differences_are_paired_by_seed_and_add_both_monte_carlo_errors():
    other = {0: 0.5, 1: 0.9, 2: 0.4, 7: 100.0}
    difference = measured_difference(rows(THREE, 0.1), rows(other, 0.2))
    expected = paired(THREE, other)
    assert (difference.mean, difference.sd, difference.relative) == pytest.approx(
        (expected.mean, expected.sd, expected.mean / fmean(other.values()))
    )
    assert (difference.n, difference.unit, difference.monte_carlo) == (3, d.PAIRED, pytest.approx(math.hypot(0.1, 0.2)))
    assert difference.se == pytest.approx(math.hypot(expected.se, 0.1, 0.2)) and difference.df > 2
    own = measured_difference(rows(THREE, quantity="pair-cost"), rows(other, quantity="pair-cost"))
    assert (own.p, own.low, own.high) == pytest.approx((expected.p, expected.low, expected.high)) and own.monte_carlo == 0


def test_seeds_that_do_not_pair():
    other = {5: 0.5, 6: 0.9, 7: 0.4}
    difference = measured_difference(rows(THREE, 0.0), rows(other, 0.0))
    expected = unpaired(list(THREE.values()), list(other.values()))
    assert difference.unit == d.UNPAIRED and (difference.p, difference.sd) == pytest.approx((expected.p, expected.sd))


def test_trained_networks_against_what_has_no_seed():
    difference = measured_difference(rows(THREE, 0.0), rows({None: 0.8}, 0.0))
    assert (difference.unit, difference.n) == (d.PAIRED, 3) and difference.p == pytest.approx(
        oracle.ttest_1samp(list(THREE.values()), 0.8).pvalue
    )
    assert measured_difference(rows(THREE, 0.1), rows({None: 0.8}, None)).p is None


def test_one_seed_of_a_trained_network_is_no_verdict_about_another():
    for left, right in (({0: 5.0}, {0: 1.0}), (THREE, {0: 0.2}), ({0: 5.0}, {None: 1.0}), ({0: 5.0}, {4: 1.0, 5: 1.5})):
        difference = measured_difference(rows(left, 0.1), rows(right, 0.1))
        assert difference.unit == d.ONE_SEED and difference.one_seed and difference.n == 1 and difference.p < 0.05
        assert not equivalent(difference, 1e9) and seeds_needed(difference, 1.0) is None
    # of the network that both sides have
    assert measured_difference(rows(THREE), rows({1: 0.2})).mean == pytest.approx(1.1)
    assert measured_difference(rows({0: 5.0}, None), rows({0: 1.0}, None)).p is None


def test_exact_laws_are_judged_by_their_monte_carlo_error():
    difference = measured_difference(rows({None: 1.0}, 0.3, None), rows({None: 0.2}, 0.4, None))
    expected = from_errors(1.0, 0.3, 0.2, 0.4)
    assert (difference.p, difference.low, difference.unit) == (pytest.approx(expected.p), pytest.approx(expected.low), d.MONTE_CARLO)
    assert not difference.one_seed


def test_sums_of_several_terms():
    ic, gc = {0: (4.0, 2.0), 1: (4.4, 2.1)}, {0: (2.0, 0.5), 1: (2.1, 0.6)}
    terms = [(sign, sample(rows({seed: pair[end] for seed, pair in values.items()}, 0.0)).log)
             for end, first in ((0, 1.0), (1, -1.0)) for sign, values in ((first, ic), (-first, gc))]  # fmt: skip
    growth = {seed: math.log(ic[seed][0] / gc[seed][0] / (ic[seed][1] / gc[seed][1])) for seed in ic}
    difference = measured_sum(terms, less=0.1)
    assert difference.p == pytest.approx(oracle.ttest_1samp(list(growth.values()), 0.1).pvalue) and difference.n == 2
    assert sample(rows({0: 2.0}, 0.1)).log.numbers[0].se == pytest.approx(0.05)
