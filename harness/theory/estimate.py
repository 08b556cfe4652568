"""A number with its Monte-Carlo standard error, and the few ways such numbers are combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """value +- se from n independent draws (rows or batches). se = 0 means exact; se = nan means that one draw was not enough."""

    value: float
    se: float
    n: int

    def __add__(self, other: Estimate) -> Estimate:
        """Sum of two INDEPENDENT estimates; n is the smaller of the two."""
        return Estimate(self.value + other.value, math.hypot(self.se, other.se), min(self.n, other.n))

    def __sub__(self, other: Estimate) -> Estimate:
        """Difference of two INDEPENDENT estimates; paired ones are subtracted draw by draw, before `mean`."""
        return self + other * -1.0

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.se * abs(factor), self.n)

    def __truediv__(self, divisor: float) -> Estimate:
        return self * (1 / divisor)

    def errors_from(self, truth: float) -> float:
        """(value - truth) / se; an exact estimate is 0 or infinitely many errors away."""
        gap = self.value - truth
        return gap / self.se if self.se else (0.0 if gap == 0 else math.copysign(math.inf, gap))

    def agrees(self, truth: float, errors: float = 3.0) -> bool:
        """Whether `truth` lies within so many standard errors."""
        return abs(self.value - truth) <= errors * self.se

    def __str__(self) -> str:
        return f"{self.value:.6g} +- {self.se:.2g}"


def mean(values: Tensor) -> Estimate:
    """Mean of independent draws; values (n,). Its se is the sample deviation over sqrt(n)."""
    values = values.detach().flatten().double()
    n = values.numel()
    se = float(values.std(unbiased=True) / n**0.5) if n > 1 else math.nan
    return Estimate(float(values.mean()), se, n)


def stratified(values: Tensor) -> Estimate:
    """Mean over all strata of a population, values (draws, strata), draws independent within each stratum (a data row, say).

    With two draws or more the error comes from within the strata alone: var = sum_j s_j^2 / (draws strata^2). With one it is that of
    independent rows, which is too large rather than too small.
    """
    values = values.detach().double()
    draws, strata = values.shape
    if draws == 1:
        return mean(values)
    within = values.var(0, unbiased=True).mean()
    return Estimate(float(values.mean()), float((within / (draws * strata)).sqrt()), draws * strata)


def clustered(values: Tensor) -> Estimate:
    """Mean of values (clusters, rows) whose rows depend on each other within a cluster (a batch of batch-OT); n counts clusters."""
    return mean(values.detach().double().flatten(1).mean(1))


def ratio(top: Tensor, bottom: Tensor) -> Estimate:
    """E top / E bottom from PAIRED independent draws, both (n,): linearised error, so common random numbers cancel."""
    top, bottom = top.detach().double().flatten(), bottom.detach().double().flatten()
    value = float(top.mean() / bottom.mean())
    spread = mean(top - value * bottom)
    return Estimate(value, spread.se / abs(float(bottom.mean())), spread.n)


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """Independent estimates of ONE quantity, weighted by their n."""
    total = sum(e.n for e in estimates)
    value = sum(e.value * e.n for e in estimates) / total
    return Estimate(value, math.sqrt(sum((e.se * e.n) ** 2 for e in estimates)) / total, total)


def squared_length(vectors: Tensor) -> Estimate:
    """|E g|^2 without bias from n >= 3 independent vectors (n, p): mean of <g_a, g_b> over a != b, with its jackknife error.

    It may be negative when |E g| is below the noise, which is what makes it a test of E g = 0.
    """
    g = vectors.detach().double()
    n = len(g)
    gram = g @ g.T
    total, diagonal, rows = gram.sum(), gram.diagonal(), gram.sum(1)
    value = (total - diagonal.sum()) / (n * (n - 1))
    without = (total - 2 * rows + diagonal) - (diagonal.sum() - diagonal)
    left = without / ((n - 1) * (n - 2))
    se = ((n - 1) / n * (left - left.mean()).square().sum()).sqrt()
    return Estimate(float(value), float(se), n)


@dataclass(frozen=True)
class Slope:
    """A fitted slope with a two-sided interval from n points."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def log_slope(t: Sequence[float], estimates: Sequence[Estimate], level: float = 0.95) -> Slope:
    """Least-squares slope of log estimate against log t.

    The interval is the wider of two: the Monte-Carlo errors carried through the fit, and the scatter of the points about the line (Student,
    n - 2), which also covers a law that is not yet a power of t. Needs two points or more and positive estimates.
    """
    x = np.log(np.asarray(t, float))
    y = np.log([e.value for e in estimates])
    errors = np.asarray([e.se / e.value for e in estimates])
    centred = x - x.mean()
    weight = centred / (centred**2).sum()
    value = float(weight @ y)
    half = stats.norm.ppf((1 + level) / 2) * float(np.sqrt((weight**2) @ (errors**2)))
    if len(x) > 2:
        residual = y - y.mean() - value * centred
        scatter = math.sqrt(float(residual @ residual) / (len(x) - 2) * float(weight @ weight))
        half = max(half, float(stats.t.ppf((1 + level) / 2, len(x) - 2)) * scatter)
    return Slope(value, value - half, value + half, len(x))
