"""The discrepancy R(theta) between consistency training and distillation, equations (8)-(11), and a numerical test of Theorem 1 (7).

R = int_{t_min}^{T} E[ |d_CT f|^alpha - |d_CD f|^alpha ] dt with d_CT f = df/dt + (df/dx) z, d_CD f = df/dt + (df/dx) v_t(x_t), lambda = 1.

All estimates use w = z - v_t(x_t), whose mean given x_t is zero for the exact v of the pairs, and subtract the terms linear in w from each
draw. This does not change the mean, makes every draw of the integrand nonnegative, and removes noise that would otherwise dominate
L_CT - L_CD at large N, where the linear terms are larger than the rest by a factor of about N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.core.consistency import per_row
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, clustered, mean, ratio
from harness.theory.flow import SIGMA_MAX, Function, noised

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(number of rows, generator) -> pairs (x, z) of the coupling."""


@dataclass(frozen=True)
class Distance:
    """D(x, y) = phi(|x - y|), where phi(r) ~ C r^alpha near 0: r^2, r, or sqrt(r^2 + c^2) - c with c > 0; c = 0 for the other two."""

    kind: Literal["squared", "norm", "pseudo-huber"]
    c: float = 0.0

    @property
    def alpha(self) -> float:
        return 1.0 if self.kind == "norm" else 2.0

    @property
    def constant(self) -> float:
        """The constant C: 1/(2c) for pseudo-Huber, else 1."""
        return 1 / (2 * self.c) if self.kind == "pseudo-huber" else 1.0

    def increment(self, a: Tensor, b: Tensor) -> Tensor:
        """phi(|a + b|) - phi(|a|) of each row, computed from |a + b|^2 - |a|^2 to avoid cancellation; (n,)."""
        rise = dot(2 * a + b, b)
        if self.kind == "squared":
            return rise
        after, before = (dot(a + b, a + b) + self.c**2).sqrt(), (dot(a, a) + self.c**2).sqrt()
        return rise / (after + before).clamp(min=torch.finfo(a.dtype).tiny)

    def gradient(self, a: Tensor) -> Tensor:
        """The gradient of phi(|a|) with respect to a, like a; 0 where a = 0."""
        if self.kind == "squared":
            return 2 * a
        size = (dot(a, a) + self.c**2).sqrt()
        return a / per_row(size.clamp(min=torch.finfo(a.dtype).tiny), a)


