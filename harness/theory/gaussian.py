"""Data laws with closed forms: N(0, s^2 I_d), for which every quantity of the paper has a formula, and isotropic Gaussian mixtures.

The noise levels are those of EDM, sigma_t = t. The ideal f is the solution of the PF-ODE at sigma_0; sigma_0 = 0 stands for the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.theory.flow import SIGMA_MIN, at_level, ideal_flow

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class Gaussian:
    """The data law N(0, s^2 I_d), with the ideal flow down to sigma_0."""

    d: int
    s: float
    sigma_0: float = 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent data points, (n, d) float64."""
        return self.s * torch.randn(n, self.d, generator=generator, dtype=torch.float64, device=generator.device)

    def scale(self, t: Level) -> Level:
        """a(t) = sqrt((s^2 + sigma_0^2)/(s^2 + t^2)), so that f(x, t) = a(t) x."""
        return ((self.s**2 + self.sigma_0**2) / (self.s**2 + t**2)) ** 0.5

    def flow(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The ideal consistency function f(x, t) = a(t) x, like x."""
        return per_row(self.scale(at_level(x, t)), x) * x

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The exact denoiser D*(x, t) = s^2/(s^2 + t^2) x, like x."""
        return per_row(self.s**2 / (self.s**2 + at_level(x, t) ** 2), x) * x

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The exact velocity v_t(x) = t/(s^2 + t^2) x, like x."""
        t = at_level(x, t)
        return per_row(t / (self.s**2 + t**2), x) * x

    def log_density(self, x: Tensor) -> Tensor:
        """log p*(x) of the data law; (n,)."""
        return -x.square().sum(1) / (2 * self.s**2) - self.d / 2 * math.log(2 * math.pi * self.s**2)

    def variance(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The posterior variance E[|x* - D*|^2 | x_t = x] = d s^2 t^2/(s^2 + t^2), which does not depend on x; (n,)."""
        square = at_level(x, t) ** 2
        return self.d * self.s**2 * square / (self.s**2 + square)

    def proxy_ic(self, t: float) -> float:
        """The proxy Rtil_t of IC, d s^2/(s^2 + t^2)."""
        return self.d * self.s**2 / (self.s**2 + t**2)

    def proxy_gc(self, t: float) -> float:
        """The proxy Rtil_t of GC with the ideal f, d a^2 s^2/(a^2 s^2 + t^2 (1 + a)^2)."""
        a = self.scale(t)
        return self.d * (a * self.s) ** 2 / ((a * self.s) ** 2 + (t * (1 + a)) ** 2)

    def denoise_gc(self, x: Tensor, t: float) -> Tensor:
        """The exact denoiser of GC, E[xhat | xtil_t = x] with xhat = a x_t and xtil_t = xhat + t z; like x."""
        a = self.scale(t)
        covariance = a * (a * self.s**2 + (1 + a) * t**2)
        return x * (covariance / ((a * self.s) ** 2 + (t * (1 + a)) ** 2))

    def cost(self, t: float) -> float:
        """The cost c(t) = E|f(x_t, t) - z|^2 = d (s^2 + sigma_0^2 + 1 - 2 a t), which at t = sigma_0 = 0 is that of IC, (1 + s^2) d."""
        return self.d * (self.s**2 + self.sigma_0**2 + 1 - 2 * self.scale(t) * t)

    def cost_derivative(self, t: float) -> float:
        """c'(t) = -2 d sqrt(s^2 + sigma_0^2) s^2/(s^2 + t^2)^(3/2), which is also the right-hand side of Lemma 1."""
        return -2 * self.d * math.sqrt(self.s**2 + self.sigma_0**2) * self.s**2 / (self.s**2 + t**2) ** 1.5

    def optimal_cost(self) -> float:
        """W2^2 between data and noise, d (1 - s)^2."""
        return self.d * (1 - self.s) ** 2

    def discrepancy_integrand(self, slope: float, rate: float, t: float, alpha: float) -> float:
        """E|d_CT f|^alpha - E|d_CD f|^alpha at t for f(x, t) = b(t) x, with b(t) = `slope` and db/dt = `rate`, by moments of chi."""
        variance = self.s**2 + t**2
        ct = rate**2 * variance + 2 * rate * slope * t + slope**2
        cd = (rate + slope * t / variance) ** 2 * variance
        moment = 2 ** (alpha / 2) * math.exp(math.lgamma((self.d + alpha) / 2) - math.lgamma(self.d / 2))
        return moment * (ct ** (alpha / 2) - cd ** (alpha / 2))


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The data law sum_k w_k N(m_k, s^2 I_d), with means (K, d) and weights (K,) that sum to 1 (None: equal weights)."""

    means: Tensor
    s: float
    weights: Tensor | None = None

    @property
    def d(self) -> int:
        return self.means.shape[1]

    def _weights(self) -> Tensor:
        return self.means.new_full((len(self.means),), 1 / len(self.means)) if self.weights is None else self.weights

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent data points, (n, d) float64."""
        which = torch.multinomial(self._weights(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.d, generator=generator, dtype=torch.float64, device=generator.device)
        return self.means.double()[which] + self.s * noise

    def responsibilities(self, x: Tensor, t: float | Tensor) -> Tensor:
        """P(component k | x_t = x); (n, K)."""
        variance = per_row(self.s**2 + at_level(x, t) ** 2, x)
        means = self.means.to(x)
        # |x|^2 is the same for all components and cancels in the softmax; the rest is smooth in x, so torch.func can differentiate it
        logits = (x @ means.T - means.square().sum(1) / 2) / variance
        return torch.softmax(logits + self._weights().to(x).log(), 1)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D*(x, t) = sum_k r_k (m_k t^2 + x s^2)/(s^2 + t^2); like x (n, d)."""
        square = per_row(at_level(x, t) ** 2, x)
        return (self.responsibilities(x, t) @ self.means.to(x) * square + x * self.s**2) / (self.s**2 + square)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """v_t(x) = (x - D*(x, t))/t, like x, as (x - sum_k r_k m_k) t/(s^2 + t^2), which does not divide a small difference by t."""
        level = per_row(at_level(x, t), x)
        return (x - self.responsibilities(x, t) @ self.means.to(x)) * level / (self.s**2 + level**2)

    def flow(self, x: Tensor, t: float | Tensor, sigma_0: float = SIGMA_MIN, steps: int = 40) -> Tensor:
        """The ideal f(x, t) by Heun's method, see `ideal_flow`."""
        return ideal_flow(self.denoise, x, t, sigma_0, steps)

    def variance(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The posterior variance E[|x* - D*|^2 | x_t = x]: that within the components plus that between them; (n,)."""
        square = at_level(x, t) ** 2
        shrink = square / (self.s**2 + square)
        r, means = self.responsibilities(x, t), self.means.to(x)
        spread = (r[:, :, None] * (means[None] - (r @ means)[:, None]).square()).sum((1, 2))
        return self.d * self.s**2 * shrink + shrink**2 * spread

    def log_density(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """log p_t(x), the density of x_t; (n,)."""
        variance = self.s**2 + at_level(x, t) ** 2
        distance = (x[:, None] - self.means.to(x)[None]).square().sum(2)
        logits = -distance / (2 * variance[:, None]) + self._weights().to(x).log()
        return torch.logsumexp(logits, 1) - self.d / 2 * torch.log(2 * math.pi * variance)


def two_gaussians() -> GaussianMixture:
    """The toy data of Figure 1: N((0, -0.5), 0.01^2 I) and N((0, 0.5), 0.01^2 I) with equal weights."""
    return GaussianMixture(torch.tensor([[0.0, -0.5], [0.0, 0.5]], dtype=torch.float64), 0.01)
