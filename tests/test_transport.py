from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from theory_support import assert_refused, generator, pairs

from harness.theory.estimate import mean
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle
from harness.theory.transport import (
    assignment_cost,
    batch_ot_cost,
    cost_change,
    costs,
    derivative,
    lemma_1,
    pair_cost,
    scaling_derivative,
    scaling_distance,
)


@pytest.mark.parametrize("d", [2, 64])
def test_gaussian_costs(d):
    law = Gaussian(d, 0.5)
    x, z = pairs(law, 4000)
    levels = [0.1, 0.5, 2.0, 80.0]
    assert pair_cost(x, z).agrees(law.cost(0.0))
    for t in levels:
        assert mean(costs(law.flow, x, z, t)).agrees(law.cost(t))
        assert cost_change(law.flow, x, z, t).agrees(law.cost(t) - law.cost(0.0))
    # with common random numbers, the error of the change is smaller than those of the costs
    assert cost_change(law.flow, x, z, 0.1).se < 0.3 * pair_cost(x, z).se


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("t", [0.01, 0.5, 5.0])
def test_lemma_1_on_gaussian_data(d, t):
    law = Gaussian(d, 0.5)
    x, z = pairs(law, 4000, seed=1)
    assert derivative(law.flow, x, z, t).agrees(law.cost_derivative(t))
    assert lemma_1(law.flow, law.velocity, x, z, t).agrees(law.cost_derivative(t))


def test_lemma_1_on_a_mixture_and_on_finite_data():
    law = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.3)
    oracle = Oracle(law.sample(200, generator(3)), torch.float64)
    x, z = pairs(law, 1500, seed=2)
    rows = oracle.data(torch.randint(0, 200, (1500,), generator=generator(4)))
    for source, points in ((law, x), (oracle, rows)):

        def f(y, t, source=source):
            return source.flow(y, t, 0.3, 24)

        for t in (0.5, 1.5):
            numeric, exact = derivative(f, points, z, t), lemma_1(f, source.velocity, points, z, t)
            assert abs(numeric.value - exact.value) < 3 * np.hypot(numeric.se, exact.se)
            assert exact.value < -5 * exact.se


def test_corollary_1_near_zero():
    """f is the identity at t -> 0, so c' -> -2 E|w|^2 < 0, and w = z there."""
    law = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.3)
    x, z = pairs(law, 2000)
    slope = derivative(law.flow, x, z, 0.01, 0.5)
    assert slope.value == pytest.approx(-2 * 2, rel=0.1) and slope.value < -10 * slope.se


def test_corollary_2_where_f_is_a_scaling():
    law, t = Gaussian(4, 0.05), 20.0
    x, z = pairs(law, 2000)

    def scaling(y, s):
        return 0.002 / s[:, None] * y

    assert scaling_distance(scaling, x, z, t).value == pytest.approx(0, abs=1e-20)
    assert scaling_distance(law.flow, x, z, t).value > 0
    expected = -2 * 0.002 / t * law.proxy_ic(t)
    assert scaling_derivative(law.velocity, x, z, t).value == pytest.approx(lemma_1(scaling, law.velocity, x, z, t).value)
    assert scaling_derivative(law.velocity, x, z, t).agrees(expected)


def test_digits_with_the_ideal_flow():
    data = torch.tensor(load_digits().data) / 8 - 1
    oracle, rows = Oracle(data), data[::4].float()
    z = torch.randn(rows.shape, generator=generator())
    flow = partial(oracle.flow, steps=12)
    assert pair_cost(rows, z).agrees(109.5, 4) and mean(costs(flow, rows, z, 20.0)).agrees(85.7, 4)
    change = cost_change(flow, rows, z, 20.0)
    assert change.value == pytest.approx(85.7 - 109.5, abs=4 * change.se + 0.3)


@pytest.mark.parametrize("n", [1, 7, 60])
def test_exact_transport_against_scipy(n):
    x, z = (torch.randn(n, 3, generator=generator(i)) for i in (0, 1))
    matrix = ((x[:, None] - z[None]) ** 2).sum(2).double().numpy()
    assert assignment_cost(x, z) == pytest.approx(matrix[linear_sum_assignment(matrix)].mean(), rel=1e-5)


def test_exact_transport_of_images():
    x = torch.rand(16, 1, 4, 4, generator=generator())
    order = torch.randperm(16, generator=generator(1))
    assert assignment_cost(x, x[order]) == pytest.approx(0, abs=1e-6)


def test_batch_ot_falls_with_the_batch_and_stays_above_w2():
    law = Gaussian(4, 0.5)
    x, z = pairs(law, 1024)
    small, large, whole = (batch_ot_cost(x, size, batches, generator()) for size, batches in ((16, 32), (128, 8), (1024, 2)))
    assert pair_cost(x, z).value > small.value > large.value > whole.value > law.optimal_cost()
    assert small.n == 32 and small.se > 0
    # a batch of one is IC
    assert batch_ot_cost(x, 1, 1024, generator()).agrees(law.cost(0.0))


def test_exact_transport_of_too_many_points():
    with assert_refused(found="GiB needed"):
        many = torch.ones(1, 2).expand(10**6, 2)
        assignment_cost(many, many)
