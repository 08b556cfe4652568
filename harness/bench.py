"""`harness bench`: ratios of running times on this machine, of calls that alternate in one process.

Calls alternate so that other load on the machine slows all of them. The result is the median of the ratios of all rounds, with an
interval that covers the median with 95 % probability for any distribution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import isfinite
from statistics import median
from typing import NamedTuple

import torch
from lion_pytorch import Lion
from rich import box
from rich.table import Table
from scipy.stats import quantile_test
from torch import Tensor

from harness.config import presets
from harness.config.parts import BatchOT, Coupling, GeneratorAugmented, Independent
from harness.config.run import Run, varied
from harness.data import datasets
from harness.data.datasets import Dataset
from harness.reporting import printing
from harness.store.machine import cores
from harness.sweep.table import emit
from harness.theory.oracle import Oracle
from harness.theory.rate import relative_rate, seconds_of
from harness.training import model, user_couplings
from harness.training.batches import ALONE, Batches
from harness.training.devices import device_name, prepare_torch
from harness.training.loop import Hooks, endpoint_predictor, train

LEAST, MOST = 6, 41
"""Numbers of rounds. Six are the fewest whose extremes cover the median with 95 %."""
PATIENCE = 10.0
"""Multiple of the requested seconds after which even fewer than LEAST rounds are enough, for a large network on a slow machine."""
TURN = 0.25
"""Duration of one call of training steps, in seconds."""
ORACLE_WORK = 1e10
"""Floating-point operations of one measurement of the oracle on a CPU."""
NEVER = 10**9
"""A step that no bench reaches."""


class Ratio(NamedTuple):
    """One line of the table: the time of call `above` over that of call `below`, or the value of `above` itself without `below`."""

    name: str
    above: str
    below: str = ""
    expected: str = ""


RATIOS = (
    Ratio("GC step / IC step", "gc", "ic", "about 1.2 (the paper)"),
    Ratio("OT step / IC step, assignment solved ahead in a thread", "ot", "ic"),
    Ratio("OT step / IC step, assignment solved in the main thread", "ot, no thread", "ic"),
    Ratio("EMA forward, GC rows only / whole batch", "gc rows", "all rows", "about mu = 0.5"),
    Ratio("Lion over all tensors at once / tensor by tensor", "foreach", "tensor by tensor", "below 1"),
    Ratio("step in bf16 / fp32", "bf16", "ic"),
    Ratio("step in bf16 with channels last / fp32", "channels last", "ic"),
    Ratio("step in bf16 with channels last, compiled / fp32", "compiled", "ic"),
    Ratio("exact denoiser's rate / matrix product's", "oracle", expected="at least 0.6 at d = 3072"),
)


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Two of the values between which the median lies with at least this probability; the extremes if there are too few values."""
    covering = quantile_test(values, p=0.5).confidence_interval(level)
    return (covering.low, covering.high) if isfinite(covering.high - covering.low) else (min(values), max(values))


class Steps:
    """Trains a run that never ends; each call trains `per_call` steps and returns the seconds of one. Nothing is measured or saved."""

    def __init__(self, run: Run, data: Dataset, device: torch.device, assign_ahead: bool = True) -> None:
        run = varied(run, train={"steps": NEVER}, evaluation={"every": NEVER})
        self.run = run.model_copy(update={"checkpoint_every": NEVER})
        self.data, self.device, self.assign_ahead, self.per_call = data, device, assign_ahead, 2
        self.model = model.create(self.run, device)

    def __call__(self) -> float:
        until = self.model.step + self.per_call
        hooks = Hooks(stop=lambda: self.model.step >= until)
        seconds = seconds_of(lambda: train(self.run, self.data, self.model, hooks, assign_ahead=self.assign_ahead), self.device)
        return seconds / self.per_call


def bench(scale: str, device: torch.device, seconds: float) -> int:
    """Measures and prints the ratios at a scale; returns the exit code 0. seconds: duration of the rounds, without compilation."""
    data_name = presets.scale(scale).table1[0]
    run = presets.make(scale, data_name, Independent(), 0)
    prepare_torch(run)
    data = datasets.load(data_name, device=device)
    out = printing.console()
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)} of {cores()} cores"
    place = f"{device_name(device)}, {threads}, torch {torch.__version__}"
    emit(out, f"bench at the {scale} scale: {data_name}, batch {run.train.batch}, on {place}")
    times = rounds(timed_calls(scale, data_name, data, device), seconds)
    out.print(result(times))
    count = len(times["ic"])
    emit(out, f"median of {count} rounds of alternating calls" + (f"; an interval needs {LEAST}" if count < LEAST else ""))
    return 0


