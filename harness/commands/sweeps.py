"""Commands that plan, start and inspect runs: plan, sweep, run, status, clear, doctor."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from harness.commands.common import SELECTION, refuse, selection, store
from harness.config.baselines import Job
from harness.config.parts import Custom
from harness.config.run import Run
from harness.config.selection import Selection
from harness.config.trust import EVERY, WORKS, trust
from harness.console import Console
from harness.errors import LONGEST, HarnessError
from harness.locations import experiments_root
from harness.store.exit_codes import ExitCode
from harness.store.machine import choose_device
from harness.store.provenance import asking
from harness.store.runs import RunFolder, match_run
from harness.store.torch_loads import check_torch, memory_is_limited, torch_fault
from harness.sweep.doctor import absent, print_findings
from harness.sweep.doctor import doctor as findings_of
from harness.sweep.executors import Executor, choose_executor
from harness.sweep.launch import LaunchOptions, SweepResult, launch
from harness.sweep.memory import capacity_of, check_memory, runnable
from harness.sweep.plan import Plan, Policy, make_plan, print_plan, wanted_jobs
from harness.sweep.slurm_command import note_of_login_node
from harness.sweep.slurm_queue import liveness
from harness.sweep.status import status as summaries_of
from harness.sweep.status import table, watch
from harness.sweep.table import counted, emit

TRY_FOR = 300.0
"""Seconds for which a user's coupling may work on four rows."""


def plan(arguments: argparse.Namespace) -> int:
    """`harness plan`: prints the plan and what is missing; starts nothing."""
    chosen, out = selection(arguments), Console()
    planned = _plan(arguments, chosen, arguments.policy)
    print_plan(planned, out)
    try:
        tight = _memory(arguments, planned, ask=False)
    except HarnessError as error:
        tight = f"{error.what}: {error.details['found']}, {error.details['expected']}; {error.details['nearest']}"
    if tight:
        emit(out, f"\nmemory: {tight}")
    if missing := absent(chosen.runs()):
        emit(out, f"\nmissing: {'; '.join(missing)}. How to fix it: {chosen.command('harness doctor')}")
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """`harness sweep`: carries out the plan."""
    out = Console()
    return launch_plan(arguments, sweep_plan(arguments, selection(arguments), out), out).exit_code


def sweep_plan(arguments: argparse.Namespace, chosen: Selection, out: Console, trained: Collection[str] = ()) -> Plan:
    """The plan of a selection, printed unless --quiet. trained: runs that the policy "force" leaves as they are.

    Raises HarnessError if data sets or weights are missing, or for options that the executor would ignore.
    """
    _check_launcher(arguments, out)
    plan = _plan(arguments, chosen, arguments.policy)
    if plan.policy == "force" and trained:
        usual = {row.id: row for row in _plan(arguments, chosen, "default").rows}
        plan = replace(plan, rows=tuple(usual[row.id] if row.id in trained else row for row in plan.rows))
    if not arguments.quiet:
        print_plan(plan, out)
    check_inputs([row.run for row in plan.active], chosen)
    if tight := _memory(arguments, plan):
        emit(out, f"memory: {tight}")
    return plan


def launch_plan(arguments: argparse.Namespace, plan: Plan, out: Console, on_done: Callable[[str], None] | None = None) -> SweepResult:
    """Carries out a plan as the options of the command line say. on_done: called with the id of each run that becomes done."""
    executor, workers, device = arguments.executor, arguments.workers, arguments.device
    options = LaunchOptions(executor, workers, device, site=arguments.site, wait=arguments.wait, on_done=on_done)
    return launch(plan, store(arguments), options, out)


def _memory(arguments: argparse.Namespace, plan: Plan, ask: bool = True) -> str:
    """A sentence about what may not fit into memory; see `check_memory`, as which it raises HarnessError. ask: False to ask no driver."""
    runs = [row.run for row in plan.active if isinstance(row.run, Run)]
    wish: Executor = getattr(arguments, "executor", "auto")
    try:
        executor = choose_executor(wish, store(arguments)).executor if runs else "local"
        capacity, processes = capacity_of(executor, arguments.device, getattr(arguments, "site", None), ask)
    except HarnessError:  # no SLURM, or a wrong site file: the launcher says it
        return ""
    return check_memory(runnable(runs, capacity, arguments.device), capacity, processes)


def check_inputs(runs: Sequence[Job], chosen: Selection) -> None:
    """Raises HarnessError if data sets or weights of these runs are missing, or a user's coupling cannot be used."""
    if missing := absent(runs):
        doctor_command = chosen.command("harness doctor")
        raise HarnessError("data sets or weights of these runs are missing", found="; ".join(missing), nearest=doctor_command)
    customs = {run.coupling.source: run for run in runs if isinstance(run, Run) and isinstance(run.coupling, Custom)}
    for run in customs.values():
        _try_coupling(run)


