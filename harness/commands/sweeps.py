"""Commands that plan, start and inspect runs: plan, sweep, run, status, clear, doctor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import SELECTION, console, refuse, selection, store
from harness.errors import HarnessError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.baselines import Job
    from harness.config.selection import Selection
    from harness.store.runs import RunFolder
    from harness.sweep.launch import SweepResult
    from harness.sweep.plan import Plan, Policy


def plan(arguments: argparse.Namespace) -> int:
    """`harness plan`: prints the plan and what is missing; starts nothing."""
    from harness.sweep.plan import print_plan

    chosen, out = selection(arguments), console()
    print_plan(_plan(arguments, chosen), out)
    if missing := _missing(chosen.runs()):
        text = f"\nmissing: {'; '.join(missing)}. How to fix it: {chosen.command('harness doctor')}"
        out.print(text, soft_wrap=True, highlight=False)
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """`harness sweep`: carries out the plan."""
    return carry_out(arguments, selection(arguments), console()).exit_code


def carry_out(
    arguments: argparse.Namespace,
    chosen: Selection,
    out: Console,
    on_done: Callable[[Plan], Callable[[str], None]] | None = None,
    trained: Collection[str] = (),
) -> SweepResult:
    """Plans and launches a selection as the options of `harness sweep` say. Raises HarnessError if data or weights are missing.

    on_done: given the plan, what to call with the id of each run that ends well. trained: runs that the policy "force" leaves as they are.
    """
    from harness.sweep.launch import LaunchOptions, launch
    from harness.sweep.plan import print_plan

    _check_launcher(arguments, out)
    wanted = _plan(arguments, chosen)
    if wanted.policy == "force" and trained:
        usual = {row.id: row for row in _plan(arguments, chosen, "default").rows}
        wanted = replace(wanted, rows=tuple(usual[row.id] if row.id in trained else row for row in wanted.rows))
    if not arguments.quiet:
        print_plan(wanted, out)
    check_inputs([row.run for row in wanted.active], chosen)
    site = arguments.site and str(arguments.site)
    options = LaunchOptions(arguments.executor, arguments.workers, arguments.device, site=site, wait=arguments.wait)
    if on_done:
        options = replace(options, on_done=on_done(wanted))
    return launch(wanted, store(arguments), options, out)


def check_inputs(runs: Sequence[Job], chosen: Selection) -> None:
    """Raises HarnessError, with the command that says how to fix it, if data sets or weights of these runs are missing."""
    if missing := _missing(runs):
        raise HarnessError(
            "data sets or weights of these runs are missing", found="; ".join(missing), nearest=chosen.command("harness doctor")
        )


def _check_launcher(arguments: argparse.Namespace, out: Console) -> None:
    """Refuses options that a named executor would ignore; says so where `auto` has chosen that executor."""
    from harness.sweep.executors import choose_executor

    given = [option for option, value in (("--site", arguments.site), ("--no-wait", not arguments.wait)) if value]
    if arguments.executor == "inline":
        given += ["--workers"] if arguments.workers is not None else []
    if not given or arguments.executor == "slurm":
        return
    if arguments.executor != "auto":
        what = "this option does not apply here"
        raise HarnessError(what, found=", ".join(given), expected=f"another executor than {arguments.executor}, which ignores it")
    if choose_executor("auto", store(arguments)).executor == "local":
        out.print(f"{' and '.join(given)}: no effect without SLURM; the runs start on this machine", highlight=False)


def _plan(arguments: argparse.Namespace, chosen: Selection, policy: Policy | None = None) -> Plan:
    from harness.sweep.plan import make_plan, wanted_jobs
    from harness.sweep.slurm_queue import liveness

    runs = store(arguments)
    policy = policy or arguments.policy
    return make_plan(wanted_jobs(chosen), runs, policy, device=arguments.device, alive=liveness(runs), selection=chosen)


def _missing(runs: Sequence[Job]) -> list[str]:
    from harness.sweep.doctor import absent

    return absent(runs)


def run(arguments: argparse.Namespace) -> int:
    """`harness run`: one run in this process."""
    if not arguments.experiment:
        refuse(arguments, SELECTION, "--experiment NAME, whose runs these options select")
    from harness.store.machine import choose_device
    from harness.training import job

    folder = _folder(arguments)
    device = choose_device(arguments.device)
    print(folder.path, flush=True)
    return job.main([str(folder.path), "--device", device])


def _folder(arguments: argparse.Namespace) -> RunFolder:
    """The folder that RUN names: a path, a run of an experiment (created if it is new), or a stored run."""
    from harness.store.runs import RunFolder, match_run
    from harness.sweep.plan import wanted_jobs

    if (Path(arguments.run) / "config.json").is_file():
        refuse(arguments, ("experiment",), "either a run folder or a run of an experiment")
        return RunFolder(Path(arguments.run))
    if not arguments.experiment:
        return store(arguments).find(arguments.run)
    runs = {job.id: job for job in wanted_jobs(selection(arguments))}
    run_id = match_run(arguments.run, list(runs), f"experiment {arguments.experiment}")
    return RunFolder.create(store(arguments).root, run_id, runs[run_id].to_dict())


def status(arguments: argparse.Namespace) -> int:
    """`harness status`: the table of runs, once or until all are settled."""
    from harness.sweep.plan import wanted_jobs
    from harness.sweep.status import status, table, watch
    from harness.sweep.table import emit

    if not arguments.experiment:
        refuse(arguments, SELECTION, "an EXPERIMENT, whose runs these options select")
    jobs, title = wanted_jobs(selection(arguments)) if arguments.experiment else None, arguments.experiment or ""
    if arguments.watch:
        watch(store(arguments), jobs, console(), title)
    else:
        emit(console(), table(status(store(arguments), jobs), title))
    return 0


def clear(arguments: argparse.Namespace) -> int:
    """`harness clear`: deletes run folders, after a question or with --yes."""
    folders = list({folder.id: folder for folder in map(store(arguments).find, arguments.runs)}.values())
    for folder in folders:
        print(f"{folder.path}  {folder.state()}  {folder.size() / 1e6:.1f} MB")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise HarnessError("clear asks before it removes anything", where="harness clear", found="no terminal to ask", nearest="--yes")
        if input(f"remove these {len(folders)} runs and all their results? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 1
    for folder in folders:
        folder.delete()
    print(f"{len(folders)} removed")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`harness doctor`: everything the runs need, and how to fix what is missing."""
    from harness.sweep.doctor import doctor, print_findings

    site = arguments.site and str(arguments.site)
    return print_findings(doctor(selection(arguments).runs(), store(arguments), arguments.executor, arguments.full, site), console())
