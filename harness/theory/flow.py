"""The ideal consistency function f(x, t): the PF-ODE (1) of a denoiser D, dx/dt = (x - D(x, t))/t, solved from t down to sigma_0."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from harness.core.consistency import per_row

Function = Callable[[Tensor, Tensor], Tensor]
"""A consistency function, a denoiser or a velocity: (x, sigma) -> tensor like x, with x (n, ...) and sigma (n,)."""

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def at_level(x: Tensor, t: float | Tensor) -> Tensor:
    """The noise level t for every row of x; (n,), with the dtype and device of x."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))


def noised(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = x + t z; t (n,)."""
    return x + per_row(t, x) * z


def squared_norms(x: Tensor) -> Tensor:
    """|x|^2 of each row, summed over all coordinates in float64; (n,)."""
    return x.flatten(1).square().sum(1, dtype=torch.float64)


def velocity_of(denoiser: Function) -> Function:
    """The velocity v_t(x) = (x - D(x, t))/t as a function of (x, t)."""
    return lambda x, t: (x - denoiser(x, t)) / per_row(t, x)


def karras_levels(t: Tensor, sigma_0: float, steps: int) -> Tensor:
    """The time steps of EDM's sampler (Karras et al.) from each t (n,) down to sigma_0; (steps + 1, n). A row with t <= sigma_0 stays."""
    rho = 7.0
    start = t.clamp(min=sigma_0)
    ramp = torch.linspace(0, 1, steps + 1, dtype=t.dtype, device=t.device)[:, None]
    levels = (start ** (1 / rho) + ramp * (sigma_0 ** (1 / rho) - start ** (1 / rho))) ** rho
    return torch.cat([start[None], levels[1:-1], torch.full_like(start, sigma_0)[None]])


def trajectory(denoiser: Function, x: Tensor, levels: Tensor) -> list[Tensor]:
    """Heun's solution from x at levels[0], at each of the levels (k + 1, n): k + 1 tensors like x. Each step calls D twice."""
    velocity = velocity_of(denoiser)
    path = [x]
    for now, after in itertools.pairwise(levels):
        step = per_row(after - now, x)
        slope = velocity(x, now)
        x = x + step / 2 * (slope + velocity(x + step * slope, after))
        path.append(x)
    return path


def ideal_flow(denoiser: Function, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 40) -> Tensor:
    """f(x, t), like x, by `steps` Heun steps on `karras_levels`, differentiable where D is; t a number or (n,)."""
    return trajectory(denoiser, x, karras_levels(at_level(x, t), sigma_0, steps))[-1]
