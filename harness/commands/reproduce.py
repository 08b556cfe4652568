"""`harness reproduce`: plan, sweep, baselines and report of one experiment, or of all, in one command that continues when repeated."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.commands import reports, studies, sweeps
from harness.commands.common import console, results, selection, store

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.selection import Selection
    from harness.sweep.plan import Plan

ALL = "all"
ORDER = (
    *("table1", "sweep_mu", "table2", "table3", "figure4", "schedule", "scaling", "mechanism"),
    *("figure1", "figure2", "figure3", "theory"),
)
"""What `harness reproduce all` does, in this order; runs that experiments share are trained once."""


def reproduce(arguments: argparse.Namespace) -> int:
    """`harness reproduce EXPERIMENT|all`; returns the highest exit code. A signal ends it; a failed run does not keep it from the rest."""
    from harness.sweep.plan import wanted_jobs

    names = ORDER if arguments.experiment == ALL else (arguments.experiment,)
    jobs = {name: wanted_jobs(selection(arguments, name)) for name in names}
    if arguments.policy != "read-only":
        for name in names if len(names) > 1 else ():
            sweeps.check_inputs(jobs[name], selection(arguments, name))
    codes, trained = [], set[str]()
    for name in names:
        codes.append(_reproduce(arguments, name, trained))
        trained |= {job.id for job in jobs[name]}
        if codes[-1] >= 128:
            return codes[-1]
    if len(names) > 1:
        from harness.reporting import produce

        codes.append(produce.everything(results(arguments), arguments.scale))
    return max(codes)


def _reproduce(arguments: argparse.Namespace, name: str, trained: set[str]) -> int:
    """One experiment: its sweep, then its table, or its study where all runs are done."""
    from harness.sweep.plan import wanted_jobs
    from harness.theory.studies import STUDIES

    chosen, out = selection(arguments, name), console()
    is_study = name in STUDIES
    outcome = sweeps.carry_out(arguments, chosen, out, None if is_study else _tables_by_seed(chosen, arguments, out), trained)
    if outcome.signal is not None:
        return outcome.exit_code
    open_runs = [job.id for job in wanted_jobs(chosen) if store(arguments).folder(job.id).result() is None]
    code = outcome.exit_code
    if not is_study:
        code = max(code, reports.experiment_report(arguments, name))
    elif not open_runs:
        code = max(code, studies.measure_study(arguments, name))
    if open_runs:
        text = f"{len(open_runs)} runs of {name} are not done yet. To continue: {chosen.command('harness reproduce')}"
        out.print(text, soft_wrap=True, highlight=False)
    return code


def _tables_by_seed(chosen: Selection, arguments: argparse.Namespace, out: Console) -> Callable[[Plan], Callable[[str], None]]:
    """Prints the table each time that a training seed is done for every model, but for the last, after which the report follows."""

    def for_plan(plan: Plan) -> Callable[[str], None]:
        from harness.sweep.plan import Action

        waiting: dict[int, set[str]] = {}
        for row in plan.rows:
            if (seed := getattr(row.run, "seed", None)) is not None:  # baselines have none
                waiting.setdefault(seed, set()).update({row.id} if row.action is not Action.SKIP else ())

        def on_done(run_id: str) -> None:
            finished = [seed for seed, ids in waiting.items() if ids == {run_id}]
            for ids in waiting.values():
                ids.discard(run_id)
            done = [seed for seed, ids in waiting.items() if not ids]
            if finished and len(done) < len(waiting):
                _print_table(chosen, tuple(done), len(waiting), arguments, out)

        return on_done

    return for_plan


def _print_table(chosen: Selection, seeds: tuple[int, ...], count: int, arguments: argparse.Namespace, out: Console) -> None:
    """The table from these training seeds alone."""
    from harness.reporting import printing, produce, tables

    table = produce.table_of(results(arguments), chosen, seeds)
    out.print(f"\nAfter {len(seeds)} of {count} training seeds (n = {len(seeds)}), refined as further seeds end:", highlight=False)
    tables.show(out if out.is_terminal else printing.console(), table)
