"""The SLURM launcher: submits a plan as job arrays, watches the run folders, and submits lost runs again.

The state of a run is read from its folder; squeue is only asked whether a job that left no trace is still queued. So it works without
accounting, and a second launcher, or the same one after a crash, recognises by the tokens what is already in the queue.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from rich.console import Console

from harness.errors import HarnessError
from harness.store.machine import Device
from harness.store.runs import State, Store
from harness.sweep import slurm_queue
from harness.sweep.plan import Action, Plan, PlannedRun
from harness.sweep.progress import Progress
from harness.sweep.site import Site, load_site
from harness.sweep.slurm_submit import QueueFull, Refused, arrays, submit
from harness.sweep.summary import explain, state_of
from harness.sweep.supervisor import NOT_STARTED, LaunchOptions, Signals, Supervisor, SweepResult, step_of

POLL_EVERY = 2.0
"""Seconds between two checks of the folders."""
ASK_EVERY = 30.0
"""Seconds between two questions to SLURM; after an unexpected state, at most every POLL_EVERY."""
RETRY_EVERY = 60.0
"""Seconds after which a launcher whose jobs were all refused for a limit tries again."""
GRACE = 15.0
"""Seconds after which a run whose job is gone counts as lost: over a network its last files may take that long to appear."""


@dataclass
class Watched:
    """A run that SLURM or another process has."""

    row: PlannedRun
    token: str | None = None
    job_id: str | None = None
    since: float = field(default_factory=time.monotonic)
    """When it was submitted; what SLURM said before does not count."""
    gone: float | None = None
    """Since when its job is not in the queue any more."""
    seen: str = ""
    """The job's last state in the queue."""
    state: State = State.QUEUED
    changed: float = -float("inf")
    """When `state` last changed."""


def run_slurm(plan: Plan, store: Store, options: LaunchOptions, console: Console) -> SweepResult:
    """Carries out a plan on SLURM; returns when every run is settled, or at Ctrl-C, which leaves the jobs running.

    Raises HarnessError for a wrong site file, and when SLURM refuses the jobs and none is at work.
    """
    site = load_site(options.site)
    with Signals() as signals, Progress(console) as progress:
        return SlurmLauncher(plan, store, options, site, progress, signals).run()


def job_device(plan: Plan, wish: Device, site: Site) -> str:
    """The device of the jobs, by the site and not by this machine. Raises HarnessError if they need GPUs and the site has none."""
    if wish == "cpu" or (wish == "auto" and not site.gpus and not any(row.run.scale in ("fashion", "paper") for row in plan.active)):
        return "cpu"
    if not site.gpus:
        reason = "--device cuda" if wish == "cuda" else "runs of this scale need GPUs"
        where, value = "gpus in the site file", f"0, but {reason}"
        advice = "gpus = 1 in the site file; --device cpu starts without, and takes very long"
        raise HarnessError("the site file asks for no GPU", where=where, found=value, expected="1 or more", nearest=advice)
    return "cuda"


