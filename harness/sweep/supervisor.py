"""What all launchers share: the state of a sweep, how runs begin, end and start again, and the signals that stop it."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from harness.config.baselines import data_name
from harness.data.catalogue import metric_label
from harness.errors import HarnessError
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy
from harness.store.machine import Device
from harness.store.runs import RunFolder, State, Store
from harness.sweep.executors import Executor
from harness.sweep.plan import RETRAIN, Action, Plan, PlannedRun
from harness.sweep.progress import Progress, Running, time_left
from harness.sweep.summary import unreadable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST_WORKERS = 10_000
NOT_STARTED = "not started: the sweep was stopped"


@dataclass(frozen=True)
class LaunchOptions:
    """How to carry out a plan; nothing here can change a result. Raises HarnessError for a number of workers out of range."""

    executor: Executor = "auto"
    workers: int | None = None
    """Processes at once; None for one per GPU, or as many as the cores allow."""
    device: Device = "auto"
    restarts: int = 3
    """Consecutive starts without progress after which a crashing run is given up."""
    entry: str = "harness.training.job:main"
    """The function that runs one folder: main([folder, "--device", device]) -> exit code."""
    site: str | None = None
    """The site file of the SLURM launcher."""
    wait: bool = True
    """False: the SLURM launcher submits and returns without watching."""
    on_done: Callable[[str], None] | None = None
    """Called with the id of each run that becomes done. Its first exception is reported; no exception stops the sweep."""

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            expected = f"1 to {MOST_WORKERS}"
            raise HarnessError("number of workers out of range", where="--workers", found=self.workers, expected=expected, nearest=1)


@dataclass
class SweepResult:
    """How each run of a plan ended: its state and, unless it is done, the reason."""

    ends: dict[str, tuple[State, str]] = field(default_factory=dict)
    signal: int | None = None
    """The signal that stopped the launcher."""
    detached: frozenset[str] = frozenset()
    """Runs that were left to the scheduler because `wait` was False."""
    bad_input: set[str] = field(default_factory=set)
    """Runs that ended for bad input, such as a missing file or a full disk."""

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        if self.bad_input:
            return 2
        return 0 if all(state is State.DONE or name in self.detached for name, (state, _) in self.ends.items()) else 1


class Signals:
    """Collects stop signals in `caught`, so that they interrupt a launcher nowhere; the third raises, in case the launcher hangs.

    A context manager. Signals are handled in the main thread only.
    """

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._reader, self._writer = socket.socketpair()  # the reader becomes readable when a signal arrives
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._catch) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._reader.close()
        self._writer.close()

    def sleep(self, seconds: float, sentinels: Iterable[int] = ()) -> None:
        """Sleeps at most this long, until a signal arrives or the process of one of the sentinels ends."""
        wait([self._reader, *sentinels], seconds)
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def _catch(self, number: int, _: object) -> None:
        self.caught.append(number)
        if len(self.caught) > 2:
            raise KeyboardInterrupt
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"!")


class Supervisor(ABC):
    """The state of one sweep. Every run is in exactly one of `todo`, those that the launcher has started or watches, and `result.ends`."""

    def __init__(self, plan: Plan, store: Store, options: LaunchOptions, progress: Progress) -> None:
        self.plan, self.store, self.options, self.progress = plan, store, options, progress
        self.result = SweepResult()
        self.todo = {row.id: row for row in plan.active}
        self._best: dict[str, int] = {}
        """The furthest step that each started run was seen at."""
        self._tries: dict[str, int] = {}
        """How often each run was lost since it last made progress."""
        self._on_done_failed = False

    @abstractmethod
    def watch(self, row: PlannedRun) -> None:
        """Watches a run that another process works on."""

    def prepare(self, row: PlannedRun) -> RunFolder | None:
        """The folder of a run of `todo` that is about to start; None if it has been settled, or another process works on it.

        Under the policies `force` and `retrain-other-code`, the first start moves the old results to old-<n>.
        """
        try:
            folder = RunFolder.create(self.store.root, row.id, row.run.to_dict())
            again = self.plan.policy == "force" or (self.plan.policy == RETRAIN and row.state is State.DONE)
            if row.id not in self._best and again and row.action is Action.START:
                folder.put_aside()
            state = folder.state()
        except Busy:
            self.watch(self.todo.pop(row.id))
            return None
        except HarnessError as error:
            self.settle(row.id, State.FAILED, str(error).replace("\n", " "), ExitCode.BAD_INPUT)
            return None
        match state:
            case State.DONE:
                self.settle(row.id, State.DONE)
                return None
            case State.RUNNING:  # another launcher was faster
                self.watch(self.todo.pop(row.id))
                return None
        self._best.setdefault(row.id, step_of(folder))
        return folder

    def settle(self, name: str, state: State, reason: str = "", code: int | None = None) -> None:
        """Records and prints how a run ended, and calls `on_done` if it is done. code: the exit code of its process, if known."""
        self.todo.pop(name, None)
        if code == ExitCode.BAD_INPUT or (state is State.FAILED and ended_for_bad_input(self.store.folder(name))):
            self.result.bad_input.add(name)
        self.result.ends[name] = (state, reason)
        if state is not State.DONE:
            self.progress.note(f"{name}: {state}: {reason}")
        elif self.options.on_done:
            try:
                self.options.on_done(name)
            except Exception as error:
                if not self._on_done_failed:
                    self.progress.note(f"{name}: done, but the action that follows a finished run failed; the sweep continues ({error!r})")
                self._on_done_failed = True

    def start_again(self, row: PlannedRun, event: str, hint: str = "") -> None:
        """Puts a lost run back into `todo`, or settles it as failed after too many consecutive starts without progress.

        event: what happened to it. hint: added to the reason of a failure.
        """
        name, step = row.id, step_of(self.store.folder(row.id))
        if step > self._best.setdefault(name, step):
            self._best[name], self._tries[name] = step, 0
        self._tries[name] = self._tries.get(name, 0) + 1
        if self._tries[name] > self.options.restarts:
            self.settle(name, State.FAILED, f"{event} at step {step:,}, {self._tries[name]} times in a row without progress{hint}")
            return
        self.progress.note(
            f"{name}: {event} at step {step:,}; starting again ({self._tries[name]} of {self.options.restarts} without progress)"
        )
        self.todo = {name: row, **self.todo}

    def blocker(self, row: PlannedRun) -> str | None:
        """Why a run can never start: a run that it needs has ended and is not done. None if there is no such run."""
        for need in row.needs:
            state, reason = self.result.ends.get(need, (State.DONE, ""))
            if state is not State.DONE:
                return f"needs {need}, which is {state}" + (f": {reason}" if reason else "")
        return None

    def show(self, working: Iterable[tuple[PlannedRun, bool]], waiting: Iterable[PlannedRun], queue: str = "") -> None:
        """Shows the progress. working: the runs at work, each with True if another launcher started it. queue: what waits in a queue."""
        running, steps_left = [], sum(row.steps - row.step for row in waiting)
        for row, elsewhere in working:
            heartbeat = self.store.folder(row.id).read_heartbeat() or {}
            running.append(Running(row.id, heartbeat, metric_label(data_name(row.run)), elsewhere))
            steps_left += row.steps - int(heartbeat.get("step") or 0)
        rate = sum(run.heartbeat.get("rate") or 0.0 for run in running)
        left = time_left(steps_left / rate if rate else None)  # if the runs that follow are as fast as those at work
        done = sum(state is State.DONE for state, _ in self.result.ends.values())
        failed = len(self.result.ends) - done
        done += sum(row.action is Action.SKIP for row in self.plan.rows)
        words = [f"{failed} failed"] * (failed > 0) + [f"{len(running)} at work"] + [queue] * bool(queue)
        self.progress.show(f"{done}/{len(self.plan.rows)} done, {', '.join(words)}, {left}", running)


def ended_for_bad_input(folder: RunFolder) -> bool:
    """Whether a person has to correct something before a run can start: its folder cannot be read, or error.json says so."""
    return bool(unreadable(folder)) or (folder.error() or {}).get("kind") == "input"


def step_of(folder: RunFolder) -> int:
    """The step of the last heartbeat, 0 if there is none."""
    return int((folder.read_heartbeat() or {}).get("step") or 0)
