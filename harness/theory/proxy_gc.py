"""The proxy Rtil_t of GC with the IDEAL flow, which needs no trained denoiser: E[xhat | xtil_t] is estimated by importance sampling.

Let xhat = f(x_t, t) with x_t = x* + t z, and y = xtil_t = xhat + t z = f(x_t, t) + x_t - x*. Its posterior is known up to a constant:

- Finite data. As sigma_0 -> 0, f maps x_t to a data point x_k with k = basin(x_t). Write x* = x_J. Then t z = y - x_k and
  x_t = x_J + y - x_k, so that P(k, J | y) ~ exp(-|y - x_k|^2/(2 t^2)) 1[ basin(x_J + y - x_k) = k ].
- Data with a density p*. The map (x*, x_t) -> (y, x_t) has unit Jacobian, so that
  P(x_t | y) ~ p*(x_t + f(x_t) - y) exp(-|y - f(x_t)|^2/(2 t^2)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, karras_levels
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle
from harness.theory.proxy import noise_like

_DECIDED, _HOPELESS = 1e-8, 1e-10
"""A row has reached its basin once all other points together have less than the first posterior probability. It cannot reach a point whose
probability is below the second."""
_ROUNDS = 8
"""Attempts to find a valid proposal for a row."""


@dataclass(frozen=True)
class IdealProxy:
    """Rtil_t of GC with the ideal flow, from weighted posterior draws xhat_m with weights w_m and mean m given y = xhat + t z."""

    value: Estimate
    """The mean of `upper` and of E sum_m w_m |xhat_m - m|^2/t^2, whose biases cancel to first order in 1/(number of draws)."""
    upper: Estimate
    """E|xhat - m|^2/t^2, which is never below the true value, since m is some denoiser."""
    draws: float
    """Median over rows of the effective number of posterior draws."""
    empty: int
    """Rows without any valid draw, for which unweighted proposals are used."""


@torch.no_grad()
def basin(oracle: Oracle, x: Tensor, t: float, steps: int = 40, wanted: Tensor | None = None) -> Tensor:
    """The index of the data point to which the ideal flow maps each x (n, d) at level t; (n,).

    With `wanted` (n,), a row stops with -1 once it can no longer reach its wanted point.
    """
    levels = karras_levels(x.new_tensor([t]), SIGMA_MIN, steps).squeeze(1).tolist()
    result = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    points = oracle.data().flatten(1)
    for now, after in zip(levels, [*levels[1:], None], strict=True):
        posterior = oracle.posterior(x, now, variance=False)
        done = posterior.tail < _DECIDED if after is not None else torch.ones_like(posterior.tail, dtype=torch.bool)
        result[rows[done]] = posterior.peak[done]
        going = ~done
        if wanted is not None:
            distance = (x.double() - points[wanted[rows]].double()).square().sum(1)
            going &= -distance / (2 * now**2) - posterior.log_sum > torch.tensor(_HOPELESS).log()
        if after is None or not bool(going.any()):
            break
        rows, x, slope = rows[going], x[going], (x[going] - posterior.mean[going]) / now
        ahead = x + (after - now) * slope
        x = x + (after - now) / 2 * (slope + (ahead - oracle.denoise(ahead, after)) / after)
    return result


@torch.no_grad()
def proxy_gc(oracle: Oracle, rows: Tensor, t: float, generator: torch.Generator, proposals: int, steps: int = 40) -> IdealProxy:
    """Rtil_t of GC with the ideal flow of finite data, from one xtil_t for each data index in `rows`.

    Half of the proposals for k come from the posterior of k under IC, and half from the endpoints of pilot flows. Half of those for J are
    uniform, and half prefer a J for which x_k is closer to x_t than x_J is; so all importance weights are bounded. The cost is about
    1.5 `proposals` flows per row. The value is reliable if `draws` is at least 5 and `empty` is small.
    """
    block = max(1, 2**24 // (proposals * len(oracle)))
    x = oracle.data(rows).flatten(1)
    noises = noise_like(x, generator)
    ends = basin(oracle, x + t * noises, t, steps)
    points = oracle.data().flatten(1)
    sums, empty, sizes = [], 0, []
    for k, z in zip(ends.split(block), noises.split(block), strict=True):
        y = points[k] + t * z
        prior = oracle.weights(y, t)
        pilots = max(1, proposals // 4)
        pilot = _pick(prior, pilots, generator)
        seen = torch.zeros_like(prior)
        for _ in range(2):
            pilot = basin(oracle, _starts(points, y, pilot, t, generator)[0], t, steps).reshape(pilot.shape)
            seen.scatter_add_(1, pilot, torch.ones_like(pilot, dtype=prior.dtype))
        from_k = (prior + seen / (2 * pilots)) / 2
        # rows for which no round gives a valid proposal keep the pilot's endpoints, unweighted
        chosen = pilot.repeat(1, -(-proposals // pilots))[:, :proposals]
        weight = torch.ones_like(chosen, dtype=prior.dtype)
        open_rows = torch.arange(len(y), device=y.device)
        for _ in range(_ROUNDS):
            proposed = _pick(from_k[open_rows], proposals, generator)
            start, probability = _starts(points, y[open_rows], proposed, t, generator)
            valid = basin(oracle, start, t, steps, wanted=proposed.flatten()).reshape(proposed.shape) == proposed
            importance = valid * prior[open_rows].gather(1, proposed) / (from_k[open_rows].gather(1, proposed) * probability)
            solved = valid.any(1)
            chosen[open_rows[solved]], weight[open_rows[solved]] = proposed[solved], importance[solved]
            open_rows = open_rows[~solved]
            if not len(open_rows):
                break
        empty += len(open_rows)
        moments, size = _moments(points[k], points[chosen], weight)
        sums.append(moments)
        sizes.append(size)
    return _summary(torch.cat(sums), torch.cat(sizes), t, empty)


def _pick(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n random indices for each row of unnormalised probabilities (b, N), drawn on the generator's device; (b, n)."""
    return torch.multinomial(weights.to(generator.device), n, replacement=True, generator=generator).to(weights.device)


