"""The proxy Rtil_t = E|xdot_t - v_t(x_t)|^2 of a coupling, equation (17).

With the noise levels of EDM it is E|endpoint - D(x_t, t)|^2/t^2, where D is the denoiser of the coupling's own x_t = endpoint + t z. D is
exact for IC on finite or closed-form data. For other couplings it is trained on their pairs, and the estimate is too large by
E|D - E[endpoint | x_t]|^2/t^2. For GC with the ideal flow see proxy_gc.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.core.couplings import Pairs
from harness.theory.estimate import Estimate, clustered, mean, stratified
from harness.theory.flow import Function, at_level, noised, squared_norms
from harness.theory.gaussian import Gaussian, GaussianMixture
from harness.theory.oracle import Oracle


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise shaped like x, drawn on the generator's device."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)


@torch.no_grad()
def proxy_ic(
    law: Oracle | Gaussian | GaussianMixture, x: Tensor, t: float, generator: torch.Generator, draws: int = 2, all_data: bool = False
) -> Estimate:
    """Rtil_t of IC as E[ E[|x* - D*|^2 | x_t] ]/t^2; the posterior variance has far less Monte-Carlo noise than |x* - D*|^2 itself.

    x: data rows, each used with `draws` noises. all_data: x is the entire finite data set, so that only the noise is random.
    """
    values = torch.stack([law.variance(x + t * noise_like(x, generator), t) for _ in range(draws)]) / t**2
    return stratified(values) if all_data else mean(values.mean(0))


@torch.no_grad()
def proxy(
    coupling: Callable[..., Pairs],
    denoiser: Function,
    x: Tensor,
    z: Tensor,
    t: float,
    generator: torch.Generator,
    f: Function | None = None,
    batch: int = 512,
    dependent: bool = False,
) -> Estimate:
    """Rtil_t of a coupling by a denoiser of its pairs, over rows (x, z) split into batches; f predicts the endpoints of GC.

    dependent: the rows of a batch depend on each other, as in batch-OT, where the batch size is part of the coupling. The error is then
    computed from the means of two or more batches, and an incomplete last batch is dropped.
    """

    def predict(x_t: Tensor, sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        assert f is not None, "a coupling that asks for endpoints has a predictor"
        return f(x_t, sigma)

    values = []
    for a, b in zip(x.split(batch), z.split(batch), strict=True):
        if not dependent or len(a) == batch:
            level = at_level(a, t)
            end, noise = coupling(a, b, level, predict, generator)
            gap = end - denoiser(noised(end, noise, level), level)
            values.append(squared_norms(gap.double()) / t**2)
    return clustered(torch.stack(values)) if dependent else mean(torch.cat(values))