def timed_calls(scale: str, data_name: str, data: Dataset, device: torch.device) -> dict[str, Callable[[], float]]:
    """The measurements of one round by name: each returns the seconds of a step or call, "oracle" the fraction of `oracle_rate`."""

    def steps(coupling: Coupling, assign_ahead: bool = True, **changes: object) -> Steps:
        plain = {"precision": "fp32", "channels_last": False, "compile": False}
        return Steps(varied(presets.make(scale, data_name, coupling, 0), train=plain | changes), data, device, assign_ahead)

    trainers = {"ic": steps(Independent()), "gc": steps(GeneratorAugmented(mu=0.5)), "ot": steps(BatchOT())}
    trainers["ot, no thread"] = steps(BatchOT(), assign_ahead=False)
    if device.type == "cuda" and len(data.shape) == 3:
        trainers["bf16"] = steps(Independent(), precision="bf16")
        trainers["channels last"] = steps(Independent(), precision="bf16", channels_last=True)
        trainers["compiled"] = steps(Independent(), precision="bf16", channels_last=True, compile=True)
    for trainer in trainers.values():
        trainer()  # compiles, and creates the optimizer's state
    once = min(trainers["ic"]() for _ in range(3))
    for trainer in trainers.values():
        trainer.per_call = max(1, min(100, round(TURN / once)))
    short = {**forwards(trainers["gc"]), **optimizers(trainers["ic"])}
    return {**trainers, **{name: repeated(call, device) for name, call in short.items()}, "oracle": oracle_rate(data, device)}


def repeated(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Measures the seconds of a call, which is repeated for a tenth of TURN because a single one is too short for the clock."""
    call()
    count = max(1, round(TURN / 10 / max(seconds_of(call, device), 1e-6)))
    return lambda: seconds_of(lambda: [call() for _ in range(count)], device) / count


def forwards(trainer: Steps) -> dict[str, Callable[[], object]]:
    """The endpoint prediction of one GC step: for the rows that become GC, and for all of them."""
    step = Batches(trainer.run, trainer.data, ALONE, user_couplings.build(trainer.run))(0)
    predict = endpoint_predictor(trainer.model.ema, step.labels)
    rows = torch.arange(len(step.x), device=trainer.device)

    def forward(rows: Tensor) -> Tensor:
        return predict(step.x[rows] + step.z[rows], torch.ones(len(rows), device=rows.device), rows)

    return {"gc rows": lambda: forward(rows[::2]), "all rows": lambda: forward(rows)}


def optimizers(trainer: Steps) -> dict[str, Callable[[], object]]:
    """One step of Lion over all tensors at once, and tensor by tensor; each has its own copy of the network's tensors."""
    calls = {}
    for name, kind in (("foreach", model.ForeachLion), ("tensor by tensor", Lion)):
        parameters = [p.detach().clone().requires_grad_() for p in trainer.model.online.parameters()]
        for p in parameters:
            p.grad = torch.randn_like(p)
        calls[name] = kind(parameters, lr=1e-6, betas=(0.9, 0.99)).step
    return calls


def oracle_rate(data: Dataset, device: torch.device) -> Callable[[], float]:
    """Measures the rate of the exact denoiser of the data as a fraction of the matrix product's."""
    oracle = Oracle(data.rows)
    n, d = oracle.points.shape
    rows = 1024 if device.type == "cuda" else int(max(32, min(1024, ORACLE_WORK / (4 * n * d))))
    return lambda: relative_rate(oracle, rows, repeats=1)


def rounds(calls: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """The values that each call returns, one per round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    started = time.perf_counter()
    for number in range(MOST):
        spent = time.perf_counter() - started
        if (number >= LEAST and spent > seconds) or (number and spent > PATIENCE * max(seconds, 1.0)):
            break
        for name, call in calls.items():
            times[name].append(call())
    return times


def result(times: dict[str, list[float]]) -> Table:
    """The table of ratios; ratios of calls that were not timed are left out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    spread = "95 % interval" if len(times["ic"]) >= LEAST else "lowest, highest"
    for header in ("", "median", spread, "expected"):
        table.add_column(header, justify="left" if header in ("", "expected") else "right", no_wrap=True)
    for ratio in RATIOS:
        if above := times.get(ratio.above):
            values = [a / b for a, b in zip(above, times.get(ratio.below, [1.0] * len(above)), strict=True)]
            low, high = interval(values)
            table.add_row(ratio.name, f"{median(values):.2f}", f"[{low:.2f}, {high:.2f}]", ratio.expected)
    return table
