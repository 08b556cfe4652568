"""The plan of a sweep: from the wanted runs and their folders, one action per run with its reason and cost. Launchers carry it out.

No torch; nothing is written.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import Any

from rich.console import Console

from harness.config.baselines import Job, baseline_jobs, data_name
from harness.config.experiments import in_order
from harness.config.identity import NOT_IDENTITY
from harness.config.parts import GeneratorAugmented
from harness.config.run import WITHIN_CLASSES, Run, skewed_classes
from harness.config.selection import Selection
from harness.data.catalogue import check_content, info, least_samples, too_few_samples
from harness.errors import ConfigMismatch, HarnessError, unknown
from harness.store.machine import device_kind
from harness.store.made_by import TODAYS, MadeBy, summarised
from harness.store.runs import State, Store
from harness.sweep.cost import cost, rates
from harness.sweep.network_size import network_size
from harness.sweep.options import POLICIES, Policy
from harness.sweep.status import status
from harness.sweep.summary import Summary, explain, parameters, state_of, unreadable
from harness.sweep.table import counted, duration, emit, factored, render, show, title
from harness.theory.studies import STUDIES

RETRAIN: Policy = "retrain-other-code"
_ASIDE = "the present results move to old-<n>"
Alive = Callable[[Mapping[str, Any]], bool | None]
"""Whether the scheduler still has a submission (the content of submitted.json); None when that cannot be known."""


class Action(StrEnum):
    START = "start"
    CONTINUE = "continue"
    WAIT = "wait"
    """Another process works on it, or it waits in a scheduler's queue."""
    SKIP = "skip"
    RETRY = "retry"
    BLOCKED = "blocked"
    REFUSE = "refuse"


ACTIVE = frozenset({Action.START, Action.CONTINUE, Action.RETRY})
"""Actions that make a launcher begin a run."""


@dataclass(frozen=True)
class PlannedRun:
    """What will happen to one run or baselines job, and why."""

    run: Job
    id: str
    state: State
    action: Action
    reason: str
    hours: float | None
    """Remaining device-hours, None when no rate is known."""
    step: int = 0
    needs: tuple[str, ...] = ()
    """The needed runs that are not done yet: this run begins after them."""
    rough: bool = False
    """`hours` come from a run with another coupling."""
    made_by: MadeBy = TODAYS
    """By which code a done run was made."""

    @property
    def steps(self) -> int:
        """Training steps; a baselines job counts as one."""
        return self.run.train.steps if isinstance(self.run, Run) else 1

    @property
    def threads(self) -> int:
        """CPU threads that the run prescribes, 0 if it prescribes none."""
        return self.run.train.threads if isinstance(self.run, Run) else 0


@dataclass(frozen=True)
class Plan:
    """Rows in an order in which needs come before their dependants."""

    rows: tuple[PlannedRun, ...]
    policy: Policy = "default"
    device: str = ""
    """The kind of device whose rates the costs come from."""
    selection: Selection | None = None
    """What the runs were selected by, for commands in messages."""
    parameters: Mapping[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict, repr=False)

    @property
    def active(self) -> tuple[PlannedRun, ...]:
        return tuple(row for row in self.rows if row.action in ACTIVE)

    @property
    def hours(self) -> float | None:
        """Device-hours of all runs that will be started, None when one is unknown; baselines that were never timed are left out."""
        return None if self.untimed else sum(row.hours or 0.0 for row in self.active)

    @property
    def untimed(self) -> list[PlannedRun]:
        """The runs that will be started and whose rate is unknown."""
        return [row for row in self.active if row.hours is None and isinstance(row.run, Run)]


def wanted_jobs(selection: Selection) -> list[Job]:
    """The runs of a selection and, first, the baselines that their tables show. Studies show none.

    Raises HarnessError for an unknown experiment, scale, key or function, and for runs that do not fit their data set.
    """
    runs = selection.runs()
    for run in {repr((run.data, run.network, run.objective.kind, run.evaluation.samples, run.train.batch)): run for run in runs}.values():
        _check_fit(run)
    return [*([] if selection.experiment in STUDIES else baseline_jobs(runs)), *runs]