def _try_coupling(run: Run) -> None:
    """Calls a user's coupling on a tiny batch, in a process of its own. Raises HarnessError with what is wrong with it."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        config.write(json.dumps(run.to_dict()))
        config.flush()
        command = [sys.executable, "-m", "harness.training.user_couplings", config.name]
        cause = ""
        try:
            tried = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=TRY_FOR)
            if tried.returncode or not tried.stdout.endswith(WORKS):
                cause = tried.stderr.strip()[-LONGEST:] or f"it ended the process with code {tried.returncode}"  # warnings come first
        except subprocess.TimeoutExpired:
            cause = f"it did not end within {TRY_FOR:g} s"
    if cause and memory_is_limited() and torch_fault():
        print("note: the coupling is not tried here, since torch cannot be loaded; the jobs load it", file=sys.stderr, flush=True)
    elif cause:
        assert isinstance(run.coupling, Custom)
        raise HarnessError("the coupling cannot be used", where=run.coupling.source, found=cause)


def _check_launcher(arguments: argparse.Namespace, out: Console) -> None:
    """Refuses options that the named executor ignores; prints a note if `auto` chooses an executor that ignores them."""
    ignored = [option for option, given in (("--site", arguments.site), ("--no-wait", not arguments.wait)) if given]
    if arguments.executor == "inline" and arguments.workers is not None:
        ignored.append("--workers")
    if not ignored or arguments.executor == "slurm":
        return
    if arguments.executor != "auto":
        expected = f"another executor than {arguments.executor}, which ignores it"
        raise HarnessError("this option does not apply here", found=", ".join(ignored), expected=expected)
    if choose_executor("auto", store(arguments)).executor == "local":
        emit(out, f"{' and '.join(ignored)}: no effect without SLURM; the runs start on this machine")


def _plan(arguments: argparse.Namespace, chosen: Selection, policy: Policy) -> Plan:
    runs = store(arguments)
    return make_plan(wanted_jobs(chosen), runs, policy, device=arguments.device, alive=liveness(runs), selection=chosen)


def run(arguments: argparse.Namespace) -> int:
    """`harness run`: one run in this process."""
    if not arguments.experiment:
        refuse(arguments, SELECTION, "--experiment NAME, whose runs these options select")
    check_torch()
    from harness.training import job

    if arguments.trust:
        trust(EVERY)
    folder = _folder(arguments)
    scale = ""
    with contextlib.suppress(HarnessError):  # a damaged config is the job's to report
        scale = folder.config().get("scale", "")
    device = choose_device(arguments.device, [scale])
    if note := note_of_login_node():
        print(note, file=sys.stderr, flush=True)
    emit(Console(), str(folder.path))
    with asking(experiments_root() / f"{arguments.experiment}.py" if arguments.experiment else None):
        code = job.main([str(folder.path), "--device", device])
    if code == ExitCode.STOPPED:
        print("stopped before the end; run the same command again to continue")
    return code


def _folder(arguments: argparse.Namespace) -> RunFolder:
    """The folder that RUN names: a path, a run of an experiment (created if it is new), or a stored run."""
    if (Path(arguments.run) / "config.json").is_file():
        refuse(arguments, ("experiment",), "either a run folder or a run of an experiment")
        return RunFolder(Path(arguments.run).absolute())
    if not arguments.experiment:
        return store(arguments).find(arguments.run)
    runs = {job.id: job for job in wanted_jobs(selection(arguments))}
    run_id = match_run(arguments.run, list(runs), f"experiment {arguments.experiment}")
    store(arguments).check_writable()
    return RunFolder.create(store(arguments).root, run_id, runs[run_id].to_dict())


def status(arguments: argparse.Namespace) -> int:
    """`harness status`: the table of runs, once or until all are settled."""
    if not arguments.experiment:
        refuse(arguments, SELECTION, "an EXPERIMENT, whose runs these options select")
    jobs, title = wanted_jobs(selection(arguments)) if arguments.experiment else None, arguments.experiment or ""
    if arguments.watch:
        watch(store(arguments), jobs, Console(), title)
    else:
        emit(Console(), table(summaries_of(store(arguments), jobs), title))
    return 0


def clear(arguments: argparse.Namespace) -> int:
    """`harness clear`: deletes run folders, after a question or with --yes."""
    folders = list({folder.id: folder for folder in map(store(arguments).find, arguments.runs)}.values())
    for folder in folders:
        emit(Console(), f"{folder.path}  {folder.state()}  {folder.size() / 1e6:.1f} MB")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise HarnessError("clear asks before it removes anything", where="harness clear", found="no terminal to ask", nearest="--yes")
        if input(f"remove {counted(len(folders), 0)} and all results? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 1
    for folder in folders:
        folder.delete()
    print(f"{counted(len(folders), 0)} removed")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`harness doctor`: everything the runs need, and how to fix what is missing."""
    findings = findings_of(selection(arguments).runs(), store(arguments), arguments.executor, arguments.full, arguments.site)
    return print_findings(findings, Console())
