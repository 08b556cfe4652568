"""`harness status`: the state of runs by their folders alone, on any machine that can read them. No scheduler is asked. No torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from harness.config.baselines import Job
from harness.config.experiments import in_order
from harness.data.catalogue import metric_label
from harness.store.made_by import summarised
from harness.store.runs import State, Store
from harness.sweep.summary import Summary, state_of, summary
from harness.sweep.table import counted, duration, factored, is_run, render, show, title

WATCH_EVERY = 2.0
"""Seconds between two tables of `watch`."""
SETTLED = frozenset({State.DONE, State.FAILED, State.BLOCKED})
REHEARSAL = "of a rehearsal, no result"
"""The note of a run or baselines job that `harness rehearse` made."""


def is_rehearsal(summary: Summary) -> bool:
    """Whether the run is one of `harness rehearse`."""
    return bool(summary.parameters.get("rehearsal"))


def status(store: Store, jobs: Sequence[Job] | None = None) -> list[Summary]:
    """The summaries of the given runs and baselines jobs, begun or not, or of every run folder.

    Raises HarnessError where the folder of runs cannot be read.
    """
    now, folders = store.now(), store.folders()
    if jobs is None:
        return [summary(folder, now) for folder in folders]
    rows: dict[str, Summary] = {}
    for name, job in in_order(jobs).items():
        rows[name] = summary(store.folder(name), now, job)
        for need in job.needs:
            state = rows[need].state if need in rows else state_of(store.folder(need))
            if rows[name].state is State.NEW and state in (State.FAILED, State.BLOCKED):
                rows[name] = replace(rows[name], state=State.BLOCKED, reason=f"needs {need}, which is {state}")
    return list(rows.values())


@dataclass(frozen=True)
class StatusTable:
    """What all runs share, one row per run, and a line of totals.

    title: the experiment and the numbers of runs. common: the parameters that all runs share. right: headers of the columns that are
    aligned to the right.
    """

    title: str
    common: str
    headers: list[str]
    rows: list[list[str]]
    totals: str
    right: list[str]


def status_table(summaries: Sequence[Summary], name: str = "") -> StatusTable:
    """What a table of these runs says, in the order of the summaries. name: of the experiment."""
    described = [summary.parameters for summary in summaries if summary.parameters]
    common, differing = factored(described)
    special = {key for summary in summaries for key in summary.special}
    baselines = sum(not is_run(values) for values in described)
    metric = "/".join(sorted({metric_label(values["data.name"]) for values in described if is_run(values)}) or ["FID"])
    headers = ["run", *differing, "state", "step", "steps/s", "left", metric, "restarts", "job", "heartbeat", "note"]
    rows = [[summary.id, *(show(summary.parameters.get(key)) for key in differing), *_cells(summary)] for summary in summaries]
    heading = f"{name + ': ' if name else ''}{counted(len(summaries) - baselines, baselines)}"
    return StatusTable(heading, title(common, special), headers, rows, totals(summaries), headers[-8:-1])


def table(summaries: Sequence[Summary], name: str = "") -> Text:
    """`status_table` for a terminal."""
    if not summaries:
        return Text("no runs yet")
    shown = status_table(summaries, name)
    return Text("\n\n").join(
        [Text(f"{shown.title}   {shown.common}".rstrip()), render(shown.headers, shown.rows, right=shown.right), Text(shown.totals)]
    )


def totals(summaries: Sequence[Summary]) -> str:
    """How many runs are in each state, how many were made by other code than today's, and when those at work will be done."""
    rehearsed = sum(is_rehearsal(summary) for summary in summaries)
    summaries = [summary for summary in summaries if not is_rehearsal(summary)]
    counts = {state: sum(summary.state is state for summary in summaries) for state in State}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no runs"
    text += f"; not counted, since nothing of them is a result: {rehearsed} of a rehearsal" if rehearsed else ""
    left = [summary.seconds_left for summary in summaries if summary.seconds_left is not None]
    text += f"; {others}" if (others := summarised(summary.made_by for summary in summaries)) else ""
    return text + (f"; the runs at work will end within {duration(max(left))}" if left else "")


def watch(store: Store, jobs: Sequence[Job] | None, console: Console, name: str = "") -> None:
    """Shows the table every WATCH_EVERY seconds until every run is done, failed or blocked."""
    while True:
        rows = status(store, jobs)
        console.clear()
        console.print(table(rows, name), soft_wrap=True, highlight=False)
        if all(summary.state in SETTLED for summary in rows):
            return
        time.sleep(WATCH_EVERY)


def _cells(summary: Summary) -> list[str]:
    total = "?" if summary.total is None else str(summary.total)
    working = summary.state is State.RUNNING
    note = (
        summary.reason
        or (REHEARSAL if is_rehearsal(summary) else "")
        or summary.made_by.note
        or (summary.phase or "" if working and summary.phase != "train" else "")
    )
    return [
        summary.state,
        f"{summary.step}/{total}",
        f"{summary.rate:.3g}" if summary.rate else "-",
        duration(summary.seconds_left),
        f"{summary.fid:.4g}" if summary.fid is not None else "-",
        str(summary.restarts),
        summary.job or "-",
        "-" if summary.age is None else f"{duration(summary.age)} ago",
        note.partition("\n")[0],
    ]
