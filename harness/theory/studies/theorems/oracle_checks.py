"""Checks of the exact answers: the denoiser against direct sums, Rtil_IC of all digits, and how the ideal flow depends on its steps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from harness.data import datasets
from harness.stats.uncertainty import AGREEMENT
from harness.store.measurements import MeasurementRow
from harness.theory.estimate import Estimate
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like, proxy_ic
from harness.theory.rate import relative_rate
from harness.theory.studies.common import StudyContext, measured_row
from harness.theory.studies.theorems.subjects import Subject, address

LEVELS = (0.1, 1.0, 5.0, 20.0)
TOLERANCE = 1e-5
"""Largest allowed error per pixel, in float32."""
ALL_DIGITS = {1.0: (4.810, 0.014), 5.0: (0.7085, 0.0006), 20.0: (0.04677, 0.00003)}
"""Rtil_IC of the 1,797 digits at three levels with its error, computed independently of this code."""


def brute(oracle: Oracle, x: Tensor, t: float, size: int = 1024) -> Tensor:
    """D*(x, t) directly from its definition in float64, without centring or streaming; x (n, d), few rows."""
    x = x.double()
    chunks = [oracle.data(part).flatten(1).double() for part in torch.arange(len(oracle)).split(size)]
    logits = torch.cat([-(x[:, None] - chunk[None]).square().sum(2) / (2 * t**2) for chunk in chunks], 1)
    return torch.softmax(logits, 1) @ torch.cat(chunks)


def measure(context: StudyContext, subject: Subject) -> list[MeasurementRow]:
    """The largest error of D*, the change of the ideal flow from 20 to 40 steps, the rate of D*, and for the digits Rtil_IC of all."""
    rows = errors(subject) + flow_changes(subject)
    if subject.name == "digits":
        rows += all_digits()
    return [*rows, _rate(context)]


def errors(subject: Subject, n: int = 16) -> list[MeasurementRow]:
    """The largest error of D* in float32 over n rows at each level, with the tolerance as its truth."""
    # a verdict allows AGREEMENT standard errors, which are together the tolerance
    truth = Estimate(0.0, TOLERANCE / AGREEMENT, 0)
    protocol = {"rows": n, "tolerance": TOLERANCE}
    case = f"largest of a pixel, {TOLERANCE:g} allowed"
    rows = []
    for t in LEVELS:
        draws = address(subject.name, "error", t)
        x = subject.exact.data(draw_rows(len(subject.exact), n, draws)).flatten(1)
        x = (x + t * noise_like(x, draws)).float()
        largest = float((subject.fast.denoise(x, t).double() - brute(subject.exact, x, t)).abs().max())
        rows.append(measured_row("oracle-error", largest, data=subject.name, case=case, truth=truth, x=t, protocol=protocol))
    return rows


def all_digits() -> list[MeasurementRow]:
    """Rtil_IC of the 1,797 digits, with the values of ALL_DIGITS as truth."""
    oracle = Oracle(datasets.load("digits", "all").rows, torch.float64)
    new_row = partial(measured_row, "exact-rtil", data="digits", coupling="ic", case="all 1,797", protocol={"draws": 16})
    rows = []
    for t, (value, se) in ALL_DIGITS.items():
        estimate = proxy_ic(oracle, oracle.data(), t, address("digits", "all", t), draws=16, all_data=True)
        rows.append(new_row(estimate, truth=Estimate(value, se, 0), x=t))
    return rows


def flow_changes(subject: Subject, n: int = 64) -> list[MeasurementRow]:
    """Median and largest root mean square change of the coordinates of n rows when the steps of the ideal flow are doubled.

    The remaining error is about a third of it. A few rows start near the border of two basins and may reach another data point.
    """
    new_row = partial(measured_row, "flow-change", data=subject.name, protocol={"rows": n, "steps": [20, 40]})
    rows = []
    for t in LEVELS[1:]:
        x, z = subject.draw_fast(n, address(subject.name, "flow", t))
        coarse, fine = (subject.fast.flow(x + t * z, t, steps=steps) for steps in (20, 40))
        change = (fine - coarse).square().mean(1).sqrt()
        for case, value in (("median", change.median()), ("largest", change.max())):
            rows.append(new_row(float(value), case=f"{case} of a coordinate, 20 to 40 steps", x=t))
    return rows


def _rate(context: StudyContext) -> MeasurementRow:
    """The rate of the denoiser divided by that of a matrix product, at d = 3072 on images of noise."""
    images = torch.randint(0, 256, (2048, 3072), dtype=torch.uint8, generator=address("rate"))
    oracle = Oracle(images.to(context.device))
    rate = relative_rate(oracle, rows=512, t=20.0, repeats=2)
    protocol = {"points": 2048, "rows": 512}
    return measured_row("oracle-rate", rate, data="noise", case="of the matrix product's, d = 3072", protocol=protocol)
