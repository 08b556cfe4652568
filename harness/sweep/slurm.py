"""The SLURM launcher: submits a plan as job arrays, watches the run folders, submits again what was lost.

The folders tell what became of a run; squeue is only asked whether a job that left no trace still waits. So it works without
accounting, and a second launcher, or the same after a crash, finds by the tokens what is already in the queue.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from harness.data.catalogue import metric_label
from harness.errors import HarnessError
from harness.store.lease import Busy
from harness.store.runs import State, Store
from harness.sweep import slurm_queue
from harness.sweep.launch import NOT_STARTED, Options, Outcome, begin, blocker, explain
from harness.sweep.plan import ACTIVE, Action, Plan, Row
from harness.sweep.progress import Progress, Running, Snapshot
from harness.sweep.site import Site, load_site
from harness.sweep.slurm_submit import Refused, Start, arrays, submit

LOOK_EVERY = 2.0
"""Seconds between two looks at the folders."""
ASK_EVERY = 30.0
"""Seconds between two questions to SLURM; a look that sees something odd asks at most every LOOK_EVERY."""
GRACE = 15.0
"""Seconds for which a job is gone before its run counts as lost: its last files may take that long to be seen over a network."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Watched:
    """A run that SLURM or another process has."""

    row: Row
    token: str | None = None
    job_id: str | None = None
    since: float = field(default_factory=time.monotonic)
    """When it was handed over; what SLURM said before does not count."""
    gone: float | None = None
    """Since when its job is not in the queue any more."""
    seen: str = ""
    """The job's state when SLURM last had it."""
    state: State = State.QUEUED
    changed: float = -float("inf")
    """When `state` was last seen to change."""


def launch(plan: Plan, store: Store, options: Options, console: Console) -> Outcome:
    """Does a plan on SLURM; returns when every run is settled, or at Ctrl-C, which leaves the jobs running.

    Raises HarnessError for a wrong site file, and when SLURM refuses the jobs and none is at work.
    """
    site = load_site(options.site)
    device = device_of(plan, options.device, site)
    with _stop_signals() as caught, Progress(console) as progress:
        return Sweep(plan, store, options, site, device, progress, caught).run()


def device_of(plan: Plan, wish: str, site: Site) -> str:
    """The device of the jobs, which is the site's and not this machine's. Raises HarnessError if the runs want GPUs and the site none."""
    if wish == "cpu" or (wish == "auto" and not site.gpus and not any(row.run.scale in ("fashion", "paper") for row in plan.active)):
        return "cpu"
    if not site.gpus:
        wanted = "--device cuda" if wish == "cuda" else "runs of this scale are made for GPUs"
        where, found = "gpus in the site file", f"0, but {wanted}"
        raise HarnessError("the site file asks for no GPU", where=where, found=found, expected="1 or more", nearest="--device cpu")
    return "cuda"


