"""From wanted runs and what the folders say to one action a run, its reason and its cost. Plan first, then act: launchers do this plan.

No torch, nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import Any, Literal, get_args

from rich.console import Console

from harness.config.experiments import in_order
from harness.config.run import NOT_IDENTITY, GeneratorAugmented, Run
from harness.errors import HarnessError, unknown
from harness.store.machine import device_kind
from harness.store.runs import State, Store
from harness.sweep.cost import cost, rates
from harness.sweep.index import Summary, summaries
from harness.sweep.parameters import parameters
from harness.sweep.table import duration, emit, factored, render, show, title

Policy = Literal["default", "retry-failed", "force", "read-only"]
POLICIES = get_args(Policy)


class Action(StrEnum):
    START = "start"
    CONTINUE = "continue"
    WAIT = "wait"
    """Another process or a scheduler has it."""
    SKIP = "skip"
    RETRY = "retry"
    BLOCKED = "blocked"
    REFUSE = "refuse"


ACTIVE = frozenset({Action.START, Action.CONTINUE, Action.RETRY})
"""Actions that make a launcher begin a run."""


@dataclass(frozen=True)
class Row:
    """What will happen to one run, and why."""

    run: Run
    id: str
    state: State
    action: Action
    reason: str
    hours: float | None
    """Device-hours that are left, None when no rate is known."""
    step: int = 0
    needs: tuple[str, ...] = ()
    """Needs that are not done yet but will be: this run begins after them."""
    rough: bool = False
    """`hours` come from a run with another coupling."""


@dataclass(frozen=True)
class Plan:
    """Rows in an order in which needs come before their dependants."""

    rows: tuple[Row, ...]
    policy: Policy = "default"
    device: str = ""
    """The kind of device whose rates the costs come from."""
    parameters: Mapping[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict, repr=False)

    @property
    def active(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action in ACTIVE)

    @property
    def hours(self) -> float | None:
        """Device-hours of all that will be begun, None when one of them is unknown."""
        known = [row.hours for row in self.active]
        return None if None in known else sum(known)


def make_plan(
    runs: Iterable[Run],
    store: Store,
    policy: Policy = "default",
    *,
    device: str = "auto",
    alive: Callable[[Mapping[str, Any]], bool | None] = lambda submission: None,
) -> Plan:
    """One row a run. Raises HarnessError for an unknown policy or runs that need each other in a circle.

    alive: tells whether the scheduler still has a submission (the content of submitted.json); None when that cannot be known.
    """
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES, where="--policy")
    ordered = in_order(runs)
    found = {summary.id: summary for summary in summaries(store)}
    described = {name: parameters(run) for name, run in ordered.items()}
    known = rates(found.values(), (values for values, _ in described.values()), device_kind(device))
    rows: dict[str, Row] = {}
    for name, run in ordered.items():
        summary = found.get(name, Summary(name, State.NEW))
        action, reason = _refused(run, name, store, summary) or _decide(store, summary, policy, alive)
        step = summary.step if action in (Action.CONTINUE, Action.WAIT, Action.SKIP) else 0
        rate, rough = known.of(described[name][0])
        hours = 0.0 if action is Action.SKIP else None if rate is None else (run.train.steps - step) / rate / 3600
        if action is not Action.START and (lost := lost_steps(run.keep_steps, store, name, summary.state)):
            reason += f"; without step {', '.join(f'{one:,}' for one in lost)}, which was not kept"
        rows[name] = _with_needs(Row(run, name, summary.state, action, reason, hours, step, rough=rough), rows, store)
    return Plan(tuple(rows.values()), policy, known.device, described)


def print_plan(plan: Plan, console: Console, name: str = "") -> None:
    """The plan as a table: what all runs share in the title, one row a run."""
    described = [plan.parameters[row.id] for row in plan.rows]
    common, differing = factored([values for values, _ in described])
    special = {key for _, keys in described for key in keys}
    differing = [key for key in differing if key not in NOT_IDENTITY]
    emit(console, f"{name + ': ' if name else ''}{_count(plan)}   {title(common, [*special])}\n")
    rows = []
    for row in plan.rows:
        values = plan.parameters[row.id][0]
        told = row.state, row.action, cost(row.hours, row.rough), row.reason
        rows.append([row.id, *told, *(show(values.get(key)) for key in differing)])
    emit(console, render(["run", "state", "action", "device-hours", "reason", *differing], rows, right=["device-hours"]))
    emit(console, "\n" + summary_line(plan, name))


def summary_line(plan: Plan, name: str = "") -> str:
    """How many runs get which action, and what the rest costs."""
    counts = {action: sum(row.action is action for row in plan.rows) for action in Action}
    text = ", ".join(f"{count} {action}" for action, count in counts.items() if count) or "no runs"
    if not plan.active:
        return f"{text}: nothing to start"
    rough = any(row.rough and row.hours for row in plan.active)
    told = "; ~ is the rate of the same network with another coupling" if rough else ""
    if plan.hours is not None:
        return f"{text}; {cost(plan.hours, rough)} device-hours ({duration(plan.hours * 3600)} on one {plan.device}){told}"
    without = [row for row in plan.active if row.hours is None]
    known = sum(row.hours for row in plan.active if row.hours)
    others = f", {cost(known, rough)} for the others{told}" if known else ""
    data = ", ".join(dict.fromkeys(row.run.data.name for row in without))
    run = without[0].run
    return (
        f"{text}; device-hours unknown for {len(without)} of {len(plan.active)}{others}: they are measured, not guessed, and no such "
        f"network on {data} has been timed\nto time one: start it on the device that will do the work, stop it after some minutes "
        f"(Ctrl-C saves), and plan again: harness run {run.slug} --experiment {name or 'EXPERIMENT'} --scale {run.scale}"
    )


def _count(plan: Plan) -> str:
    """48 runs = 12 couplings x 4 data sets x 1 seed, where they are such a grid."""
    runs, total = [row.run for row in plan.rows], f"{len(plan.rows)} runs"
    sides = {
        "coupling": len({repr(run.coupling) for run in runs}),
        "data set": len({run.data.name for run in runs}),
        "seed": len({run.seed for run in runs}),
    }
    if len(runs) < 2 or prod(sides.values()) != len(runs):
        return total
    return f"{total} = " + " x ".join(f"{many} {what}{'' if many == 1 else 's'}" for what, many in sides.items())


def _refused(run: Run, name: str, store: Store, summary: Summary) -> tuple[Action, str] | None:
    """A stored config that disagrees is never trained over."""
    folder = store.folder(name)
    if summary.state is State.NEW and not (folder.path / "config.json").exists():
        return None
    try:
        folder.check_config(run.to_dict())
    except HarnessError as error:
        if "found" in error.details and error.what != "damaged file":
            return Action.REFUSE, f"{error.what}: {error.details['found']}"
    return None


def _decide(store: Store, summary: Summary, policy: Policy, alive: Callable) -> tuple[Action, str]:
    state, at = summary.state, f"at step {summary.step:,} of {summary.total:,}" if summary.total else "at its start"
    if policy == "read-only" and state is not State.DONE:
        return Action.REFUSE, "not done, and the policy is read-only"
    match state:
        case State.RUNNING:
            return Action.WAIT, f"a process works on it, {at}, heartbeat {duration(summary.age)} ago"
        case State.QUEUED:
            return _queued(store, summary, alive)
        case State.DONE if policy != "force":
            return Action.SKIP, "done"
        case State.NEW:
            return Action.START, "never begun"
        case _ if policy == "force":
            return Action.START, f"forced; what is there ({state}) moves to old-<n>"
        case State.FAILED:
            return _failed(store, summary, policy)
        case State.STALLED:
            return Action.CONTINUE, f"its process is gone, {at}"
    return Action.CONTINUE, f"stopped {at}"


def _queued(store: Store, summary: Summary, alive: Callable) -> tuple[Action, str]:
    submission = store.folder(summary.id).submission() or {}
    job = f"job {submission.get('job_id') or '(not recorded)'} of {submission.get('executor')}"
    if alive(submission) is False:
        return (Action.CONTINUE if summary.step else Action.START), f"{job} is gone"
    return Action.WAIT, f"waits as {job}"


def _failed(store: Store, summary: Summary, policy: Policy) -> tuple[Action, str]:
    error = store.folder(summary.id).error() or {}
    reason = f"{error.get('kind', 'failed')}: {str(error.get('message', summary.reason)).partition(chr(10))[0]}"
    if policy == "retry-failed":
        return Action.RETRY, f"failed before ({reason})"
    if error.get("kind") == "input":
        return Action.RETRY, f"asks for what was missing before ({reason})"
    return Action.REFUSE, f"failed ({reason}); --policy retry-failed starts it again"


def _with_needs(row: Row, rows: Mapping[str, Row], store: Store) -> Row:
    """The row with what its needs make of it; they are in `rows` already when they are in the plan."""
    if row.action not in ACTIVE:
        return row
    waiting = []
    for need in row.run.needs:
        other = rows.get(need)
        state = other.state if other else store.folder(need).state()
        if other and (other.action in ACTIVE or other.action is Action.WAIT):
            waiting.append(need)
        elif state is not State.DONE:
            why = f"{state}{': ' + other.reason if other else ', and no part of this sweep'}"
            return replace(row, state=State.BLOCKED, action=Action.BLOCKED, reason=f"needs {need}, which is {why}")
        step = _needed_step(row.run, need)
        if step and lost_steps((step,), store, need, state) and not (other and other.action is Action.START):
            kept = ", ".join(f"{kept:,}" for kept in store.folder(need).stored_steps()) or "none"
            mend = f"`harness clear {need}` and this command train it again, to the same numbers"
            why = f"needs step {step:,} of {need}, which was not kept (kept: {kept}); {mend}"
            return replace(row, state=State.BLOCKED, action=Action.BLOCKED, reason=why)
    if waiting:
        return replace(row, reason=f"{row.reason}; after {', '.join(waiting)}", needs=tuple(waiting))
    return row


def _needed_step(run: Run, need: str) -> int | None:
    """The step of another run whose checkpoint this one predicts with; None for its last."""
    coupling = run.coupling
    return coupling.frozen_step if isinstance(coupling, GeneratorAugmented) and coupling.frozen == need else None


def lost_steps(wanted: Iterable[int], store: Store, name: str, state: State) -> list[int]:
    """Those of the wanted checkpoints that a run does not have and will not have: it is done, or past them, or at work and not told."""
    wanted, folder = tuple(wanted), store.folder(name)
    if not wanted or state is State.NEW:
        return []
    stored = folder.stored_steps()
    absent = [step for step in wanted if step not in stored]
    if state is State.DONE:
        return absent
    told: Iterable[int] = wanted
    if state is State.RUNNING:
        with contextlib.suppress(HarnessError):
            told = folder.config().get("keep_steps") or ()
    return [step for step in absent if step < max(stored, default=0) or step not in told]
