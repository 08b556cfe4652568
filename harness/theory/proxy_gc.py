"""The proxy of GC with the IDEAL flow, without any trained denoiser: E[xhat | xtil_t] by importance sampling from its exact posterior.

xhat = f(x_t, t) with x_t = x* + t z, and y = xtil_t = xhat + t z = f(x_t, t) + x_t - x*. Given y:

- Finite data. f carries x_t to one of the data points (sigma_0 -> 0), k = basin(x_t), and (k, J) for x* = x_J has the posterior
  P(k, J | y) ~ exp(-|y - x_k|^2/(2 t^2)) 1[ basin(x_J + y - x_k) = k ], for x_t = x_J + t z and t z = y - x_k are then known.
- Data with a density p*. (x*, x_t) -> (y, x_t) has unit Jacobian, so P(x_t | y) ~ p*(x_t + f(x_t) - y) exp(-|y - f(x_t)|^2/(2 t^2)).

Both are known up to a constant, at the price of one flow a proposal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.theory.estimate import Estimate, mean
from harness.theory.flow import SIGMA_MIN, Function, at_level, check_levels, karras_levels
from harness.theory.oracle import Oracle
from harness.theory.proxy import noise_like

_DECIDED, _HOPELESS = 1e-8, 1e-10
"""A row has found its basin when all other points together have less than this weight; it misses a point whose weight falls below that."""


@dataclass(frozen=True)
class IdealProxy:
    """Rtil_t of GC with the ideal flow. For weighted posterior draws xhat_m with mean m, and the endpoint xhat that made y:"""

    value: Estimate
    """E sum_m w_m |xhat - xhat_m|^2/(2 t^2): the errors of the next two cancel to first order in 1/(draws)"""
    upper: Estimate
    """E|xhat - m|^2/t^2, which is never below the truth (m is just some denoiser)"""
    lower: Estimate
    """E sum_m w_m |xhat_m - m|^2/t^2, which a finite number of draws makes too small"""
    draws: float
    """median effective number of posterior draws a row"""
    empty: int
    """rows without any valid draw, where rough proposals stood in"""


class Smooth(Protocol):
    """Data with a density and an ideal flow: a Gaussian or a Mixture."""

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = ...) -> Tensor: ...

    def log_density(self, x: Tensor) -> Tensor: ...

    def flow(self, x: Tensor, t: float | Tensor) -> Tensor: ...


@torch.no_grad()
def basin(oracle: Oracle, x: Tensor, t: float, steps: int = 40, wanted: Tensor | None = None) -> Tensor:
    """The index of the data point that the ideal flow carries each x at level t to; (n,). x (n, d).

    A row stops as soon as one point has all but 1e-8 of the posterior. With `wanted` (n,), rows are given up as -1 once that point's
    weight is below 1e-10.
    """
    levels = karras_levels(x.new_tensor([t]), SIGMA_MIN, steps).squeeze(1).tolist()
    result = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    points = oracle.data().flatten(1)
    for now, after in zip(levels, [*levels[1:], None], strict=True):
        found = oracle.posterior(x, now, variance=False)
        done = found.tail < _DECIDED if after is not None else torch.ones_like(found.tail, dtype=torch.bool)
        result[rows[done]] = found.peak[done]
        going = ~done
        if wanted is not None:
            distance = (x.double() - points[wanted[rows]].double()).square().sum(1)
            going &= -distance / (2 * now**2) - found.log_sum > torch.tensor(_HOPELESS).log()
        if after is None or not bool(going.any()):
            break
        rows, x, slope = rows[going], x[going], (x[going] - found.mean[going]) / now
        ahead = x + (after - now) * slope
        x = x + (after - now) / 2 * (slope + (ahead - oracle.denoise(ahead, after)) / after)
    return result


@torch.no_grad()
def ideal_pairs(oracle: Oracle, rows: Tensor, t: float, generator: torch.Generator, steps: int = 40) -> tuple[Tensor, Tensor]:
    """The ideal GC coupling at level t from the data points of index `rows`: (index of the endpoint (n,), noise (n, d))."""
    x = oracle.data(rows).flatten(1)
    z = noise_like(x, generator)
    return basin(oracle, x + t * z, t, steps), z


@torch.no_grad()
def proxy_gc(
    oracle: Oracle, rows: Tensor, t: float, generator: torch.Generator, proposals: int = 128, steps: int = 40, rounds: int = 8
) -> IdealProxy:
    """Rtil_t of GC with the ideal flow of finite data, one xtil_t for each data index in `rows`.

    Half of the proposals for k follow its posterior under IC, half the endpoints of a pilot run; half of those for J are uniform, half
    prefer points from which k looks nearer than J does. So every weight is bounded. A row without a valid proposal gets up to `rounds`
    times as many. Cost: about 1.5 `proposals` flows a row. Trust the value where `draws` is 5 or more and `empty` is few: with few draws
    it is rough, and `lower` above `upper` shows it. Raises HarnessError for t outside [0.002, 80].
    """
    check_levels(t)
    block = max(1, 2**24 // (proposals * len(oracle)))
    ends, noises = ideal_pairs(oracle, rows, t, generator, steps)
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
        # rough proposals, where no round finds a valid one
        picked = pilot.repeat(1, -(-proposals // pilots))[:, :proposals]
        weight = torch.ones_like(picked, dtype=prior.dtype)
        lost = torch.arange(len(y), device=y.device)
        for _ in range(rounds):
            again = _pick(from_k[lost], proposals, generator)
            start, chance = _starts(points, y[lost], again, t, generator)
            valid = basin(oracle, start, t, steps, wanted=again.flatten()).reshape(again.shape) == again
            fresh = valid * prior[lost].gather(1, again) / (from_k[lost].gather(1, again) * chance)
            found = valid.any(1)
            picked[lost[found]], weight[lost[found]] = again[found], fresh[found]
            lost = lost[~found]
            if not len(lost):
                break
        empty += len(lost)
        moments, size = _moments(points[k], points[picked], weight)
        sums.append(moments)
        sizes.append(size)
    return _summary(torch.cat(sums), torch.cat(sizes), t, empty)


def _pick(chances: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n indices for each row of unnormalised chances (b, N), drawn where the generator lives; (b, n)."""
    return torch.multinomial(chances.to(generator.device), n, replacement=True, generator=generator).to(chances.device)


