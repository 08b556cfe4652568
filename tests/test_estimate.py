import numpy as np
import pytest
import torch
from scipy import stats

from harness.theory.estimate import Estimate, clustered, log_slope, mean, pool, ratio, squared_length, stratified


def test_mean_is_that_of_scipy():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = mean(values)
    assert estimate.value == pytest.approx(float(values.mean())) and estimate.n == 200
    assert estimate.se == pytest.approx(stats.sem(values.numpy()))


def test_arithmetic_carries_errors():
    a, b = Estimate(3.0, 0.3, 10), Estimate(1.0, 0.4, 20)
    assert (a - b) == Estimate(2.0, 0.5, 10)
    assert (a / 2).se == pytest.approx(0.15)
    assert a.agrees(3.8) and not a.agrees(4.0)
    assert Estimate(1.0, 0.0, 1).agrees(1.0) and not Estimate(1.0, 0.0, 1).agrees(2.0) and not Estimate(1.0, float("nan"), 1).agrees(2.0)


def coverage(build, truth, trials=400):
    """The share of trials whose interval of two errors holds the truth; 95.4 % when the errors are right."""
    return np.mean([build(torch.Generator().manual_seed(i)).agrees(truth, 2) for i in range(trials)])


def test_stratified_error_excludes_the_variance_between_strata():
    levels = torch.linspace(0, 100, 50, dtype=torch.float64)

    def build(g):
        return stratified(levels + torch.randn(4, 50, generator=g, dtype=torch.float64))

    assert build(torch.Generator().manual_seed(0)).se == pytest.approx(1 / 200**0.5, rel=0.2)
    assert 0.92 < coverage(build, 50.0) < 0.98


def test_clustered_error_allows_for_dependent_rows():
    def build(g):
        return clustered(torch.randn(60, 1, generator=g).expand(60, 30))

    assert build(torch.Generator().manual_seed(0)).n == 60
    assert 0.91 < coverage(build, 0.0) < 0.98


def test_ratio_of_paired_draws():
    def build(g):
        bottom = 2 + torch.rand(100, generator=g, dtype=torch.float64)
        return ratio(3 * bottom + 0.01 * torch.randn(100, generator=g, dtype=torch.float64), bottom)

    assert build(torch.Generator().manual_seed(1)).se < 1e-3
    assert 0.91 < coverage(build, 3.0) < 0.98


def test_squared_length_is_unbiased_and_its_error_correct():
    truth = torch.tensor([1.0, 2.0, 0.0])

    def build(g):
        return squared_length(truth + 3 * torch.randn(40, 3, generator=g))

    values = [build(torch.Generator().manual_seed(i)).value for i in range(400)]
    assert np.mean(values) == pytest.approx(5.0, abs=4 * stats.sem(values))
    assert 0.85 < coverage(build, 5.0) < 0.99


def test_pool_weighs_by_n():
    assert pool([Estimate(1.0, 0.1, 10), Estimate(4.0, 0.2, 20)]) == Estimate(3.0, pytest.approx(np.hypot(1.0, 4.0) / 30), 30)


def test_log_slope_against_scipy():
    t = [1.0, 2.0, 4.0, 8.0, 16.0]
    values = [Estimate(3 * x**-2.1 * (1 + 0.02 * (-1) ** i), 0.0, 1) for i, x in enumerate(t)]
    fit = stats.linregress(np.log(t), np.log([v.value for v in values]))
    slope = log_slope(t, values)
    half = stats.t.ppf(0.975, 3) * fit.stderr
    assert (slope.value, slope.se, slope.n) == pytest.approx((fit.slope, half / stats.norm.ppf(0.975), 5))


def test_log_slope_error_includes_monte_carlo_errors():
    exact = [Estimate(x**-4.0, 0.1 * x**-4.0, 9) for x in (1.0, 10.0, 100.0)]
    slope = log_slope([1.0, 10.0, 100.0], exact)
    assert slope.value == pytest.approx(-4)
    assert slope.se == pytest.approx(0.1 / (np.log(10) * 2**0.5), rel=1e-3)


@pytest.mark.parametrize("errors", [(0.1, 0.1, 0.1, 0.1, 0.1), (0.02, 0.05, 0.1, 0.2, 0.5), (0.5, 0.2, 0.1, 0.05, 0.02)])
def test_the_interval_of_a_slope_covers_it(errors):
    rng, t, covered = np.random.default_rng(0), np.array([8.0, 15, 25, 45, 80]), []
    errors = 0.1 * np.asarray(errors)
    for _ in range(3000):
        values = t**-2 * np.exp(errors * rng.standard_normal(5))
        slope = log_slope(t, [Estimate(value, value * se, 1) for value, se in zip(values, errors, strict=True)])
        covered.append(abs(slope.value + 2) <= 1.959964 * slope.se)
    print(f"coverage of the 95 % interval of a slope, errors {errors}: {100 * np.mean(covered):.1f} %")
    assert 93.5 <= 100 * np.mean(covered) <= 96.5
