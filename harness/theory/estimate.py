"""A number with its Monte-Carlo standard error, and the operations that combine such numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from torch import Tensor

from harness.stats import uncertainty
from harness.stats.intervals import ALPHA
from harness.stats.student import half_width


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error `se` (0: exact, nan: unknown) from n independent draws (rows or batches)."""

    value: float
    se: float
    n: int

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of two INDEPENDENT estimates; its n is the smaller of the two."""
        return Estimate(self.value + other.value, math.hypot(self.se, other.se), min(self.n, other.n))

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two INDEPENDENT estimates; subtract paired ones draw by draw before calling `mean`."""
        return self + other * -1.0

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.se * abs(factor), self.n)

    def __truediv__(self, divisor: float) -> Estimate:
        return self * (1 / divisor)

    def agrees(self, truth: float, limit: float = uncertainty.AGREEMENT) -> bool:
        """Whether `truth` lies within `limit` standard errors of the value."""
        return uncertainty.agrees(self.value, truth, self.se, limit=limit)

    def __str__(self) -> str:
        return uncertainty.plus_minus(self.value, self.se or None)


def mean(values: Tensor) -> Estimate:
    """Mean of independent draws (n,); its standard error is the sample standard deviation over sqrt(n)."""
    values = values.detach().flatten().double()
    n = values.numel()
    se = float(values.std(unbiased=True) / n**0.5) if n > 1 else math.nan
    return Estimate(float(values.mean()), se, n)


def stratified(values: Tensor) -> Estimate:
    """Mean over all strata (for example data rows) of a population; values (draws, strata), with independent draws in each stratum.

    The squared error is sum_j s_j^2 / (draws strata^2) with the variance s_j^2 within stratum j; a single draw overestimates it.
    """
    values = values.detach().double()
    draws, strata = values.shape
    if draws == 1:
        return mean(values)
    within = values.var(0, unbiased=True).mean()
    return Estimate(float(values.mean()), float((within / (draws * strata)).sqrt()), draws * strata)


def clustered(values: Tensor) -> Estimate:
    """Mean of values (clusters, rows) with dependent rows in each cluster (for example a batch of batch-OT); n counts clusters."""
    return mean(values.detach().double().flatten(1).mean(1))


def ratio(top: Tensor, bottom: Tensor) -> Estimate:
    """E top / E bottom from PAIRED draws, both (n,). Its error is linearised; noise that both share cancels."""
    top, bottom = top.detach().double().flatten(), bottom.detach().double().flatten()
    value = float(top.mean() / bottom.mean())
    spread = mean(top - value * bottom)
    return Estimate(value, spread.se / abs(float(bottom.mean())), spread.n)


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates of the same quantity, weighted by their n."""
    total = sum(e.n for e in estimates)
    value = sum(e.value * e.n for e in estimates) / total
    return Estimate(value, math.sqrt(sum((e.se * e.n) ** 2 for e in estimates)) / total, total)


def squared_length(vectors: Tensor) -> Estimate:
    """|E g|^2 of n >= 3 independent vectors (n, p) without bias, with its jackknife error."""
    value, without = squared_mean(vectors)
    return Estimate(float(value), jackknife_error(without), len(vectors))


def squared_mean(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of <g_a, g_b> over a != b of n >= 3 vectors (n, p), and its values without each vector; (), (n,) float64."""
    n, g = len(vectors), vectors.detach().double()
    total = g.sum(0)
    squares, length = g.square().sum(1), total.square().sum()
    others = length - 2 * (g @ total) + squares  # |sum of the other vectors|^2
    return (length - squares.sum()) / (n * (n - 1)), (others - (squares.sum() - squares)) / ((n - 1) * (n - 2))


def jackknife_error(without: Tensor) -> float:
    """The standard error of an estimate from its values without each of n draws (n,)."""
    n = len(without)
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def log_slope(t: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Least-squares slope of log(estimate) against log(t), for two or more positive estimates; n counts them.

    Its error is that of the estimates where these fit a power of t: where the weighted sum of squares about the line is not significantly
    (1 %) larger than the errors allow, by its chi-square distribution. Else it is half of the 95 % interval by Student's t from the scatter
    about the line, over 1.96, if that is larger; this allows for a curve that is not a power of t. So the interval covers the slope of an
    exact power in 95 % of cases; the wider of the two intervals would in 98 % or more.
    """
    x = np.log(np.asarray(t, float))
    y = np.log([e.value for e in estimates])
    errors = np.asarray([e.se / e.value for e in estimates])
    centred = x - x.mean()
    weight = centred / (centred**2).sum()
    value = float(weight @ y)
    se = float(np.sqrt((weight**2) @ (errors**2)))
    if len(x) > 2 and not _is_line(x, y, errors):
        residual = y - y.mean() - value * centred
        scatter = math.sqrt(float(residual @ residual) / (len(x) - 2) * float(weight @ weight))
        se = max(se, float(half_width(scatter, len(x) - 2, ALPHA) / half_width(1.0, math.inf, ALPHA)))
    return Estimate(value, se, len(x))


def _is_line(x: np.ndarray, y: np.ndarray, errors: np.ndarray) -> bool:
    """Whether y lies on a line in x within its errors, by the chi-square test at 1 %; never for exact or unknown errors."""
    if not (errors > 0).all():
        return False
    columns = np.stack([np.ones_like(x), x], 1) / errors[:, None]
    residual = y / errors - columns @ np.linalg.lstsq(columns, y / errors)[0]
    return bool(stats.chi2.sf(residual @ residual, len(x) - 2) >= 0.01)
