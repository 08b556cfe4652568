"""Couplings of data and noise, with one signature, so that training, transport cost and discrepancy use the same functions:

    coupling(x, z, sigma, predict, generator) -> (x', z')

x (n, ...) data, z (n, ...) noise, sigma (n,) the LOWER noise level of each row, predict(x_sigma, sigma, rows) an endpoint predictor under
no-grad (rows: the indices of these rows in the batch), generator a CPU generator addressed to this step. Returns the new pairs.
A coupling within classes also takes classes=(n,), the class of each row, int64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.parts import BatchOT, EntropicOT, GeneratorAugmented, Independent, Variational
from harness.config.run import Run
from harness.core import optimal_transport
from harness.core.consistency import per_row
from harness.core.transfer import send

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Coupling:
    """A coupling and how the trainer applies it."""

    function: Callable[..., Pairs]
    ahead: bool = False
    """The function needs x and z only, so that the next batch can be coupled while this one trains."""
    predictor: str | None = None
    """Which network predicts the endpoints: "ema", "online", "frozen", or None."""
    whole_batch: bool = False
    """For `ahead` couplings: couples the rows of all processes, not those of each process."""
    steps: int = 1
    """For `whole_batch` couplings: number of consecutive training steps whose rows are coupled together."""
    within_classes: bool = False
    """The function takes the class of each row and mixes no classes."""
    draws: bool = False
    """For `ahead` couplings: the function takes a generator, addressed to the step and the process, as its keyword `generator`."""


def independent(x: Tensor, z: Tensor, *_: object) -> Pairs:
    """IC: the pair as drawn."""
    return x, z


def permuted_within(classes: Tensor | None, rows: int, permutation: Callable[[Tensor], Tensor]) -> Tensor:
    """A permutation of all rows that maps each row to one of its class, (rows,) int64 on the CPU.

    permutation(group): a permutation of the rows of one group, as positions in it. classes: (rows,), or None for one group of all.
    """
    if classes is None:
        return permutation(torch.arange(rows)).cpu()
    result, classes = torch.empty(rows, dtype=torch.int64), classes.cpu()
    for label in sorted(set(classes.tolist())):
        group = (classes == label).nonzero().squeeze(1)
        result[group] = group[permutation(group).cpu()]
    return result


def _assignment(x: Tensor, z: Tensor, group: Tensor, cost: str = "squared") -> Tensor:
    return optimal_transport.assignment(x[group.to(x.device)], z[group.to(z.device)], cost)


def batch_ot(cost: str = "squared", size: int | None = None) -> Callable[..., Pairs]:
    """Batch-OT: the noise rows in the order of the optimal assignment to the data rows (arXiv 2302.00482, 2304.14772).

    size: number of consecutive rows assigned together (the last group may be smaller); None for all. With classes, only rows of the same
    class are assigned to each other: the noise of each class is then a permutation of what was drawn for it, so it stays N(0, I).
    """

    def assigned(x: Tensor, z: Tensor, classes: Tensor | None) -> Tensor:
        order = permuted_within(classes, len(x), lambda group: _assignment(x, z, group, cost))
        return z[send(order, z.device)]

    def couple(x: Tensor, z: Tensor, *_: object, classes: Tensor | None = None) -> Pairs:
        starts = range(0, len(x), size or max(1, len(x)))
        pieces = [slice(start, start + (size or len(x))) for start in starts]
        return x, torch.cat([assigned(x[piece], z[piece], None if classes is None else classes[piece]) for piece in pieces])

    return couple


def entropic_ot(regularisation: float) -> Callable[..., Pairs]:
    """Entropic batch-OT (arXiv 2302.00482): each data row draws the noise of a row of the batch from its row of the entropic plan.

    regularisation: weight of the entropy over the mean cost of the rows that are coupled together. A row of noise may be drawn more than
    once; over many batches each is drawn equally often, so the noise stays N(0, I). With classes, each class has a plan of its own.
    Raises HarnessError as `optimal_transport.entropic_plan`.
    """

    def couple(
        x: Tensor, z: Tensor, sigma: object = None, predict: object = None,
        generator: torch.Generator | None = None, classes: Tensor | None = None,
    ) -> Pairs:  # fmt: skip
        levels = torch.rand(len(x), generator=generator, dtype=torch.float64)
        drawn, groups = torch.empty(len(x), dtype=torch.int64), [torch.arange(len(x))]
        if classes is not None:
            groups = [(classes.cpu() == label).nonzero().squeeze(1) for label in sorted(set(classes.tolist()))]
        for group in groups:
            plan = optimal_transport.entropic_plan(x[group.to(x.device)], z[group.to(z.device)], regularisation)
            cumulative = plan.cumsum(1) / plan.sum(1, keepdim=True)
            drawn[group] = group[torch.searchsorted(cumulative, levels[group, None]).squeeze(1).clamp(max=len(group) - 1)]
        return x, z[send(drawn, z.device)]

    return couple


def generator_augmented(mu: float, variant: str = "gc", sigma_max: float = 80.0, whole_batch: bool = False) -> Callable[..., Pairs]:
    """GC with joint learning, (13), (14), (21): a row becomes (sg f(x + sigma z, sigma), z) with probability mu.

    Only those rows go through the predictor, unless whole_batch (as in the released code, same pairs). Variants keep the predictor and
    change the pairing: "fresh-noise" (endpoint, new noise), "shuffled" (endpoints permuted among the GC rows), "batch-ot" (endpoints, noise
    assigned optimally among the GC rows), "reflow" (endpoint predicted from pure noise, f(sigma_max z, sigma_max)).
    With classes, "shuffled" and "batch-ot" permute the GC rows of each class.
    """

    def couple(x: Tensor, z: Tensor, sigma: Tensor, predict: Predict, generator: torch.Generator, classes: Tensor | None = None) -> Pairs:
        rows = (torch.rand(len(x), generator=generator) < mu).nonzero().squeeze(1)
        if not len(rows):
            return x, z
        chosen = send(rows, x.device)
        predicted = torch.arange(len(x), device=x.device) if whole_batch else chosen
        level = sigma.to(x)[predicted]
        if variant == "reflow":
            level = torch.full_like(level, sigma_max)
            start = sigma_max * z[predicted]
        else:
            start = x[predicted] + per_row(level, x) * z[predicted]
        endpoint = predict(start, level, predicted)
        if whole_batch:
            endpoint = endpoint[chosen]
        noise = z[chosen]
        of_rows = None if classes is None else classes.cpu()[rows]
        if variant == "fresh-noise":
            noise = send(torch.randn(noise.shape, generator=generator), noise.device).to(noise)
        elif variant == "shuffled":
            order = permuted_within(of_rows, len(rows), lambda group: torch.randperm(len(group), generator=generator))
            endpoint = endpoint[send(order, x.device)]
        elif variant == "batch-ot":
            order = permuted_within(of_rows, len(rows), lambda group: _assignment(endpoint, noise, group))
            noise = noise[send(order, x.device)]
        return x.index_copy(0, chosen, endpoint.to(x)), z.index_copy(0, chosen, noise)

    return couple


def build(run: Run) -> Coupling:
    """The coupling of a run, under its protocol. Raises TypeError for a Custom one, which harness.training.user_couplings loads."""
    settings, protocol = run.coupling, run.protocol
    match settings:
        case Independent():
            return Coupling(independent)
        case BatchOT():
            cost = "squared" if protocol.ot_cost == "paper" else "truncated"
            steps = max(1, (settings.size or 1) // run.train.batch)
            function = batch_ot(cost, settings.size)
            whole_batch = settings.scope == "global"
            return Coupling(function, ahead=True, whole_batch=whole_batch, steps=steps, within_classes=settings.within_classes)
        case EntropicOT():
            return Coupling(entropic_ot(settings.regularisation), ahead=True, within_classes=settings.within_classes, draws=True)
        case Variational():
            return Coupling(independent)  # of the encoder's standard normal noise; the trainer applies the encoder
        case GeneratorAugmented():
            mu = settings.mu if protocol.mu == "paper" else 1 - settings.mu
            function = generator_augmented(mu, settings.variant, run.noise.sigma_max, protocol.predictor_rows == "released")
            return Coupling(function, predictor=settings.predictor, within_classes=settings.within_classes)
    raise TypeError(f"not a coupling: {settings!r}")
