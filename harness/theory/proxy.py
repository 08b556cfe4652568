"""The proxy Rtil_t = E|xdot_t - v_t(x_t)|^2 of a coupling, equation (17).

With the noise levels of EDM it is E|endpoint - D(x_t, t)|^2/t^2, where D is the denoiser of the coupling's own x_t = endpoint + t z.
For IC on finite or closed-form data, D is known exactly and only the draws of x_t are random. For other couplings, D is a denoiser trained
on their pairs; the estimate is then too large by E|D - E[endpoint | x_t]|^2/t^2. For GC with the ideal flow see proxy_gc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from harness.core.couplings import Pairs
from harness.errors import HarnessError
from harness.theory.estimate import Estimate, clustered, mean, stratified
from harness.theory.flow import Function, at_level, check_levels, noised


class HasPosteriorVariance(Protocol):
    """A data law with a known posterior variance: Oracle, Gaussian, GaussianMixture."""

    def variance(self, x: Tensor, t: float | Tensor) -> Tensor: ...


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise shaped like x, drawn on the generator's device."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)


def pairs_of(coupling: Callable[..., Pairs], x: Tensor, z: Tensor, t: float, f: Function | None, generator: torch.Generator) -> Pairs:
    """(endpoint, noise) of a coupling at level t, without gradients; f(x, sigma) predicts endpoints for couplings that need it."""

    def predict(x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        if f is None:
            raise HarnessError("this coupling needs an endpoint predictor", where="f", found="none", expected="a consistency function")
        return f(x_t, sigma)

    with torch.no_grad():
        return coupling(x, z, at_level(x, t), predict, generator)


@torch.no_grad()
def proxy_ic(law: HasPosteriorVariance, x: Tensor, t: float, generator: torch.Generator, draws: int = 2, whole: bool = False) -> Estimate:
    """Rtil_t of IC as E[ E[|x* - D*|^2 | x_t] ]/t^2; the posterior variance has far less Monte-Carlo noise than |x* - D*|^2 itself.

    x: data rows, each used with `draws` noises. whole: x is the entire finite data set, so that only the noise is random.
    Raises HarnessError for t outside [0.002, 80].
    """
    check_levels(t)
    values = torch.stack([law.variance(x + t * noise_like(x, generator), t) for _ in range(draws)]) / t**2
    return stratified(values) if whole else mean(values.mean(0))


@torch.no_grad()
def errors(denoiser: Function, endpoint: Tensor, z: Tensor, t: float) -> Tensor:
    """|endpoint - D(endpoint + t z, t)|^2/t^2 of each row; (n,) float64."""
    level = at_level(endpoint, t)
    return (endpoint - denoiser(noised(endpoint, z, level), level)).double().flatten(1).square().sum(1) / t**2


def proxy(
    coupling: Callable[..., Pairs],
    denoiser: Function | None,
    x: Tensor,
    z: Tensor,
    t: float,
    generator: torch.Generator,
    f: Function | None = None,
    batch: int = 512,
    dependent: bool = False,
) -> Estimate:
    """Rtil_t of a coupling by a denoiser of its pairs, over rows (x, z) split into batches; f predicts endpoints for GC.

    dependent: the rows of a batch depend on each other, as in batch-OT, where the batch size is part of the coupling. The error is then
    computed from batch means, an incomplete last batch is dropped, and at least two batches are needed. Raises HarnessError for t outside
    [0.002, 80], without a denoiser, and for too few rows.
    """
    check_levels(t)
    if denoiser is None:
        raise HarnessError(
            "the proxy of a coupling needs a denoiser of its pairs", where="denoiser", found="none", expected="D trained on its pairs"
        )
    if dependent and len(x) < 2 * batch:
        raise HarnessError("too few rows for batches of dependent rows", found=f"{len(x)} rows", expected=f"at least 2 batches of {batch}")
    values = []
    for a, b in zip(x.split(batch), z.split(batch), strict=True):
        if not dependent or len(a) == batch:
            values.append(errors(denoiser, *pairs_of(coupling, a, b, t, f, generator), t))
    return clustered(torch.stack(values)) if dependent else mean(torch.cat(values))
