"""Writes real_rows.npz, the real rows of the built-in data sets that figures show: python -m harness.data.keep_examples"""

from __future__ import annotations

import numpy as np

from harness.data.catalogue import REGISTRY
from harness.data.datasets import load
from harness.data.examples import KEPT, chosen_rows


def examples() -> dict[str, np.ndarray]:
    """Random training rows of every data set that needs no preparation, by its name."""
    rows = {name: load(name).rows.numpy() for name, dataset in REGISTRY.items() if not dataset.source}
    return {name: values[chosen_rows(len(values))] for name, values in rows.items()}


if __name__ == "__main__":
    np.savez_compressed(KEPT, allow_pickle=False, **examples())
