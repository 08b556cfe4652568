"""What one job does: own a run folder, resume, train, evaluate, record. `python -m harness.training.job RUN_FOLDER`.

The same command starts and resumes a run; it exits with an ExitCode.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim loads it at first use, for seconds; here, so that processes forked by a launcher share it
import torch.distributed as dist

from harness.config.baselines import BaselineJob, job_from_dict
from harness.config.run import Run
from harness.data import datasets
from harness.data.catalogue import metric_label
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.metrics.reference_statistics import MetricOptions, reference_of
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy, Lease, LeaseLost
from harness.store.machine import DEVICES
from harness.store.provenance import provenance
from harness.store.runs import RunFolder, Store
from harness.training import checkpoints, model, trained_runs
from harness.training.baseline_job import run_baselines
from harness.training.batches import Processes
from harness.training.devices import device_name, join_processes, prepare_torch, torch_device
from harness.training.evaluation import Evaluator
from harness.training.loop import Diverged, Hooks, train
from harness.training.model import Model

STOP_EVERY = 10
"""Steps between the moments at which several processes agree whether to stop."""


def run_job(path: Path, device: str = "auto", deadline: float | None = None) -> ExitCode:
    """Runs or resumes one run folder to its end. deadline: seconds from now after which to save and stop."""
    folder = RunFolder(Path(path))
    processes = join_processes()
    owner = processes.rank == 0 and (folder.path / "config.json").exists()  # acquiring the lease would create the folder
    try:
        if folder.result() is not None:
            print(f"{folder.id} is done already")
            return ExitCode.DONE
        with folder.acquire() if owner else nullcontext() as lease:
            return _reporting_failures(folder, lease, device, deadline, processes)
    except (Busy, LeaseLost) as error:
        print(error, file=sys.stderr)
        return ExitCode.BUSY
    except HarnessError as error:  # the lease itself could not be written
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    finally:
        if processes.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _reporting_failures(folder: RunFolder, lease: Lease | None, device: str, deadline: float | None, processes: Processes) -> ExitCode:
    """Runs `_run_owned`; prints and records a failure before the lease is released, since the next start may follow at once."""
    try:
        run = job_from_dict(folder.config(), where=folder.path / "config.json")
        if isinstance(run, BaselineJob):
            return run_baselines(run, folder, lease, torch_device(device), deadline)
        return _run_owned(run, folder, lease, torch_device(device), deadline, processes)
    except (Busy, LeaseLost):
        raise
    except HarnessError as error:
        print(error, file=sys.stderr)
        _record_error(folder, lease, "input", str(error))
        return ExitCode.BAD_INPUT
    except Diverged as error:
        print(f"{folder.id} diverged: {error}", file=sys.stderr)
        _record_error(folder, lease, "diverged", f"{error}; the last checkpoint before it is kept")
        return ExitCode.FAILED
    except Exception as error:
        traceback.print_exc()
        _record_error(folder, lease, "crash", f"{type(error).__name__}: {error}", traceback.format_exc())
        return ExitCode.FAILED


def _record_error(folder: RunFolder, lease: Lease | None, kind: str, message: str, trace: str = "") -> None:
    """Writes error.json on the owning process. Raises LeaseLost if another process owns the folder by now."""
    if lease is None:
        return
    lease.check()
    with suppress(HarnessError):  # a full disk must not hide the first error
        folder.write_error(kind, message, trace, (folder.read_heartbeat() or {}).get("step"))


def _run_owned(
    run: Run, folder: RunFolder, lease: Lease | None, device: torch.device, deadline: float | None, processes: Processes
) -> ExitCode:
    """The job itself, once the folder is owned. lease: None on all processes but the first, which alone writes."""
    # Load.
    prepare_torch(run)
    data = datasets.load(run.data.name, limit=run.data.limit, device=device)
    store = Store(folder.path.parent.parent)
    frozen = trained_runs.frozen_predictor(run, store, data, device)

    # Resume.
    trained, state = _resume(run, folder, store, data, device, owner=lease is not None)
    attempt = Attempt(run, folder, lease, processes, trained, _evaluator(run, folder, lease, store, data, processes, state), device)
    if processes.rank == 0:
        attempt.announce()

    # Train and evaluate.
    with _stopper(deadline, processes, trained) as stop:
        hooks = Hooks(attempt.save, attempt.evaluate, attempt.progress, stop, attempt.evaluator.pair_cost)
        if not train(run, data, trained, hooks, frozen=frozen, processes=processes):
            return ExitCode.STOPPED
        attempt.progress(trained, "evaluate")
        attempt.evaluator.final(trained)

    # Record the result.
    attempt.finish()
    return ExitCode.DONE


def _resume(
    run: Run, folder: RunFolder, store: Store, data: Dataset, device: torch.device, owner: bool
) -> tuple[Model, dict[str, Any] | None]:
    """The model at its newest valid checkpoint, and that checkpoint's state; without one, the initial model and None."""
    path = folder.path / "checkpoints"
    state = checkpoints.load_newest(path, run.id, warn=lambda text: print(text, file=sys.stderr))
    start = None if state else trained_runs.initial_weights(run, store)
    trained = model.create(run, data.shape, data.classes, device, start)
    if state:
        trained.restore(state)
        for damaged in [step for step in checkpoints.steps(path) if owner and step > trained.step]:
            facts = path / f"step-{damaged:08d}.json"  # renamed, or it would count as one of the two that are kept
            facts.replace(facts.with_suffix(".damaged"))
    return trained, state


