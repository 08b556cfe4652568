"""From a plan to finished runs: choose the launcher, start what the plan says, tell how it ended."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from rich.console import Console

from harness.errors import HarnessError, unknown
from harness.locations import project_root
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy
from harness.store.machine import Device, choose_device
from harness.store.runs import RunFolder, State, Store
from harness.sweep.plan import ACTIVE, Action, Plan, Row
from harness.sweep.table import emit, render

Executor = Literal["auto", "inline", "local", "slurm"]
EXECUTORS = get_args(Executor)
NOT_STARTED = "not started: the sweep was stopped"


@dataclass(frozen=True)
class Options:
    """How to run a plan; nothing here can change a result."""

    executor: Executor = "auto"
    workers: int | None = None
    """Processes at once; None for one a GPU, or as many as the cores carry."""
    device: Device = "auto"
    restarts: int = 3
    """Starts in a row without progress after which a crashing run is given up."""
    entry: str = "harness.training.job:main"
    """The function that runs one folder: main([folder, "--device", device]) -> exit code."""
    site: str | None = None
    """The site file of the SLURM launcher."""
    wait: bool = True
    """False: the SLURM launcher submits and does not stay to watch."""


@dataclass
class Outcome:
    """How each run of a plan ended: its state and, unless it is done, why."""

    ends: dict[str, tuple[State, str]] = field(default_factory=dict)
    signal: int | None = None
    """The signal that stopped the launcher."""
    detached: frozenset[str] = frozenset()
    """Runs that were left to a scheduler, as asked for."""

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        return 0 if all(state is State.DONE or name in self.detached for name, (state, _) in self.ends.items()) else 1


def launch(plan: Plan, store: Store, options: Options, console: Console) -> Outcome:
    """Does the plan and prints how it ended. Raises HarnessError if the launcher is unknown or not to be had here."""
    if options.executor not in EXECUTORS:
        raise unknown("executor", options.executor, EXECUTORS, where="--executor")
    ends = {row.id: (row.state, row.reason) for row in plan.rows if row.action not in ACTIVE and row.action is not Action.WAIT}
    for row in plan.rows:
        if row.state is State.QUEUED:  # its job has not begun, so it will read which checkpoints are to be kept
            with contextlib.suppress(HarnessError):
                RunFolder.create(store.root, row.id, row.run.to_dict())
    if len(ends) < len(plan.rows):
        outcome = _launcher(options, console)(plan, store, options, console)
        outcome.ends = {row.id: outcome.ends.get(row.id) or ends.get(row.id) or (row.state, row.reason) for row in plan.rows}
    else:
        outcome = Outcome(ends)
    report(plan, store, outcome, console)
    return outcome


def choose(executor: Executor) -> Executor:
    """The launcher that `auto` means here: SLURM where sbatch answers, else local."""
    if executor != "auto":
        return executor
    return "slurm" if slurm_answers() and importlib.util.find_spec("harness.sweep.slurm") else "local"


def slurm_answers() -> bool:
    """True where jobs can be submitted: sbatch is there and sinfo names a partition."""
    if not shutil.which("sbatch"):
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20)
        return answer.returncode == 0 and bool(answer.stdout.strip())
    return False


def begin(store: Store, plan: Plan, row: Row, first: bool = True) -> RunFolder:
    """The folder of a run that is about to start. Under the policy `force` the first start puts its old contents aside, never deletes."""
    folder = RunFolder.create(store.root, row.id, row.run.to_dict())
    if first and plan.policy == "force" and row.action is Action.START:
        folder.put_aside()
    return folder


def explain(folder: RunFolder, code: int | None = None) -> str:
    """Why a run did not end well: its error, else its exit code."""
    error = folder.error()
    if error:
        return f"{error.get('kind', 'failed')}: {str(error.get('message', '')).partition(chr(10))[0]}"
    return "not done" if code is None else f"ended with exit code {code} and without an error.json"


def blocker(row: Row, ends: dict[str, tuple[State, str]]) -> str | None:
    """Why a run cannot start: a need that did not end well. None if it can."""
    for need in row.needs:
        state, reason = ends.get(need, (State.DONE, ""))
        if state is not State.DONE:
            return f"needs {need}, which is {state}" + (f": {reason}" if reason else "")
    return None


def report(plan: Plan, store: Store, outcome: Outcome, console: Console) -> None:
    """One line for all, and one for each run that is not done: its state, reason and log."""
    rest = {name: end for name, end in outcome.ends.items() if end[0] is not State.DONE}
    before = sum(row.action is Action.SKIP for row in plan.rows)
    if not rest:
        emit(console, f"nothing to do: all {before} runs are done" if before == len(plan.rows) else f"all {len(plan.rows)} runs are done")
        return
    emit(console, f"{len(outcome.ends) - len(rest)} of {len(plan.rows)} runs are done; these are not:\n")
    rows = [[name, state, reason, str(log) if (log := store.folder(name).log).exists() else "-"] for name, (state, reason) in rest.items()]
    emit(console, render(["run", "state", "reason", "log"], rows))
    emit(console, "\nthe same command goes on where this one stopped")


def _launcher(options: Options, console: Console) -> Callable[[Plan, Store, Options, Console], Outcome]:
    match choose(options.executor):
        case "inline":
            return run_inline
        case "slurm":
            if not slurm_answers():
                raise HarnessError("SLURM does not answer here", where="--executor", found="no sbatch, or sinfo fails", nearest="local")
            from harness.sweep.slurm import launch as launch_slurm

            return launch_slurm
    from harness.sweep.local import run_local

    return run_local


def run_inline(plan: Plan, store: Store, options: Options, console: Console) -> Outcome:
    """One run after the other in this process, output to the terminal; for looking closely."""
    outcome = Outcome()
    device = choose_device(options.device)
    module, _, function = options.entry.partition(":")
    main, stopped = getattr(importlib.import_module(module), function), False
    for row in plan.rows:
        if row.action is Action.WAIT:
            outcome.ends[row.id] = (row.state, row.reason)
        if row.action not in ACTIVE:
            continue
        if stopped:
            outcome.ends[row.id] = (row.state, NOT_STARTED)
            continue
        if why := blocker(row, outcome.ends):
            outcome.ends[row.id] = (State.BLOCKED, why)
            continue
        emit(console, f"== {row.id}")
        try:
            folder = begin(store, plan, row)
        except Busy as busy:
            outcome.ends[row.id] = (State.RUNNING, busy.details["found"])
            continue
        with contextlib.chdir(project_root()):
            code = main([str(folder.path.resolve()), "--device", device])
        state, stopped = folder.state(), code == ExitCode.STOPPED
        outcome.ends[row.id] = (state, "" if state is State.DONE else "stopped" if stopped else explain(folder, code))
    return outcome
