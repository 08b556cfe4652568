"""Grids, curriculum, time laws and weights, against numbers worked out by hand and SciPy's distributions."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config.curriculum import grid_points, stage_length
from harness.core import schedules
from harness.core.randomness import generator


@pytest.mark.parametrize(
    ("step", "points"),
    [(0, 11), (12_499, 11), (12_500, 21), (24_999, 21), (25_000, 41), (37_500, 81), (50_000, 161), (62_500, 321), (75_000, 641),
     (87_499, 641), (87_500, 1281), (99_999, 1281)],
)  # fmt: skip
def test_points_at_the_doublings_of_the_paper(step, points):
    assert grid_points(step, 100_000, 10, 1280) == points


def test_length_of_a_stage():
    assert stage_length(100_000, 10, 1280) == 12_500
    assert stage_length(150_000, 10, 1280) == 18_750
    assert stage_length(4000, 10, 160) == 800  # log2 16 + 1 = 5
    assert stage_length(100, 10, 35) == 38  # floor(3.5) = 3, log2 3 + 1 = 2.585, floor(38.7)
    assert stage_length(3, 10, 1280) == 1


@given(st.integers(1, 500), st.integers(1, 30), st.integers(0, 9))
def test_the_curriculum_doubles_from_n0_to_n1(steps, n0, doublings):
    n1 = n0 * 2**doublings
    intervals = [grid_points(step, steps, n0, n1) - 1 for step in range(steps)]
    assert intervals[0] == n0 and set(intervals) <= {n0 * 2**k for k in range(doublings + 1)}
    assert all(later in (before, 2 * before) for before, later in itertools.pairwise(intervals))
    if steps > doublings:
        assert intervals[-1] == n1


def test_levels_worked_out_by_hand():
    # 0.002^(1/7) = 0.411560 and 80^(1/7) = 1.870122, whose mean 1.140841 to the seventh is 2.5152
    low, middle, high = schedules.noise_levels(3, 0.002, 80.0, 7.0).tolist()
    assert (low, high) == (0.002, 80.0)
    assert middle == pytest.approx(2.5152, abs=2e-4)


def test_levels_are_those_of_edm():
    """The eighteen sampling levels that EDM's users know (arXiv 2206.00364, rho = 7), here ascending."""
    known = [80.0, 57.586, 40.786, 28.375, 19.352, 12.910, 8.401, 5.315, 3.257, 1.923, 1.088, 0.5853, 0.2964, 0.1395, 0.0599]
    levels = schedules.noise_levels(18, 0.002, 80.0, 7.0).flip(0)[: len(known)]
    assert levels.tolist() == pytest.approx(known, rel=2e-3)


@given(st.integers(2, 1500), st.floats(0.5, 12), st.floats(1e-4, 0.1), st.floats(1, 200))
def test_levels_ascend_between_the_ends(points, rho, low, high):
    levels = schedules.noise_levels(points, low, high, rho)
    assert len(levels) == points and levels.dtype == torch.float64
    assert levels[0] == low and levels[-1] == high
    assert (levels.diff() > 0).all()


@pytest.mark.parametrize("points", [11, 1281])
def test_probabilities_are_those_of_the_log_normal_law(points):
    levels = schedules.noise_levels(points, 0.002, 80.0, 7.0)
    probabilities = schedules.level_probabilities(levels, -1.1, 2.0)
    cdf = scipy.stats.lognorm(s=2.0, scale=math.exp(-1.1)).cdf(levels.numpy())
    expected = (cdf[1:] - cdf[:-1]) / (cdf[-1] - cdf[0])
    assert len(probabilities) == points - 1
    assert probabilities.numpy() == pytest.approx(expected, rel=1e-9)


def test_weights_by_hand():
    weights = schedules.inverse_gap(torch.tensor([0.002, 0.502, 2.502, 80.0], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([2.0, 0.5, 1 / 77.498])


def test_indices_follow_their_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    drawn = schedules.sample_levels(probabilities, 40_000, generator(0, "level"))
    counts = torch.bincount(drawn, minlength=4).numpy()
    assert scipy.stats.chisquare(counts, 40_000 * probabilities.numpy()).pvalue > 1e-3


def test_continuous_times_are_log_normal():
    t = schedules.log_normal_times(20_000, -1.1, 2.0, generator(1, "level"))
    assert scipy.stats.kstest(t.numpy(), scipy.stats.lognorm(s=2.0, scale=math.exp(-1.1)).cdf).pvalue > 1e-3


def test_ect_stage_grows_every_double_steps():
    assert [schedules.ect_stage(step, 10) for step in (0, 9, 10, 25, 100)] == [0, 0, 1, 2, 10]
    assert [schedules.ect_stage(step, 0) for step in (0, 10**6)] == [0, 0]


@pytest.mark.parametrize(
    ("t", "stage", "q", "r"),
    [
        (1.0, 0, 2.0, 0.0),  # 1 + 8 sigmoid(-1) = 3.151531: 1 - 3.151531/2 < 0
        (1.0, 3, 2.0, 0.803029),  # 1 - 3.151531/16
        (1.0, 0, 256.0, 0.987689),  # the one-hour recipe: 1 - 3.151531/256
        (80.0, 0, 2.0, 40.0),  # sigmoid(-80) = 0
        (0.01, 2, 2.0, 0.01 * (1 - 4.980000 / 8)),  # 1 + 8 sigmoid(-0.01) = 4.98
    ],
)
def test_ect_lower_times_by_hand(t, stage, q, r):
    lower = schedules.ect_lower_times(torch.tensor([t], dtype=torch.float64), stage, q, 8.0, 1.0)
    assert lower.item() == pytest.approx(r, rel=1e-5)


@given(st.lists(st.floats(1e-4, 500), min_size=1, max_size=20), st.integers(0, 20), st.floats(1.5, 300))
def test_ect_lower_times_lie_below_and_approach(times, stage, q):
    t = torch.tensor(times, dtype=torch.float64)
    now, later = (schedules.ect_lower_times(t, s, q, 8.0, 1.0) for s in (stage, stage + 1))
    assert ((now >= 0) & (now < t)).all() and (1 / (t - now)).isfinite().all()
    assert (later >= now).all()
