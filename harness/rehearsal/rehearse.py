"""Conducts a rehearsal: stand-ins, prepare, doctor, then the launcher with its jobs, and the report, all in a folder of its own.

Beside what harness.rehearsal.places describes, the folder has rehearsal.json, what became of each step of each run, and rehearsal.txt, what
the report printed.
"""

from __future__ import annotations

import contextlib
import io
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config.baselines import BaselineJob
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.locations import data_root
from harness.rehearsal import places, printing, stand_ins
from harness.rehearsal.kinds import Kind, kinds
from harness.rehearsal.outcome import Outcome, outcomes
from harness.store.files import write_atomic, write_json
from harness.store.gpus import find_gpus
from harness.store.machine import Device, device_kind, memory_gib
from harness.store.runs import Store
from harness.sweep.doctor import FATAL, doctor
from harness.sweep.launch import launch
from harness.sweep.memory import GIB
from harness.sweep.plan import Plan, make_plan, wanted_jobs
from harness.sweep.supervisor import LaunchOptions
from harness.sweep.table import counted, emit
from harness.theory.studies import STUDIES

MEMORY = 10.0
"""GiB that a rehearsal takes at most, unless --memory says otherwise; less where less is free."""
ENTRY = "harness.rehearsal.job:main"
FOLDER = "rehearsals"
"""Below the results folder: where rehearsals go by default."""
REAL_MACHINE = ("device", "scheduler", "disk", "packages", "commit of the code")
"""Findings of the doctor about the machine of the real runs, which do not stop a rehearsal; its own disk is checked before it begins."""
DATA_FINDING, WEIGHTS_FINDING, INCEPTION_FINDING = "data set ", "EDM weights ", "Inception weights"


@dataclass(frozen=True)
class Options:
    """What the command line says. folder: new or empty; None for one below the results folder. memory: GiB on the host, None for MEMORY."""

    selection: Selection
    folder: Path | None = None
    device: Device = "auto"
    memory: float | None = None


def rehearse(options: Options, console: Console) -> int:
    """Rehearses an experiment; 0 if every step of every kind of run worked, 1 if not, 128 + n if signal n stopped it.

    Raises HarnessError for bad input, before anything is written: an unknown experiment, a folder that is not empty, too little memory or
    disk, a device that is not there.
    """
    began, selection = time.monotonic(), options.selection
    planned = [job for job in wanted_jobs(selection) if isinstance(job, Run)]
    if not planned:
        raise HarnessError("this experiment has no runs to rehearse", where=selection.experiment)
    device = places.chosen_device(options.device)
    rehearsed = kinds(planned, uses_gpu=device == "cuda", limit=_limit(options.memory), gpu=_gpu_memory() if device == "cuda" else None)
    folder = places.new_folder(options.folder, selection, FOLDER)
    places.check_disk([kind.run for kind in rehearsed], folder)
    what = f"rehearsal of {selection.command(selection.experiment).partition(' ')[2]}"
    emit(console, f"{what}, on {device_kind(device)}, in {folder}; nothing of it is a result\n")
    printing.print_kinds(rehearsed, len(planned), console)
    real = data_root()
    with places.environment(places.make(folder)):
        runs = [kind.run for kind in rehearsed]
        built = stand_ins.build(runs, folder / "data", folder / "sources", real, partial(stand_ins.print_note, console))
        for name, why in built.faults.items():
            emit(console, f"prepare: {name} FAILED: {why}")
        title = f"REHEARSAL of {selection.experiment}, no result: {len(rehearsed)} runs of a few steps in place of {len(planned)}"
        places.write_experiment(folder, selection.experiment, title, runs)
        chosen = Selection(selection.experiment, selection.scale, results=folder / "results", data=selection.data)
        store = Store(folder / "results")
        findings = _examine(rehearsed, store, console)
        plan, ended, signal = _train(rehearsed, chosen, store, device, console)
        reported = {} if signal else _report(chosen, store, folder, rehearsed, console)
    if signal:
        emit(console, f"stopped; what there is lies in {folder}, which can be removed")
        return 128 + signal
    found = outcomes(rehearsed, store, built.faults, findings, reported)
    of_baselines = places.unfinished([row.run for row in plan.rows if isinstance(row.run, BaselineJob)] if plan else [], store)
    general = {**ended, **of_baselines}
    passed = all(outcome.passed for outcome in found) and not general
    seconds = time.monotonic() - began
    _conclude(found, general, passed, seconds, device_kind(device), folder, store, console)
    return 0 if passed else 1


def _gpu_memory() -> float | None:
    return min((float(gpu.memory) for gpu in find_gpus().usable), default=None)


def _limit(wish: float | None) -> float:
    """Bytes for one run on the host. Raises HarnessError for a limit that no process can keep."""
    if wish is not None and not 1 <= wish <= 1e6:  # also false for nan
        raise HarnessError("memory out of range", where="--memory", found=f"{wish:g}", expected="1 to 1000000 GiB", nearest=f"{MEMORY:g}")
    free = memory_gib()
    return (wish if wish is not None else min(MEMORY, free or MEMORY)) * GIB