@dataclass(frozen=True)
class Times:
    """The density q(t) ~ 1/(t + shift) on [t_min, T] from which levels are drawn: log-uniform well above `shift`, uniform well below it.

    Raises HarnessError unless 0 <= t_min < T <= 80.
    """

    T: float
    t_min: float = 0.0
    shift: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.T <= SIGMA_MAX:
            expected = f"0 <= t_min < T <= {SIGMA_MAX:g}"
            raise HarnessError("noise levels out of range", where="t_min, T", found=f"{self.t_min}, {self.T}", expected=expected)

    @property
    def _total(self) -> Tensor:
        return torch.tensor((self.T + self.shift) / (self.t_min + self.shift), dtype=torch.float64).log()

    def mass(self, t: Tensor) -> Tensor:
        """The probability of a level below t, like t."""
        return ((t + self.shift) / (self.t_min + self.shift)).log() / self._total

    def density(self, t: Tensor) -> Tensor:
        """q(t), like t."""
        return 1 / ((t + self.shift) * self._total)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """One level from each of n strata of equal mass, in random order; (n,) float64 on the CPU."""
        strata = torch.randperm(n, generator=generator).double()
        share = (strata + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        t = (self.t_min + self.shift) * (share * self._total).exp() - self.shift
        return t.clamp(self.t_min, self.T)

    def interval(self, t: Tensor, n: int) -> tuple[Tensor, float, Tensor]:
        """The one of n equal intervals of [t_min, T] that contains t (m,): (lower end (m,), length, its probability (m,))."""
        length = (self.T - self.t_min) / n
        low = self.t_min + ((t - self.t_min) / length).floor().clamp(max=n - 1) * length
        return low, length, self.mass(low + length) - self.mass(low)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product <a, b> of each row; (n,)."""
    return (a * b).flatten(1).sum(1)


def derivatives(f: Function, velocity: Function, x: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """d_CD f and (df/dx) w at x_t = x + t z, both like x, by Jacobian-vector products; t (n,). Their sum is d_CT f."""
    x_t = noised(x, z, t)
    v = velocity(x_t, t)
    cd = torch.func.jvp(f, (x_t, t), (v, torch.ones_like(t)))[1]
    return cd, torch.func.jvp(lambda y: f(y, t), (x_t,), (z - v,))[1]


def excess(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """|a + b|^alpha - |a|^alpha - alpha |a|^(alpha - 2) <a, b> >= 0 of each row; (n,). The last term has mean zero if E[b | a] = 0."""
    if alpha == 2:
        return dot(b, b)
    tiny = torch.finfo(a.dtype).tiny
    before, after, cross = dot(a, a).clamp(min=tiny).sqrt(), dot(a + b, a + b).sqrt(), dot(a, b)
    if alpha == 1:
        # |a + b| - |a| = <2a + b, b>/(|a + b| + |a|) avoids cancellation for small b
        return (dot(2 * a + b, b) / (after + before) - cross / before).clamp(min=0)
    return after**alpha - before**alpha - alpha * before ** (alpha - 2) * cross


@torch.no_grad()
def integrand(f: Function, velocity: Function, x: Tensor, z: Tensor, t: Tensor, alpha: float) -> Tensor:
    """Draws whose mean is E[|d_CT f|^alpha - |d_CD f|^alpha] at the levels t (n,); (n,) float64, each >= 0."""
    return excess(*derivatives(f, velocity, x, z, t), alpha).double()


def discrepancy(
    f: Function, velocity: Function, draw: Draw, times: Times, generator: torch.Generator, alpha: float, batches: int, rows: int
) -> Estimate:
    """R(theta) of equations (8) and (11), by importance sampling over t; f must support torch.func.jvp.

    The error is computed from the means of two or more batches, so it includes the integration over t and dependence between rows.
    """
    values = []
    for _ in range(batches):
        x, z = draw(rows, generator)
        t = times.draw(len(x), generator)
        scale = 1 / times.density(t)
        values.append(integrand(f, velocity, x, z, t.to(x), alpha) * scale.to(x.device))
    return clustered(torch.stack(values))


@dataclass(frozen=True)
class Theorem1:
    """The two sides of equation (7) for one number of intervals n = N, and their ratio."""

    n: int
    difference: Estimate
    """N^alpha (L_CT - L_CD)."""
    limit: Estimate
    """C T^(alpha-1) R(theta), from the same draws for every N."""
    ratio: Estimate
    """difference/limit, from common random numbers."""


@torch.no_grad()
def theorem_1(
    f: Function,
    velocity: Function,
    draw: Draw,
    times: Times,
    distance: Distance,
    intervals: Sequence[int],
    generator: torch.Generator,
    batches: int,
    rows: int,
) -> list[Theorem1]:
    """N^alpha (L_CT - L_CD) and its limit C T^(alpha-1) R(theta) on equally spaced levels, for each N of `intervals`.

    L = (1/N) sum_i E[D(f(x_i, t_i), f(x_{i+1}, t_{i+1}))] with t_i = t_min + i h and h = (T - t_min)/N. For t_min > 0, T in (7) is replaced
    by T - t_min. R and all N use the same x, z and t, where i is the interval of t. Draws should be float64, and `velocity` exact.
    """
    length = times.T - times.t_min
    sums: list[list[Tensor]] = [[] for _ in intervals]
    limits = []
    for _ in range(batches):
        x, z = draw(rows, generator)
        t = times.draw(len(x), generator)
        scale = torch.full_like(t, distance.constant * length ** (distance.alpha - 1)) / times.density(t)
        limits.append((integrand(f, velocity, x, z, t.to(x), distance.alpha) * scale.to(x.device)).mean())
        for n, column in zip(intervals, sums, strict=True):
            low, h, probability = times.interval(t, n)
            scale = n**distance.alpha / (n * probability)
            gap = _loss_gap(f, velocity, x, z, low.to(x), h, distance)
            column.append((gap.double() * scale.to(x.device)).mean())
    bottom = torch.stack(limits)
    tops = [torch.stack(column) for column in sums]
    return [Theorem1(n, mean(top), mean(bottom), ratio(top, bottom)) for n, top in zip(intervals, tops, strict=True)]


def _loss_gap(f: Function, velocity: Function, x: Tensor, z: Tensor, low: Tensor, h: float, distance: Distance) -> Tensor:
    """D of CT minus D of CD at the same x_{i+1}, without its part linear in w, whose mean is zero; (n,)."""
    high = low + h
    ahead = noised(x, z, high)
    v = velocity(ahead, high)
    student, behind = f(ahead, high), ahead - h * v
    # x_i = behind - h w
    distilled, slope = torch.func.jvp(lambda y: f(y, low), (behind,), (h * (z - v),))  # type: ignore[misc]  # a pair without has_aux
    a = student - distilled
    return distance.increment(a, distilled - f(noised(x, z, low), low)) - dot(distance.gradient(a), slope)
