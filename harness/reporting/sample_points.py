"""Reads the samples of a run on points, which training writes as an array."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError

import numpy as np

from harness.locations import open_regular


def read_points(path: Path) -> np.ndarray:
    """Points (n, 2). Raises ValueError or OSError when the file is damaged or holds something else."""
    try:
        with open_regular(path) as file:
            points: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except (TokenError, SyntaxError, MemoryError) as error:  # a header that numpy cannot parse, or believes
        raise ValueError(f"not a file of numpy: {path}") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"no finite points (n, 2) in {path}")
    return points