class SlurmLauncher(Supervisor):
    """The state of one sweep on SLURM. Every run is in exactly one of todo, watched and result.ends."""

    def __init__(self, plan: Plan, store: Store, options: LaunchOptions, site: Site, progress: Progress, signals: Signals) -> None:
        super().__init__(plan, store, options, progress)
        self.site, self.signals = site, signals
        self.device = job_device(plan, options.device, site)
        self.longest = min(slurm_queue.max_array_size(), site.max_array_size or 10**9)
        self.at_once = options.workers or site.parallelism
        self.watched: dict[str, Watched] = {}
        self.full = False
        """SLURM accepts no more jobs of this user for now."""
        self.retry = float("inf")
        """When to try again although no job of this sweep has ended."""
        self.jobs: dict[str, slurm_queue.SlurmJob] | None = None
        self.asked = -float("inf")
        progress.note(f"SLURM: {site.describe()}")
        self._ask(0.0)
        self.todo |= {row.id: row for row in plan.rows if row.action is Action.WAIT}
        for row in list(self.todo.values()):
            self._sort_in(row)

    def run(self) -> SweepResult:
        while self.todo or self.watched:
            self.full = self.full and time.monotonic() < self.retry
            self._submit_ready()
            if not self.options.wait:
                return self._leave(detached=True)
            self._check_watched()
            if self.progress.due():
                self._show_progress()
            self.signals.sleep(min(self.progress.wait(), POLL_EVERY))
            if self.signals.caught:
                self.result.signal = self.signals.caught[0]
                return self._leave()
        return self.result

    def watch(self, row: PlannedRun) -> None:
        self.watched[row.id] = Watched(row)

    def _sort_in(self, row: PlannedRun) -> None:
        """Watches a run that was submitted before and whose job exists, or that a process works on."""
        submission = self.store.folder(row.id).submission()
        if submission and slurm_queue.is_alive(submission, self.jobs, self.store) is not False:
            job = (self.jobs or {}).get(submission["token"])
            job_id = job.id if job else submission.get("job_id")
            self.watched[row.id] = Watched(self.todo.pop(row.id), submission["token"], job_id, since=0.0)
            return
        if submission:
            self.store.clear_submission(row.id, submission["token"])
            if row.state is State.QUEUED:
                self.progress.note(f"{row.id}: {_gone(submission.get('job_id'))}")
        if row.action is Action.WAIT and state_of(self.store.folder(row.id)) is State.RUNNING:
            self.watch(self.todo.pop(row.id))

    def _submit_ready(self) -> None:
        """Submits the runs whose needs are done or in the queue, layer after layer."""
        while not self.full and not self.signals.caught:
            ready = [(row, after) for row in list(self.todo.values()) if (after := self._after(row)) is not None and self.prepare(row)]
            if not ready:
                return
            groups = deque(arrays(ready, self.longest))
            share = max(1, self.at_once // len(groups)) if self.at_once else None
            while groups:
                if self.full or self.signals.caught:
                    return
                array = groups.popleft()
                try:
                    ids = submit(array, self.store, self.site, self.device, self.options, share)
                except QueueFull as refused:
                    if len(array.rows) == 1:
                        self._full(refused)
                    else:  # the limit may allow a part of it
                        groups.extendleft(reversed(array.halves()))
                    continue
                except Refused as refused:
                    self._refused(array.rows, refused)
                    continue
                for row in array.rows:
                    submission = self.store.folder(row.id).submission() or {}  # that of another launcher if it was faster
                    self.watched[row.id] = Watched(self.todo.pop(row.id), submission.get("token"), submission.get("job_id"))
                if ids:
                    jobs = f"{len(ids)} runs as jobs {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"1 run as job {ids[0]}"
                    self.progress.note(f"submitted {jobs}" + (f", after {', '.join(array.after)}" if array.after else ""))

    def _after(self, row: PlannedRun) -> tuple[str, ...] | None:
        """The ids of the jobs that a run has to wait for; None if it cannot be submitted yet, or never."""
        if reason := self.blocker(row):
            self.settle(row.id, State.BLOCKED, reason)
            return None
        after = []
        for need in row.needs:
            if self._is_done(need):
                continue
            watched = self.watched.get(need)
            if watched is None or watched.job_id is None or watched.gone is not None:
                return None
            after.append(watched.job_id)
        return tuple(after)

    def _is_done(self, need: str) -> bool:
        return need in self.result.ends or state_of(self.store.folder(need)) is State.DONE

    def _full(self, refused: QueueFull) -> None:
        """Waits for jobs of this sweep to end, or some time if the limit is taken up by other jobs. Raises it if nobody waits for them."""
        if not self.watched and not (self.options.wait and refused.certain):
            raise refused
        self.full, self.retry = True, time.monotonic() + RETRY_EVERY
        waits = f"the other {len(self.todo)} runs follow when some have ended"
        if not self.watched:
            waits = f"other jobs of yours fill the limit; trying again every {RETRY_EVERY:.0f} s"
        self.progress.note(f"SLURM accepts no more jobs for now ({refused.details['found']}); {waits}")

    def _refused(self, rows: tuple[PlannedRun, ...], refused: Refused) -> None:
        """A refusal that no waiting changes. Raises it if no run is watched."""
        if not self.watched:
            raise refused
        for row in rows:
            self.settle(row.id, row.state, f"SLURM refused it: {refused.details['found']}")

    def _check_watched(self) -> None:
        """Settles runs that have ended and takes lost ones back."""
        self._ask(ASK_EVERY)
        now = self.store.now()
        for name, watched in list(self.watched.items()):
            folder = self.store.folder(name)
            state = state_of(folder, now)
            if state is not watched.state:
                watched.state, watched.changed = state, time.monotonic()
            if state is State.DONE:
                self._end(watched, state)
            elif state is not State.RUNNING and (reason := self.blocker(watched.row)):
                if watched.job_id:
                    slurm_queue.ask("scancel", "--quiet", watched.job_id)
                self._end(watched, State.BLOCKED, reason)
            elif state is State.RUNNING or self._has(watched):
                watched.gone = None
                if state not in (State.RUNNING, State.QUEUED) and time.monotonic() - watched.changed < ASK_EVERY:
                    self._ask(POLL_EVERY)  # SLURM knows whether it starts again or has ended
            elif state is State.FAILED:
                self._end(watched, state, explain(folder))
            elif watched.gone is None:
                watched.gone = time.monotonic()
                self._ask(POLL_EVERY)
            elif time.monotonic() - watched.gone >= GRACE:
                self._lost(watched)

    def _has(self, watched: Watched) -> bool:
        """True if the run's job is in SLURM's queue, or may be."""
        if watched.token is None:
            return False
        job = (self.jobs or {}).get(watched.token)
        if job is None:
            if self.jobs is None or watched.since >= self.asked:
                return True
            submission = self.store.folder(watched.row.id).submission() if watched.job_id is None else None
            return submission is not None and slurm_queue.is_alive(submission, self.jobs, self.store) is None
        watched.job_id, watched.seen = job.id, job.state
        if job.state == "PENDING" and watched.state in (State.STOPPED, State.STALLED):  # requeued by SLURM, which leaves no note there
            with contextlib.suppress(HarnessError):
                self.store.mark_submitted(watched.row.id, watched.token, "slurm")
        return True

    def _lost(self, watched: Watched) -> None:
        """Settles a run whose job was cancelled; takes back one whose job was killed by a limit or a fault."""
        row, job = watched.row, _job(watched.job_id)
        end = slurm_queue.end_of(watched.job_id)
        # Elements of an array that are cancelled before they begin leave no trace; those that have begun do, for minutes.
        unseen = not end and watched.seen == "PENDING" and all(self._is_done(need) for need in row.needs)
        if unseen or (end.startswith("CANCELLED") and "Dependency" not in end):
            self._end(watched, watched.state, f"{job} was cancelled at step {step_of(self.store.folder(row.id)):,}")
            return
        self._forget(watched)
        output = self.store.root / "slurm" / slurm_queue.batch_of(watched.token or "") / f"{watched.job_id}_0_log.out"
        event = _gone(watched.job_id) if watched.token else "no process works on it any more"
        self.start_again(row, event, hint=f"; see {output}")

    def _end(self, watched: Watched, state: State, reason: str = "") -> None:
        self._forget(watched)
        self.settle(watched.row.id, state, reason)

    def _forget(self, watched: Watched) -> None:
        del self.watched[watched.row.id]
        self.full = False
        if watched.token:
            self.store.clear_submission(watched.row.id, watched.token)

    def _leave(self, detached: bool = False) -> SweepResult:
        """Stops watching; the jobs continue."""
        for name, watched in self.watched.items():
            self.result.ends[name] = (state_of(self.store.folder(name)), f"{_job(watched.job_id)} continues")
        for name, row in self.todo.items():
            waits = f"not submitted: needs {', '.join(row.needs)}, which SLURM does not have" if detached and row.needs else NOT_STARTED
            self.result.ends[name] = (row.state, waits)
        self.result.detached = frozenset(self.watched) if detached else frozenset()
        numbers = dict.fromkeys(watched.job_id.partition("_")[0] for watched in self.watched.values() if watched.job_id)
        if numbers:
            self.progress.note(f"the jobs continue without this command; to cancel them: scancel {' '.join(numbers)}")
        return self.result

    def _ask(self, every: float) -> None:
        """Asks SLURM for its queue if the last answer is older than `every` seconds."""
        if time.monotonic() - self.asked < every:
            return
        asked = time.monotonic()
        jobs = slurm_queue.queue()
        if jobs is None and self.jobs is not None:
            self.progress.note("squeue does not answer; only the run folders are read until it does")
        self.jobs, self.asked = jobs, asked

    def _show_progress(self) -> None:
        """Shows the progress; of the queued runs, how many there are and SLURM's reasons: 5 queued (Priority 3, Dependency 2)."""
        working = [watched for watched in self.watched.values() if watched.state is State.RUNNING]
        queued = [watched for watched in self.watched.values() if watched.state is not State.RUNNING]
        jobs = [(self.jobs or {}).get(watched.token or "") for watched in queued]
        reasons = Counter(job.reason for job in jobs if job and job.reason)
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        queue = f"{len(queued)} queued" + (f" ({shown})" if shown else "") if queued else ""
        waiting = [*self.todo.values(), *(watched.row for watched in queued)]
        self.show([(watched.row, watched.token is None) for watched in working], waiting, queue)


def _job(job_id: str | None) -> str:
    return f"job {job_id}" if job_id else "its job"


def _gone(job_id: str | None) -> str:
    """That a job is gone, and how it ended if SLURM still knows."""
    end = slurm_queue.end_of(job_id)
    return f"{_job(job_id)} is gone" + (f" ({end})" if end else "")
