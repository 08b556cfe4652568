"""Sample paths of Figure 1: the PF-ODE's, IC's and GC's, as arrays. Time runs from t_max down to sigma_0; x_t = endpoint + t z."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.theory.flow import SIGMA_MIN, Function, at_level, check_levels, ideal_flow, karras_levels, noised, trajectory


@dataclass(frozen=True)
class Paths:
    """Arrays float64. The paths i of all kinds share their noise z; the PF-ODE's starts where IC's does."""

    times: np.ndarray
    """(k,), falling"""
    ode: np.ndarray
    """(k, n, d) PF-ODE"""
    ic: np.ndarray
    """(k, n, d) x + t z"""
    gc: np.ndarray
    """(k, n, d) f(x + t z, t) + t z: GC's point at each level, its endpoint predicted at that level"""
    gc_line: np.ndarray
    """(k, n, d) f(x + t_max z, t_max) + t z: the line of the pair that GC makes at t_max"""
    data: np.ndarray
    """(n, d) data point of each path"""
    noise: np.ndarray
    """(n, d) noise of each path"""


@torch.no_grad()
def sample_paths(
    denoiser: Function, x: Tensor, z: Tensor, t_max: float = 5.0, f: Function | None = None, steps: int = 80, sigma_0: float = SIGMA_MIN
) -> Paths:
    """PF-ODE, IC and GC paths for the pairs (x, z), each (n, d), at steps + 1 Karras levels from t_max to sigma_0.

    GC's endpoints are predicted by f (a trained network) or else by the ideal flow of `denoiser`. Raises HarnessError for t_max outside
    [0.002, 80] or pairs that are not points of one shape.
    """
    check_levels(t_max, sigma_0)
    if x.shape != z.shape or x.dim() != 2:
        raise HarnessError("paths need pairs of points", found=f"{tuple(x.shape)} and {tuple(z.shape)}", expected="two tensors (n, d)")
    x, z = x.double(), z.double()
    levels = karras_levels(at_level(x, t_max), sigma_0, steps)
    ode = trajectory(denoiser, noised(x, z, levels[0]), levels)
    ic = [noised(x, z, level) for level in levels]
    ends = [(ideal_flow(denoiser, p, t, sigma_0) if f is None else f(p, t)).double() for p, t in zip(ic, levels, strict=True)]
    gc = [noised(end, z, level) for end, level in zip(ends, levels, strict=True)]
    gc_line = [noised(ends[0], z, level) for level in levels]
    arrays = (torch.stack(path).cpu().numpy() for path in (ode, ic, gc, gc_line))
    return Paths(levels[:, 0].cpu().numpy(), *arrays, x.cpu().numpy(), z.cpu().numpy())


def straightness(path: np.ndarray) -> np.ndarray:
    """|end - start| / length of each path; path (k, n, d) -> (n,), 1 for a straight line."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2).sum(0)
    return np.linalg.norm(path[-1] - path[0], axis=1) / np.maximum(steps, np.finfo(float).tiny)


def passing(path: np.ndarray) -> np.ndarray:
    """1 where two paths pass each other (their difference turns by more than a right angle on the way), else 0; path (k, n, d) -> (n, n).

    IC's lines do so wherever two noises and their data points lie the other way round; paths of one flow, and GC's lines, hardly do.
    """
    difference = path[:, :, None] - path[:, None]
    return ((difference * difference[:1]).sum(3).min(0) < 0).astype(float)


def passing_share(path: np.ndarray) -> float:
    """The share of pairs of different paths that pass each other."""
    n = path.shape[1]
    return float(passing(path)[np.triu_indices(n, 1)].mean()) if n > 1 else 0.0
