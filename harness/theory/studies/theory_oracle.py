"""The exact answers themselves: the denoiser against double sums, Rtil_IC of all digits, how far the ideal flow depends on its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.data import datasets
from harness.theory.estimate import Estimate
from harness.theory.flow import flow_with_tolerance
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.proxy import noise_like, proxy_ic
from harness.theory.rate import measure_rate
from harness.theory.studies.common import ERRORS, Row, Setting, row
from harness.theory.studies.theory_subjects import Subject, address

LEVELS = (0.1, 1.0, 5.0, 20.0)
TOLERANCE = 1e-5
"""Of a pixel, in float32."""
ALL_DIGITS = {1.0: (4.810, 0.014), 5.0: (0.7085, 0.0006), 20.0: (0.04677, 0.00003)}
"""Rtil_IC of the 1,797 digits with its error, computed apart from this code."""


def brute(oracle: Oracle, x: Tensor, t: float, size: int = 1024) -> Tensor:
    """D*(x, t) straight from its definition, by differences in float64, nothing centred or streamed; x (n, d), few rows."""
    x = x.double()
    chunks = [oracle.data(part).flatten(1).double() for part in torch.arange(len(oracle)).split(size)]
    logits = torch.cat([-(x[:, None] - chunk[None]).square().sum(2) / (2 * t**2) for chunk in chunks], 1)
    return torch.softmax(logits, 1) @ torch.cat(chunks)


def measure(setting: Setting, subject: Subject) -> list[Row]:
    """The largest error of D*, the ideal flow's change from 20 to 40 steps, the rate; for the digits Rtil_IC of all of them."""
    made = _errors(subject) + _tolerance(subject)
    if subject.name == "digits":
        made += all_digits()
    return [*made, _rate(setting)]


def _errors(subject: Subject, rows: int = 16) -> list[Row]:
    made = []
    for t in LEVELS:
        draws = address(subject.name, "error", t)
        x = subject.exact.data(draw_rows(len(subject.exact), rows, draws)).flatten(1)
        x = (x + t * noise_like(x, draws)).float()
        worst = float((subject.fast.denoise(x, t).double() - brute(subject.exact, x, t)).abs().max())
        told = {"rows": rows, "tolerance": TOLERANCE}
        # the tolerance stands where the verdict looks for three standard errors
        truth = Estimate(0.0, TOLERANCE / ERRORS, 0)
        case = f"largest of a pixel, {TOLERANCE:g} allowed"
        made.append(row("oracle-error", subject.name, worst, case=case, truth=truth, x=t, protocol=told))
    return made


def all_digits() -> list[Row]:
    """Rtil_IC of the 1,797 digits, beside the values known from elsewhere."""
    data = datasets.load("digits", "all").rows
    oracle = Oracle(data, torch.float64)
    made = []
    for t, (value, se) in ALL_DIGITS.items():
        found = proxy_ic(oracle, oracle.data(), t, address("digits", "all", t), draws=16, whole=True)
        rest = {"coupling": "ic", "case": "all 1,797", "x": t, "protocol": {"draws": 16}}
        made.append(row("exact-rtil", "digits", found, truth=Estimate(value, se, 0), **rest))
    return made


def _tolerance(subject: Subject, rows: int = 64) -> list[Row]:
    made = []
    for t in LEVELS[1:]:
        x, z = subject.draw_fast(rows, address(subject.name, "flow", t))
        found = flow_with_tolerance(subject.fast.denoise, x + t * z, t)
        for case, value in (("median", found.median), ("largest", found.largest)):
            told = {"rows": rows, "steps": [20, 40]}
            made.append(row("flow-change", subject.name, value, case=f"{case} of a coordinate, 20 to 40 steps", x=t, protocol=told))
    return made


def _rate(setting: Setting) -> Row:
    """The share of the matrix product's rate that the denoiser reaches at d = 3072, on images of noise."""
    images = torch.randint(0, 256, (2048, 3072), dtype=torch.uint8, generator=address("rate"))
    oracle = Oracle(images.to(setting.device))
    found = measure_rate(oracle, rows=512, t=20.0, repeats=2)
    return row("oracle-rate", "noise", found.fraction, case="of the matrix product's, d = 3072", protocol={"points": 2048, "rows": 512})
