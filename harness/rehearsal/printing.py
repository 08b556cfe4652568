"""What a rehearsal says: which run stands for which, its table of steps, what broke, and the file that keeps all of it. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.rehearsal.kinds import Kind, hours
from harness.rehearsal.outcome import OK, STEPS, Outcome
from harness.store.machine import cores, memory_gib
from harness.sweep.cost import cost
from harness.sweep.memory import gib
from harness.sweep.table import counted, duration, emit, render


def print_kinds(kinds: Sequence[Kind], planned: int, console: Console) -> None:
    """Which runs are rehearsed, and for which others each stands."""
    emit(console, f"{counted(planned, 0)} of the plan are of {len(kinds)} kinds; of each kind one run is rehearsed:\n")
    rows = []
    for kind in kinds:
        network = kind.narrowed or "full"
        stands = ", ".join(kind.others) or "-"
        rows.append([kind.planned[0].id, f"{kind.length.steps}", f"{kind.length.rows}", network, kind.estimate.text, stands])
    emit(console, render(["run", "steps", "rows", "network", "memory, estimate", "stands also for"], rows, right=["steps", "rows"]))
    emit(console, "")


def print_outcomes(outcomes: Sequence[Outcome], others: Mapping[str, str], device: str, console: Console) -> None:
    """The table of steps, with time and memory, the extrapolated hours, and what broke. others: faults beside those of the runs."""
    rows = []
    for outcome in outcomes:
        kind = outcome.kind
        marks = [outcome.steps.get(step, "-") if outcome.steps.get(step) in (OK, "-") else "FAILED" for step in STEPS]
        peak = gib(outcome.peak) if outcome.peak else "-"
        gpu = f", GPU {gib(outcome.gpu_peak)}" if outcome.gpu_peak else ""
        total = hours(kind, outcome.seconds) if outcome.seconds is not None else None
        seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.3g} s"
        memory = f"{peak}{gpu} / {kind.estimate.text}"
        rows.append([kind.planned[0].id, *marks, f"{kind.length.rows}", seconds, memory, cost(total)])
    headers = ["run", *STEPS, "rows", "one step", "memory, peak / estimate", "hours of its runs"]
    emit(console, render(headers, rows, right=["rows", "one step", "hours of its runs"]))
    emit(console, f"\n{hours_line(outcomes, device)}")
    faults = [f"{outcome.kind.planned[0].id}, {step}: {why}" for outcome in outcomes for step, why in outcome.faults.items()]
    faults += [f"{name}: {why}" for name, why in others.items()]
    if faults:
        emit(console, "\nWhat broke:")
        for fault in faults:
            emit(console, f"  {fault}")


def hours_line(outcomes: Sequence[Outcome], device: str) -> str:
    """The device-hours of the complete plan, extrapolated."""
    known: list[float] = []
    unknown = 0
    for outcome in outcomes:
        total = hours(outcome.kind, outcome.seconds) if outcome.seconds is not None else None
        if total is None:
            unknown += len(outcome.kind.planned)
        else:
            known.append(total)
    planned = sum(len(outcome.kind.planned) for outcome in outcomes)
    partial = any(run.train.batch != outcome.kind.length.rows for outcome in outcomes for run in outcome.kind.planned)
    if not known:
        return f"No device-hours are extrapolated: unknown for {unknown} of {planned} runs, whose network was narrowed or not timed."
    text = f"Extrapolated from few steps, not measured: about {cost(sum(known))} device-hours of training on {device}"
    text += f" for {planned - unknown} of the {counted(planned, 0)} of the plan"
    text += f"; unknown for {unknown}, whose network was narrowed or not timed" if unknown else ""
    text += "; evaluations and baselines come on top"
    if partial:
        text += "; smaller batches than planned were timed, and a step taken to last in proportion to its rows, so it is rather too much"
    load = os.getloadavg()[0]
    if load > 1.5 * cores():
        text += f"; other processes were at work (load {load:.0f} on {cores()} cores), which slows what was timed"
    return f"{text}."


def summary(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of rehearsal.json: plain values."""
    rows = []
    for outcome in outcomes:
        kind = outcome.kind
        total = hours(kind, outcome.seconds) if outcome.seconds is not None else None
        row: dict[str, Any] = {"run": kind.run.id, "planned": [run.id for run in kind.planned], "rehearsal": kind.run.rehearsal}
        row |= {"steps": outcome.steps, "training_steps": kind.length.steps, "rows": kind.length.rows, "seconds_of_a_step": outcome.seconds}
        row |= {"peak_bytes": outcome.peak, "gpu_peak_bytes": outcome.gpu_peak}
        row |= {"estimated_bytes": kind.estimate.device, "extrapolated_device_hours": total}
        rows.append(row)
    return {"what": "a rehearsal (harness rehearse); nothing in it is a result", **facts, "runs": rows}


def closing(seconds: float, passed: bool, count: int) -> str:
    """The last line but the paths."""
    free = memory_gib()
    now = f"; {free:.1f} GiB of memory are free now" if free else ""
    text = "every step of every kind of run worked" if passed else "not every step worked; the list above says what broke"
    return f"{text} ({count} kinds, {duration(seconds)}{now})"
