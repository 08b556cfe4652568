"""Joint learning (21) of a linear consistency function on Gaussian data, in closed form.

How biased is what the trained function generates, and how large is the variance of its stochastic gradient, over mu and the grid?

Data N(0, s^2 I_d), EDM noise levels sigma_0 < ... < sigma_{N-1}, f(x, sigma_i) = a_i x with a_0 = 1, squared distance. With the teacher
a_i fixed, a row of IC asks a_{i+1} to map u = x + sigma_{i+1} z to a_i w with w = x + sigma_i z; a row of GC replaces x by
a_i (x + sigma_i z). A row is GC with probability mu. The true slope is a*(sigma) = s / sqrt(s^2 + sigma^2). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairMoments:
    """Second moments of one coordinate of a pair: E[u^2], E[u w] and E[w^2], u at the higher level and w at the lower; each (N-1,)."""

    uu: Array
    uw: Array
    ww: Array


@dataclass(frozen=True)
class GradientVariance:
    """Parts of the variance, per level, of the gradient of |a_{i+1} u - a_i w|^2 with respect to a_{i+1} for one random row; each (N-1,).

    The three parts add up to the variance of the mixture: (1 - mu) Var_IC, mu Var_GC, and mu (1 - mu) (mean_IC - mean_GC)^2.
    """

    within_ic: Array
    within_gc: Array
    between: Array

    @property
    def total(self) -> Array:
        return self.within_ic + self.within_gc + self.between


def true_slopes(levels: Sequence[float] | Array, s: float) -> Array:
    """a*(sigma) = s / sqrt(s^2 + sigma^2), the slope of the ideal consistency function for sigma_0 -> 0; (N,)."""
    return s / np.sqrt(s**2 + np.asarray(levels, float) ** 2)


def learned_slopes(levels: Sequence[float] | Array, s: float, mu: float) -> Array:
    """a_0 = 1, a_1, ..., a_{N-1} of joint learning, each the minimiser of the loss at its level given the one below; (N,).

    a_{i+1} = a_i ((1 - mu) E_IC[u w] + mu E_GC[u w]) / ((1 - mu) E_IC[u^2] + mu E_GC[u^2]).
    """
    sigma = np.asarray(levels, float)
    slopes = np.ones(len(sigma))
    for i in range(len(sigma) - 1):
        ic, gc = pair_moments(sigma[i : i + 2], slopes[i : i + 1], s)
        top, bottom = ((1 - mu) * a + mu * b for a, b in ((ic.uw, gc.uw), (ic.uu, gc.uu)))
        slopes[i + 1] = slopes[i] * (top / bottom).item()
    return slopes


def pair_moments(levels: Array, teachers: Array, s: float) -> tuple[PairMoments, PairMoments]:
    """The moments of IC's and of GC's pairs. levels (N,); teachers (N-1,), the slope a_i at the lower level of each pair."""
    low, high = levels[:-1], levels[1:]
    ic = PairMoments(s**2 + high**2, s**2 + low * high, s**2 + low**2)
    variance, covariance = teachers**2 * (s**2 + low**2), teachers * low  # of the endpoint, and of endpoint and noise
    gc = PairMoments(
        variance + 2 * high * covariance + high**2,
        variance + (low + high) * covariance + low * high,
        variance + 2 * low * covariance + low**2,
    )
    return ic, gc


def generated_spread(levels: Sequence[float] | Array, s: float, mu: float) -> float:
    """Standard deviation of f(sigma_{N-1} z, sigma_{N-1}) over that of the data, s: 1 means unbiased, below 1 too narrow."""
    return float(learned_slopes(levels, s, mu)[-1] * np.asarray(levels, float)[-1] / s)


def gradient_variance(levels: Sequence[float] | Array, s: float, mu: float, d: int = 1) -> GradientVariance:
    """The variance of one row's gradient at the joint fixed point, split by Isserlis' theorem, for data of d independent coordinates.

    One coordinate's gradient is 2 (a_{i+1} u^2 - a_i u w). A batch of n rows has 1/n of these variances.
    """
    sigma = np.asarray(levels, float)
    slopes = learned_slopes(sigma, s, mu)
    teacher, student = slopes[:-1], slopes[1:]
    means, variances = [], []
    for pair in pair_moments(sigma, teacher, s):
        means.append(2 * d * (student * pair.uu - teacher * pair.uw))
        squares = 2 * student**2 * pair.uu**2 + teacher**2 * (pair.uu * pair.ww + pair.uw**2)
        variances.append(4 * d * (squares - 4 * student * teacher * pair.uu * pair.uw))
    ic, gc = variances
    return GradientVariance((1 - mu) * ic, mu * gc, mu * (1 - mu) * (means[0] - means[1]) ** 2)
