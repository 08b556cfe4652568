"""iCT's discretisation curriculum: the number of grid points at each training step. Pure functions of numbers."""

from __future__ import annotations

import math


def stage_length(steps: int, n0: int, n1: int) -> int:
    """K' = floor(K / (log2 floor(n1 / n0) + 1)): the steps between two doublings of the grid, at least 1."""
    return max(1, math.floor(steps / (math.log2(n1 // n0) + 1)))


def grid_points(step: int, steps: int, n0: int, n1: int) -> int:
    """N(k) = min(n0 2^floor(k/K'), n1) + 1, the number of points at training step k = 0..K-1; intervals are one fewer.

    n0 = 10, n1 = 1280, K = 100,000: 11 points, doubling every 12,500 steps, 1281 points from step 87,500 on. Known as
    improved_timesteps_schedule in iCT implementations (arXiv 2310.14189).
    """
    doublings = min(step // stage_length(steps, n0, n1), 64)
    return min(n0 * 2**doublings, n1) + 1
