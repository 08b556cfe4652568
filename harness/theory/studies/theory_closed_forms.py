"""Gaussian data N(0, s^2 I_d), where everything is a formula: every estimator beside its exact value."""

from __future__ import annotations

import torch
from scipy.integrate import quad
from torch import Tensor

from harness.core.couplings import generator_augmented, independent
from harness.theory import transport
from harness.theory.discrepancy import Times, discrepancy
from harness.theory.estimate import mean
from harness.theory.flow import SIGMA_MIN, ideal_flow
from harness.theory.gaussian import Gaussian
from harness.theory.proxy import proxy
from harness.theory.proxy_gc import proxy_gc_smooth
from harness.theory.studies.common import Row, Setting, row
from harness.theory.studies.theory_subjects import DIMENSIONS, S, address, gaussians, pairs_of, steppable

LEVELS = (0.1, 1.0, 5.0, 20.0, 80.0)
NUMBERS = 2**18
"""Coordinates drawn for each estimate: rows x d."""
T = 4.0
"""Upper end of R(theta) for the linear f."""
SIZES = (32, 128, 512)
"""Batches of exact OT, which fall towards W2^2."""


def linear(x: Tensor, t: Tensor) -> Tensor:
    """f(x, t) = x/(1 + t), whose R(theta) on Gaussian data is an integral over t."""
    return x / (1 + t[:, None])


def exact_discrepancy(law: Gaussian, alpha: float, upper: float = T) -> float:
    """R(theta) of `linear`, by quadrature."""
    return quad(lambda t: law.discrepancy_integrand(1 / (1 + t), -1 / (1 + t) ** 2, t, alpha), 0, upper)[0]


def measure(setting: Setting) -> list[Row]:
    """Rtil_IC, Rtil_GC, c, c', R(theta) and exact OT at d = 2 and 64."""
    levels = sorted(setting.levels or LEVELS)
    made: list[Row] = []
    for name, law in gaussians().items():
        x, z = pairs_of(law)(NUMBERS // law.d, address(name, "pairs"))
        told = {"s": S, "d": DIMENSIONS, "rows": len(x)}
        for t in levels:
            made += _proxies(name, law, x, z, t, told) + _costs(name, law, x, z, t, told)
        made.append(row("exact-cost", name, transport.pair_cost(x, z), coupling="ic", x=0.0, truth=law.cost(0.0), protocol=told))
        made += _discrepancies(name, law) + _optimal(name, law, x)
    return made


def _proxies(name: str, law: Gaussian, x: Tensor, z: Tensor, t: float, told: dict) -> list[Row]:
    def row_of(found, coupling: str, truth: float, **more: object) -> Row:
        return row("exact-rtil", name, found, coupling=coupling, truth=truth, x=t, protocol=told, **more)

    draws = address(name, "proxy", t)
    ic = proxy(independent, law.denoise, x, z, t, draws, batch=8192)
    gc = proxy(generator_augmented(1.0), lambda y, _: law.denoise_gc(y, t), x, z, t, draws, f=law.flow, batch=8192)
    made = [row_of(ic, "ic", law.proxy_ic(t)), row_of(gc, "gc-ideal", law.proxy_gc(t), case="by its denoiser")]
    if t >= (0.3 if law.d <= 2 else 1.0):
        found = proxy_gc_smooth(law, 256, t, draws, 128).value
        made.append(row_of(found, "gc-ideal", law.proxy_gc(t), case="without a denoiser"))
    return made


def _costs(name: str, law: Gaussian, x: Tensor, z: Tensor, t: float, told: dict) -> list[Row]:
    lowered = Gaussian(law.d, law.s, SIGMA_MIN)
    rest = {"coupling": "gc-ideal", "x": t, "protocol": told}
    few = slice(0, 1024)
    numeric = transport.cost(lambda y, level: ideal_flow(law.denoise, y, level, steps=80), x[few], z[few], t)
    sides = {"by Lemma 1": transport.lemma_1(law.flow, law.velocity, x, z, t)}
    if steppable(t):
        sides["finite difference"] = transport.derivative(law.flow, x, z, t)
    return [
        row("exact-cost", name, transport.cost(law.flow, x, z, t), truth=law.cost(t), **rest),
        row("exact-cost", name, numeric, truth=lowered.cost(t), case="f by Heun, 80 steps", **rest),
        *(row("exact-slope", name, found, truth=law.cost_derivative(t), case=case, **rest) for case, found in sides.items()),
    ]


def _discrepancies(name: str, law: Gaussian) -> list[Row]:
    made = []
    for alpha in (2.0, 1.0):
        told = {"f": "x/(1 + t)", "T": T, "alpha": alpha, "batches": 32, "rows": 256}
        found = discrepancy(linear, law.velocity, pairs_of(law), Times(T), address(name, "R", alpha), alpha, batches=32, rows=256)
        case = f"alpha = {alpha:g}, f = x/(1 + t), T = {T:g}"
        made.append(row("discrepancy", name, found, coupling="ic", case=case, truth=exact_discrepancy(law, alpha), protocol=told))
    return made


def _optimal(name: str, law: Gaussian, x: Tensor) -> list[Row]:
    """x = s z is the optimal map of the noise, so exact OT must find these pairs, whose cost is W2^2; batches of independent points fall
    towards it from above."""
    rest = {"coupling": "ot", "protocol": {"s": S, "sizes": SIZES}}
    draws = address(name, "ot")
    noise = torch.randn(8, 256, law.d, generator=draws, dtype=x.dtype)
    order = torch.randperm(256, generator=draws)
    mapped = mean(torch.tensor([transport.assignment_cost(law.s * batch[order], batch) for batch in noise]))
    made = [row("exact-ot", name, mapped, case="points on the optimal map", truth=law.optimal_cost(), **rest)]
    for size in SIZES:
        found = transport.batch_ot_cost(x, size, max(2, 1024 // size), draws)
        made.append(row("exact-ot", name, found, case=f"batches of {size}, W2^2 = {law.optimal_cost():g}", x=size, **rest))
    return made
