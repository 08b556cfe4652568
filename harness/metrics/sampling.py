"""Samples for measuring: row i of resampling k has its own noise, which does not depend on chunks, device or number of processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.core.randomness import Stream, generator

SEED = 0
"""All models are measured with the same noise, which reduces the variance of differences between them."""
BLOCK = 250
"""Rows that are drawn together; any range of rows is a slice of complete blocks."""


def _rows(draw: Callable[[torch.Generator], Tensor], stream: Stream, k: int, rows: range) -> Tensor:
    """Rows of the endless list of blocks draw(generator), with one addressed generator per block."""
    first, last = rows.start // BLOCK, max(rows.start, rows.stop - 1) // BLOCK
    blocks = [draw(generator(SEED, stream, k, block)) for block in range(first, last + 1)]
    return torch.cat(blocks)[rows.start - first * BLOCK : rows.stop - first * BLOCK]


def noise(shape: tuple[int, ...], k: int, rows: range, part: int = 0) -> Tensor:
    """N(0, I) for rows of the k-th resampling, (len(rows), *shape), drawn on the CPU; part 0..15: independent draws for the same rows."""
    return _rows(lambda draw: torch.randn(BLOCK, *shape, generator=draw), "eval", 16 * k + part, rows)


def sampler(
    f: Callable[..., Tensor],
    shape: tuple[int, ...],
    sigma_max: float,
    device: torch.device | str = "cpu",
    labels: Tensor | None = None,
    classes: int = 0,
) -> Callable[[int, range], Tensor]:
    """generate(k, rows) of `harness.metrics.sample_metrics`: one-step samples f(sigma_max z, sigma_max).

    labels: for conditional models, those of the training rows (n,), int64 below `classes`: each sample is of the class of a random row, so
    that classes occur as often as in the data; addressed like the noise.
    """

    @torch.no_grad()
    def sample(k: int, rows: range) -> Tensor:
        z = noise(shape, k, rows).to(device)
        if labels is None:
            return f(sigma_max * z, z.new_full((len(z),), sigma_max), None)
        chosen = _rows(lambda draw: torch.randint(len(labels), (BLOCK,), generator=draw), "labels", k, rows)
        classes_of_rows = torch.nn.functional.one_hot(labels[chosen.to(labels.device)], classes).float().to(device)
        return f(sigma_max * z, z.new_full((len(z),), sigma_max), classes_of_rows)

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
