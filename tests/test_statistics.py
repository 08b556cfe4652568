"""Intervals and tests over seeds, compared with scipy and with their definitions."""

from __future__ import annotations

import math
from statistics import fmean, stdev, variance

import pytest
from scipy import stats as oracle

from harness.statistics.differences import from_errors, paired, welch
from harness.statistics.intervals import interval

VALUES = (1.2, 1.5, 1.1, 1.9)
OTHERS = (1.0, 1.6, 0.7, 1.2)


def test_interval_of_few_seeds_is_students():
    mean = interval(VALUES)
    expected = oracle.t.interval(0.95, 3, sum(VALUES) / 4, oracle.sem(VALUES))
    assert (mean.low, mean.high) == pytest.approx(expected)
    assert "Student" in mean.method


def test_interval_of_many_seeds_is_a_bootstrap():
    values = list(oracle.norm.rvs(size=40, random_state=1))
    mean = interval(values)
    low, high = oracle.t.interval(0.95, 39, sum(values) / 40, oracle.sem(values))
    assert "bootstrap" in mean.method
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=0.05)
    assert mean == interval(values)


def test_one_seed_has_no_interval_and_no_test():
    assert interval([2.0]).low is None
    assert paired({0: 1.0}, {0: 2.0}).p is None
    assert paired({0: 1.0}, {1: 2.0}) is None


def test_paired_by_its_definition():
    difference = paired(dict(enumerate(VALUES)), dict(enumerate(OTHERS)) | {9: 4.0})
    mean, sd = fmean(differences := [a - b for a, b in zip(VALUES, OTHERS, strict=True)]), stdev(differences)
    assert (difference.mean, difference.n, difference.unit) == (pytest.approx(mean), 4, "seeds")
    half = oracle.t.ppf(0.975, 3) * sd / 2
    assert (difference.low, difference.high) == pytest.approx((mean - half, mean + half))
    assert difference.p == pytest.approx(2 * oracle.t.sf(abs(mean) / (sd / 2), 3))
    assert (difference.effect, difference.relative) == pytest.approx((mean / sd, mean / fmean(OTHERS)))


def test_welch_by_its_definition():
    difference = welch(VALUES, OTHERS[:3])
    mean, variances = fmean(VALUES) - fmean(OTHERS[:3]), (variance(VALUES) / 4, variance(OTHERS[:3]) / 3)
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 2)
    half = oracle.t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert (difference.low, difference.high) == pytest.approx((mean - half, mean + half))
    assert difference.p == pytest.approx(2 * oracle.t.sf(abs(mean) / sum(variances) ** 0.5, freedom))


def test_differences_without_spread_are_exact(recwarn):
    difference = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert (difference.low, difference.high, difference.p, difference.effect) == (1.0, 1.0, 0.0, math.inf)
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]).p == 0.0
    assert 0 < paired({0: 0.3, 1: 0.1 + 0.2}, {0: 0.1, 1: 0.1}).p < 1e-6  # equal but for rounding
    assert not recwarn


def test_from_errors_is_a_normal_test():
    difference = from_errors(1.0, 0.3, 0.2, 0.4)
    assert difference.p == pytest.approx(2 * oracle.norm.sf(0.8 / 0.5))
    assert from_errors(1.0, 0.0, 2.0, 0.0).p == 0
    assert from_errors(1.0, float("nan")).p is None