def _check_fit(run: Run) -> None:
    """Raises HarnessError for what does not fit the data set, which the job would find only after it has loaded it.

    That is a conditional model of data without classes, more rows than there are, a network that does not take such rows, and too few
    samples for its metrics.
    """
    if info(run.data.name).custom and run.data.custom is None:
        what, advice = f"{run.data.name} is a set of your own, whose network is derived from it", f"--data {run.data.name}"
        raise HarnessError(what, where="data.name", found="another data set's network and schedule", expected=advice, nearest=advice)
    check_content(run.data.name, run.data.custom)
    dataset, kind = info(run.data.name), run.network.kind
    if run.data.labels and not dataset.classes:
        raise HarnessError("this data set has no classes", where="data.labels", found=f"true, for {dataset.name}", expected="false")
    if dataset.custom and run.train.batch > dataset.train:
        found, most = f"{run.train.batch:,}, for {dataset.name} of {dataset.train:,} training images", 1 << dataset.train.bit_length() - 1
        raise HarnessError("fewer images than a batch", where="train.batch", found=found, expected=f"at most {dataset.train}", nearest=most)
    if run.data.limit is not None and run.data.limit > dataset.train:
        found, most = f"{run.data.limit}, for {dataset.name}", dataset.train
        raise HarnessError("more rows than the data set has", where="data.limit", found=found, expected=f"1 to {most}", nearest=most)
    of_points = len(dataset.shape) == 1
    if of_points != (kind in ("mlp", "linear")):
        takes, nearest = ("images", "mlp") if of_points else ("points", "ddpmpp")
        what = f"network.kind = {kind} takes {takes}"
        raise HarnessError(what, where="network.kind", found=f"{dataset.name}, of shape {dataset.shape}", nearest=nearest)
    network_size(run)  # raises where layers do not fit together, or not to the size of the images
    least = least_samples(dataset.name)
    if run.objective.kind != "denoiser" and run.evaluation.samples < least:
        raise too_few_samples(run.evaluation.samples, least)


def make_plan(
    jobs: Iterable[Job],
    store: Store,
    policy: Policy = "default",
    *,
    device: str = "auto",
    alive: Alive = lambda submission: None,
    selection: Selection | None = None,
) -> Plan:
    """One row per run, in the order of `in_order`. Raises HarnessError for an unknown policy or runs that need each other in a circle.

    selection: what the jobs were selected by.
    """
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES, where="--policy")
    ordered = in_order(jobs)
    stored = {summary.id: summary for summary in status(store)}
    described = {name: parameters(run) for name, run in ordered.items()}
    known = rates(stored.values(), (values for values, _ in described.values()), device_kind(device))
    rows: dict[str, PlannedRun] = {}
    for name, run in ordered.items():
        summary = stored.get(name, Summary(name, State.NEW))
        action, reason = _mismatch(run, store) or _decide(store, summary, policy, alive)
        again = [
            need
            for need in run.needs
            if policy == RETRAIN and need in rows and rows[need].state is State.DONE and rows[need].action is Action.START
        ]
        if action is Action.SKIP and again:
            action, reason = Action.START, f"done, but {', '.join(again)}, which it needs, is trained again; {_ASIDE}"
        if isinstance(run, Run) and action is not Action.START and (lost := _lost_steps(run.keep_steps, store, name, summary.state)):
            reason += f"; without step {', '.join(f'{step:,}' for step in lost)}, which was not kept"
        step = summary.step if action in (Action.CONTINUE, Action.WAIT, Action.SKIP) else 0
        rate, rough = known.of(described[name][0])
        row = PlannedRun(run, name, summary.state, action, reason, None, step, rough=rough, made_by=summary.made_by)
        hours = 0.0 if action is Action.SKIP else None if rate is None else (row.steps - step) / rate / 3600
        rows[name] = _with_needs(replace(row, hours=hours), rows, store, selection)
    return Plan(tuple(rows.values()), policy, known.device, selection, described)


def print_plan(plan: Plan, console: Console) -> None:
    """Prints the plan as a table: a title with what all runs share, one row per run, and `summary_line`."""
    described = [plan.parameters[row.id] for row in plan.rows]
    common, differing = factored([values for values, _ in described])
    special = {key for _, keys in described for key in keys}
    differing = [key for key in differing if key not in NOT_IDENTITY]
    name = f"{plan.selection.experiment}: " if plan.selection else ""
    emit(console, f"{name}{_count(plan)}   {title(common, special)}\n")
    rows = []
    for row, (values, _) in zip(plan.rows, described, strict=True):
        rows.append([row.id, row.state, row.action, cost(row.hours, row.rough), row.reason, *(show(values.get(key)) for key in differing)])
    emit(console, render(["run", "state", "action", "device-hours", "reason", *differing], rows, right=["device-hours"]))
    emit(console, "\n" + summary_line(plan))
    if line := code_line(plan):
        emit(console, line)
    for warning in class_warnings(row.run for row in plan.active):
        emit(console, f"warning: {warning}; {WITHIN_CLASSES}")


