"""Noise levels, time laws and weights (iCT, arXiv 2310.14189; ECT, arXiv 2406.14548); the curriculum is harness.config.curriculum.

Levels are sigma_0 < ... < sigma_{N-1}; an index i in 0..N-2 stands for the pair (sigma_i, sigma_{i+1}).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise_levels(points: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """EDM's grid, ascending: sigma_i = (sigma_min^(1/rho) + i/(N-1) (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho; (N,) float64.

    Known as karras_schedule in iCT implementations and convert_to_karras in diffusers, where it descends. Both ends are exact here.
    """
    ramp = torch.linspace(0, 1, points, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels = (low + ramp * (high - low)) ** rho
    levels[0], levels[-1] = sigma_min, sigma_max
    return levels


def level_probabilities(levels: Tensor, p_mean: float, p_std: float) -> Tensor:
    """p(i) ~ erf((ln sigma_{i+1} - Pm)/(sqrt2 Ps)) - erf((ln sigma_i - Pm)/(sqrt2 Ps)), normalised; (N-1,) float64.

    The law of lognormal_timestep_distribution in iCT implementations, which also draws from it.
    """
    cdf = torch.erf((levels.log() - p_mean) / (math.sqrt(2) * p_std))
    mass = cdf.diff()
    return mass / mass.sum()


def inverse_gap(levels: Tensor) -> Tensor:
    """lambda(sigma_i) = 1 / (sigma_{i+1} - sigma_i), improved_loss_weighting of iCT implementations; (N-1,)."""
    return 1 / levels.diff()


def sample_levels(probabilities: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Indices i ~ p(i), one per row; (rows,) int64 on the CPU."""
    return torch.multinomial(probabilities, rows, replacement=True, generator=generator)


def log_normal_times(rows: int, p_mean: float, p_std: float, generator: torch.Generator) -> Tensor:
    """t ~ exp(N(Pm, Ps^2)), one per row; (rows,) float64 on the CPU."""
    return (p_mean + p_std * torch.randn(rows, generator=generator, dtype=torch.float64)).exp()


def ect_stage(step: int, double: int) -> int:
    """ECT's stage at a step: it grows by one every `double` steps; always 0 when double = 0."""
    return step // double if double else 0


def ect_lower_times(t: Tensor, stage: int, q: float, k: float, b: float) -> Tensor:
    """r = max(0, t (1 - q^-(stage+1) (1 + k sigmoid(-b t)))) (ECT's time law); same shape as t, 0 <= r < t.

    q^-(stage+1) is at least 2^-20, at which x_t and x_r still differ in float32.
    """
    shrink = max(q ** -(stage + 1), 2.0**-20)
    return (t * (1 - shrink * (1 + k * torch.sigmoid(-b * t)))).clamp(min=0)
