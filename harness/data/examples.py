"""A few real rows of a data set, for figures that show samples beside them. No torch.

The rows of the built-in sets are kept in real_rows.npz, so that a report needs neither the set nor torch; `python -m
harness.data.keep_examples` writes it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from harness.data.arrays import open_split
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.locations import data_root

KEPT = Path(__file__).with_name("real_rows.npz")
MOST = 64
"""Rows that are kept of a built-in set."""
_SEED = 20250709


def chosen_rows(total: int, n: int = MOST) -> np.ndarray:
    """The indices (n,) of random training rows of a set of `total` rows, from a fixed seed; fewer rows are the first of them."""
    return np.random.default_rng(_SEED).permutation(total)[:n]


def real_rows(name: str, n: int) -> np.ndarray | None:
    """At most n random training rows: uint8 images (n, C, H, W) or points (n, d). None where the set is neither kept nor prepared."""
    kept = _kept()
    if name in kept:
        return kept[name][:n]
    try:
        dataset = info(name)
        if not dataset.source:
            return None
        rows = open_split(dataset, "train", data_root(None)).rows
    except HarnessError:
        return None
    return np.stack([rows[index] for index in chosen_rows(len(rows), n)])


@cache
def _kept() -> dict[str, np.ndarray]:
    with np.load(KEPT, allow_pickle=False) as arrays:
        return dict(arrays)
