"""The real rows that figures show: random rows of the data sets as they load."""

from __future__ import annotations

import numpy as np
import pytest

from harness.data.catalogue import REGISTRY
from harness.data.datasets import load
from harness.data.examples import MOST, chosen_rows, real_rows
from harness.errors import HarnessError


@pytest.mark.parametrize("name", [name for name, dataset in REGISTRY.items() if not dataset.source])
def test_the_kept_rows_are_those_of_the_data_set(name):
    """If this fails because a data set has changed: python -m harness.data.keep_examples"""
    kept = real_rows(name, MOST)
    assert kept is not None
    assert len(kept) == MOST
    try:
        rows = load(name).rows.numpy()
    except HarnessError:
        pytest.skip(f"{name} is not on this machine")
    np.testing.assert_array_equal(kept, rows[chosen_rows(len(rows))])


def test_a_draw_is_random_and_does_not_depend_on_its_length():
    assert list(chosen_rows(1000, 5)) == list(chosen_rows(1000, 50)[:5])
    assert len(set(chosen_rows(1000))) == MOST
    assert 300 < chosen_rows(1000).mean() < 700


def test_rows_of_a_set_that_is_not_prepared_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert real_rows("cifar10", 4) is None
    assert real_rows("no such set", 4) is None
