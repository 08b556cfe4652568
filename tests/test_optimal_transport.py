"""Exact optimal transport: assignments and W2 against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

from harness.core import optimal_transport
from harness.core.optimal_transport import assignment, entropic_plan, solve, wasserstein2
from harness.errors import HarnessError

seeds = st.integers(0, 2**32 - 1)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 30), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_w2_of_equal_sizes_is_the_best_assignment(seed, n, d):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d)) * 2 + 1
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    truth = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert wasserstein2(x, y) == pytest.approx(truth, rel=1e-9)
    assert wasserstein2(torch.from_numpy(y), torch.from_numpy(x)) == pytest.approx(truth, rel=1e-9)


def test_w2_of_unequal_sizes_is_the_linear_program():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(6, 2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    rows = np.kron(np.eye(4), np.ones(6))
    columns = np.kron(np.ones(4), np.eye(6))
    best = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=[1 / 4] * 4 + [1 / 6] * 6)
    assert wasserstein2(x, y) == pytest.approx(np.sqrt(best.fun), rel=1e-7)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_w2_closed_forms(seed):
    rng = np.random.default_rng(seed)
    x, shift = rng.normal(size=(25, 2)), rng.normal(size=2)
    assert wasserstein2(x, rng.permutation(x)) == pytest.approx(0, abs=1e-7)
    assert wasserstein2(x, rng.permutation(x) + shift) == pytest.approx(np.linalg.norm(shift), rel=1e-9)
    a, b = rng.normal(size=25), rng.normal(size=25)  # on a line, sorted against sorted
    assert wasserstein2(a[:, None], b[:, None]) == pytest.approx(np.sqrt(((np.sort(a) - np.sort(b)) ** 2).mean()), rel=1e-9)


def test_w2_refuses_other_shapes():
    for bad in (np.zeros(3), np.zeros((3, 3)), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="expected points"):
            wasserstein2(np.zeros((3, 2)), bad)


def test_a_solver_that_stops_early_is_an_error(monkeypatch):
    monkeypatch.setattr(
        optimal_transport.ot, "emd", lambda *args, **options: (np.eye(3) / 3, {"warning": "numItermax reached", "cost": 0.0})
    )
    with pytest.raises(HarnessError) as error:
        solve(np.ones((3, 3)))
    assert error.value.details["found"] == "numItermax reached" and "3 x 3" in error.value.details["where"]


@pytest.mark.parametrize("plan", [np.full((3, 3), 1 / 9), np.zeros((3, 3))])
def test_a_plan_that_is_no_permutation_is_an_error(monkeypatch, plan):
    monkeypatch.setattr(optimal_transport.ot, "emd", lambda *args, **options: (plan, {"warning": None, "cost": 0.0}))
    with pytest.raises(RuntimeError, match="permutation"):
        assignment(randn(3, 2), randn(3, 2, seed=1))


def points(rows: int, dim: int) -> st.SearchStrategy:
    """Few distinct coordinates, so that duplicates and ties are common."""
    return st.lists(st.lists(st.integers(-3, 3), min_size=dim, max_size=dim), min_size=rows, max_size=rows)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 12), st.integers(1, 3), st.sampled_from(["squared", "truncated"]))
def test_the_assignment_is_as_cheap_as_scipys(data, rows, dim, cost):
    x, z = (torch.tensor(data.draw(points(rows, dim)), dtype=torch.float32) for _ in range(2))
    permutation = assignment(x, z, cost).numpy()
    assert sorted(permutation) == list(range(rows))
    matrix = cdist(x, z, "sqeuclidean") if cost == "squared" else np.floor(cdist(x, z))
    best = matrix[linear_sum_assignment(matrix)].sum()
    assert matrix[np.arange(rows), permutation].sum() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(("rows", "shape"), [(128, (2,)), (96, (1, 8, 8))])
def test_on_continuous_data_the_assignment_is_scipys(rows, shape):
    x, z = randn(rows, *shape), randn(rows, *shape, seed=1)
    matrix = cdist(x.flatten(1).double(), z.flatten(1).double(), "sqeuclidean")
    assert assignment(x, z).tolist() == linear_sum_assignment(matrix)[1].tolist()


# --- entropic plans


@given(seeds, st.integers(2, 12), st.sampled_from([0.05, 0.3, 3.0]))
@settings(max_examples=30, deadline=None)
def test_the_entropic_plan_has_the_form_and_the_sums_of_the_only_optimum(seed, n, regularisation):
    """The problem is strictly convex: P is optimal exactly if e ln P + C is a_i + b_j and all sums are 1/n."""
    x, z = randn(n, 3, seed=seed), randn(n, 3, seed=seed + 1)
    plan, costs = entropic_plan(x, z, regularisation).numpy(), cdist(x.numpy().astype(float), z.numpy().astype(float), "sqeuclidean")
    assert plan.sum(0) == pytest.approx(1 / n, rel=0.01) and plan.sum(1) == pytest.approx(1 / n, rel=0.01)
    potentials = regularisation * costs.mean() * np.log(plan) + costs
    mixed = potentials - potentials[:1] - potentials[:, :1] + potentials[0, 0]
    assert np.abs(mixed).max() < 1e-6 * costs.mean()


def test_little_entropy_gives_the_assignment_and_much_gives_independence():
    x, z = randn(16, 8), randn(16, 8, seed=1)
    sharp, flat = entropic_plan(x, z, 0.005), entropic_plan(x, z, 1e4)
    assert torch.equal(sharp.argmax(1), assignment(x, z)) and sharp.max(1).values.min() > 0.5 / 16
    assert flat.numpy() == pytest.approx(1 / 256, rel=1e-3)
    assert entropic_plan(torch.ones(3, 2), torch.ones(3, 2), 0.05).numpy() == pytest.approx(1 / 9)


def test_a_plan_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(optimal_transport, "ITERATIONS", 1)
    with pytest.raises(HarnessError, match="not converged") as error:
        entropic_plan(randn(40, 2), randn(40, 2, seed=1) + 3, 1e-4)
    assert "larger" in error.value.details["expected"]
