"""The arithmetic rate of the exact denoiser, compared with the rate of a matrix product in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from harness.theory.oracle import Oracle, draw_rows, full_precision


def relative_rate(oracle: Oracle, rows: int, t: float = 5.0, repeats: int = 3) -> float:
    """The rate of the oracle on `rows` noised points (4 rows N d operations), divided by that of a matrix product of the same dtype.

    The matrix product is the faster of 2048 x 2048 x 2048 and the oracle's own tile. Each rate is that of the fastest of `repeats` runs.
    """
    generator = torch.Generator(oracle.device).manual_seed(0)
    x = oracle.data(draw_rows(len(oracle), rows, torch.Generator().manual_seed(0))).flatten(1)
    x = x + t * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    tile = (*oracle.tiles(rows), x.shape[1])
    calls: list[Callable[[], object]] = [partial(oracle.denoise, x, t)]
    work = [4 * rows * len(oracle) * x.shape[1]]
    for m, n, k in ((2048, 2048, 2048), tile):
        a = torch.randn(m, k, generator=generator, device=x.device, dtype=x.dtype)
        b = torch.randn(n, k, generator=generator, device=x.device, dtype=x.dtype)
        out = torch.empty(m, n, device=x.device, dtype=x.dtype)
        calls.append(partial(torch.mm, a, b.T, out=out))
        work.append(2 * m * n * k)
    with full_precision(oracle.device):
        # the calls alternate, so that another process on this machine slows all of them
        seconds = [[seconds_of(call, oracle.device) for call in calls] for _ in range(repeats + 1)][1:]
    denoiser, *products = (w / min(column) for w, column in zip(work, zip(*seconds, strict=True), strict=True))
    return denoiser / max(products)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of a call, including the time until the GPU is idle."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