class Sweep:
    """The state of one sweep. Every run is in exactly one of todo, watched and outcome.ends."""

    def __init__(self, plan: Plan, store: Store, options: Options, site: Site, device: str, progress: Progress, caught: list[int]) -> None:
        self.plan, self.store, self.options, self.site, self.progress, self.caught = plan, store, options, site, progress, caught
        self.start = Start(options.entry, device, options.restarts)
        self.longest = min(slurm_queue.max_array_size(), site.max_array_size or 10**9)
        self.at_once = options.workers or site.parallelism
        self.outcome = Outcome()
        self.todo: dict[str, Row] = {}
        self.watched: dict[str, Watched] = {}
        self.best: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.settled_before = sum(row.action is Action.SKIP for row in plan.rows)
        self.full = False
        """SLURM takes no more jobs of this user for now."""
        self.jobs: dict[str, slurm_queue.Job] | None = None
        self.asked = -float("inf")
        progress.note(f"SLURM: {site.describe()}")
        self._ask(0.0)
        for row in plan.rows:
            if row.action in ACTIVE or row.action is Action.WAIT:
                self._sort_in(row)

    def run(self) -> Outcome:
        while self.todo or self.watched:
            self._submit_ready()
            if not self.options.wait:
                return self._leave("its job goes on", detached=True)
            self._look()
            if self.progress.due():
                self.progress.show(self._snapshot())
            self._sleep(min(self.progress.wait(), LOOK_EVERY))
            if self.caught:
                self.outcome.signal = self.caught[0]
                return self._leave("its job goes on")
        return self.outcome

    def _sort_in(self, row: Row) -> None:
        """A run that was handed to SLURM before is watched as long as its job is there, and begun otherwise."""
        submission = self.store.folder(row.id).submission()
        alive = slurm_queue.is_alive(submission, self.jobs, self.store) if submission else False
        if submission and alive is not False:
            job = (self.jobs or {}).get(submission["token"])
            self.watched[row.id] = Watched(row, submission["token"], job.id if job else submission.get("job_id"), since=0.0)
            return
        if submission:
            self.store.clear_submission(row.id, submission["token"])
            if row.state is State.QUEUED:
                self.progress.note(f"{row.id}: {_job(submission.get('job_id'))} is gone{self._why(submission.get('job_id'))}")
        if row.action is Action.WAIT and self.store.folder(row.id).state() is State.RUNNING:
            self.watched[row.id] = Watched(row)
        else:
            self.todo[row.id] = row

    def _submit_ready(self) -> None:
        """Submits what can be: runs whose needs are done or in the queue, layer after layer."""
        while not self.full and not self.caught:
            ready = [(row, after) for row in list(self.todo.values()) if (after := self._after(row)) is not None and self._begun(row)]
            if not ready:
                return
            groups = arrays(ready, self.longest)
            share = max(1, self.at_once // len(groups)) if self.at_once else None
            for array in groups:
                if self.full or self.caught:
                    return
                try:
                    done = submit(array, self.store, self.site, self.start, share)
                except Refused as refused:
                    self._refused(array.rows, refused)
                    continue
                for row in array.rows:
                    del self.todo[row.id]
                    found = done.get(row.id)  # None: another launcher was faster
                    self.watched[row.id] = Watched(row, found and found.token, found and found.job_id)
                if done:
                    ids = [found.job_id for found in done.values()]
                    many = f"{len(ids)} runs as jobs {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"1 run as job {ids[0]}"
                    self.progress.note(f"submitted {many}" + (f", after {', '.join(array.after)}" if array.after else ""))

    def _after(self, row: Row) -> tuple[str, ...] | None:
        """The jobs that a run has to wait for; None if it cannot be submitted yet, or never."""
        if why := blocker(row, self.outcome.ends):
            del self.todo[row.id]
            self._settle(row.id, State.BLOCKED, why)
            return None
        after = []
        for need in row.needs:
            if self._done(need):
                continue
            watched = self.watched.get(need)
            if watched is None or watched.job_id is None or watched.gone is not None:
                return None
            after.append(watched.job_id)
        return tuple(after)

    def _done(self, need: str) -> bool:
        return need in self.outcome.ends or self.store.folder(need).state() is State.DONE

    def _begun(self, row: Row) -> bool:
        """Makes the folder of a run; False if it needs no job of ours."""
        try:
            folder = begin(self.store, self.plan, row, first=row.id not in self.best)
        except Busy:
            self.watched[row.id] = Watched(self.todo.pop(row.id))
            return False
        except HarnessError as error:
            del self.todo[row.id]
            self._settle(row.id, State.FAILED, str(error).replace("\n", " "))
            return False
        self.best.setdefault(row.id, _step(folder.read_heartbeat()))
        state = folder.state()
        if state is State.DONE:
            del self.todo[row.id]
            self._settle(row.id, state, "")
        elif state is State.RUNNING:
            self.watched[row.id] = Watched(self.todo.pop(row.id))
        return state not in (State.DONE, State.RUNNING)

    def _refused(self, rows: tuple[Row, ...], refused: Refused) -> None:
        """A limit on submitted jobs passes when some have ended; anything else is final."""
        found = refused.details["found"]
        if not self.watched:
            raise refused
        if "limit" in found.lower():
            self.full = True
            self.progress.note(f"SLURM takes no more jobs for now ({found}); the other {len(self.todo)} runs follow when some have ended")
            return
        for row in rows:
            del self.todo[row.id]
            self._settle(row.id, row.state, f"SLURM did not take it: {found}")

    def _look(self) -> None:
        """Settles what has ended and takes back what was lost."""
        self._ask(ASK_EVERY)
        now = self.store.now()
        for name, watched in list(self.watched.items()):
            folder = self.store.folder(name)
            state = folder.state(now)
            if state is not watched.state:
                watched.state, watched.changed = state, time.monotonic()
            if state is State.DONE:
                self._end(watched, state, "")
            elif state is not State.RUNNING and (why := blocker(watched.row, self.outcome.ends)):
                slurm_queue.cancel(*([watched.job_id] if watched.job_id else []))
                self._end(watched, State.BLOCKED, why)
            elif state is State.RUNNING or self._has(watched):
                watched.gone = None
                if state not in (State.RUNNING, State.QUEUED) and time.monotonic() - watched.changed < ASK_EVERY:
                    self._ask(LOOK_EVERY)  # between two starts, or over: SLURM knows
            elif state is State.FAILED:
                self._end(watched, state, explain(folder))
            elif watched.gone is None:
                watched.gone = time.monotonic()
                self._ask(LOOK_EVERY)
            elif time.monotonic() - watched.gone >= GRACE:
                self._lost(watched)

    def _has(self, watched: Watched) -> bool:
        """True if SLURM has the run's job, or may have it."""
        if watched.token is None:
            return False
        job = (self.jobs or {}).get(watched.token)
        if job is None:
            if self.jobs is None or watched.since >= self.asked:
                return True
            submission = self.store.folder(watched.row.id).submission() if watched.job_id is None else None
            return bool(submission) and slurm_queue.is_alive(submission, self.jobs, self.store) is None
        watched.job_id, watched.seen = job.id, job.state
        if job.state == "PENDING" and watched.state in (State.STOPPED, State.STALLED):  # put back by SLURM, which does not say so there
            with contextlib.suppress(HarnessError):
                self.store.mark_submitted(watched.row.id, watched.token, "slurm")
        return True

    def _lost(self, watched: Watched) -> None:
        """Its job has left the queue and the run is not over: cancelled, or killed by a limit or a fault."""
        name, row, job_id = watched.row.id, watched.row, watched.job_id
        step = _step(self.store.folder(name).read_heartbeat())
        how = slurm_queue.end_of(job_id)
        # Elements of an array that are cancelled before they begin leave no trace; whatever has begun does, for minutes.
        unseen = not how and watched.seen == "PENDING" and all(self._done(need) for need in row.needs)
        if unseen or (how.startswith("CANCELLED") and "Dependency" not in how):
            self._end(watched, watched.state, f"{_job(job_id)} was cancelled at step {step:,}")
            return
        if step > self.best.setdefault(name, step):
            self.best[name], self.tries[name] = step, 0
        self.tries[name] = self.tries.get(name, 0) + 1
        what = f"{_job(job_id)} is gone at step {step:,}{self._why(job_id, how)}" if watched.token else "nobody works on it any more"
        if self.tries[name] > self.options.restarts:
            self._end(watched, State.FAILED, f"{what}, {self.tries[name]} times in a row without progress; see {self._output(watched)}")
            return
        self.progress.note(f"{name}: {what}; submitted again ({self.tries[name]} of {self.options.restarts} without progress)")
        self._forget(watched)
        self.todo = {name: row, **self.todo}

    def _end(self, watched: Watched, state: State, reason: str) -> None:
        self._forget(watched)
        self._settle(watched.row.id, state, reason)

    def _forget(self, watched: Watched) -> None:
        del self.watched[watched.row.id]
        self.full = False
        if watched.token:
            self.store.clear_submission(watched.row.id, watched.token)

    def _settle(self, name: str, state: State, reason: str) -> None:
        self.outcome.ends[name] = (state, reason)
        if state is not State.DONE:
            self.progress.note(f"{name}: {state}: {reason}")

    def _leave(self, what: str, detached: bool = False) -> Outcome:
        """Ends the watching; the jobs go on."""
        for name, watched in self.watched.items():
            self.outcome.ends[name] = (self.store.folder(name).state(), f"{_job(watched.job_id)}: {what}")
        for name, row in self.todo.items():
            waits = f"not submitted: needs {', '.join(row.needs)}, which SLURM does not have" if detached and row.needs else NOT_STARTED
            self.outcome.ends[name] = (row.state, waits)
        self.outcome.detached = frozenset(self.watched) if detached else frozenset()
        numbers = dict.fromkeys(watched.job_id.partition("_")[0] for watched in self.watched.values() if watched.job_id)
        if numbers:
            self.progress.note(f"the jobs go on without this command; to cancel them: scancel {' '.join(numbers)}")
        return self.outcome

    def _ask(self, every: float) -> None:
        """Asks SLURM for its queue if the last answer is older than `every` seconds."""
        if time.monotonic() - self.asked < every:
            return
        asked = time.monotonic()
        jobs = slurm_queue.queue()
        if jobs is None and self.jobs is not None:
            self.progress.note("squeue does not answer; going by the run folders alone")
        self.jobs, self.asked = jobs, asked

    def _why(self, job_id: str | None, how: str | None = None) -> str:
        how = slurm_queue.end_of(job_id) if how is None else how
        return f" ({how})" if how else ""

    def _output(self, watched: Watched) -> str:
        """Where SLURM's own output of a job lies, for jobs that die before their run's log begins."""
        return str(self.store.root / "slurm" / slurm_queue.batch_of(watched.token or "") / f"{watched.job_id}_0_log.out")

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.caught:
            time.sleep(min(0.1, seconds))

    def _snapshot(self) -> Snapshot:
        working = [watched for watched in self.watched.values() if watched.state is State.RUNNING]
        beats = [(watched.row, self.store.folder(watched.row.id).read_heartbeat() or {}, watched.token is None) for watched in working]
        running = [Running(row.id, beat, metric_label(row.run.data.name), elsewhere) for row, beat, elsewhere in beats]
        waiting = [*self.todo.values(), *(watched.row for watched in self.watched.values() if watched.state is not State.RUNNING)]
        left = sum(row.run.train.steps - row.step for row in waiting)
        left += sum(row.run.train.steps - _step(beat) for row, beat, _ in beats)
        done = sum(state is State.DONE for state, _ in self.outcome.ends.values()) + self.settled_before
        failed = sum(state is not State.DONE for state, _ in self.outcome.ends.values())
        return Snapshot(running, done, failed, len(self.plan.rows), left, self._waiting())

    def _waiting(self) -> str:
        """How many runs wait in the queue, and SLURM's reasons: 5 queued (Priority 3, Dependency 2)."""
        queued = [watched for watched in self.watched.values() if watched.state is not State.RUNNING]
        reasons: dict[str, int] = {}
        for watched in queued:
            job = (self.jobs or {}).get(watched.token or "")
            if job and job.reason:
                reasons[job.reason] = reasons.get(job.reason, 0) + 1
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        return (f"{len(queued)} queued" + (f" ({shown})" if shown else "")) if queued else ""


def _step(beat: dict[str, Any] | None) -> int:
    return int((beat or {}).get("step") or 0)


def _job(job_id: str | None) -> str:
    return f"job {job_id}" if job_id else "its job"


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects stop signals in a list instead of raising between a submission and its record."""
    caught: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in _STOP_SIGNALS} if main else {}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
