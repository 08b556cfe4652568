"""Transport costs: c(t) = E|f(x_t, t) - z|^2 of equation (19) and its derivative by Lemma 1, batch-OT, and exact optimal transport."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.core import optimal_transport
from harness.errors import HarnessError
from harness.theory.discrepancy import dot
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, check_levels, noised
from harness.theory.oracle import check_memory, draw_rows
from harness.theory.proxy import noise_like

_SIMPLEX_BYTES = 40
"""Bytes that the exact solver needs for each pair of points: float64 costs, flow, and the arcs of the network simplex."""


@torch.no_grad()
def pair_cost(x: Tensor, z: Tensor) -> Estimate:
    """E|x' - z'|^2 of the given pairs; x, z (n, ...)."""
    return mean(squared_norms(x - z))


def squared_norms(x: Tensor) -> Tensor:
    """|x|^2 of each row, summed over all coordinates in float64; (n,)."""
    return x.flatten(1).square().sum(1, dtype=torch.float64)


@torch.no_grad()
def costs(f: Function, x: Tensor, z: Tensor, t: float) -> Tensor:
    """|f(x + t z, t) - z|^2 of each row, whose mean is c(t); (n,) float64. Raises HarnessError for t outside [0.002, 80]."""
    check_levels(t)
    level = at_level(x, t)
    return squared_norms(f(noised(x, z, level), level) - z)


def cost(f: Function, x: Tensor, z: Tensor, t: float) -> Estimate:
    """c(t) of equation (19), estimated from independent pairs (x, z). c(0) is `pair_cost`."""
    return mean(costs(f, x, z, t))


def curve(f: Function, x: Tensor, z: Tensor, levels: Sequence[float]) -> tuple[list[Estimate], list[Estimate]]:
    """c(t) at each level, and the change of c from each level to the next. A level of 0 stands for c(0).

    All values use the SAME pairs, so the error of a change is smaller than the errors of the two costs.
    """
    draws = [squared_norms(x - z) if t == 0 else costs(f, x, z, t) for t in levels]
    return [mean(d) for d in draws], [mean(b - a) for a, b in itertools.pairwise(draws)]


def derivative(f: Function, x: Tensor, z: Tensor, t: float, step: float = 0.01) -> Estimate:
    """c'(t) as the central difference between t (1 - step) and t (1 + step) from the same pairs; its bias is of second order in `step`."""
    low, high = t * (1 - step), t * (1 + step)
    return mean((costs(f, x, z, high) - costs(f, x, z, low)) / (high - low))


@torch.no_grad()
def lemma_1(f: Function, velocity: Function, x: Tensor, z: Tensor, t: float) -> Estimate:
    """The right-hand side of Lemma 1, -2 E<(df/dx)(x_t, t) w, w> with w = z - v_t(x_t) = z - E[z|x_t], by Jacobian-vector products.

    The lemma needs the exact v and the ideal f, for any sigma_0. On finite data choose a sigma_0 of about 0.5: with 0.002, f is almost
    piecewise constant, and df/dx is nonzero only near boundaries that are too thin to be sampled. For a trained f, the difference from
    `derivative` measures how far f is from being constant along the flow.
    """
    check_levels(t)
    level = at_level(x, t)
    x_t = noised(x, z, level)
    w = z - velocity(x_t, level)
    return mean(-2 * dot(torch.func.jvp(lambda y: f(y, level), (x_t,), (w,))[1], w))


@torch.no_grad()
def scaling_distance(f: Function, x: Tensor, z: Tensor, t: float, sigma_0: float = SIGMA_MIN) -> Estimate:
    """E|f(x_t, t) - (sigma_0/t) x_t|^2, the distance of f from the scaling that Corollary 2 assumes."""
    check_levels(t)
    level = at_level(x, t)
    x_t = noised(x, z, level)
    return mean(squared_norms(f(x_t, level) - sigma_0 / t * x_t))


@torch.no_grad()
def scaling_derivative(velocity: Function, x: Tensor, z: Tensor, t: float, sigma_0: float = SIGMA_MIN) -> Estimate:
    """c'(t) = -2 (sigma_0/t) E|w|^2 < 0 of Corollary 2, which holds if f is the scaling (sigma_0/t) x."""
    check_levels(t)
    level = at_level(x, t)
    w = z - velocity(noised(x, z, level), level)
    return mean(-2 * sigma_0 / t * dot(w, w))


def assignment_cost(x: Tensor, z: Tensor) -> float:
    """The minimum over all permutations p of the mean |x_i - z_p(i)|^2: exact OT between two point sets.

    Raises HarnessError for sets of unequal size, for sets that do not fit into memory, and when the solver stops before the optimum.
    """
    if len(x) != len(z):
        raise HarnessError("exact transport needs two sets of equal size", found=f"{len(x)} and {len(z)}", expected="equal sizes")
    check_memory(_SIMPLEX_BYTES * len(x) ** 2, f"exact transport of {len(x):,} points")
    a, b = (v.detach().flatten(1).to("cpu", torch.float64) for v in (x, z))
    matrix = (a.square().sum(1)[:, None] + b.square().sum(1)[None]).addmm_(a, b.T, alpha=-2).clamp_(min=0)
    return optimal_transport.solve(matrix.numpy())[1]


def batch_ot_cost(
    x: Tensor, size: int, batches: int, generator: torch.Generator, solve: Callable[[Tensor, Tensor], float] = assignment_cost
) -> Estimate:
    """E|x' - z'|^2 of batch-OT: exact OT between `size` random rows of x (n, ...) and `size` noises, averaged over `batches` batches.

    size = len(x) uses every row once, which gives exact OT between the data and the same number of noises. That cost still exceeds W2^2
    between the data and N(0, I), because the noise sample is finite. Raises HarnessError for a size below 1 or above len(x).
    """
    if not 1 <= size <= len(x):
        close = min(max(size, 1), len(x))
        raise HarnessError("batch size out of range", where="size", found=size, expected=f"1 <= size <= {len(x)}", nearest=close)
    values = []
    for _ in range(batches):
        rows = x[draw_rows(len(x), size, generator).to(x.device)]
        values.append(solve(rows, noise_like(rows, generator)))
    return mean(torch.tensor(values))
