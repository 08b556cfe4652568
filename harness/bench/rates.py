"""Arithmetic: the operations of a training step per second, beside those of the machine's matrix products and convolutions.

A multiplication with its addition counts as two operations, and only matrix products, convolutions and their gradients are counted, by
torch.utils.flop_counter. The matrix product and the convolution are measured in the same precision, by turns with the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.bench.profiles import FP32
from harness.bench.rows import SHARE, Row, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape, threads_of
from harness.bench.trainers import HarnessSteps, fit_turns, run_of
from harness.bench.turns import Timed, timed
from harness.config.run import Run
from harness.data.datasets import Dataset
from harness.training import model, user_couplings
from harness.training.batches import ALONE, Batches
from harness.training.loop import couple, gradients

PART = "rates"
RATE = "GFLOP/s"
MATRIX = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices, which are large enough for the machine's best rate."""


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call in matrix products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def flops_of_step(run: Run, data: Dataset) -> int:
    """The operations of one training step: endpoint predictor, student, teacher and gradient. The same in every precision.

    GC: of a step in which the share mu of the rows is GC, up to the draw of the mask.
    """
    run = FP32.applied(run)
    batches = Batches(run, data, ALONE, user_couplings.build(run))
    trained, step, rows = model.create(run, data.rows.device), batches(0), run.train.batch
    predictor = trained.ema if run.coupling.kind == "gc" else None

    def one_step() -> None:
        gradients(run, trained.online, couple(batches, 0, step, predictor, rows), 0, 1.0, 0, rows)

    return flops(one_step)


def product(dtype: torch.dtype, device: torch.device, size: int | None = None) -> tuple[Callable[[], object], int]:
    """A matrix product and its operations."""
    n = size or MATRIX[device.type]
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=out), 2 * n**3


def convolution(shape: Shape, run: Run, dtype: torch.dtype, device: torch.device, data: Dataset) -> tuple[Callable[[], object], int]:
    """A 3 x 3 convolution of the finest level, forward and backward, and its operations; channels last, the faster layout."""
    channels, batch, (_, height, width) = run.network.base_channels * run.network.channel_mult[0], run.train.batch, data.shape
    x = torch.randn(batch, channels, height, width, device=device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight = nn.Parameter(torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last))

    def call() -> None:
        x.grad = weight.grad = None
        y = F.conv2d(x, weight, padding=1)
        y.backward(torch.ones_like(y))

    return call, 3 * 2 * batch * channels**2 * 9 * height * width


def measure(setting: Setting) -> Iterator[Row | str]:
    """For each shape of images and each precision: the rates of the GC step, the matrix product and the convolution, and their ratios."""
    device = setting.device
    for shape in setting.detailed:
        if not shape.is_images:
            continue
        run, data = run_of(shape, "GC", device), shape.load(device)
        where = setting.where(shape)
        operations = flops_of_step(run, data)
        yield row(PART, where, "operations of a GC step", "GFLOP", [operations / 1e9])
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            profiles = [profile for profile in setting.profiles_for(shape)[0] if profile.applied(run).train.precision == precision]
            trainers = {profile.name: HarnessSteps(profile.applied(run), data, device) for profile in profiles}
            fit_turns(trainers.values())
            with threads_of(run):
                limits = {"matrix product": product(dtype, device), "convolution": convolution(shape, run, dtype, device, data)}
                calls: dict[str, Timed] = {**trainers, **{name: _threaded(timed(call, device), run) for name, (call, _) in limits.items()}}
            times = setting.turns(calls, warm=True)
            rates = {name: [operations / seconds / 1e9 for seconds in times[name]] for name in trainers}
            rates |= {name: [work / seconds / 1e9 for seconds in times[name]] for name, (_, work) in limits.items()}
            for name in limits:
                yield row(PART, where, f"{name}, {precision}", RATE, rates[name])
            bar = "at least 40 %" if (shape.name, precision, device.type) == ("cifar10", "bf16", "cuda") else ""
            for name in trainers:
                yield row(PART, where, f"GC step, {name}", RATE, rates[name])
                for limit in limits:
                    share = [a / b for a, b in zip(rates[name], rates[limit], strict=True)]
                    yield row(
                        PART, where, f"GC step, {name} / {limit}, {precision}", SHARE, share, bar if limit == "matrix product" else ""
                    )


def _threaded(call: Timed, run: Run) -> Timed:
    def with_threads() -> float:
        with threads_of(run):
            return call()

    return with_threads
