"""The local launcher: a bounded pool of processes that starts runs as their needs finish and starts crashed ones again.

One process a run (harness.sweep.local_processes), threads set so that the cores are not oversubscribed, at most one GPU each.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from harness.data.catalogue import metric_label
from harness.errors import HarnessError
from harness.locations import project_root
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy
from harness.store.machine import choose_device, cores, gpus
from harness.store.runs import RunFolder, State, Store
from harness.sweep import local_processes as children
from harness.sweep.launch import NOT_STARTED, Options, Outcome, begin, blocker, explain
from harness.sweep.plan import ACTIVE, Action, Plan, Row
from harness.sweep.progress import Progress, Running, Snapshot

WATCH_EVERY = 1.0
"""Seconds between two looks at runs that others work on."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Child:
    """A process at work on a run."""

    row: Row
    folder: RunFolder
    process: BaseProcess
    slot: int


def run_local(plan: Plan, store: Store, options: Options, console: Console) -> Outcome:
    """Runs a plan in a pool of processes on this machine; returns when every run is settled or a signal has stopped the pool."""
    with _Signals() as signals, Progress(console) as progress:
        return Pool(plan, store, options, progress, signals).run()


def layout(plan: Plan, options: Options) -> tuple[str, list[str], int, int]:
    """Device, GPUs, processes at once, and CPU threads of a process whose run does not fix them."""
    device = choose_device(options.device)
    devices = gpus() if device == "cuda" else []
    threads = max((row.run.train.threads for row in plan.active), default=0)
    if options.workers is not None and options.workers < 1:
        raise HarnessError("at least one worker is needed", where="--workers", found=options.workers, expected="1 or more", nearest=1)
    workers = options.workers or (len(devices) if devices else max(1, cores() // max(1, threads)))
    workers = max(1, min(workers, len(plan.active)))
    return device, devices, workers, max(1, cores() // workers)


class Pool:
    """The state of one local sweep. Every run is in exactly one of todo, children, watched and outcome.ends."""

    def __init__(self, plan: Plan, store: Store, options: Options, progress: Progress, signals: _Signals) -> None:
        self.plan, self.store, self.options, self.progress, self.signals = plan, store, options, progress, signals
        self.device, self.devices, self.workers, self.threads = layout(plan, options)
        self.outcome = Outcome()
        self.todo = {row.id: row for row in plan.rows if row.action in ACTIVE}
        self.watched = {row.id: (row, 0.0) for row in plan.rows if row.action is Action.WAIT}
        self.children: dict[int, Child] = {}
        self.best: dict[str, int] = {}
        self.crashes: dict[str, int] = {}
        self.settled_before = sum(row.action is Action.SKIP for row in plan.rows)
        self.selector = selectors.DefaultSelector()
        self.selector.register(signals.reader, selectors.EVENT_READ)
        if self.todo or self.watched:
            children.open_server(options.entry, self.threads)
            progress.note(f"{len(self.todo)} runs on {self.device}, {self.workers} at once; loading torch, once for all")

    def run(self) -> Outcome:
        try:
            while self.todo or self.children or self.watched:
                if self.signals.caught:
                    if self._stop():
                        break
                else:
                    self._start_ready()
                    self._look_at_others()
                self._wait()
                for child in [child for child in self.children.values() if child.process.exitcode is not None]:
                    self._ended(child)
                if self.progress.due():
                    self.progress.show(self._snapshot())
        finally:
            self._kill()
            self.selector.close()
        return self.outcome

    def _start_ready(self) -> None:
        for name, row in list(self.todo.items()):
            if any(need in self.todo or need in self.watched or self._at_work(need) for need in row.needs):
                continue
            if why := blocker(row, self.outcome.ends):
                del self.todo[name]
                self._settle(name, State.BLOCKED, why)
            elif len(self.children) < self.workers:
                del self.todo[name]
                self._start(row)

    def _at_work(self, name: str) -> bool:
        return any(child.row.id == name for child in self.children.values())

    def _start(self, row: Row) -> None:
        try:
            folder = begin(self.store, self.plan, row, first=row.id not in self.best)
        except Busy:
            self.watched[row.id] = (row, time.monotonic())
            return
        except HarnessError as error:
            self._settle(row.id, State.FAILED, str(error).replace("\n", " "))
            return
        state = folder.state()
        if state is State.RUNNING:  # another launcher was faster
            self.watched[row.id] = (row, time.monotonic())
            return
        if state is State.DONE:
            self._settle(row.id, state, "")
            return
        self.best.setdefault(row.id, _step(folder))
        slot = next(i for i in range(self.workers) if i not in {child.slot for child in self.children.values()})
        arguments = [str(folder.path.resolve()), "--device", self.device]
        process = children.start(self.options.entry, arguments, folder.log.resolve(), project_root(), self._environment(row, slot))
        self.children[process.pid] = Child(row, folder, process, slot)
        self.selector.register(process.sentinel, selectors.EVENT_READ)

    def _environment(self, row: Row, slot: int) -> dict[str, str]:
        threads = str(row.run.train.threads or self.threads)
        found = dict(os.environ)
        for key, value in os.environ.items():
            if key.startswith("HARNESS_") and value and Path(value).exists():
                found[key] = str(Path(value).resolve())  # the child works in the project's folder
        found |= {**dict.fromkeys(children.THREADS, threads), "HARNESS_EXECUTOR": "local"}
        if self.devices:
            found["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return found

    def _wait(self) -> None:
        """Sleeps until a child ends, a signal comes, or it is time to look at progress or at others' runs."""
        pauses = [self.progress.wait()]
        pauses += [WATCH_EVERY] if self.watched and not self.signals.caught else []
        idle = not self.children and not self.watched
        self.selector.select(0 if idle else min(pauses))
        self.signals.drain()

    def _ended(self, child: Child) -> None:
        del self.children[child.process.pid]
        self.selector.unregister(child.process.sentinel)
        code, name, state = child.process.exitcode, child.row.id, child.folder.state()
        if state is State.DONE:
            self._settle(name, State.DONE, "")
        elif state is State.FAILED and code in (ExitCode.BAD_INPUT, ExitCode.FAILED):
            self._settle(name, State.FAILED, explain(child.folder))
        elif self.signals.caught:
            self._settle(name, state, f"stopped at step {_step(child.folder):,}")
        elif code == ExitCode.BUSY or state is State.RUNNING:
            self.progress.note(f"{name}: another process works on it; watching")
            self.watched[name] = (child.row, time.monotonic())
        elif code == ExitCode.STOPPED:
            self._again(child, "stopped")
        elif code < 0 or code == children.SERVER_LOST:
            self._again(child, f"killed by {_signal_name(-code)}")
        else:
            self._settle(name, State.FAILED, explain(child.folder, code))

    def _again(self, child: Child, what: str) -> None:
        """Starts a stopped or killed run again, unless it has come no further for too many starts in a row."""
        name, step = child.row.id, _step(child.folder)
        if step > self.best[name]:
            self.best[name], self.crashes[name] = step, 0
        self.crashes[name] = self.crashes.get(name, 0) + 1
        if self.crashes[name] > self.options.restarts:
            self._settle(name, State.FAILED, f"{what} at step {step:,}, {self.crashes[name]} starts in a row without progress")
            return
        tries = f"{self.crashes[name]} of {self.options.restarts} without progress"
        self.progress.note(f"{name}: {what} at step {step:,}; started again ({tries})")
        self.todo = {name: child.row, **self.todo}

    def _look_at_others(self) -> None:
        for name, (row, since) in list(self.watched.items()):
            if time.monotonic() - since < WATCH_EVERY:
                continue
            state = self.store.folder(name).state()
            if state in (State.RUNNING, State.QUEUED):
                self.watched[name] = (row, time.monotonic())
                continue
            del self.watched[name]
            if state in (State.DONE, State.FAILED):
                self._settle(name, state, "" if state is State.DONE else explain(self.store.folder(name)))
            else:
                self.progress.note(f"{name}: {state}, nobody works on it any more; taken over")
                self.todo[name] = row
                self.best.setdefault(name, _step(self.store.folder(name)))

    def _settle(self, name: str, state: State, reason: str) -> None:
        self.outcome.ends[name] = (state, reason)
        if state is not State.DONE:
            self.progress.note(f"{name}: {state}: {reason}")

    def _stop(self) -> bool:
        """Asks the children to save and end; kills them at the second signal. True once nothing is left to wait for."""
        if self.outcome.signal is None:
            self.outcome.signal = self.signals.caught[0]
            for name, row in [*self.todo.items(), *((name, row) for name, (row, _) in self.watched.items())]:
                self.outcome.ends[name] = (row.state, NOT_STARTED)
            self.todo, self.watched = {}, {}
            for child in self.children.values():
                children.send(child.process, signal.SIGTERM)
            if self.children:
                self.progress.note(f"stopping: {len(self.children)} runs save and end; once more kills them")
        elif len(self.signals.caught) > 1:
            self._kill()
        return not self.children

    def _kill(self) -> None:
        for child in self.children.values():
            children.send(child.process, signal.SIGKILL)
            child.process.join()

    def _snapshot(self) -> Snapshot:
        found = [(child.row, child.folder, False) for child in self.children.values()]
        found += [(row, self.store.folder(name), True) for name, (row, _) in self.watched.items()]
        running = [Running(row.id, folder.read_heartbeat() or {}, metric_label(row.run.data.name), other) for row, folder, other in found]
        left = sum(row.run.train.steps - row.step for row in self.todo.values())
        left += sum(row.run.train.steps - run.heartbeat.get("step", 0) for (row, _, _), run in zip(found, running, strict=True))
        done = sum(state is State.DONE for state, _ in self.outcome.ends.values()) + self.settled_before
        failed = sum(state is not State.DONE for state, _ in self.outcome.ends.values())
        return Snapshot(running, done, failed, len(self.plan.rows), left)


class _Signals:
    """Collects stop signals and wakes the pool, instead of raising anywhere in it; the third raises, should the pool hang."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._old: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._catch) for number in _STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self.reader.close()
        self._writer.close()

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.reader.recv(4096):
                pass

    def _catch(self, number: int, _: object) -> None:
        self.caught.append(number)
        if len(self.caught) > 2:
            raise KeyboardInterrupt
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"!")


def _signal_name(number: int) -> str:
    if -number == children.SERVER_LOST:
        return "the loss of the process it came from"
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name + (" (out of memory?)" if number == signal.SIGKILL else "")
    return f"signal {number}"


def _step(folder: RunFolder) -> int:
    return int((folder.read_heartbeat() or {}).get("step") or 0)
