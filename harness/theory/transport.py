"""Transport costs: c(t) = E|f(x_t, t) - z|^2 of equation (19) and its derivative by Lemma 1, batch-OT, and exact optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.core import optimal_transport
from harness.theory.discrepancy import dot
from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, noised, squared_norms
from harness.theory.oracle import check_memory, draw_rows
from harness.theory.proxy import noise_like

_SIMPLEX_BYTES = 40
"""Bytes that the exact solver needs for each pair of points: float64 costs, flow, and the arcs of the network simplex."""


@torch.no_grad()
def pair_cost(x: Tensor, z: Tensor) -> Estimate:
    """E|x' - z'|^2 of the given pairs; x, z (n, ...)."""
    return mean(squared_norms(x - z))


@torch.no_grad()
def costs(f: Function, x: Tensor, z: Tensor, t: float) -> Tensor:
    """|f(x + t z, t) - z|^2 of each row, whose mean is c(t) of equation (19); (n,) float64. c(0) is `pair_cost`."""
    level = at_level(x, t)
    return squared_norms(f(noised(x, z, level), level) - z)


def cost_change(f: Function, x: Tensor, z: Tensor, t: float) -> Estimate:
    """c(t) - c(0); both costs use the same pairs, so the error of their difference is smaller than the errors of the two."""
    return mean(costs(f, x, z, t) - squared_norms(x - z))


def derivative(f: Function, x: Tensor, z: Tensor, t: float, step: float = 0.01) -> Estimate:
    """c'(t) as the central difference between t (1 - step) and t (1 + step) from the same pairs."""
    low, high = t * (1 - step), t * (1 + step)
    return mean((costs(f, x, z, high) - costs(f, x, z, low)) / (high - low))


@torch.no_grad()
def lemma_1(f: Function, velocity: Function, x: Tensor, z: Tensor, t: float) -> Estimate:
    """The right-hand side of Lemma 1, -2 E<(df/dx)(x_t, t) w, w> with w = z - v_t(x_t) = z - E[z|x_t], by Jacobian-vector products.

    The lemma needs the exact v and the ideal f, for any sigma_0; a trained f need not be constant along the flow.
    """
    level = at_level(x, t)
    x_t = noised(x, z, level)
    w = z - velocity(x_t, level)
    return mean(-2 * dot(torch.func.jvp(lambda y: f(y, level), (x_t,), (w,))[1], w))


@torch.no_grad()
def scaling_distance(f: Function, x: Tensor, z: Tensor, t: float, sigma_0: float = SIGMA_MIN) -> Estimate:
    """E|f(x_t, t) - (sigma_0/t) x_t|^2, the distance of f from the scaling that Corollary 2 assumes."""
    level = at_level(x, t)
    x_t = noised(x, z, level)
    return mean(squared_norms(f(x_t, level) - sigma_0 / t * x_t))


@torch.no_grad()
def scaling_derivative(velocity: Function, x: Tensor, z: Tensor, t: float, sigma_0: float = SIGMA_MIN) -> Estimate:
    """c'(t) = -2 (sigma_0/t) E|w|^2 < 0 of Corollary 2, which holds if f is the scaling (sigma_0/t) x."""
    level = at_level(x, t)
    w = z - velocity(noised(x, z, level), level)
    return mean(-2 * sigma_0 / t * dot(w, w))


def assignment_cost(x: Tensor, z: Tensor) -> float:
    """The cost of exact OT between two sets of equal size. Raises HarnessError if it does not fit into memory or the solver fails."""
    check_memory(_SIMPLEX_BYTES * len(x) ** 2, f"exact transport of {len(x):,} points")
    a, b = (v.detach().flatten(1).to("cpu", torch.float64) for v in (x, z))
    matrix = (a.square().sum(1)[:, None] + b.square().sum(1)[None]).addmm_(a, b.T, alpha=-2).clamp_(min=0)
    return optimal_transport.solve(matrix.numpy())[1]


def batch_ot_cost(x: Tensor, size: int, batches: int, generator: torch.Generator) -> Estimate:
    """E|x' - z'|^2 of batch-OT: exact OT between `size` random rows of x (n, ...) and `size` noises, averaged over `batches` batches."""
    values = []
    for _ in range(batches):
        rows = x[draw_rows(len(x), size, generator).to(x.device)]
        values.append(assignment_cost(rows, noise_like(rows, generator)))
    return mean(torch.tensor(values))