def class_warnings(jobs: Iterable[Job]) -> list[str]:
    """What `skewed_classes` says of these jobs, each sentence once."""
    return list(dict.fromkeys(warning for job in jobs if isinstance(job, Run) and (warning := skewed_classes(job))))


def summary_line(plan: Plan) -> str:
    """How many runs get which action, and the device-hours of those that will be started."""
    counts = Counter(row.action for row in plan.rows)
    text = ", ".join(f"{counts[action]} {action}" for action in Action if counts[action]) or "no runs"
    if not plan.active:
        return f"{text}: nothing to start"
    untimed, hours = plan.untimed, [row.hours for row in plan.active if row.hours]
    rough = any(row.rough and row.hours for row in plan.active)
    legend = "; ~ is the rate of the same network with another coupling" if rough else ""
    legend += "; baselines, never timed, are not counted" if len(untimed) < sum(row.hours is None for row in plan.active) else ""
    if plan.hours is not None:
        return f"{text}; {cost(plan.hours, rough)} device-hours ({duration(plan.hours * 3600)} on one {plan.device}){legend}"
    others = f", {cost(sum(hours), rough)} for the others{legend}" if hours else ""
    data = ", ".join(dict.fromkeys(data_name(row.run) for row in untimed))
    start = f"harness run {untimed[0].id}"
    return (
        f"{text}; device-hours unknown for {len(untimed)} of {len(plan.active)}{others}: costs are measured, never guessed, and no such "
        f"network on {data} has been timed on this kind of device\nTo time one, start it on the device that will do the work, stop it "
        f"after some minutes with Ctrl-C, which saves, and plan again: "
        f"{plan.selection.command(f'{start} --experiment') if plan.selection else start}"
    )


def code_line(plan: Plan) -> str:
    """The runs that stay as they are although other code made them, and how to train or verify them again; "" if there are none."""
    kept = [row for row in plan.rows if row.action is Action.SKIP and row.made_by.note]
    text = summarised(row.made_by for row in kept)
    if not any(row.made_by.other for row in kept):
        return text
    first = next(row for row in kept if row.made_by.other)
    where = f" --results {shlex.quote(str(plan.selection.results))}" if plan.selection and plan.selection.results else ""
    sweep = plan.selection.command("harness sweep", "--policy", RETRAIN) if plan.selection else f"--policy {RETRAIN}"
    return f"{text}\nTo train them again: {sweep}; to see whether the numbers change: harness verify {first.id}{where}"


def _count(plan: Plan) -> str:
    """48 runs = 12 couplings x 4 data sets x 1 seed, where they are such a grid, and how many baselines jobs come first."""
    runs = [row.run for row in plan.rows if isinstance(row.run, Run)]
    sides = {
        "coupling": len({repr(run.coupling) for run in runs}),
        "data set": len({run.data.name for run in runs}),
        "seed": len({run.seed for run in runs}),
    }
    is_grid = len(runs) > 1 and prod(sides.values()) == len(runs)
    grid = " = " + " x ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in sides.items()) if is_grid else ""
    return counted(len(runs), len(plan.rows) - len(runs), grid)


def _mismatch(run: Job, store: Store) -> tuple[Action, str] | None:
    """Refuses a run whose stored config is another, which is never overwritten; None if it is the same, absent or damaged."""
    try:
        store.folder(run.id).check_config(run.to_dict())
    except ConfigMismatch as error:
        return Action.REFUSE, f"{error.what}: {error.details['found']}"
    except HarnessError:  # a missing or damaged config is written again
        pass
    return None


