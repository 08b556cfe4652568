"""The lowest of several conditions: coverage of its confidence set, and rank correlations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats.optimum import lowest, mean_correlation, rank_correlation


def noisy(truth: np.ndarray, seeds: int, rng: np.random.Generator) -> dict[float, dict[int, float]]:
    """Values of each condition by seed, with an effect that a seed has on all conditions."""
    effect = rng.normal(0, 5, seeds)
    return {float(i): dict(enumerate(level + effect + rng.normal(0, 1, seeds))) for i, level in enumerate(truth)}


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    "truth", [np.zeros(11), 0.4 * np.abs(np.arange(11) - 3.0), np.r_[0.0, np.full(10, 1.0)]], ids=["flat", "V", "spike"]
)
def test_the_set_contains_the_lowest_condition_in_at_least_95_percent(seeds, truth):
    rng = np.random.default_rng(seeds)
    sets = [lowest(noisy(truth, seeds, rng)) for _ in range(400)]
    # where all conditions are equal, each one is a lowest; 4 standard errors of 400 draws are 4.4 %
    target = float(truth.argmin()) if truth.any() else 5.0
    assert np.mean([target in result.candidates for result in sets]) > 0.95 - 0.044
    assert all(result.best in result.candidates for result in sets)


def test_clear_differences_leave_few_candidates():
    result = lowest(noisy(20 * np.abs(np.arange(11) - 3.0), 3, np.random.default_rng(0)))
    assert (result.best, result.candidates, result.low, result.high, result.n) == (3.0, (3.0,), 3.0, 3.0, 3)


def test_one_seed_has_no_interval_and_other_seeds_do_not_count():
    assert lowest({0.0: {0: 2.0}, 1.0: {0: 1.0}}).best == 1.0
    assert lowest({0.0: {0: 2.0}, 1.0: {0: 1.0}}).low is None
    assert lowest({0.0: {0: 2.0, 1: -9.0}, 1.0: {0: 1.0}}).n == 1
    assert lowest({0.0: {0: 2.0}, 1.0: {1: 1.0}}) is None and lowest({}) is None


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=20))
def test_rank_correlation_does_not_change_under_monotone_maps(pairs):
    left, right = map(list, zip(*pairs, strict=True))
    value = rank_correlation(left, right)
    assert value is None or value == pytest.approx(stats.spearmanr(left, right).statistic)
    assert value == rank_correlation([x**3 for x in left], [2.0 * y + 1 for y in right])
    if value is not None:
        assert -1 <= value <= 1 and rank_correlation([-x for x in left], right) == pytest.approx(-value)


def test_mean_correlations_over_seeds():
    ordered, swapped, constant = ([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 3, 2]), ([1, 2, 3], [5, 5, 5])
    result = mean_correlation({0: [ordered, swapped], 1: [constant, ordered], 2: [swapped]})
    assert (result.mean, result.n) == (pytest.approx((0.75 + 1 + 0.5) / 3), 3)
    assert -1 <= result.low < result.mean < result.high <= 1
    assert mean_correlation({0: [constant]}) is None and mean_correlation({0: [ordered]}).low is None


def test_equal_correlations_are_not_known_exactly():
    points = list(range(11))
    perfect = mean_correlation({seed: [(points, points)] for seed in range(3)})
    assert perfect.mean == perfect.high == 1 and 0.9 < perfect.low < 1
    opposite = mean_correlation({seed: [(points, points[::-1])] for seed in range(3)})
    assert opposite.mean == opposite.low == -1 and -1 < opposite.high < -0.9


def test_the_interval_of_a_mean_correlation_covers_its_expectation():
    rng = np.random.default_rng(0)

    def pairs():
        common = rng.normal(size=11)
        return common + rng.normal(size=11), common + rng.normal(size=11)

    expectation = np.mean([rank_correlation(*pairs()) for _ in range(2000)])
    results = [mean_correlation({seed: [pairs()] for seed in range(3)}) for _ in range(400)]
    covered = np.mean([result.low <= expectation <= result.high for result in results])
    assert abs(covered - 0.95) < 4 * (0.05 * 0.95 / 400) ** 0.5
