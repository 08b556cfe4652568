"""Exact W2 and mode coverage of point sets against SciPy and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from scipy.stats import chi2

from harness.data.datasets import load
from harness.metrics import points
from harness.metrics.points import mode_metrics, point_modes, wasserstein2

seeds = st.integers(0, 2**32 - 1)


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


def test_w2_refuses_other_shapes_and_unsolved_problems(monkeypatch):
    for bad in (np.zeros(3), np.zeros((3, 3)), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="expected points"):
            wasserstein2(np.zeros((3, 2)), bad)
    monkeypatch.setattr(points.ot, "emd2", lambda *args, **kwargs: (1.0, {"warning": "numItermax reached"}))
    with pytest.raises(ArithmeticError, match="not solved"):
        wasserstein2(np.zeros((3, 2)), np.ones((3, 2)))


def test_mixture_finds_the_eight_gaussians():
    data = load("eight-gaussians", "train")
    fitted = point_modes(data.rows, data.labels)
    angles = torch.arange(8) * torch.pi / 4
    truth = 0.7 * torch.stack([angles.cos(), angles.sin()], 1)
    assert (fitted.centres - truth).abs().max() < 0.01
    assert (fitted.std - 0.03).abs().max() < 0.003
    assert fitted.share.sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="fewer than two"):
        point_modes(torch.zeros(3, 2), torch.tensor([0, 0, 1]))


def test_modes_of_real_points_of_a_dropped_mode_and_of_noise():
    train, fresh = load("eight-gaussians", "train"), load("eight-gaussians", "heldout")
    reference = point_modes(train.rows, train.labels)
    real = mode_metrics(fresh.rows, reference)
    assert real["in_mode"] == pytest.approx(chi2.cdf(points.REACH**2, df=2), abs=0.006)
    assert real["modes_missing"] == 0 and real["mode_tv"] < 0.05
    dropped = mode_metrics(fresh.rows[fresh.labels != 3], reference)
    assert dropped["modes_missing"] == 1 and dropped["mode_tv"] == pytest.approx(reference.share[3].item(), abs=0.03)
    noise = mode_metrics(torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)), reference)
    assert noise["in_mode"] < 0.1
    centre = mode_metrics(torch.zeros(50, 2), reference)
    assert (centre["in_mode"], centre["modes_missing"]) == (0, 8)
