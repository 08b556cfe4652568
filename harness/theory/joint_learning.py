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
class EndpointMoments:
    """Moments of one coordinate of a coupling's endpoint x' at each pair of levels: its variance and its covariance with z; each (N-1,)."""

    variance: Array
    covariance: Array

    def uu(self, high: Array) -> Array:
        """E[u^2] of u = x' + high z."""
        return self.variance + 2 * high * self.covariance + high**2

    def uw(self, low: Array, high: Array) -> Array:
        """E[u w] of u = x' + high z and w = x' + low z."""
        return self.variance + (low + high) * self.covariance + low * high


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
        low, high = sigma[i : i + 1], sigma[i + 1 : i + 2]
        ic, gc = endpoint_moments(low, slopes[i : i + 1], s)
        top = (1 - mu) * ic.uw(low, high) + mu * gc.uw(low, high)
        slopes[i + 1] = slopes[i] * (top / ((1 - mu) * ic.uu(high) + mu * gc.uu(high))).item()
    return slopes


def endpoint_moments(low: Array, teachers: Array, s: float) -> tuple[EndpointMoments, EndpointMoments]:
    """The moments of IC's and of GC's endpoints. low: the lower level of each pair; teachers: the slope a_i there; each (N-1,)."""
    ic = EndpointMoments(np.full_like(low, s**2), np.zeros_like(low))
    return ic, EndpointMoments(teachers**2 * (s**2 + low**2), teachers * low)


def generated_spread(levels: Sequence[float] | Array, s: float, mu: float) -> float:
    """Standard deviation of f(sigma_{N-1} z, sigma_{N-1}) over that of the data, s: 1 means unbiased, below 1 too narrow."""
    return float(learned_slopes(levels, s, mu)[-1] * np.asarray(levels, float)[-1] / s)


@dataclass(frozen=True)
class PopulationGradients:
    """Mean and variance of one row's gradient of |a_{i+1} u - a_i w|^2 with respect to a_{i+1}, by population and level; each (N-1,)."""

    mean_ic: Array
    mean_gc: Array
    variance_ic: Array
    variance_gc: Array


def population_gradients(levels: Sequence[float] | Array, s: float, mu: float, d: int = 1) -> PopulationGradients:
    """What rows of IC and rows of GC give at the joint fixed point of mu, for data of d independent coordinates, by Isserlis' theorem.

    One coordinate's gradient is 2 u r with r = a_{i+1} u - a_i w, and Var(u r) = E[u^2] E[r^2] + E[u r]^2. A batch of n rows has 1/n of
    these variances.
    """
    sigma = np.asarray(levels, float)
    slopes = learned_slopes(sigma, s, mu)
    low, high, teacher, student = sigma[:-1], sigma[1:], slopes[:-1], slopes[1:]
    of_x, of_z = student - teacher, student * high - teacher * low  # r = of_x x' + of_z z
    means, variances = [], []
    for endpoint in endpoint_moments(low, teacher, s):
        uu, ur = endpoint.uu(high), student * endpoint.uu(high) - teacher * endpoint.uw(low, high)
        rr = of_x**2 * endpoint.variance + 2 * of_x * of_z * endpoint.covariance + of_z**2
        means.append(2 * d * ur)
        variances.append(4 * d * (uu * rr + ur**2))
    return PopulationGradients(*means, *variances)


def gradient_variance(levels: Sequence[float] | Array, s: float, mu: float, d: int = 1) -> GradientVariance:
    """The variance of one row's gradient at the joint fixed point, level by level; see `population_gradients`."""
    of = population_gradients(levels, s, mu, d)
    return GradientVariance((1 - mu) * of.variance_ic, mu * of.variance_gc, mu * (1 - mu) * (of.mean_ic - of.mean_gc) ** 2)


def training_gradients(
    levels: Sequence[float] | Array, s: float, mu: float, d: int, probabilities: Array, factors: Array
) -> tuple[float, float, float]:
    """(V_IC, V_GC, |m_IC - m_GC|^2) of one row's gradient over all levels, for a network with one parameter w_i per level.

    probabilities: p(i) of the pairs of levels. factors: weight of the loss at pair i times da_{i+1}/dw_{i+1}; both (N-1,). A row has one
    level, so V = sum_i p_i k_i^2 (v_i + m_i^2) - sum_i (p_i k_i m_i)^2 with mean m_i and variance v_i of its level and k_i its factor.
    """
    of = population_gradients(levels, s, mu, d)

    def variance(mean: Array, variance: Array) -> float:
        return float((probabilities * factors**2 * (variance + mean**2)).sum() - ((probabilities * factors * mean) ** 2).sum())

    gap = float(((probabilities * factors * (of.mean_ic - of.mean_gc)) ** 2).sum())
    return variance(of.mean_ic, of.variance_ic), variance(of.mean_gc, of.variance_gc), gap
