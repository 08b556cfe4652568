"""Batch-OT: seconds of one exact assignment over the number of rows, and how much of it the trainer hides behind a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from harness.bench.breakdown import MarkedSteps, recorded, steps_per_call
from harness.bench.profiles import FP32
from harness.bench.rows import SECONDS, SHARE, Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape, drawn_images
from harness.bench.trainers import HarnessSteps, run_of
from harness.bench.turns import Timed, timed
from harness.core.optimal_transport import assignment
from harness.core.randomness import generator

PART = "transport"
SIZES = (128, 256, 512, 1024, 2048, 4096)
WORTH_HIDING = 0.02
"""Share of a step below which what a thread hides is not reported."""
GROWTH = 8.0
"""At most so many times longer does twice the number of rows take; a size that may exceed the time is left out."""


def measure(setting: Setting) -> Iterator[Row | str]:
    """Assignments of CIFAR-10's dimension beside SciPy's, then each shape's hidden share."""
    allowed = 3 * max(setting.seconds, 0.1)
    for rows in SIZES[: 3 if setting.quick else None]:
        x, z = pairs(rows)
        calls: dict[str, Timed] = {"harness": timed(partial(assignment, x, z), torch.device("cpu"))}
        calls["scipy"] = timed(partial(by_scipy, x, z), torch.device("cpu"))
        times = setting.turns(calls, warm=True)
        yield row(PART, f"{rows} rows, d = 3072", "assignment", SECONDS, times["harness"])
        yield ratio(PART, f"{rows} rows, d = 3072", "assignment, scipy / harness", times["scipy"], times["harness"])
        if GROWTH * sum(min(seconds) for seconds in times.values()) > allowed and rows < SIZES[-1]:
            yield f"assignments of more than {rows} rows: not measured, they may take over {allowed:g} s; --seconds allows more"
            break
    for shape in setting.detailed:
        yield from hidden(setting, shape)


def pairs(rows: int) -> tuple[Tensor, Tensor]:
    """Data and noise of CIFAR-10's shape, (rows, 3072)."""
    x = drawn_images((3, 32, 32), rows).float().flatten(1) / 127.5 - 1
    return x, torch.randn(x.shape, generator=generator(0, "measure", 1))


def by_scipy(x: Tensor, z: Tensor) -> Tensor:
    """The optimal assignment by SciPy's distances and solver."""
    return torch.from_numpy(linear_sum_assignment(cdist(x.double().numpy(), z.double().numpy(), "sqeuclidean"))[1])


def hidden(setting: Setting, shape: Shape) -> Iterator[Row | str]:
    """What the training loop waits for pairs, with and without the thread that solves the next assignment while a step trains."""
    device, data, run = setting.device, shape.load(setting.device), FP32.applied(run_of(shape, "OT", setting.device))
    shares: dict[str, list[dict[str, float]]] = {"in line": [], "ahead": []}
    with ExitStack() as stack:
        calls = {}
        for name, store in shares.items():
            marked = MarkedSteps(HarnessSteps(run, data, device, assign_ahead=name == "ahead"), stack)
            calls[name] = recorded(marked, steps_per_call(marked, device), store)
        times = setting.turns(calls, warm=True)
    waits = {name: [s * share["assignment"] for s, share in zip(times[name], shares[name], strict=True)] for name in shares}
    where = setting.where(shape)
    yield row(PART, where, "wait for pairs, assigned in line / step, fp32", SHARE, [share["assignment"] for share in shares["in line"]])
    yield row(PART, where, "wait for pairs, assigned ahead / step, fp32", SHARE, [share["assignment"] for share in shares["ahead"]])
    if median(share["assignment"] for share in shares["in line"]) < WORTH_HIDING:
        yield f"{where}: assigned in line, the pairs take less than {WORTH_HIDING:.0%} of a step; what a thread hides of that is noise"
        return
    hidden_shares = [1 - ahead / line for ahead, line in zip(waits["ahead"], waits["in line"], strict=True)]
    yield row(PART, where, "share of this wait that the thread hides", SHARE, hidden_shares)
