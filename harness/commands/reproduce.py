"""`harness reproduce`: plan, sweep, baselines and report of one experiment, or of all, in one command that continues when repeated."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import replace

from harness.commands import rehearsing, reproduce_features, studies, sweeps
from harness.commands.common import refuse, selection, store
from harness.config.baselines import Job
from harness.config.experiments import OtherData, names
from harness.config.run import Run
from harness.config.selection import Selection
from harness.console import Console
from harness.store.runs import Store
from harness.sweep.plan import Action, Plan, wanted_jobs
from harness.sweep.site import load_site
from harness.sweep.slurm_command import belongs_into_a_job, run_in_a_job
from harness.sweep.table import emit
from harness.theory.studies import STUDIES

ALL = "all"
FIRST = ("table1", "sweep_mu", "table2", "table3", "figure4", "schedule", "scaling", "mechanism")
"""What `harness reproduce all` does first, in this order."""


def order() -> tuple[str, ...]:
    """All experiments in the order of `harness reproduce all`: those of FIRST, the others, the studies, which measure runs of others.

    Runs that experiments share are trained once.
    """
    available = names()
    others = sorted(set(available) - set(FIRST), key=lambda name: (name in STUDIES, name))
    return (*(name for name in FIRST if name in available), *others)


def reproduce(arguments: argparse.Namespace) -> int:
    """`harness reproduce EXPERIMENT|all`; returns the highest exit code. A signal ends the command; a failed run does not."""
    wanted = order() if arguments.experiment == ALL else (arguments.experiment,)
    if arguments.smoke:
        refuse(arguments, ("features",), "no --smoke: a smoke test measures by the usual networks")
        return rehearsing.smoke(arguments, wanted)
    refuse(arguments, ("output",), "--smoke, whose folder it names; --results names that of a sweep")
    jobs: dict[str, list[Job]] = {}
    for name in wanted:
        try:
            jobs[name] = wanted_jobs(selection(arguments, name))
        except OtherData as error:
            if len(wanted) == 1:
                raise
            emit(Console(), f"{name}: left out, since {error.what}")
    wanted = tuple(jobs)
    if len(wanted) > 1 and arguments.policy != "read-only":
        for name in wanted:
            sweeps.check_inputs(jobs[name], selection(arguments, name))
    if arguments.features:
        reproduce_features.before_the_sweep(arguments, [selection(arguments, name) for name in wanted])
    codes, trained = [], set[str]()
    for name in wanted:
        codes.append(_reproduce(arguments, name, trained))
        trained |= {job.id for job in jobs[name]}
        if codes[-1] >= 128:
            return codes[-1]
    if len(wanted) > 1:
        from harness.reporting import produce

        codes.append(produce.everything(store(arguments).root, arguments.scale, arguments.records or "own"))
    return max(codes)


def _reproduce(arguments: argparse.Namespace, name: str, trained: set[str]) -> int:
    """One experiment: its sweep, then its table, or its study if all runs are done."""
    chosen, runs, out, is_study = selection(arguments, name), store(arguments), Console(), name in STUDIES
    plan = sweeps.sweep_plan(arguments, chosen, out, trained)
    result = sweeps.launch_plan(arguments, plan, out, None if is_study else _table_by_seed(plan, chosen, runs, out))
    if result.signal is not None:
        return result.exit_code
    unfinished = [row.id for row in plan.rows if runs.folder(row.id).result() is None]
    code = result.exit_code
    if arguments.features:
        code = max(code, reproduce_features.after_the_sweep(arguments, chosen))
    if not is_study:
        from harness.reporting import produce

        code = max(code, produce.experiment(runs.root, chosen, arguments.records or "own"))
    elif not unfinished:
        code = max(code, _measure(arguments, chosen, runs))
    if unfinished:
        options = [("--site", arguments.site), ("--records", arguments.records), *(("--features", text) for text in arguments.features)]
        again = chosen.command("harness reproduce", *(word for name, value in options if value for word in (name, str(value))))
        emit(out, f"{name}: {len(unfinished)} of {len(plan.rows)} are not done yet. To continue: {again}")
    return code


def _measure(arguments: argparse.Namespace, chosen: Selection, runs: Store) -> int:
    """A study whose runs are done: in a job where the sweeps are jobs too, since it computes for long."""
    device = "cpu" if arguments.device == "cpu" else "auto"  # of the machine that measures, which need not have the GPU of the runs
    if not belongs_into_a_job(arguments.executor, runs):
        return studies.measure_study(arguments, chosen.experiment, device)
    words = shlex.split(chosen.command("measure", "--device", device))
    return run_in_a_job(load_site(arguments.site), f"measure-{chosen.experiment}", words)


def _table_by_seed(plan: Plan, chosen: Selection, runs: Store, out: Console) -> Callable[[str], None]:
    """Prints the table each time that all models of a training seed are done, except after the last run: the report follows then."""
    waiting: dict[int, set[str]] = {}
    for row in plan.rows:
        if isinstance(row.run, Run):
            waiting.setdefault(row.run.seed, set()).update([row.id] if row.action is not Action.SKIP else [])

    def on_done(run_id: str) -> None:
        seed_ends = {run_id} in waiting.values()
        for ids in waiting.values():
            ids.discard(run_id)
        seeds = tuple(seed for seed, ids in waiting.items() if not ids)
        if seed_ends and len(seeds) < len(waiting):
            from harness.reporting import printing, produce, tables

            table = replace(produce.table_of(runs.root, chosen, seeds), notes=(), more=())
            emit(out, f"\nAfter {len(seeds)} of {len(waiting)} training seeds (n = {len(seeds)}), printed again as further seeds end:")
            (out if out.is_terminal else printing.console()).print(tables.terminal(table))

    return on_done