def _decide(store: Store, summary: Summary, policy: Policy, alive: Alive) -> tuple[Action, str]:
    """What happens to a run by its state and the policy alone, and why."""
    state, at = summary.state, f"at step {summary.step:,} of {summary.total:,}" if summary.total else "at the start"
    if policy == "read-only" and state is not State.DONE:
        return Action.REFUSE, "not done, and the policy is read-only"
    match state:
        case State.RUNNING:
            return Action.WAIT, f"a process works on it, {at}, heartbeat {duration(summary.age)} ago"
        case State.QUEUED:
            submission = store.folder(summary.id).submission() or {}
            job = f"job {submission.get('job_id') or '(not recorded)'} of {submission.get('executor')}"
            if alive(submission) is not False:
                return Action.WAIT, f"queued as {job}"
            return (Action.CONTINUE if summary.step else Action.START), f"{job} is gone"
        case State.DONE if policy == RETRAIN and summary.made_by.other:
            return Action.START, f"done, {summary.made_by.note}; {_ASIDE}"
        case State.DONE if policy != "force":
            return Action.SKIP, f"done, {note}" if (note := summary.made_by.note) else "done"
        case State.NEW:
            return Action.START, "not begun"
        case _ if policy == "force":
            return Action.START, f"forced ({state}); {_ASIDE}"
        case State.FAILED:
            return _failed(store, summary, policy)
        case State.STALLED:
            return Action.CONTINUE, f"its process is gone, {at}"
        case State.STOPPED if fault := store.folder(summary.id).records_fault():
            return Action.CONTINUE, f"{fault}; the records are restored from the last checkpoint"
    return Action.CONTINUE, f"stopped {at}"


def _failed(store: Store, summary: Summary, policy: Policy) -> tuple[Action, str]:
    folder = store.folder(summary.id)
    if fault := unreadable(folder):
        return Action.REFUSE, f"{fault}; correct that, or move its folder away"
    reason = explain(folder)
    if policy == "retry-failed":
        return Action.RETRY, f"failed before ({reason})"
    if (folder.error() or {}).get("kind") == "input":
        return Action.RETRY, f"tried again, since its input was missing or wrong ({reason})"
    return Action.REFUSE, f"failed ({reason}); --policy retry-failed starts it again"


def _with_needs(row: PlannedRun, rows: Mapping[str, PlannedRun], store: Store, selection: Selection | None) -> PlannedRun:
    """The row, made to wait for the runs that it needs or blocked by them. Those of this plan are in `rows` already."""
    if row.action not in ACTIVE:
        return row
    coupling = row.run.coupling if isinstance(row.run, Run) else None
    waiting = []
    for need in row.run.needs:
        other = rows.get(need)
        state = other.state if other else state_of(store.folder(need))
        if other and (other.action in ACTIVE or other.action is Action.WAIT):
            waiting.append(need)
        elif state is not State.DONE:
            why = f"{state}{': ' + other.reason if other else ', and is not part of this sweep'}"
            return replace(row, state=State.BLOCKED, action=Action.BLOCKED, reason=f"needs {need}, which is {why}")
        step = coupling.frozen_step if isinstance(coupling, GeneratorAugmented) and coupling.frozen == need else None
        if step and _lost_steps((step,), store, need, state) and not (other and other.action is Action.START):
            kept = ", ".join(f"{kept:,}" for kept in store.folder(need).stored_steps()) or "none"
            clear = f"harness clear {need}"
            clear += f" --results {shlex.quote(str(selection.results))}" if selection and selection.results else ""
            why = f"needs step {step:,} of {need}, which was not kept (kept: {kept}); to train that again, to the same numbers: {clear}"
            return replace(row, state=State.BLOCKED, action=Action.BLOCKED, reason=why)
    if waiting:
        return replace(row, reason=f"{row.reason}; after {', '.join(waiting)}", needs=tuple(waiting))
    return row


def _lost_steps(wanted: Sequence[int], store: Store, name: str, state: State) -> list[int]:
    """The wanted checkpoints that a run does not have and will not save.

    These are all that are absent if it is done; otherwise those before its newest checkpoint, and those of which the process at work does
    not know.
    """
    if not wanted or state is State.NEW:
        return []
    folder = store.folder(name)
    stored = folder.stored_steps()
    absent = [step for step in wanted if step not in stored]
    if state is State.DONE:
        return absent
    planned = wanted
    if state is State.RUNNING:
        with contextlib.suppress(HarnessError):
            planned = folder.config().get("keep_steps") or ()
    return [step for step in absent if step < max(stored, default=0) or step not in planned]