def _starts(points: Tensor, y: Tensor, k: Tensor, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Proposals x_J + y - x_k for k (b, m): the points (b m, d) and the chances (b, m) that J was drawn with, given k."""
    x_k = points[k]
    u = y[:, None] - x_k
    # log of the odds, at x_J + u, of x_k against x_J: (|x_J - (x_J + u)|^2 - |x_k - (x_J + u)|^2)/(2 t^2)
    norms = points.square().sum(1)
    toward = (x_k - u).flatten(0, 1) @ points.T
    offset = (x_k * (u - x_k / 2)).sum(2).flatten()[:, None]
    chance = torch.sigmoid((toward - norms / 2 + offset) / t**2)
    chance = (chance / chance.sum(1, keepdim=True) + 1 / len(points)) / 2
    j = _pick(chance, 1, generator)
    return (points[j.squeeze(1)] + u.flatten(0, 1)), chance.gather(1, j).reshape(k.shape)


@torch.no_grad()
def proxy_gc_smooth(source: Smooth, n: int, t: float, generator: torch.Generator, proposals: int = 256) -> IdealProxy:
    """Rtil_t of GC with the ideal flow of data with a density, over n draws of xtil_t, float64.

    x_t is proposed as c + (x*' - mean)/(1 + b), x*' ~ p*: c solves c + f(c) = y + mean roughly, b is f's slope there. Both choices only
    steer; the weights are exact. Good in a few dimensions, or wherever t is well above the data's spread.
    """
    check_levels(t)
    x = source.sample(n, generator)
    z = noise_like(x, generator)
    xhat = source.flow(x + t * z, t)
    y = xhat + t * z
    fresh = source.sample(n * proposals, generator).reshape(n, proposals, -1)
    middle = source.sample(4096, generator).mean(0)
    centre, slope = _centre(source.flow, y + middle, t)
    moved = (centre[:, None] + (fresh - middle) / (1 + slope)[:, None, None]).flatten(0, 1)
    ends = source.flow(moved, t).reshape(fresh.shape)
    implied = moved.reshape(fresh.shape) + ends - y[:, None]
    log_weight = (
        source.log_density(implied.flatten(0, 1)).reshape(n, proposals)
        - (y[:, None] - ends).square().sum(2) / (2 * t**2)
        - source.log_density(fresh.flatten(0, 1)).reshape(n, proposals)
    )
    weight = (log_weight - log_weight.amax(1, keepdim=True)).exp()
    return _summary(*_moments(xhat, ends, weight), t, 0)


def _centre(f: Function, target: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """A rough solution c of c + f(c, t) = target by damped iteration, and the mean slope <u, df u>/|u|^2 of f at it along c's noise."""
    level = at_level(target, t)
    c = target
    for _ in range(6):
        c = c + (target - c - f(c, level)) / 2
    u = torch.ones_like(c)
    slope = (torch.func.jvp(lambda v: f(v, level), (c,), (u,))[1] * u).sum(1) / u.square().sum(1)
    return c, slope.clamp(min=0, max=4)


def _moments(xhat: Tensor, draws: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2): |xhat - m|^2 and sum_m w_m |xhat_m - m|^2; (n,): the effective number of draws (sum w)^2/sum w^2."""
    weight = weight.double()
    w = weight / weight.sum(1, keepdim=True)
    draws, xhat = draws.double(), xhat.double()
    m = (w[:, :, None] * draws).sum(1)
    inner = (w * (draws - m[:, None]).square().sum(2)).sum(1)
    return torch.stack([(xhat - m).square().sum(1), inner], 1), 1 / w.square().sum(1)


def _summary(sums: Tensor, sizes: Tensor, t: float, empty: int) -> IdealProxy:
    upper, lower = (sums / t**2).T
    return IdealProxy(mean((upper + lower) / 2), mean(upper), mean(lower), float(sizes.median()), empty)
