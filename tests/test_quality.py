"""Frechet, KID and Inception Score against closed forms, SciPy and sums written out."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.quality import frechet, inception_score, kid, moments, root

seeds = st.integers(0, 2**32 - 1)


def random_covariance(rng, d, rank=None):
    a = rng.normal(size=(d, rank or 2 * d))
    return a @ a.T / (rank or 2 * d)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def orthogonal(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


@pytest.mark.parametrize("as_type", [np.asarray, torch.from_numpy])
def test_frechet_of_diagonal_gaussians(as_type):
    mu1, mu2, s1, s2 = np.array([1.0, -2.0, 0.0]), np.array([0.0, 1.0, 0.5]), np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.25, 1.0])
    truth = ((mu1 - mu2) ** 2).sum() + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum()
    assert frechet(*map(as_type, (mu1, np.diag(s1), mu2, np.diag(s2)))) == pytest.approx(truth, rel=1e-12)


@given(seeds, st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_frechet_agrees_with_scipy_sqrtm(seed, d):
    rng = np.random.default_rng(seed)
    mu1, mu2, s1, s2 = rng.normal(size=d), rng.normal(size=d), random_covariance(rng, d), random_covariance(rng, d)
    truth = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2) - 2 * np.trace(scipy.linalg.sqrtm(s1 @ s2)).real
    assert frechet(mu1, s1, mu2, s2) == pytest.approx(truth, rel=1e-7, abs=1e-9)


@given(seeds, st.integers(2, 10), st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_frechet_is_symmetric_zero_on_equal_and_invariant(seed, d, rank):
    rng = np.random.default_rng(seed)
    mu1, mu2, s1, s2 = rng.normal(size=d), rng.normal(size=d), random_covariance(rng, d, rank), random_covariance(rng, d)
    value, q = frechet(mu1, s1, mu2, s2), orthogonal(rng, d)
    assert value >= 0
    assert frechet(mu2, s2, mu1, s1) == pytest.approx(value, abs=1e-6)
    assert frechet(q @ mu1, q @ s1 @ q.T, q @ mu2, q @ s2 @ q.T) == pytest.approx(value, abs=1e-6)
    assert frechet(mu1, s1, mu1, s1) == pytest.approx(0, abs=1e-6)
    assert frechet(mu1, s1, mu2, s2, root1=root(s1)) == value


def test_frechet_of_rank_deficient_covariances():
    """u u^T against v v^T: tr (S1 S2)^(1/2) = |<u, v>|."""
    rng = np.random.default_rng(0)
    u, v, zero = rng.normal(size=6), rng.normal(size=6), np.zeros(6)
    truth = u @ u + v @ v - 2 * abs(u @ v)
    assert frechet(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(truth, abs=1e-6)
    assert frechet(zero, np.zeros((6, 6)), zero, np.outer(v, v)) == pytest.approx(v @ v, abs=1e-12)


def test_frechet_refuses_other_dimensions():
    with pytest.raises(ValueError, match="dimensions differ"):
        frechet(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


def test_moments_agree_with_numpy_over_several_blocks_and_far_from_zero():
    x = (np.random.default_rng(1).normal(size=(9000, 5)) + 1000).astype(np.float32)
    mu, cov = moments(x)
    assert mu.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose(mu, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False), atol=1e-9)
    with pytest.raises(ValueError, match="two rows"):
        moments(x[:1])


def mmd_by_double_sum(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@given(seeds, st.integers(2, 9), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_kid_of_complete_samples_is_the_double_sum(seed, n, d):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d)) + 0.5
    value = kid(x, y, subsets=3, generator=draw(seed % 1000))  # every subset is the complete sample
    assert value == pytest.approx(mmd_by_double_sum(x, y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n, d, subsets, size", [(40, 8, 50, 30), (3000, 600, 2, 10)])
def test_kid_averages_the_double_sums_of_its_subsets(n, d, subsets, size):
    """Both ways of computing it (all kernel values once; each subset's own) against the definition, with the subsets drawn again here."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n + 7, d)) + 0.2
    value, again = kid(x, y, subsets, size, generator=draw(5)), draw(5)
    sums = []
    for _ in range(subsets):
        i, j = (torch.randperm(len(side), generator=again)[:size].numpy() for side in (x, y))
        sums.append(mmd_by_double_sum(x[i], y[j]))
    assert value == pytest.approx(np.mean(sums), rel=1e-9)


def test_kid_is_unbiased_symmetric_and_invariant():
    rng = np.random.default_rng(4)
    nulls = [kid(rng.normal(size=(60, 3)), rng.normal(size=(60, 3)), 1, generator=draw()) for _ in range(400)]
    assert abs(np.mean(nulls)) < 3 * np.std(nulls) / math.sqrt(len(nulls))
    assert min(nulls) < 0
    x, y, q = rng.normal(size=(50, 4)), rng.normal(size=(50, 4)) + 1, orthogonal(rng, 4)
    value = kid(x, y, 1, generator=draw())
    assert kid(y, x, 1, generator=draw()) == pytest.approx(value)
    assert kid(x @ q, y @ q, 1, generator=draw()) == pytest.approx(value)


def test_kid_depends_on_its_generator_alone():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(80, 4)), rng.normal(size=(80, 4))
    first = kid(x, y, 10, 20, generator=draw(1))
    torch.manual_seed(9)
    assert kid(x, y, 10, 20, generator=draw(1)) == first != kid(x, y, 10, 20, generator=draw(2))


def test_kid_needs_two_rows_of_equal_dimensions():
    for x, y in ((np.zeros((1, 3)), np.zeros((5, 3))), (np.zeros((5, 3)), np.zeros((5, 4)))):
        with pytest.raises(ValueError, match="KID needs"):
            kid(x, y, generator=draw())


def test_inception_score_by_hand():
    p = np.array([[0.8, 0.2], [0.4, 0.6]])
    q = p.mean(0)
    truth = math.exp(np.mean([sum(a * math.log(a / b) for a, b in zip(row, q, strict=True)) for row in p]))
    assert inception_score(p, splits=1) == pytest.approx(truth, rel=1e-12)


def test_inception_score_at_its_bounds():
    assert inception_score(np.eye(10).repeat(3, 0), splits=1) == pytest.approx(10)  # certain and even, with exact zeros
    assert inception_score(np.full((30, 10), 0.1), splits=3, generator=draw()) == pytest.approx(1)  # says nothing
    assert inception_score(np.eye(10)[[4] * 30], splits=3, generator=draw()) == pytest.approx(1)  # one class only


@given(seeds, st.integers(2, 8), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_inception_score_averages_splits_between_one_and_k(seed, k, splits):
    p = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), size=13)
    score = inception_score(p, splits, generator=draw(seed % 1000))
    shuffled = p[torch.randperm(len(p), generator=draw(seed % 1000)).numpy()] if splits > 1 else p
    assert 1 <= score <= k + 1e-9
    assert score == pytest.approx(np.mean([inception_score(part) for part in np.array_split(shuffled, splits)]))


def test_several_splits_need_a_generator():
    with pytest.raises(ValueError, match="generator"):
        inception_score(np.eye(5).repeat(20, 0), 5)


@pytest.mark.parametrize("p", [np.full((4, 3), 0.5), np.full((1, 2), 0.5), np.array([[1.5, -0.5]] * 4), np.full((4, 2), np.nan)])
def test_inception_score_refuses_rows_that_are_not_distributions(p):
    with pytest.raises(ValueError, match=r"distribution|rows"):
        inception_score(p, splits=2)
