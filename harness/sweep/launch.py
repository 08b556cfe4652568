"""From a plan to finished runs: chooses the launcher, lets it carry out the plan, and prints how every run ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from rich.console import Console

from harness.config.baselines import BaselineJob
from harness.errors import HarnessError
from harness.locations import experiments_root
from harness.store.provenance import asking
from harness.store.runs import RunFolder, State, Store
from harness.store.torch_loads import check_torch
from harness.sweep.executors import ExecutorChoice, choose_executor, record_executor
from harness.sweep.local import run_inline, run_local
from harness.sweep.plan import ACTIVE, Action, Plan
from harness.sweep.supervisor import LaunchOptions, SweepResult
from harness.sweep.table import counted, emit, render


def launch(plan: Plan, store: Store, options: LaunchOptions, console: Console) -> SweepResult:
    """Carries out a plan and prints the launcher, its progress, and how each run ended.

    Raises HarnessError if the launcher is unknown or not available here, and if no run could write its results.
    """
    if any(row.action in ACTIVE for row in plan.rows):
        store.check_writable()
    for row in plan.rows:
        if row.state is State.QUEUED:  # its job has not begun, so it will read which checkpoints are to be kept
            with contextlib.suppress(HarnessError):
                RunFolder.create(store.root, row.id, row.run.to_dict())
    result = SweepResult()
    if any(row.action in ACTIVE or row.action is Action.WAIT for row in plan.rows):
        choice = choose_executor(options.executor, store)
        emit(console, f"executor: {choice.executor} ({choice.reason})")
        if choice.executor != "slurm":
            check_torch()
        record_executor(choice, store)
        with asking(experiments_root() / f"{plan.selection.experiment}.py" if plan.selection else None):
            result = _launcher(choice)(plan, store, options, console)
    result.ends = {row.id: result.ends.get(row.id, (row.state, row.reason)) for row in plan.rows}
    print_result(plan, store, result, console)
    return result


def print_result(plan: Plan, store: Store, result: SweepResult, console: Console) -> None:
    """Prints one line for all runs, and one for each that is not done: its state, reason and log."""
    baselines = sum(isinstance(row.run, BaselineJob) for row in plan.rows)
    total = counted(len(plan.rows) - baselines, baselines)
    unfinished = {name: end for name, end in result.ends.items() if end[0] is not State.DONE}
    if not unfinished:
        skipped = all(row.action is Action.SKIP for row in plan.rows)
        emit(console, f"nothing to do, done already: {total}" if skipped else f"done: {total}")
        return
    emit(console, f"{len(result.ends) - len(unfinished)} of {len(plan.rows)} are done ({total}); these are not:\n")
    logs = {name: store.folder(name).log for name in unfinished}
    rows = [[name, *end, str(logs[name]) if os.access(logs[name], os.F_OK) else "-"] for name, end in unfinished.items()]
    emit(console, render(["run", "state", "reason", "log"], rows))
    emit(console, "\nRun the same command again to continue.")


def _launcher(choice: ExecutorChoice) -> Callable[[Plan, Store, LaunchOptions, Console], SweepResult]:
    if choice.executor == "slurm":
        from harness.sweep.slurm import run_slurm  # only here, since submitit takes a quarter of a second to import

        return run_slurm
    return run_inline if choice.executor == "inline" else run_local
