"""Couplings of data and noise. All have one signature, so that training, transport cost and discrepancy use the same functions:

    coupling(x, z, sigma, predict, generator) -> (x', z')

x (n, ...) data, z (n, ...) noise, sigma (n,) the LOWER noise level of each row, predict(x_sigma, sigma, rows) an endpoint predictor under
no-grad (rows: which rows of the batch these are), generator a CPU generator addressed to this step. New pairs come back, row by row.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness import config
from harness.core.consistency import per_row
from harness.errors import HarnessError
from harness.store import project_root

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


def load_custom(settings: config.Custom) -> Callable[..., Pairs]:
    """A user's function(x, z, sigma, predict[, generator], **options) -> (x', z') out of its file.

    A relative path counts from the project. Raises HarnessError when the file is missing, was edited since the run was planned, or has no
    such function, and on the first batch when what comes back is no pair of tensors like x and z.
    """
    file, name = settings.source.rsplit(":", 1)
    path = project_root() / file
    if not path.is_file():
        raise HarnessError("the file of a coupling is missing", where=settings.source, found="no file", expected=f"a Python file at {path}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != settings.sha256:
        raise HarnessError(
            "the coupling was edited after the run was planned", where=settings.source, found=found[:12], expected=settings.sha256[:12],
            nearest="plan again: the edited coupling is a run of its own",
        )
    spec = importlib.util.spec_from_file_location(f"custom_coupling_{found[:12]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        names = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise HarnessError("no such coupling in the file", where=settings.source, found=names, expected=name)
    wants_generator = "generator" in inspect.signature(function).parameters

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict | None, generator: torch.Generator) -> Pairs:
        extra = {"generator": generator} if wants_generator else {}
        pairs = function(x, z, sigma, predict, **extra, **settings.options)
        if not (isinstance(pairs, tuple | list) and len(pairs) == 2 and all(isinstance(t, Tensor) for t in pairs)):
            found = type(pairs).__name__
            raise HarnessError("a coupling must return data and noise", where=settings.source, found=found, expected="two tensors (x', z')")
        shapes, expected = tuple(tuple(t.shape) for t in pairs), (tuple(x.shape), tuple(z.shape))
        if shapes != expected:
            raise HarnessError("a coupling must keep the shapes", where=settings.source, found=shapes, expected=expected)
        return pairs[0].detach().to(x), pairs[1].detach().to(z)

    return couple


def build(run: config.Run) -> Coupling:
    """The coupling of a run, under its protocol."""
    settings, protocol = run.coupling, run.protocol
    match settings:
        case config.Independent():
            return Coupling(independent)
        case config.BatchOT():
            cost = "squared" if protocol.ot_cost == "paper" else "truncated"
            steps = max(1, (settings.size or 1) // run.train.batch)
            return Coupling(batch_ot(cost, settings.size), ahead=True, whole_batch=settings.scope == "global", steps=steps)
        case config.GeneratorAugmented():
            mu = settings.mu if protocol.mu == "paper" else 1 - settings.mu
            whole = protocol.predictor_rows == "released"
            function = generator_augmented(mu, settings.variant, run.noise.sigma_max, whole)
            return Coupling(function, predictor=settings.predictor)
        case config.Custom():
            return Coupling(load_custom(settings), predictor="ema")
    raise TypeError(f"not a coupling: {settings!r}")
