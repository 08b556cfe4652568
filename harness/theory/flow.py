"""The ideal consistency function f(x, t): the PF-ODE (1) of a denoiser D, dx/dt = (x - D(x, t))/t, solved from t down to sigma_0."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.errors import HarnessError

Function = Callable[[Tensor, Tensor], Tensor]
"""A consistency function, a denoiser or a velocity: (x, sigma) -> tensor like x, with x (n, ...) and sigma (n,)."""

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def check_levels(*levels: float) -> None:
    """Raises HarnessError for a noise level outside [0.002, 80]."""
    for t in levels:
        if not SIGMA_MIN <= t <= SIGMA_MAX:
            close = min(max(t, SIGMA_MIN), SIGMA_MAX) if t == t else SIGMA_MAX
            raise HarnessError("noise level out of range", where="t", found=t, expected=f"{SIGMA_MIN} <= t <= {SIGMA_MAX:g}", nearest=close)


def at_level(x: Tensor, t: float | Tensor) -> Tensor:
    """The noise level t for every row of x; (n,), with the dtype and device of x."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))


def noised(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = x + t z; t (n,)."""
    return x + per_row(t, x) * z


def velocity_of(denoiser: Function) -> Function:
    """The velocity v_t(x) = (x - D(x, t))/t as a function of (x, t)."""
    return lambda x, t: (x - denoiser(x, t)) / per_row(t, x)


def karras_levels(t: Tensor, sigma_0: float, steps: int, rho: float = 7.0) -> Tensor:
    """Noise levels from each t (n,) down to sigma_0, equally spaced in t^(1/rho); (steps + 1, n). A row with t <= sigma_0 stays at sigma_0.

    This is the schedule of Karras et al. (EDM), there called the time steps of the sampler.
    """
    start = t.clamp(min=sigma_0)
    ramp = torch.linspace(0, 1, steps + 1, dtype=t.dtype, device=t.device)[:, None]
    levels = (start ** (1 / rho) + ramp * (sigma_0 ** (1 / rho) - start ** (1 / rho))) ** rho
    return torch.cat([start[None], levels[1:-1], torch.full_like(start, sigma_0)[None]])


def trajectory(denoiser: Function, x: Tensor, levels: Tensor) -> list[Tensor]:
    """Heun's solution at each of the levels (k + 1, n), starting from x at levels[0]: k + 1 tensors like x. Each step calls D twice."""
    velocity = velocity_of(denoiser)
    path = [x]
    for now, after in itertools.pairwise(levels):
        step = per_row(after - now, x)
        slope = velocity(x, now)
        x = x + step / 2 * (slope + velocity(x + step * slope, after))
        path.append(x)
    return path


def ideal_flow(denoiser: Function, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 40) -> Tensor:
    """f(x, t): the solution of the PF-ODE at sigma_0 that starts from x at t (a number or (n,)), by `steps` Heun steps on `karras_levels`.

    It is differentiable in x and t wherever the denoiser is, also with torch.func.jvp. Rows with t <= sigma_0 are returned unchanged.
    """
    return trajectory(denoiser, x, karras_levels(at_level(x, t), sigma_0, steps))[-1]


@dataclass(frozen=True)
class FlowWithChange:
    """Endpoints of the PF-ODE, and how far they moved when the number of steps was doubled."""

    endpoint: Tensor
    """Endpoints from the finer of the two grids, like x."""
    change: Tensor
    """Root mean square of f_2k - f_k over the coordinates of each row; (n,)."""

    @property
    def median(self) -> float:
        return float(self.change.median())

    @property
    def largest(self) -> float:
        return float(self.change.max())


def flow_with_tolerance(denoiser: Function, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 20) -> FlowWithChange:
    """f by 2 `steps` Heun steps, and its change from `steps` steps.

    Heun's method is of second order, so the remaining error is about a third of that change. On finite data a few rows start near the
    border between two basins and reach another point when the grid changes; therefore read `median` together with `largest`.
    """
    coarse = ideal_flow(denoiser, x, t, sigma_0, steps)
    fine = ideal_flow(denoiser, x, t, sigma_0, 2 * steps)
    return FlowWithChange(fine, (fine - coarse).flatten(1).square().mean(1).sqrt())
