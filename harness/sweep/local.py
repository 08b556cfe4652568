"""The launchers of this machine: a pool of processes and, for debugging, one run after the other in this process.

The pool starts runs as their needs finish, and starts crashed runs again. One process per run (harness.sweep.local_processes), with as many
threads as leave no core oversubscribed, and at most one GPU each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from rich.console import Console

from harness.config.run import Run
from harness.locations import project_root
from harness.store.exit_codes import ExitCode
from harness.store.gpus import Gpu, environment_of, find_gpus
from harness.store.machine import choose_device, cores
from harness.store.runs import RunFolder, State, Store
from harness.sweep import local_processes
from harness.sweep.plan import Action, Plan, PlannedRun
from harness.sweep.progress import Progress
from harness.sweep.summary import explain, state_of
from harness.sweep.supervisor import NOT_STARTED, LaunchOptions, Signals, Supervisor, SweepResult, step_of
from harness.training.compilation import compile_fault

WATCH_EVERY = 1.0
"""Seconds between two checks of the runs that others work on."""


@dataclass
class Child:
    """A process at work on a run."""

    row: PlannedRun
    folder: RunFolder
    process: BaseProcess
    slot: int


@dataclass(frozen=True)
class Layout:
    """How the pool uses this machine."""

    device: str
    gpus: tuple[Gpu, ...]
    workers: int
    """Processes at once."""
    threads: int
    """CPU threads of a process whose run does not prescribe them."""


def run_local(plan: Plan, store: Store, options: LaunchOptions, console: Console) -> SweepResult:
    """Carries out a plan in a pool of processes on this machine; returns when every run is settled or a signal has stopped the pool."""
    with Signals() as signals, Progress(console) as progress:
        return LocalLauncher(plan, store, options, progress, signals).run()


def run_inline(plan: Plan, store: Store, options: LaunchOptions, console: Console) -> SweepResult:
    """Carries out a plan in this process, with the output in the terminal. A run that stops early, as at Ctrl-C, ends the sweep."""
    return InlineLauncher(plan, store, options, Progress(console)).run()


def layout(plan: Plan, options: LaunchOptions) -> Layout:
    """The layout for a plan. Raises HarnessError where the device cannot be used, as `choose_device`."""
    device = choose_device(options.device, scales(plan))
    devices = find_gpus().usable if device == "cuda" else ()
    threads = max((row.threads for row in plan.active), default=0)
    workers = options.workers or (len(devices) if devices else max(1, cores() // max(1, threads)))
    workers = max(1, min(workers, len(plan.active)))
    return Layout(device, devices, workers, max(1, cores() // workers))


def scales(plan: Plan) -> set[str]:
    """The scales of the runs that will be started."""
    return {row.run.scale for row in plan.active}


def unused_gpu(wish: str, device: str) -> str:
    """Why runs use the CPU although a GPU is there and nobody asked for the CPU; "" where that is not so."""
    why = find_gpus().why_not if wish == "auto" and device == "cpu" else ""
    return f"the GPU here cannot be used ({why}), so the runs use the CPU; harness doctor says how to fix it" if why else ""


class LocalLauncher(Supervisor):
    """The pool. Every run is in exactly one of todo, children, watched and result.ends."""

    def __init__(self, plan: Plan, store: Store, options: LaunchOptions, progress: Progress, signals: Signals) -> None:
        super().__init__(plan, store, options, progress)
        self.signals = signals
        self.layout = layout(plan, options)
        self.watched = {row.id: row for row in plan.rows if row.action is Action.WAIT}
        self.children: dict[str, Child] = {}
        self._checked = -float("inf")
        if any(isinstance(row.run, Run) and row.run.train.compile for row in plan.active):
            compile_fault(self.layout.device)  # once for all jobs
        local_processes.open_server(options.entry, self.layout.threads)
        if note := unused_gpu(options.device, self.layout.device):
            progress.note(note)
        progress.note(f"{len(self.todo)} runs on {self.layout.device}, {self.layout.workers} at once; loading torch, once for all runs")

    def run(self) -> SweepResult:
        try:
            while self.todo or self.children or self.watched:
                if self.signals.caught:
                    self._stop()
                else:
                    self._start_ready()
                    self._check_watched()
                self._wait()
                for child in list(self.children.values()):
                    if (code := child.process.exitcode) is not None:
                        self._ended(child, code)
                if self.progress.due():
                    working = [(child.row, False) for child in self.children.values()]
                    self.show([*working, *((row, True) for row in self.watched.values())], self.todo.values())
        finally:
            self._kill()
        return self.result

    def watch(self, row: PlannedRun) -> None:
        self.watched[row.id] = row

    def _start_ready(self) -> None:
        for row in list(self.todo.values()):
            if any(need in self.todo or need in self.watched or need in self.children for need in row.needs):
                continue
            if reason := self.blocker(row):
                self.settle(row.id, State.BLOCKED, reason)
            elif len(self.children) < self.layout.workers and (folder := self.prepare(row)):
                self._start(self.todo.pop(row.id), folder)

    def _start(self, row: PlannedRun, folder: RunFolder) -> None:
        slot = min({*range(self.layout.workers)} - {child.slot for child in self.children.values()})
        environment = {**os.environ, **local_processes.job_environment("local", row.threads or self.layout.threads)}
        if self.layout.gpus:
            environment |= environment_of(self.layout.gpus[slot % len(self.layout.gpus)])
        arguments = [str(folder.path.resolve()), "--device", self.layout.device]
        process = local_processes.start(self.options.entry, arguments, folder.log.resolve(), project_root(), environment)
        self.children[row.id] = Child(row, folder, process, slot)

    def _wait(self) -> None:
        """Sleeps until a child ends, a signal arrives, or it is time to show progress or to check the watched runs."""
        pause = self.progress.wait() if self.children or self.watched else 0.0
        if self.watched and not self.signals.caught:
            pause = min(pause, WATCH_EVERY)
        self.signals.sleep(pause, [child.process.sentinel for child in self.children.values()])

    def _ended(self, child: Child, code: int) -> None:
        name, state = child.row.id, state_of(child.folder)
        del self.children[name]
        if state is State.DONE:
            self.settle(name, State.DONE)
        elif state is State.FAILED and code in (ExitCode.BAD_INPUT, ExitCode.FAILED):
            self.settle(name, State.FAILED, explain(child.folder))
        elif self.signals.caught:
            self.settle(name, state, f"at step {step_of(child.folder):,}")
        elif code == ExitCode.BUSY or state is State.RUNNING:
            self.progress.note(f"{name}: another process works on it; watching")
            self.watch(child.row)
        elif code == ExitCode.STOPPED:
            self.start_again(child.row, "stopped")
        elif code == local_processes.SERVER_LOST:
            self.start_again(child.row, "killed with the process that it was forked from")
        elif code < 0:
            self.start_again(child.row, f"killed by {_signal_name(-code)}")
        else:
            self.settle(name, State.FAILED, explain(child.folder, code), code)

    def _check_watched(self) -> None:
        if time.monotonic() - self._checked < WATCH_EVERY:
            return
        self._checked = time.monotonic()
        for name, row in list(self.watched.items()):
            folder = self.store.folder(name)
            state = state_of(folder)
            if state in (State.RUNNING, State.QUEUED):
                continue
            del self.watched[name]
            if state in (State.DONE, State.FAILED):
                self.settle(name, state, "" if state is State.DONE else explain(folder))
            else:
                self.progress.note(f"{name}: {state}, no process works on it any more; taken over")
                self._best.setdefault(name, step_of(folder))
                self.todo[name] = row

    def _stop(self) -> None:
        """Asks the children to save and exit at the first signal, and kills them at the second."""
        if self.result.signal is None:
            self.result.signal = self.signals.caught[0]
            for name, row in [*self.todo.items(), *self.watched.items()]:
                self.result.ends[name] = (row.state, NOT_STARTED)
            self.todo, self.watched = {}, {}
            for child in self.children.values():
                child.process.terminate()
            if self.children:
                self.progress.note(f"stopping: {len(self.children)} runs save and exit; a second signal kills them")
        elif len(self.signals.caught) > 1:
            self._kill()

    def _kill(self) -> None:
        for child in self.children.values():
            local_processes.kill(child.process)


class InlineLauncher(Supervisor):
    """Runs in the order of the plan. It watches nothing and starts nothing again."""

    def run(self) -> SweepResult:
        device = choose_device(self.options.device, scales(self.plan))
        if note := unused_gpu(self.options.device, device):
            self.progress.note(note)
        main = local_processes.load_entry(self.options.entry)
        self.result.ends = {row.id: (row.state, row.reason) for row in self.plan.rows if row.action is Action.WAIT}
        for row in self.plan.active:
            if self.result.signal is not None:
                self.result.ends[row.id] = (row.state, NOT_STARTED)
            elif reason := self.blocker(row):
                self.settle(row.id, State.BLOCKED, reason)
            elif folder := self.prepare(row):
                self.progress.note(f"== {row.id}")
                with contextlib.chdir(project_root()):
                    code = main([str(folder.path.resolve()), "--device", device])
                state, stopped = state_of(folder), code == ExitCode.STOPPED
                if stopped:
                    self.result.signal = signal.SIGINT
                reason = f"at step {step_of(folder):,}" if stopped else explain(folder, code)
                self.settle(row.id, state, "" if state is State.DONE else reason, code)
        return self.result

    def watch(self, row: PlannedRun) -> None:
        self.result.ends[row.id] = (State.RUNNING, "another process works on it")


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name + (" (out of memory?)" if number == signal.SIGKILL else "")
    return f"signal {number}"