def _evaluator(
    run: Run, folder: RunFolder, lease: Lease | None, store: Store, data: Dataset, processes: Processes, state: dict[str, Any] | None
) -> Evaluator:
    """The evaluator of a run, with the training time and the records of the checkpoint `state`; the first process measures and writes."""
    reference = None
    if processes.rank == 0:
        options = MetricOptions(run.protocol.sample_range, run.protocol.quantisation)
        reference = reference_of(run.data.name, options, store.root / "cache", data.rows.device)
    seconds = state["seconds"] if state else 0.0
    evaluator = Evaluator(run, folder, data, reference, processes, seconds, lease.check if lease else lambda: None)
    if state and processes.rank == 0:
        evaluator.restore(json.loads(state["records"]))
    return evaluator


@dataclass
class Attempt:
    """One start of a run: reports its progress, saves and evaluates. lease: None on all processes but the first, which alone writes."""

    run: Run
    folder: RunFolder
    lease: Lease | None
    processes: Processes
    model: Model
    evaluator: Evaluator
    device: torch.device
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.first, self.trained_before = self.model.step, self.evaluator.trained
        self.place: dict[str, Any] = {"device": device_name(self.device), "processes": self.processes.count}

    def announce(self) -> None:
        """Prints and records where this attempt starts."""
        processes = self.processes.count
        before = [attempt.get("processes", processes) for attempt in self.folder.attempts()[-1:]]
        if self.first and before != [processes]:
            count = f"{processes} process{'es' * (processes > 1)}"
            print(f"resuming on {count} (was {before[0]}): same batches, different dropout and GC masks", flush=True)
        self.folder.add_attempt(provenance(self.place["device"]) | {"step": self.first, "processes": processes})
        print(f"{self.run.id}: step {self.first} of {self.run.train.steps} on {self.place['device']}", flush=True)
        if self.run.train.compile and self.first < self.run.train.steps:
            print("compiling the networks during the first step, which takes minutes", flush=True)
            if self.lease:
                self.lease.beat(step=self.first, total=self.run.train.steps, phase="compile", force=True, **self.place)

    def rate(self) -> float:
        """Steps per second of this attempt, evaluations included, since the time left includes them too."""
        return (self.model.step - self.first) / max(time.monotonic() - self.began, 1e-9)

    def progress(self, now: Model, phase: str = "train") -> None:
        if self.lease:
            total, fid = self.run.train.steps, self.evaluator.last
            self.lease.beat(step=now.step, total=total, rate=self.rate(), loss=now.loss, fid=fid, phase=phase, **self.place)

    def save(self, now: Model) -> None:
        if self.lease:
            self.lease.check()
            records = json.dumps([record.to_json() for record in self.evaluator.records.values()])
            state = now.state() | {"seconds": self.evaluator.seconds(), "records": records}
            checkpoints.save(self.folder.path / "checkpoints", self.run.id, now.step, state, keep_steps=self.run.keep_steps)

    def evaluate(self, now: Model) -> None:
        self.progress(now, "evaluate")
        self.evaluator(now)
        if self.processes.rank == 0:
            left = timedelta(seconds=round((self.run.train.steps - now.step) / max(self.rate(), 1e-9)))
            speed = f"{self.rate():.3g} steps/s  {left} left"
            print(f"step {now.step}/{self.run.train.steps}  {speed}  loss {now.loss:.4g}  {self._main_metric()}", flush=True)

    def finish(self) -> None:
        """Writes the result of the run."""
        if self.lease:
            self.lease.check()
            step, seconds = self.model.step, self.evaluator.seconds()
            rate = (step - self.first) / max(seconds - self.trained_before, 1e-9) if step > self.first else None
            self.folder.write_result({"step": step, "seconds": seconds, "rate": rate, "fid": self.evaluator.last, **self.place})
            print(f"{self.run.id}: done, {self._main_metric()}", flush=True)

    def _main_metric(self) -> str:
        value = self.evaluator.last
        return "not measured" if value is None else f"{metric_label(self.run.data.name)} {value:.4g}"


@contextmanager
def _stopper(deadline: float | None, processes: Processes, trained: Model) -> Iterator[Callable[[], bool]]:
    """stop() of the training loop: true after SIGTERM, SIGINT or the deadline; several processes agree on it every STOP_EVERY steps."""
    until = None if deadline is None else time.monotonic() + deadline
    signals: list[int] = []

    def stop() -> bool:
        wanted = bool(signals) or (until is not None and time.monotonic() > until)
        if processes.count == 1:
            return wanted
        if trained.step % STOP_EVERY:
            return False
        votes = torch.tensor(int(wanted))
        dist.all_reduce(votes)
        return bool(votes.item())

    previous = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.training.job", description="Run or resume one run folder to its end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto", help=", ".join(DEVICES))
    parser.add_argument("--deadline", type=float, default=None, help="seconds after which to save and stop")
    arguments = parser.parse_args(argv)
    return run_job(arguments.folder, arguments.device, arguments.deadline)


if __name__ == "__main__":
    sys.exit(main())
