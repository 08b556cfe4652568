"""The proxy Rtil_t = E|xdot_t - v_t(x_t)|^2 of a coupling, equation (17). In the EDM setting it is E|endpoint - D(x_t, t)|^2/t^2,
where D is the denoiser of the coupling's own x_t = endpoint + t z.

IC on finite data or closed-form data: exact but for the draws of x_t. Other couplings: by a denoiser trained on their pairs. Such an
estimate is too large by E|D - E[endpoint | x_t]|^2/t^2, which `excess` measures where the exact denoiser is known.
GC with the ideal flow: see proxy_gc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.theory.estimate import Estimate, clustered, mean, stratified
from harness.theory.flow import Function, at_level, check_levels, noised

Coupling = Callable[..., tuple[Tensor, Tensor]]


class Source(Protocol):
    """What a data law must offer for IC to be exact: an Oracle, a Mixture, a Gaussian."""

    def variance(self, x: Tensor, t: float | Tensor) -> Tensor: ...


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise shaped like x, drawn where the generator lives."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)


def pairs_of(coupling: Coupling, x: Tensor, z: Tensor, t: float, f: Function | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(endpoint, noise) of a coupling at level t, predicted by f(x, sigma) where it asks for a predictor, under no-grad."""

    def predict(x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        if f is None:
            raise HarnessError("this coupling needs an endpoint predictor", where="f", found="none", expected="a consistency function")
        return f(x_t, sigma)

    with torch.no_grad():
        return coupling(x, z, at_level(x, t), predict, generator)


@torch.no_grad()
def proxy_ic(source: Source, x: Tensor, t: float, generator: torch.Generator, draws: int = 2, whole: bool = False) -> Estimate:
    """Rtil_t of IC by the posterior's variance: E[ E[|x* - D*|^2 | x_t] ]/t^2, which has far less noise than |x* - D*|^2 itself.

    x: data rows, each used with `draws` noises. whole: x is the entire (finite) data set, so only the noise is random.
    Raises HarnessError for t outside [0.002, 80].
    """
    check_levels(t)
    values = torch.stack([source.variance(x + t * noise_like(x, generator), t) for _ in range(draws)]) / t**2
    return stratified(values) if whole else mean(values.mean(0))


@torch.no_grad()
def errors(denoiser: Function, endpoint: Tensor, z: Tensor, t: float) -> Tensor:
    """|endpoint - D(endpoint + t z, t)|^2/t^2 of each row; (n,) float64."""
    level = at_level(endpoint, t)
    return (endpoint - denoiser(noised(endpoint, z, level), level)).double().flatten(1).square().sum(1) / t**2


def proxy(
    coupling: Coupling,
    denoiser: Function | None,
    x: Tensor,
    z: Tensor,
    t: float,
    generator: torch.Generator,
    f: Function | None = None,
    batch: int = 512,
    dependent: bool = False,
) -> Estimate:
    """Rtil_t of a coupling by its denoiser, over rows (x, z) taken in batches.

    dependent: the rows of a batch depend on each other (batch-OT, whose law the batch size is part of): the error then comes from whole
    batches, an incomplete last one is dropped, and two batches are the least. Raises HarnessError for t outside [0.002, 80], for a coupling
    without a denoiser and for too few rows.
    """
    check_levels(t)
    if denoiser is None:
        raise HarnessError("a coupling without a denoiser has no proxy", where="denoiser", found="none", expected="D trained on its pairs")
    if dependent and len(x) < 2 * batch:
        raise HarnessError("too few rows for batches that depend", found=f"{len(x)} rows", expected=f"at least 2 batches of {batch}")
    values = []
    for a, b in zip(x.split(batch), z.split(batch), strict=True):
        if not dependent or len(a) == batch:
            values.append(errors(denoiser, *pairs_of(coupling, a, b, t, f, generator), t))
    return clustered(torch.stack(values)) if dependent else mean(torch.cat(values))


@torch.no_grad()
def excess(denoiser: Function, exact: Function, endpoint: Tensor, z: Tensor, t: float) -> Estimate:
    """E|D - D*|^2/t^2: by how much the proxy taken with `denoiser` is too large, where the exact denoiser of the same pairs is known."""
    check_levels(t)
    level = at_level(endpoint, t)
    x_t = noised(endpoint, z, level)
    return mean((denoiser(x_t, level) - exact(x_t, level)).double().flatten(1).square().sum(1) / t**2)
