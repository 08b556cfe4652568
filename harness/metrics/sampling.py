"""Samples for measuring: row i of resampling k has its own noise, which does not depend on chunks, device or number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.randomness import Stream, generator

SEED = 0
"""All models are measured with the same noise, which reduces the variance of differences between them."""
BLOCK = 250
"""Rows that are drawn together; any range of rows is a slice of complete blocks."""


def _rows(source: Callable[[torch.Generator], Tensor], stream: Stream, k: int, rows: range) -> Tensor:
    """Rows of the endless list of blocks source(generator), with one addressed generator per block."""
    first, last = rows.start // BLOCK, max(rows.start, rows.stop - 1) // BLOCK
    blocks = [source(generator(SEED, stream, k, block)) for block in range(first, last + 1)]
    return torch.cat(blocks)[rows.start - first * BLOCK : rows.stop - first * BLOCK]


def noise(shape: tuple[int, ...], k: int, rows: range, part: int = 0) -> Tensor:
    """N(0, I) for rows of the k-th resampling, (len(rows), *shape), drawn on the CPU.

    part: independent draws for the same rows: 0 for the first step of a sample, 1 to 14 for further ones, 15 for the endpoints of Figure 7.
    """
    return _rows(lambda drawing: torch.randn(BLOCK, *shape, generator=drawing), "eval", 16 * k + part, rows)


@dataclass(frozen=True)
class Steps:
    """How a consistency function draws a sample: x_0 = f(sigma_max z_0, sigma_max), then x_j = f(x_{j-1} + sqrt(t_j^2 - s0^2) z_j, t_j).

    This is multistep consistency sampling (arXiv 2303.01469, Algorithm 1), with nothing clipped between the steps. At the level s0, f is
    the identity; it is 0 for ECT, whose rule is x + t z.
    """

    sigma_max: float
    times: tuple[float, ...] = ()
    """t_1 > t_2 > ..., at most 14; () for one step."""
    sigma_0: float = 0.0
    """s0, below every time."""
    renoising: Literal["stochastic", "deterministic"] = "stochastic"
    """stochastic: z_1, z_2, ... are new draws. deterministic: they equal z_0."""


def draw(
    f: Callable[..., Tensor],
    steps: Steps,
    shape: tuple[int, ...],
    k: int,
    rows: range,
    device: torch.device | str = "cpu",
    one_hot: Tensor | None = None,
) -> Tensor:
    """Samples `rows` of the k-th resampling, (len(rows), *shape), on `device`; z_j is part j of their `noise`.

    one_hot: for conditional models, their classes, (len(rows), classes).
    """
    z = noise(shape, k, rows).to(device)
    x = f(steps.sigma_max * z, z.new_full((len(z),), steps.sigma_max), one_hot)
    for part, t in enumerate(steps.times, 1):
        if steps.renoising == "stochastic":
            z = noise(shape, k, rows, part).to(device)
        x = f(x + math.sqrt(t**2 - steps.sigma_0**2) * z, z.new_full((len(z),), t), one_hot)
    return x


def sample_classes(law: Literal["data", "balanced"], labels: Tensor, classes: int, k: int, rows: range) -> Tensor:
    """The classes of samples `rows` of the k-th resampling, int64 (len(rows),) below `classes`, on the device of `labels`.

    data: those of random training rows, whose classes are `labels` (n,); addressed like the noise. balanced: row i is of class i modulo
    `classes`, so the classes occur equally often, up to one.
    """
    if law == "balanced":
        return torch.arange(rows.start, rows.stop, device=labels.device) % classes
    chosen = _rows(lambda drawing: torch.randint(len(labels), (BLOCK,), generator=drawing), "labels", k, rows)
    return labels[chosen.to(labels.device)]


def sampler(
    f: Callable[..., Tensor],
    shape: tuple[int, ...],
    steps: Steps,
    device: torch.device | str = "cpu",
    labels: Tensor | None = None,
    classes: int = 0,
    law: Literal["data", "balanced"] = "data",
) -> Callable[[int, range], Tensor]:
    """generate(k, rows) of `harness.metrics.sample_metrics`: samples that f(x, sigma, one-hot classes or None) draws in these steps.

    labels: for conditional models, those of the training rows (n,), int64 below `classes`. law: as for `sample_classes`.
    """

    @torch.no_grad()
    def sample(k: int, rows: range) -> Tensor:
        if labels is None:
            return draw(f, steps, shape, k, rows, device)
        one_hot = torch.nn.functional.one_hot(sample_classes(law, labels, classes, k, rows), classes).float().to(device)
        return draw(f, steps, shape, k, rows, device, one_hot)

    return lambda k, rows: in_halves(sample, k, rows)


def in_halves(generate: Callable[[int, range], Tensor], k: int, rows: range) -> Tensor:
    """generate(k, rows), in halves where the GPU's memory runs out; every row has its own noise, so the samples are the same."""
    try:
        return generate(k, rows)
    except RuntimeError as error:
        if len(rows) < 2 or not out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return torch.cat([in_halves(generate, k, part) for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :])])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the memory of a GPU ran out: in torch's own allocator, or in a library beside it (cuBLAS, cuDNN), which is another error."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in text or "STATUS_ALLOC_FAILED" in text
