"""Equation (12): as N grows, N^(alpha-1) grad L_CT and N^(alpha-1) grad L_CD converge to limits, which differ unless alpha = 2.

With D = phi(|x - y|), phi(r) ~ C r^alpha, a stop-gradient on the teacher, and L = T - t_min, the limits are
alpha C L^(alpha-2) int E[ |d|^(alpha-2) (df/dtheta)^T d ] dt with lambda = 1 and d = d_CT f or d = d_CD f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.theory.discrepancy import Distance, Draw, Times, derivatives, dot
from harness.theory.estimate import Estimate, squared_length
from harness.theory.flow import Function, noised

Parametric = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""f(parameters, x, sigma), as torch.func.functional_call evaluates a module."""


@dataclass(frozen=True)
class Gradients:
    """Squared norms of differences of expected gradients for one N, in units of that of the limit of CD; unbiased, so possibly negative."""

    n: int
    ct: Estimate
    """|N^(alpha-1) grad L_CT - its limit|^2."""
    cd: Estimate
    """|N^(alpha-1) grad L_CD - its limit|^2."""
    limit_gap: Estimate
    """|limit of CT - limit of CD|^2; zero only if alpha = 2."""


def gradient_limits(
    f: Parametric,
    parameters: Mapping[str, Tensor],
    velocity: Function,
    draw: Draw,
    times: Times,
    distance: Distance,
    intervals: Sequence[int],
    generator: torch.Generator,
    batches: int,
    rows: int,
) -> list[Gradients]:
    """Equation (12) for each N of `intervals`, from at least 3 independent batches, with common random numbers for all N and both limits.

    Stores 2 + 2 len(intervals) gradients per batch, so it is meant for small networks. `velocity` must be exact.
    """
    names = list(parameters)
    leaves = [parameters[name].detach().clone().requires_grad_() for name in names]

    def at(x: Tensor, t: Tensor) -> Tensor:
        return f(dict(zip(names, leaves, strict=True)), x, t)

    def gradients(x: Tensor, t: Tensor, cotangents: Sequence[Tensor]) -> list[Tensor]:
        out = at(x, t)
        grads = [torch.autograd.grad(out, leaves, c.to(out) / len(x), retain_graph=True, materialize_grads=True) for c in cotangents]
        return [torch.cat([leaf.flatten() for leaf in by_leaf]) for by_leaf in grads]

    length, power = times.T - times.t_min, distance.alpha - 2
    limits: list[list[Tensor]] = []
    finite: dict[int, list[list[Tensor]]] = {n: [] for n in intervals}
    for _ in range(batches):
        x, z = draw(rows, generator)
        t = times.draw(len(x), generator)
        scale = torch.full_like(t, distance.alpha * distance.constant * length**power) / times.density(t)
        level = t.to(x)
        with torch.no_grad():
            cd, shift = derivatives(at, velocity, x, z, level)
        scaled = [per_row(scale.to(x) * _size(d) ** power, x) * d for d in (cd + shift, cd)]
        limits.append(gradients(noised(x, z, level), level, scaled))
        for n in intervals:
            low, h, probability = times.interval(t, n)
            factor = per_row(n ** (distance.alpha - 1) / (n * probability), x)
            low = low.to(x)
            high = low + h
            ahead = noised(x, z, high)
            with torch.no_grad():
                student = at(ahead, high)
                teachers = at(noised(x, z, low), low), at(ahead - h * velocity(ahead, high), low)
            finite[n].append(gradients(ahead, high, [factor * distance.gradient(student - teacher) for teacher in teachers]))
    limit_ct, limit_cd = (torch.stack(column) for column in zip(*limits, strict=True))
    unit = squared_length(limit_cd).value
    limit_gap = squared_length(limit_ct - limit_cd) / unit
    results = []
    for n in intervals:
        ct, cd = (torch.stack(column) for column in zip(*finite[n], strict=True))
        results.append(Gradients(n, squared_length(ct - limit_ct) / unit, squared_length(cd - limit_cd) / unit, limit_gap))
    return results


def _size(a: Tensor) -> Tensor:
    return dot(a, a).clamp(min=torch.finfo(a.dtype).tiny).sqrt()
