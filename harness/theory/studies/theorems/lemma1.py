"""Lemma 1: c'(t) by finite differences against the lemma's right-hand side; Corollaries 1 and 2; how far trained networks are from both.

On finite data, f is the flow down to a `smoothing` level, at which the data points merge into a density. Down to 0.002, f is almost
piecewise constant, and df/dx is nonzero only near boundaries too thin to be sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from harness.core.couplings import Pairs
from harness.store.measurements import MeasurementRow
from harness.theory import transport
from harness.theory.discrepancy import Draw
from harness.theory.estimate import Estimate
from harness.theory.flow import SIGMA_MIN, Function, at_level
from harness.theory.gaussian import Gaussian
from harness.theory.oracle import Oracle
from harness.theory.studies.common import StudyContext, measured_row
from harness.theory.studies.theorems.subjects import Subject, address, draw_pairs, effort, gaussians, mixtures, steppable, until
from harness.training.trained_runs import TrainedRun

LEVELS = (0.1, 0.3, 1.0, 2.0)
"""Noise levels for laws with a density."""
FINITE_LEVELS = (1.5, 2.0, 3.0)
"""Noise levels for finite data, in units of its smoothing level."""
STEPS, MIXED_STEPS = 12, 32
"""Heun steps for finite data and for mixtures; the remaining error of the flow is far below WITHIN."""
MIXED = 0.1
"""sigma_0 of the mixtures."""
WITHIN = 0.008
"""Relative error at which drawing ends."""
BATCH, TRAINED = 1024, 512


def known(context: StudyContext) -> list[MeasurementRow]:
    """lemma1 and corollary rows of Gaussian data and of mixtures."""
    rows: list[MeasurementRow] = []
    levels = [t for t in sorted(context.levels or LEVELS) if steppable(t)]
    for name, gaussian in gaussians().items():
        protocol = {"within": WITHIN}
        draw = partial(draw_pairs, gaussian)
        rows += lemma(name, gaussian.flow, gaussian.velocity, draw, levels, 2**21 // gaussian.d, protocol, 2**17 // gaussian.d)
        change = first_corollary(name, gaussian.flow, draw(2**18 // gaussian.d, address(name, "corollary")), 0.05)
        rows.append(change(truth=gaussian.cost(0.05) - gaussian.cost(0.0), protocol=protocol))
        rows += _scaling(name, gaussian.d)
    few = [t for t in levels if MIXED < t <= 1]
    for name, law in mixtures().items():
        flow = partial(law.flow, sigma_0=MIXED, steps=MIXED_STEPS)
        protocol = {"sigma_0": MIXED, "steps": MIXED_STEPS}
        rows += lemma(name, flow, law.velocity, partial(draw_pairs, law), few, 2**17, protocol, 2**12)
        pairs = draw_pairs(law, 4096, address(name, "corollary"))
        rows.append(first_corollary(name, law.flow, pairs, 0.1)(stated_negative=True))
    return rows


def measure(context: StudyContext, subject: Subject) -> list[MeasurementRow]:
    """lemma1-trained rows of the networks of a data set, and for images also lemma1 and corollary rows, see theorem2."""
    name, low, most = subject.name, smoothing(subject.fast), effort(context.scale).flows
    flow = partial(subject.fast.flow, sigma_0=low, steps=STEPS)
    own = [round(share * low, 3) for share in FINITE_LEVELS]
    levels = [t for t in sorted(context.levels or own) if t > low and steppable(t)]
    rows: list[MeasurementRow] = []
    if subject.data.is_images:
        protocol = {"sigma_0": low, "steps": STEPS, "most": most}
        rows += lemma(name, flow, subject.fast.velocity, subject.draw_fast, levels, most, protocol, BATCH)
        for t in levels:
            rows.append(scaling_distance(name, flow, *subject.draw_fast(BATCH // 4, address(name, "scaling", t)), t, low))
        few = subject.draw_fast(BATCH, address(name, "corollary"))
        rows.append(first_corollary(name, subject.fast.flow, few, low / 2)(stated_negative=True))
    return rows + [row for network in subject.networks for row in _trained(subject, network, levels)]


def smoothing(oracle: Oracle, n: int = 256) -> float:
    """A level at which neighbouring data points have merged [chosen]: half the median distance to the nearest point, but at least 0.1."""
    points = oracle.data(torch.arange(min(n, len(oracle)))).flatten(1).double()
    nearest = points.new_full((len(points),), torch.inf)
    for part in torch.arange(len(oracle)).split(4096):
        gaps = torch.cdist(points, oracle.data(part).flatten(1).double())
        nearest = torch.minimum(nearest, gaps.masked_fill(gaps < 1e-6, torch.inf).amin(1))
    return max(0.1, round(float(nearest.median()) / 2, 1))


def lemma(
    name: str, f: Function, velocity: Function, draw: Draw, levels: list[float], most: int, protocol: Mapping[str, object], batch: int
) -> list[MeasurementRow]:
    """c'(t) by central differences with -2 E<(df/dx) w, w> as truth, each up to the relative error WITHIN or `most` pairs."""
    new_row = partial(measured_row, "lemma1", data=name, coupling="gc-ideal", protocol=protocol)
    rows = []
    for t in levels:
        left, right = sides(name, f, velocity, draw, t, most, batch)
        rows.append(new_row(left, truth=right, x=t))
    return rows


