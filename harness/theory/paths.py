"""Sample paths of PF-ODE, IC and GC as drawn in Figure 1. Time runs from t_max down to sigma_0, and x_t = endpoint + t z."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from harness.theory.estimate import Estimate
from harness.theory.flow import SIGMA_MIN, Function, at_level, ideal_flow, karras_levels, noised, trajectory


@dataclass(frozen=True)
class Paths:
    """Paths (k, n, d) in float64 at k decreasing levels. Path i has the same noise z in all four, and `ode` starts where `ic` starts."""

    times: np.ndarray
    ode: np.ndarray
    ic: np.ndarray
    """x + t z"""
    gc: np.ndarray
    """f(x + t z, t) + t z: the endpoint is predicted at each t"""
    gc_line: np.ndarray
    """f(x + t_max z, t_max) + t z: the line of the pair that GC makes at t_max"""


@torch.no_grad()
def sample_paths(denoiser: Function, x: Tensor, z: Tensor, t_max: float, steps: int, f: Function | None = None) -> Paths:
    """PF-ODE, IC and GC paths for the pairs (x, z), each (n, d) float64, at steps + 1 `karras_levels` from t_max to 0.002.

    f (a trained network) predicts the endpoints of GC; without f, the ideal flow of `denoiser` does.
    """
    levels = karras_levels(at_level(x, t_max), SIGMA_MIN, steps)
    ode = trajectory(denoiser, noised(x, z, levels[0]), levels)
    ic = [noised(x, z, level) for level in levels]
    predict = partial(ideal_flow, denoiser) if f is None else f
    ends = [predict(point, t).double() for point, t in zip(ic, levels, strict=True)]
    gc = [noised(end, z, level) for end, level in zip(ends, levels, strict=True)]
    gc_line = [noised(ends[0], z, level) for level in levels]
    return Paths(levels[:, 0].numpy(), *(torch.stack(path).numpy() for path in (ode, ic, gc, gc_line)))


def straightness(path: np.ndarray) -> np.ndarray:
    """|end - start| divided by the length of each path; path (k, n, d) -> (n,). A straight line has 1."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2).sum(0)
    return np.linalg.norm(path[-1] - path[0], axis=1) / np.maximum(steps, np.finfo(float).tiny)


def passing(path: np.ndarray) -> np.ndarray:
    """1 where two paths pass each other, else 0; path (k, n, d) -> (n, n).

    Two paths pass each other if their difference turns by more than 90 degrees from its initial direction.
    """
    difference = path[:, :, None] - path[:, None]
    return ((difference * difference[:1]).sum(3).min(0) < 0).astype(float)


def pair_mean(pairs: np.ndarray) -> Estimate:
    """The mean over pairs of different paths; pairs (n, n), symmetric. Its error is that for n independent paths."""
    n = len(pairs)
    per_path = (pairs.sum(1) - pairs.diagonal()) / (n - 1)
    return Estimate(float(per_path.mean()), float(2 * per_path.std(ddof=1) / n**0.5), n)