def _examine(rehearsed: Sequence[Kind], store: Store, console: Console) -> dict[str, str]:
    """`harness doctor` on the rehearsed runs: what it finds missing, by data set or weights file; "" for what concerns all."""
    emit(console, "doctor: examining data, weights and this machine")
    try:
        findings = doctor([kind.run for kind in rehearsed], store, "local")
    except Exception as error:
        return {"": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    missing: dict[str, str] = {}
    for finding in findings:
        if finding.verdict not in FATAL:
            continue
        if finding.what in REAL_MACHINE:
            emit(console, f"doctor: {finding.what}: {finding.detail}; the real runs need: {finding.fix}")
            continue
        name = finding.what.removeprefix(DATA_FINDING).removeprefix(WEIGHTS_FINDING)
        name = "the Inception network" if finding.what == INCEPTION_FINDING else name if name != finding.what else ""
        missing[name] = f"{finding.what}: {finding.detail}"
        emit(console, f"doctor: {finding.what} {finding.verdict.upper()}: {finding.detail}")
    return missing


def _train(
    rehearsed: Sequence[Kind], chosen: Selection, store: Store, device: Device, console: Console
) -> tuple[Plan | None, dict[str, str], int | None]:
    """The plan carried out by the local launcher: it, what broke beside the runs, and the signal that stopped it."""
    try:
        plan = make_plan(wanted_jobs(chosen), store, device=device, selection=chosen)
        emit(console, f"training: {summary_of(plan)}")
        clear = _Clearing(rehearsed, store)
        options = LaunchOptions(executor="local", workers=1, device=device, restarts=1, entry=ENTRY, on_done=clear)
        result = launch(plan, store, options, console)
        return plan, {}, result.signal
    except Exception as error:
        text = str(error) if isinstance(error, HarnessError) else traceback.format_exc(limit=-3)
        return None, {"launcher": " ".join(text.split())}, None


def summary_of(plan: Plan) -> str:
    """What the launcher will start, in words."""
    baselines = sum(isinstance(row.run, BaselineJob) for row in plan.rows)
    return f"{counted(len(plan.rows) - baselines, baselines)}, each run stopped once before its last step"


class _Clearing:
    """Called with each run that is done: removes checkpoints that no other rehearsed run needs any more."""

    def __init__(self, rehearsed: Sequence[Kind], store: Store) -> None:
        self.waiting = {kind.run.id: set(kind.run.needs) for kind in rehearsed}
        self.store = store

    def __call__(self, name: str) -> None:
        self.waiting.pop(name, None)
        needed = set().union(*self.waiting.values())
        for folder in self.store.folders():
            if folder.id not in self.waiting and folder.id not in needed:
                places.remove_checkpoints(folder)


def _report(chosen: Selection, store: Store, folder: Path, rehearsed: Sequence[Kind], console: Console) -> dict[str, str]:
    """`harness report` of the experiment and of everything; the runs that are in no report, and why."""
    from harness.reporting import load, produce

    emit(console, "report: tables, figures and the page")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            if chosen.experiment not in STUDIES:
                produce.experiment(store.root, chosen, "own", rehearsal=True)
            produce.everything(store.root, chosen.scale, "own", rehearsal=True)
        loaded = load.read(store.root, "own", chosen.scale, rehearsal=True)
        page = (store.root / "report.html").read_text()
    except Exception as error:
        text = " ".join(str(error).split()) if isinstance(error, HarnessError) else " ".join(traceback.format_exc(limit=-3).split())
        return {kind.run.id: f"{type(error).__name__}: {text}" for kind in rehearsed}
    finally:
        write_atomic(folder / "rehearsal.txt", printed.getvalue().encode())
    absent = {}
    for kind in rehearsed:
        name = kind.run.id
        if name not in loaded.runs or not loaded.runs[name].done:
            absent[name] = "the report does not have it as a finished run"
        elif name not in page:
            absent[name] = "it is not on the page"
    return absent


def _conclude(
    found: Sequence[Outcome],
    general: Mapping[str, str],
    passed: bool,
    seconds: float,
    device: str,
    folder: Path,
    store: Store,
    console: Console,
) -> None:
    """Prints and stores what became of everything, and removes what a successful rehearsal leaves behind."""
    emit(console, "")
    printing.print_outcomes(found, general, device, console)
    facts: dict[str, Any] = {"passed": passed, "seconds": seconds, "device": device, "other_faults": dict(general)}
    write_json(folder / "rehearsal.json", printing.summary(found, facts))
    if passed:
        places.clear(folder)
    emit(console, f"\n{printing.closing(seconds, passed, len(found))}")
    page = store.root / "report.html"
    written = [folder / "rehearsal.json", *([page] if page.is_file() else [])]
    emit(console, f"Written: {', '.join(map(str, written))}")