def sides(
    name: str, f: Function, velocity: Function, draw: Draw, t: float, most: int, batch: int, within: float = WITHIN
) -> tuple[Estimate, Estimate]:
    """Both sides of Lemma 1 from independent draws."""

    def left(draws: torch.Generator) -> Estimate:
        return transport.derivative(f, *draw(batch, draws), t)

    def right(draws: torch.Generator) -> Estimate:
        return transport.lemma_1(f, velocity, *draw(batch, draws), t)

    return until(left, (name, "left", t), within, most), until(right, (name, "right", t), within, most)


def first_corollary(name: str, f: Function, pairs: Pairs, t: float) -> Callable[..., MeasurementRow]:
    """c(t) - c(0) as a row of Corollary 1, which the caller completes with a truth or with stated_negative."""
    change = transport.cost_change(f, *pairs, t)
    case, protocol = f"c({t:g}) - c(0)", {"rows": len(pairs[0]), "sigma_0": SIGMA_MIN}
    return partial(measured_row, "corollary1", change, data=name, coupling="gc-ideal", case=case, x=t, protocol=protocol)


def _scaling(name: str, d: int) -> list[MeasurementRow]:
    """Corollary 2 where f is almost the scaling (sigma_0/t) x: data with standard deviation 0.05, and sigma_0 = 0.5."""
    law = Gaussian(d, 0.05, 0.5)
    protocol = {"s": law.s, "sigma_0": law.sigma_0}
    rows = []
    for t in (1.0, 5.0):
        x, z = draw_pairs(law, 2**20 // d, address(name, "scaling", t))
        rows.append(scaling_distance(name, law.flow, x, z, t, law.sigma_0, f"f of s = {law.s:g}, sigma_0 = {law.sigma_0:g}"))
        slope, scaled = transport.derivative(law.flow, x, z, t), transport.scaling_derivative(law.velocity, x, z, t, law.sigma_0)
        case = f"c'(t) against -2 (sigma_0/t) E|w|^2, s = {law.s:g}"
        rows.append(measured_row("corollary2", slope, data=name, coupling="gc-ideal", case=case, truth=scaled, x=t, protocol=protocol))
    return rows


def scaling_distance(name: str, f: Function, x: Tensor, z: Tensor, t: float, sigma_0: float, case: str = "") -> MeasurementRow:
    """E|f - (sigma_0/t) x_t|^2 divided by E|f|^2, which is 0 where f is the scaling of Corollary 2."""
    distance = transport.scaling_distance(f, x, z, t, sigma_0)
    size = float(f(x + t * z, at_level(x, t)).double().flatten(1).square().sum(1).mean())
    case = f"distance from the scaling, share of E|f|^2{', ' * bool(case)}{case}"
    protocol = {"rows": len(x), "sigma_0": sigma_0}
    return measured_row("corollary2", distance / size, data=name, coupling="gc-ideal", case=case, x=t, protocol=protocol)


def _trained(subject: Subject, network: TrainedRun, levels: list[float]) -> list[MeasurementRow]:
    """The ratio of the two sides of Lemma 1 for a trained f; it is 1 for the ideal f, which is constant along the flow."""
    run, case = network.run, "c'(t) over the lemma's right-hand side"
    new_row = partial(measured_row, "lemma1-trained", data=subject.name, coupling=run.coupling, run=run, protocol={"rows": TRAINED})
    rows = []
    for t in levels:
        left, right = sides(run.id, network, subject.exact.velocity, subject.draw, t, TRAINED, 256, within=0.02)
        value = left.value / right.value
        se = abs(value) * ((left.se / left.value) ** 2 + (right.se / right.value) ** 2) ** 0.5
        rows.append(new_row(Estimate(value, se, min(left.n, right.n)), case=case, x=t))
    return rows
