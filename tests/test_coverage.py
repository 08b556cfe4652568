"""Precision, recall and class shares against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import coverage
from harness.metrics.coverage import class_metrics, class_share, precision_recall, radii

seeds = st.integers(0, 2**32 - 1)


def brute(centres, queries, k):
    """Share of queries within the k-th-neighbour ball of some centre, one distance at a time."""
    inside = 0
    balls = []
    for i, c in enumerate(centres):
        others = sorted(float(np.linalg.norm(c - o)) for j, o in enumerate(centres) if j != i)
        balls.append(others[k - 1])
    for q in queries:
        inside += any(np.linalg.norm(q - c) <= ball for c, ball in zip(centres, balls, strict=True))
    return inside / len(queries)


@given(seeds, st.integers(5, 25), st.integers(5, 25), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_precision_and_recall_agree_with_brute_force(seed, n, m, k, d):
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.7
    assert precision_recall(real, fake, k) == (brute(real, fake, k), brute(fake, real, k))
    assert precision_recall(real, fake, k, real_radii=radii(real, k)) == precision_recall(real, fake, k)
    assert precision_recall(fake, real, k) == precision_recall(real, fake, k)[::-1]


def test_chunks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(130, 4)).astype(np.float32), rng.normal(size=(70, 4)).astype(np.float32) * 1.3
    unblocked = precision_recall(real, fake)
    monkeypatch.setattr(coverage, "PAIRS", 200)
    assert precision_recall(real, fake) == unblocked
    assert 0 < unblocked[0] < 1


def test_equal_sets_are_fully_covered_even_with_duplicates():
    x = np.random.default_rng(1).normal(size=(20, 6)) * 100
    assert precision_recall(x, x) == (1, 1)
    copies = np.repeat(x, 5, axis=0)  # every radius is zero
    assert precision_recall(copies, copies[::-1].copy()) == (1, 1)


def test_a_dropped_mode_costs_recall_and_an_extra_one_costs_precision():
    rng = np.random.default_rng(2)
    left, right, far = (rng.normal(size=(100, 2)) * 0.1 + [x, 0] for x in (-5, 5, 50))
    both = np.concatenate([left, right])
    precision, recall = precision_recall(both, rng.permutation(left) + 1e-3)
    assert precision > 0.9 and 0.4 < recall <= 0.5
    precision, recall = precision_recall(both, np.concatenate([both, far]) + 1e-3)
    assert recall > 0.95 and 0.6 < precision < 0.7


def test_too_few_rows_for_the_neighbours():
    with pytest.raises(ValueError, match="neighbours"):
        radii(np.zeros((3, 2)), 3)


def probs_of(classes, k):
    return 0.9 * np.eye(k)[classes] + 0.1 / k


def test_class_metrics_of_a_dropped_class():
    reference = np.array([0.5, 0.3, 0.2])
    values = class_metrics(probs_of([0] * 60 + [1] * 40, 3), reference)
    assert [values[f"class_share/{i}"] for i in range(3)] == [0.6, 0.4, 0.0]
    assert values["class_tv"] == pytest.approx(0.2) and values["classes_missing"] == 1


def test_a_class_too_rare_to_judge_is_not_called_missing():
    assert class_metrics(probs_of([0] * 50, 2), np.array([0.9, 0.1]))["classes_missing"] == 0  # five expected


@given(seeds, st.integers(2, 12), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_class_tv_is_a_distance_between_shares(seed, k, n):
    rng = np.random.default_rng(seed)
    probs, other = rng.dirichlet(np.ones(k), size=n), rng.dirichlet(np.ones(k))
    share = class_share(torch.from_numpy(probs))
    assert share.sum() == pytest.approx(1) and len(share) == k
    own = class_metrics(probs, share)
    assert own["class_tv"] == 0 == own["classes_missing"]
    assert class_metrics(probs, other)["class_tv"] == pytest.approx(np.clip(share - other, 0, None).sum())


def test_class_metrics_refuse_another_number_of_classes():
    with pytest.raises(ValueError, match="classes"):
        class_metrics(np.eye(3), np.array([0.5, 0.5]))
