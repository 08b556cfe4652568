"""Gaussian data N(0, s^2 I_d), for which everything is a formula: every estimator is compared with its exact value."""

from __future__ import annotations

from functools import partial

import torch
from scipy.integrate import quad
from torch import Tensor

from harness.core.couplings import generator_augmented, independent
from harness.store.measurements import MeasurementRow
from harness.theory import transport
from harness.theory.discrepancy import Times, discrepancy
from harness.theory.estimate import mean
from harness.theory.flow import SIGMA_MIN, ideal_flow
from harness.theory.gaussian import Gaussian
from harness.theory.proxy import proxy
from harness.theory.proxy_gc import proxy_gc_smooth
from harness.theory.studies.common import NewRow, StudyContext, measured_row
from harness.theory.studies.theorems.subjects import DIMENSIONS, S, address, draw_pairs, gaussians, steppable

LEVELS = (0.1, 1.0, 5.0, 20.0, 80.0)
NUMBERS = 2**18
"""Coordinates drawn for each estimate: rows x d."""
T = 4.0
"""Upper end of R(theta) for the linear f."""
SIZES = (32, 128, 512)
"""Batch sizes of exact OT, whose cost decreases towards W2^2."""


def linear(x: Tensor, t: Tensor) -> Tensor:
    """f(x, t) = x/(1 + t), whose R(theta) on Gaussian data is an integral over t."""
    return x / (1 + t[:, None])


def exact_discrepancy(law: Gaussian, alpha: float) -> float:
    """R(theta) of `linear` up to T, by quadrature."""
    return quad(lambda t: law.discrepancy_integrand(1 / (1 + t), -1 / (1 + t) ** 2, t, alpha), 0, T)[0]


def measure(context: StudyContext) -> list[MeasurementRow]:
    """Rtil_IC, Rtil_GC, c, c', R(theta) and exact OT for d = 2 and d = 64."""
    levels = sorted(context.levels or LEVELS)
    rows: list[MeasurementRow] = []
    for name, law in gaussians().items():
        x, z = draw_pairs(law, NUMBERS // law.d, address(name, "pairs"))
        new_row = partial(measured_row, data=name, protocol={"s": S, "d": DIMENSIONS, "rows": len(x)})
        for t in levels:
            rows += _proxies(name, law, x, z, t, partial(new_row, "exact-rtil", x=t))
            rows += _costs(law, x, z, t, partial(new_row, coupling="gc-ideal", x=t))
        rows.append(new_row("exact-cost", transport.pair_cost(x, z), coupling="ic", x=0.0, truth=law.cost(0.0)))
        rows += _discrepancies(name, law) + _optimal(name, law, x)
    return rows


def _proxies(name: str, law: Gaussian, x: Tensor, z: Tensor, t: float, new_row: NewRow) -> list[MeasurementRow]:
    draws = address(name, "proxy", t)
    ic = proxy(independent, law.denoise, x, z, t, draws, batch=8192)
    gc = proxy(generator_augmented(1.0), lambda y, _: law.denoise_gc(y, t), x, z, t, draws, f=law.flow, batch=8192)
    gc_row = partial(new_row, coupling="gc-ideal", truth=law.proxy_gc(t))
    rows = [new_row(ic, coupling="ic", truth=law.proxy_ic(t)), gc_row(gc, case="by its denoiser")]
    if t >= (0.3 if law.d <= 2 else 1.0):
        rows.append(gc_row(proxy_gc_smooth(law, 256, t, draws, 128).value, case="without a denoiser"))
    return rows


def _costs(law: Gaussian, x: Tensor, z: Tensor, t: float, new_row: NewRow) -> list[MeasurementRow]:
    lowered = Gaussian(law.d, law.s, SIGMA_MIN)
    few = slice(0, 1024)
    numeric = transport.costs(partial(ideal_flow, law.denoise, steps=80), x[few], z[few], t)
    slopes = {"by Lemma 1": transport.lemma_1(law.flow, law.velocity, x, z, t)}
    if steppable(t):
        slopes["finite difference"] = transport.derivative(law.flow, x, z, t)
    return [
        new_row("exact-cost", mean(transport.costs(law.flow, x, z, t)), truth=law.cost(t)),
        new_row("exact-cost", mean(numeric), truth=lowered.cost(t), case="f by Heun, 80 steps"),
        *(new_row("exact-slope", slope, truth=law.cost_derivative(t), case=case) for case, slope in slopes.items()),
    ]


def _discrepancies(name: str, law: Gaussian) -> list[MeasurementRow]:
    rows = []
    for alpha in (2.0, 1.0):
        protocol = {"f": "x/(1 + t)", "T": T, "alpha": alpha, "batches": 32, "rows": 256}
        draws = address(name, "R", alpha)
        estimate = discrepancy(linear, law.velocity, partial(draw_pairs, law), Times(T), draws, alpha, batches=32, rows=256)
        new_row = partial(measured_row, "discrepancy", data=name, coupling="ic", protocol=protocol)
        rows.append(new_row(estimate, case=f"alpha = {alpha:g}, f = x/(1 + t), T = {T:g}", truth=exact_discrepancy(law, alpha)))
    return rows


def _optimal(name: str, law: Gaussian, x: Tensor) -> list[MeasurementRow]:
    """Exact OT on the optimal map x = s z, whose cost is W2^2, and in batches of independent points."""
    new_row = partial(measured_row, "exact-ot", data=name, coupling="ot", protocol={"s": S, "sizes": SIZES})
    draws = address(name, "ot")
    noise = torch.randn(8, 256, law.d, generator=draws, dtype=x.dtype)
    order = torch.randperm(256, generator=draws)
    mapped = mean(torch.tensor([transport.assignment_cost(law.s * batch[order], batch) for batch in noise]))
    rows = [new_row(mapped, case="points on the optimal map", truth=law.optimal_cost())]
    for size in SIZES:
        cost = transport.batch_ot_cost(x, size, max(2, 1024 // size), draws)
        rows.append(new_row(cost, case=f"batches of {size}, W2^2 = {law.optimal_cost():g}", x=size))
    return rows
