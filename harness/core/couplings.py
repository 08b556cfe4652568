"""Couplings of data and noise. All have one signature, so that training, transport cost and discrepancy use the same functions:

    coupling(x, z, sigma, predict, generator) -> (x', z')

x (n, ...) data, z (n, ...) noise, sigma (n,) the LOWER noise level of each row, predict(x_sigma, sigma, rows) an endpoint predictor under
no-grad (rows: which rows of the batch these are), generator a CPU generator addressed to this step. New pairs come back, row by row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.config.run import BatchOT, GeneratorAugmented, Independent, Run
from harness.core.consistency import per_row

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Coupling:
    """A coupling and what the trainer must know of it."""

    function: Callable[..., Pairs]
    ahead: bool = False
    """Needs (x, z) alone, so the next batch's can be solved while this one trains."""
    predictor: str | None = None
    """Which network predicts the endpoints: "ema", "online", "frozen", or None."""
    whole_batch: bool = False
    """Ahead couplings only: over the rows of all processes, not of one."""
    steps: int = 1
    """Couplings over the whole batch only: consecutive training steps whose rows are coupled together."""

    def __call__(self, x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        return self.function(x, z, sigma, predict, generator)


def independent(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
    """IC: the pair as drawn."""
    return x, z


def optimal_assignment(x: Tensor, z: Tensor, cost: str = "squared") -> Tensor:
    """The permutation p that minimises sum_i cost(x_i, z_p(i)), exact, by POT's network simplex on the CPU; (n,) int64.

    cost: "squared" distance, or "truncated" (the released helper: plain distance, cut to an integer). Raises RuntimeError when the solver
    stops before the optimum or returns no permutation.
    """
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")
    import ot

    a, b = (t.detach().flatten(1).to("cpu", torch.float64).numpy() for t in (x, z))
    matrix = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
    if cost == "truncated":
        matrix = np.floor(np.sqrt(matrix))
    plan, log = ot.emd([], [], matrix, numItermax=10_000_000, log=True)
    permutation = plan.argmax(1)
    if log["warning"] or len(np.unique(permutation)) != len(permutation):
        raise RuntimeError(f"no optimal assignment of {len(a)} rows: {log['warning'] or 'the plan is not a permutation'}")
    return torch.from_numpy(permutation)


def batch_ot(cost: str = "squared", size: int | None = None) -> Callable[..., Pairs]:
    """Batch-OT: the noise rows put in the order of the optimal assignment to the data rows (arXiv 2302.00482, 2304.14772).

    size: rows assigned together, so many after another (the last ones may be fewer); None for all.
    """

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        parts = zip(x.split(size or len(x)), z.split(size or len(x)), strict=True)
        return x, torch.cat([b[optimal_assignment(a, b, cost).to(b.device)] for a, b in parts])

    return couple


def generator_augmented(mu: float, variant: str = "gc", sigma_max: float = 80.0, whole_batch: bool = False) -> Callable[..., Pairs]:
    """GC with joint learning, (13), (14), (21): a row becomes (sg f(x + sigma z, sigma), z) with probability mu.

    Only those rows go through the predictor, unless whole_batch (the released code's way, same pairs). Variants keep the predictor and
    change the pairing: "fresh-noise" (endpoint, new noise), "shuffled" (endpoints permuted among the GC rows), "batch-ot" (endpoints, noise
    assigned optimally among the GC rows), "reflow" (endpoint predicted from pure noise, f(sigma_max z, sigma_max)).
    """

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        rows = (torch.rand(len(x), generator=generator) < mu).nonzero().squeeze(1)
        if not len(rows):
            return x, z
        chosen = rows.to(x.device)
        asked = torch.arange(len(x), device=x.device) if whole_batch else chosen
        level = sigma.to(x)[asked]
        if variant == "reflow":
            level = torch.full_like(level, sigma_max)
            start = sigma_max * z[asked]
        else:
            start = x[asked] + per_row(level, x) * z[asked]
        endpoint = predict(start, level, asked)
        if whole_batch:
            endpoint = endpoint[chosen]
        noise = z[chosen]
        if variant == "fresh-noise":
            noise = torch.randn(noise.shape, generator=generator).to(noise)
        elif variant == "shuffled":
            endpoint = endpoint[torch.randperm(len(rows), generator=generator).to(x.device)]
        elif variant == "batch-ot":
            noise = noise[optimal_assignment(endpoint, noise).to(x.device)]
        return x.index_copy(0, chosen, endpoint.to(x)), z.index_copy(0, chosen, noise)

    return couple


def build(run: Run) -> Coupling:
    """The coupling of a run, under its protocol. Raises TypeError for a user's own, which harness.training.user_couplings loads."""
    settings, protocol = run.coupling, run.protocol
    match settings:
        case Independent():
            return Coupling(independent)
        case BatchOT():
            cost = "squared" if protocol.ot_cost == "paper" else "truncated"
            steps = max(1, (settings.size or 1) // run.train.batch)
            return Coupling(batch_ot(cost, settings.size), ahead=True, whole_batch=settings.scope == "global", steps=steps)
        case GeneratorAugmented():
            mu = settings.mu if protocol.mu == "paper" else 1 - settings.mu
            whole = protocol.predictor_rows == "released"
            function = generator_augmented(mu, settings.variant, run.noise.sigma_max, whole)
            return Coupling(function, predictor=settings.predictor)
    raise TypeError(f"not a coupling: {settings!r}")
