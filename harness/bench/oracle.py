"""The measurements' own arithmetic: the exact denoiser of the data, and derivatives along a direction (JVP) of it and of the network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.bench.profiles import FP32
from harness.bench.rows import Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape
from harness.bench.trainers import run_of
from harness.bench.turns import Timed, timed
from harness.theory.oracle import Oracle
from harness.theory.rate import relative_rate
from harness.training.model import preconditioned

PART = "oracle"
WORK = {"cpu": 2e9, "cuda": 1e13}
"""Floating-point operations of one call of the exact denoiser."""
LEVEL = 5.0
"""The noise level at which it is evaluated."""


def measure(setting: Setting) -> Iterator[Row | str]:
    for shape in setting.detailed:
        yield from of_shape(setting, shape)


def of_shape(setting: Setting, shape: Shape) -> Iterator[Row]:
    """The exact denoiser beside the matrix product, and JVPs beside the function alone, whose cost is about twice."""
    device, data = setting.device, shape.load(setting.device)
    exact = Oracle(data.rows)
    points, d = exact.points.shape
    rows = int(max(32, min(4096 if device.type == "cuda" else 1024, WORK[device.type] / (4 * points * d))))
    f = preconditioned(FP32.applied(run_of(shape, "GC", device))).to(device).eval().requires_grad_(False)
    x = data.batch(torch.arange(min(rows, run_of(shape, "GC", device).train.batch)) % len(data))
    sigma, direction = torch.full((len(x),), LEVEL, device=device), torch.ones_like(x)
    many = exact.data(torch.arange(rows) % len(exact)).to(device)
    many = many + LEVEL * torch.randn(many.shape, generator=torch.Generator(device).manual_seed(0), device=device)

    def denoise(y: Tensor) -> Tensor:
        return exact.denoise(y, LEVEL)

    calls: dict[str, Timed] = {
        "rate": lambda: relative_rate(exact, rows, repeats=1),
        "denoise": timed(lambda: denoise(many), device),
        "denoise, jvp": timed(lambda: torch.func.jvp(denoise, (many,), (torch.ones_like(many),)), device),
        "network": timed(lambda: _without_gradient(f, x, sigma), device),
        "network, jvp": timed(lambda: torch.func.jvp(lambda y: f(y, sigma), (x,), (direction,)), device),
    }
    times = setting.turns(calls)
    where = f"{shape.name}, {points} points"
    yield row(PART, where, "exact denoiser's rate / matrix product's", "x", times["rate"], "at least 0.6 at d = 3072")
    yield ratio(PART, where, "exact denoiser, JVP / value", times["denoise, jvp"], times["denoise"])
    yield ratio(PART, where, "network, JVP / value", times["network, jvp"], times["network"])
    yield row(PART, where, "exact denoiser", "rows/s", [rows / seconds for seconds in times["denoise"]])


@torch.no_grad()
def _without_gradient(f: torch.nn.Module, x: Tensor, sigma: Tensor) -> object:
    return f(x, sigma)