def _starts(points: Tensor, y: Tensor, k: Tensor, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Proposals x_J + y - x_k for k (b, m): the points (b m, d), and the probabilities (b, m) with which each J was drawn given k."""
    x_k = points[k]
    u = y[:, None] - x_k
    # log odds of x_k against x_J at the point x_J + u: (|x_J - (x_J + u)|^2 - |x_k - (x_J + u)|^2)/(2 t^2)
    norms = points.square().sum(1)
    toward = (x_k - u).flatten(0, 1) @ points.T
    offset = (x_k * (u - x_k / 2)).sum(2).flatten()[:, None]
    probability = torch.sigmoid((toward - norms / 2 + offset) / t**2)
    probability = (probability / probability.sum(1, keepdim=True) + 1 / len(points)) / 2
    j = _pick(probability, 1, generator)
    return (points[j.squeeze(1)] + u.flatten(0, 1)), probability.gather(1, j).reshape(k.shape)


@torch.no_grad()
def proxy_gc_smooth(law: Gaussian | GaussianMixture, n: int, t: float, generator: torch.Generator, proposals: int) -> IdealProxy:
    """Rtil_t of GC with the ideal flow of a law with a density, over n draws of xtil_t, in float64.

    The proposals are x_t = c + (x*' - mean)/(1 + b) with x*' ~ p*, where c approximately solves c + f(c) = y + mean and b is the slope of f
    at c. The estimate is accurate in a few dimensions, or when t is well above the standard deviation of the data.
    """
    x = law.sample(n, generator)
    z = noise_like(x, generator)
    xhat = law.flow(x + t * z, t)
    y = xhat + t * z
    fresh = law.sample(n * proposals, generator).reshape(n, proposals, -1)
    middle = law.sample(4096, generator).mean(0)
    centre, slope = _centre(law.flow, y + middle, t)
    moved = (centre[:, None] + (fresh - middle) / (1 + slope)[:, None, None]).flatten(0, 1)
    ends = law.flow(moved, t).reshape(fresh.shape)
    implied = moved.reshape(fresh.shape) + ends - y[:, None]
    log_weight = (
        law.log_density(implied.flatten(0, 1)).reshape(n, proposals)
        - (y[:, None] - ends).square().sum(2) / (2 * t**2)
        - law.log_density(fresh.flatten(0, 1)).reshape(n, proposals)
    )
    weight = (log_weight - log_weight.amax(1, keepdim=True)).exp()
    return _summary(*_moments(xhat, ends, weight), t, 0)


def _centre(f: Function, target: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """An approximate solution c of c + f(c, t) = target, and the slope of f at c along (1, ..., 1), clamped to [0, 4]."""
    level = at_level(target, t)
    c = target
    for _ in range(6):
        c = c + (target - c - f(c, level)) / 2
    u = torch.ones_like(c)
    slope = (torch.func.jvp(lambda v: f(v, level), (c,), (u,))[1] * u).sum(1) / u.square().sum(1)
    return c, slope.clamp(min=0, max=4)


def _moments(xhat: Tensor, draws: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(|xhat - m|^2, sum_m w_m |xhat_m - m|^2) as (n, 2), and the effective number of draws (sum w)^2/sum w^2, (n,)."""
    weight = weight.double()
    w = weight / weight.sum(1, keepdim=True)
    draws, xhat = draws.double(), xhat.double()
    m = (w[:, :, None] * draws).sum(1)
    inner = (w * (draws - m[:, None]).square().sum(2)).sum(1)
    return torch.stack([(xhat - m).square().sum(1), inner], 1), 1 / w.square().sum(1)


def _summary(sums: Tensor, sizes: Tensor, t: float, empty: int) -> IdealProxy:
    upper, lower = (sums / t**2).T
    return IdealProxy(mean((upper + lower) / 2), mean(upper), float(sizes.median()), empty)
