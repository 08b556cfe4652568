"""The PF-ODE (1) of any denoiser, dx/dt = (x - D(x, t))/t, integrated from t down to sigma_0: the ideal consistency function f(x, t)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.errors import HarnessError

Function = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma) -> tensor like x: a consistency function, a denoiser or a velocity; x (n, ...), sigma (n,)."""

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def check_levels(*levels: float) -> None:
    """Raises HarnessError for a noise level outside [0.002, 80]."""
    for t in levels:
        if not SIGMA_MIN <= t <= SIGMA_MAX:
            close = min(max(t, SIGMA_MIN), SIGMA_MAX) if t == t else SIGMA_MAX
            raise HarnessError("noise level out of range", where="t", found=t, expected=f"{SIGMA_MIN} <= t <= {SIGMA_MAX:g}", nearest=close)


def at_level(x: Tensor, t: float | Tensor) -> Tensor:
    """A level for every row of x; (n,) in the dtype and on the device of x."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))


def noised(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = x + t z; t (n,)."""
    return x + per_row(t, x) * z


def velocity_of(denoiser: Function) -> Function:
    """v_t(x) = (x - D(x, t))/t as a function (x, t) of the same kind."""
    return lambda x, t: (x - denoiser(x, t)) / per_row(t, x)


def karras_levels(t: Tensor, sigma_0: float, steps: int, rho: float = 7.0) -> Tensor:
    """Levels falling from each t to sigma_0, equally spaced in t^(1/rho); (steps + 1, n). Rows at or below sigma_0 stay where they are."""
    start = t.clamp(min=sigma_0)
    ramp = torch.linspace(0, 1, steps + 1, dtype=t.dtype, device=t.device)[:, None]
    levels = (start ** (1 / rho) + ramp * (sigma_0 ** (1 / rho) - start ** (1 / rho))) ** rho
    return torch.cat([start[None], levels[1:-1], torch.full_like(start, sigma_0)[None]])


def trajectory(denoiser: Function, x: Tensor, levels: Tensor) -> list[Tensor]:
    """The Heun solution at each of the levels (k + 1, n), from x at levels[0] on: k + 1 tensors like x. Two denoiser calls a step."""
    velocity = velocity_of(denoiser)
    path = [x]
    for now, after in itertools.pairwise(levels):
        step = per_row(after - now, x)
        slope = velocity(x, now)
        x = x + step / 2 * (slope + velocity(x + step * slope, after))
        path.append(x)
    return path


def ideal_flow(denoiser: Function, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 40) -> Tensor:
    """f(x, t): the PF-ODE's solution at sigma_0 from x at t (a number or (n,)), by `steps` Heun steps on Karras levels (rho = 7).

    Differentiable in x and t wherever the denoiser is, by torch.func.jvp too. Rows at t <= sigma_0 come back unchanged.
    """
    return trajectory(denoiser, x, karras_levels(at_level(x, t), sigma_0, steps))[-1]


@dataclass(frozen=True)
class Flow:
    """Endpoints and how far doubling the steps moved them."""

    endpoint: Tensor
    """like x, from the finer of the two grids"""
    change: Tensor
    """(n,) |f_2k - f_k| per coordinate (root mean square over the coordinates of a row)"""

    @property
    def median(self) -> float:
        return float(self.change.median())

    @property
    def rms(self) -> float:
        return float(self.change.square().mean().sqrt())

    @property
    def largest(self) -> float:
        return float(self.change.max())


def flow_with_tolerance(denoiser: Function, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 20) -> Flow:
    """f by 2 `steps` Heun steps and its change from `steps`: Heun is of second order, so about a third of the change is left as error.

    On finite data a few rows start beside the border of two basins and end elsewhere when the grid changes: read `median` beside `largest`.
    """
    coarse = ideal_flow(denoiser, x, t, sigma_0, steps)
    fine = ideal_flow(denoiser, x, t, sigma_0, 2 * steps)
    return Flow(fine, (fine - coarse).flatten(1).square().mean(1).sqrt())
