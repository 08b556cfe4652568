"""Lemma 1: c'(t) by finite differences against its right-hand side by JVP; Corollaries 1 and 2; how far trained networks are from them.

On finite data f runs down to a `smoothing` level, where the points merge into a density: to 0.002 it jumps from point to point, and df/dx
is all in walls too thin for any draw to meet. The two sides come from independent draws, so their errors add up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.theory import transport
from harness.theory.estimate import Estimate
from harness.theory.flow import SIGMA_MIN, Function
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle
from harness.theory.studies.common import Row, Setting, row, said_negative
from harness.theory.studies.theory_subjects import Subject, address, effort, gaussians, mixtures, pairs_of, steppable, until
from harness.training.trained_runs import TrainedRun

LEVELS = (0.1, 0.3, 1.0, 2.0)
"""Of laws with a density."""
FINITE_LEVELS = (1.5, 2.0, 3.0)
"""Of finite data, in units of its smoothing."""
STEPS, MIXED_STEPS = 12, 32
"""Of Heun's method, from a few and from many times its lower end: what is left of its error lies well below WITHIN."""
MIXED = 0.1
"""sigma_0 of the mixtures."""
WITHIN = 0.008
"""Relative error that ends the drawing."""
BATCH, TRAINED = 1024, 512

Pairs = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def known(setting: Setting) -> list[Row]:
    """lemma1 and corollary rows of Gaussian data and of the mixture of two."""
    made: list[Row] = []
    levels = [t for t in sorted(setting.levels or LEVELS) if steppable(t)]
    for name, law in gaussians().items():
        told = {"within": WITHIN}
        made += lemma(name, law.flow, law.velocity, pairs_of(law), levels, 2**21 // law.d, told, 2**17 // law.d)
        x, z = pairs_of(law)(2**18 // law.d, address(name, "corollary"))
        t = 0.05
        _, (change,) = transport.curve(law.flow, x, z, [0.0, t])
        case = f"c({t:g}) - c(0)"
        made.append(row("corollary1", name, change, coupling="gc-ideal", case=case, truth=law.cost(t) - law.cost(0.0), x=t, protocol=told))
        made += _scaling(name, law.d)
    few = [t for t in levels if MIXED < t <= 1]
    for name, law in mixtures().items():

        def flow(x: Tensor, t: Tensor, law: GaussianMixture = law) -> Tensor:
            return law.flow(x, t, MIXED, MIXED_STEPS)

        made += lemma(name, flow, law.velocity, pairs_of(law), few, 2**17, {"sigma_0": MIXED, "steps": MIXED_STEPS}, 2**12)
        made.append(_first_corollary(name, law.flow, pairs_of(law)(4096, address(name, "corollary")), 0.1))
    return made


def measure(setting: Setting, subject: Subject) -> list[Row]:
    """lemma1 and corollary rows of a finite data set of images, and lemma1-trained rows of its networks.

    Points of the plane are so dense that their law stands for them (mixture-of-8); of these the networks alone are measured.
    """
    low = smoothing(subject.fast)
    most = effort(setting.scale).flows

    def flow(x: Tensor, t: Tensor) -> Tensor:
        return subject.fast.flow(x, t, low, STEPS)

    own = [round(share * low, 3) for share in FINITE_LEVELS]
    levels = [t for t in sorted(setting.levels or own) if t > low and steppable(t)]
    told = {"sigma_0": low, "steps": STEPS, "most": most}
    made: list[Row] = []
    if subject.data.is_images:
        made += lemma(subject.name, flow, subject.fast.velocity, subject.draw_fast, levels, most, told, BATCH)
        for t in levels:
            x, z = subject.draw_fast(BATCH // 4, address(subject.name, "scaling", t))
            made.append(_distance(subject.name, flow, x, z, t, low))
        few = subject.draw_fast(BATCH, address(subject.name, "corollary"))
        made.append(_first_corollary(subject.name, subject.fast.flow, few, low / 2))
    for found in subject.networks:
        made += _trained(subject, found, levels)
    return made


def smoothing(oracle: Oracle, rows: int = 256) -> float:
    """A level where neighbouring data points have merged [chosen]: half of their median distance, but not below 0.1.

    At a quarter of it the right-hand side of the digits still lives on rare walls, and 8,192 draws are too few."""
    picked = oracle.data(torch.arange(min(rows, len(oracle)))).flatten(1).double()
    nearest = picked.new_full((len(picked),), torch.inf)
    for part in torch.arange(len(oracle)).split(4096):
        gaps = torch.cdist(picked, oracle.data(part).flatten(1).double())
        nearest = torch.minimum(nearest, gaps.masked_fill(gaps < 1e-6, torch.inf).amin(1))
    return max(0.1, round(float(nearest.median()) / 2, 1))


def lemma(name: str, f: Function, velocity: Function, pairs: Pairs, levels: list[float], most: int, told: dict, batch: int) -> list[Row]:
    """c'(t) by central differences, beside -2 E<(df/dx) w, w>, each until its error is WITHIN of it or `most` pairs are spent."""
    made = []
    for t in levels:
        difference, right = sides(name, f, velocity, pairs, t, most, batch)
        made.append(row("lemma1", name, difference, coupling="gc-ideal", truth=right, x=t, protocol=told))
    return made


def sides(
    name: str, f: Function, velocity: Function, pairs: Pairs, t: float, most: int, batch: int, within: float = WITHIN
) -> tuple[Estimate, Estimate]:
    """Both sides of Lemma 1 from independent draws."""

    def left(draws: torch.Generator) -> Estimate:
        return transport.derivative(f, *pairs(batch, draws), t)

    def right(draws: torch.Generator) -> Estimate:
        return transport.lemma_1(f, velocity, *pairs(batch, draws), t)

    return until(left, (name, "left", t), within, most), until(right, (name, "right", t), within, most)


def _first_corollary(name: str, f: Function, pairs: tuple[Tensor, Tensor], t: float) -> Row:
    _, (change,) = transport.curve(f, *pairs, [0.0, t])
    told = {"rows": len(pairs[0]), "sigma_0": SIGMA_MIN}
    return said_negative(row("corollary1", name, change, coupling="gc-ideal", case=f"c({t:g}) - c(0)", x=t, protocol=told))


def _scaling(name: str, d: int) -> list[Row]:
    """Corollary 2 where f is all but the scaling (sigma_0/t) x: data of deviation 0.05 seen down to sigma_0 = 0.5."""
    law = Gaussian(d, 0.05, 0.5)
    made = []
    for t in (1.0, 5.0):
        x, z = pairs_of(law)(2**20 // d, address(name, "scaling", t))
        told = {"s": law.s, "sigma_0": law.sigma_0}
        made.append(_distance(name, law.flow, x, z, t, law.sigma_0, f"f of s = {law.s:g}, sigma_0 = {law.sigma_0:g}"))
        slope, scaled = transport.derivative(law.flow, x, z, t), transport.scaling_derivative(law.velocity, x, z, t, law.sigma_0)
        case = f"c'(t) against -2 (sigma_0/t) E|w|^2, s = {law.s:g}"
        made.append(row("corollary2", name, slope, coupling="gc-ideal", case=case, truth=scaled, x=t, protocol=told))
    return made


def _distance(name: str, f: Function, x: Tensor, z: Tensor, t: float, sigma_0: float, case: str = "") -> Row:
    """E|f - (sigma_0/t) x_t|^2 over E|f|^2: 0 where f is the scaling of Corollary 2."""
    found = transport.scaling_distance(f, x, z, t, sigma_0)
    size = float(f(x + t * z, x.new_full((len(x),), t)).double().flatten(1).square().sum(1).mean())
    told = f"distance from the scaling, share of E|f|^2{', ' * bool(case)}{case}"
    return row("corollary2", name, found / size, coupling="gc-ideal", case=told, x=t, protocol={"rows": len(x), "sigma_0": sigma_0})


def _trained(subject: Subject, found: TrainedRun, levels: list[float]) -> list[Row]:
    """The two sides of Lemma 1 for a trained f, which need not be constant along the flow: their ratio, 1 for the ideal f."""
    made = []
    for t in levels:
        difference, right = sides(found.run.id, found, subject.exact.velocity, subject.draw, t, TRAINED, 256, within=0.02)
        value = difference.value / right.value
        se = abs(value) * ((difference.se / difference.value) ** 2 + (right.se / right.value) ** 2) ** 0.5
        told = {"rows": TRAINED}
        case = "c'(t) over the lemma's right-hand side"
        ratio = Estimate(value, se, min(difference.n, right.n))
        made.append(row("lemma1-trained", subject.name, ratio, coupling=found.run.coupling, run=found.run, case=case, x=t, protocol=told))
    return made
