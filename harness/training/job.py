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
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim loads it at first use, for seconds; here, so that processes forked by a launcher share it
import torch.distributed as dist

from harness.config.baselines import BaselineJob, stored_job
from harness.config.micro_batch import chosen_rows
from harness.config.run import Run, skewed_classes
from harness.config.watching import chosen_watchers
from harness.data import datasets
from harness.data.catalogue import check_content, metric_label
from harness.errors import HarnessError, visible
from harness.metrics.reference_statistics import MetricOptions, reference_of
from harness.store import fingerprint, stand_ins
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy, Lease, LeaseLost
from harness.store.machine import DEVICES
from harness.store.provenance import provenance
from harness.store.runs import RunFolder, Store
from harness.training import checkpoints, model, trained_runs, watchers
from harness.training.baseline_job import run_baselines
from harness.training.batches import Processes
from harness.training.compilation import compile_fault
from harness.training.devices import device_name, join_processes, prepare_torch, torch_device
from harness.training.evaluation import Evaluator
from harness.training.loop import Diverged, Hooks, train
from harness.training.model import Model

STOP_EVERY = 10
"""Steps between the moments at which several processes agree whether to stop."""
OnStep = Callable[[int], None]
"""Called after every training step of this process, with the number of steps that the run has made."""


def run_job(path: Path, device: str = "auto", deadline: float | None = None, on_step: OnStep | None = None) -> ExitCode:
    """Runs or resumes one run folder to its end. deadline: seconds from now after which to save and stop. on_step: see OnStep."""
    folder = RunFolder(Path(path))
    processes = join_processes(device)
    owner = processes.rank == 0 and (folder.path / "config.json").exists()  # acquiring the lease would create the folder
    try:
        if folder.result() is not None:
            stored_job(folder.config(), folder.id, where=folder.path / "config.json")
            print(visible(f"{folder.id} is done already"))
            return ExitCode.DONE
        with folder.acquire() if owner else nullcontext() as lease:
            try:
                job = stored_job(folder.config(), folder.id, where=folder.path / "config.json")
                stand_ins.check(job)
                if isinstance(job, BaselineJob):
                    return run_baselines(job, folder, lease, torch_device(device), deadline)
                return Attempt(job, folder, lease, processes, torch_device(device, [job.scale])).finish(deadline, on_step)
            except Exception as error:
                return _failed(folder, lease, error)  # before the lease is released, since another start may follow at once
    except HarnessError as error:  # another process owns the folder, or the lease could not be written
        print(error, file=sys.stderr)
        return ExitCode(error.exit_code)
    finally:
        if processes.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _failed(folder: RunFolder, lease: Lease | None, error: Exception) -> ExitCode:
    """Prints a failure and, on the owner, records it in error.json. Raises LeaseLost if another process owns the folder by now."""
    code, trace = ExitCode.FAILED, ""
    match error:
        case Busy() | LeaseLost():
            raise error
        case HarnessError():
            kind, message, code = "input", str(error), ExitCode.BAD_INPUT
        case Diverged():
            kind, message = "diverged", f"{error}; the last checkpoint before it is kept"
        case _:
            kind, message, trace = "crash", f"{type(error).__name__}: {error}", traceback.format_exc()
    print(visible(trace or f"{folder.id} failed ({kind}): {message}"), file=sys.stderr)
    if lease:
        lease.check()
        with suppress(HarnessError):  # a full disk must not hide the first error
            folder.write_error(kind, message, trace, (folder.read_heartbeat() or {}).get("step"))
    return code


class Attempt:
    """One start of a run. lease: None on all processes but the first, which alone writes."""

    def __init__(self, run: Run, folder: RunFolder, lease: Lease | None, processes: Processes, device: torch.device) -> None:
        prepare_torch(run)
        self.run, self.folder, self.lease, self.processes, self.device = run, folder, lease, processes, device
        self.resources: dict[str, Any] = {"device": device_name(device), "processes": processes.count}
        self.micro_batch = chosen_rows()
        self.not_compiled = compile_fault(device.type) if run.train.compile else ""
        self.check = lease.check if lease else lambda: None
        check_content(run.data.name, run.data.custom)
        self.data = datasets.load(run.data.name, limit=run.data.limit, device=device)
        self.store, self.checkpoints = Store(folder.path.parent.parent), folder.path / "checkpoints"
        self.fault, self.earlier = folder.records_fault(), folder.stored_result()
        self.model, state = self._resume()
        self.first, self.seconds_before = self.model.step, state["seconds"] if state else 0.0
        records = json.loads(state["records"]) if state else []
        reference = None
        if processes.rank == 0:
            options = MetricOptions(run.protocol.sample_range, run.protocol.quantisation)
            reference = reference_of(run.data.name, options, self.store.root / "cache", device)
        self.evaluator = Evaluator(run, folder, self.data, reference, processes, self.seconds_before, records, self.check)
        self.writer = checkpoints.Writer()
        self.watchers = watchers.build(chosen_watchers() if lease else [])
        self.began = time.monotonic()

    def finish(self, deadline: float | None, on_step: OnStep | None = None) -> ExitCode:
        """Trains, evaluates and records to the end of the run, or stops with a checkpoint saved."""
        self._announce()
        self.watchers.start(self.run, self.folder.path, self.first)
        try:
            code = self._train(deadline, on_step)
        except BaseException:
            self.watchers.end(finished=False)
            raise
        self.watchers.end(finished=code is ExitCode.DONE)
        return code

    def _train(self, deadline: float | None, on_step: OnStep | None) -> ExitCode:
        with _stopper(deadline, self.processes, self.model) as wanted:

            def stop() -> bool:
                if on_step:
                    on_step(self.model.step)
                return wanted()

            frozen = trained_runs.frozen_predictor(self.run, self.store, self.device)
            hooks = Hooks(self._save, self._evaluate, self._progress, stop, self.evaluator.pair_cost, self.evaluator.mean_loss)
            train_here = partial(train, frozen=frozen, processes=self.processes, micro_batch=self.micro_batch)
            with self.writer:
                complete = train_here(self.run, self.data, self.model, hooks)
            if not complete:
                return ExitCode.STOPPED
            self._progress(self.model, "evaluate")
            self.evaluator.measure(self.model, final=True)
            self._show_records(final=True)
        self._write_result()
        return ExitCode.DONE

    def _resume(self) -> tuple[Model, dict[str, Any] | None]:
        """The model at its newest valid checkpoint and the state saved there; without a checkpoint, the initial model and None."""
        steps = self.run.train.steps
        state = checkpoints.load_newest(self.checkpoints, self.folder.id, lambda text: print(visible(text), file=sys.stderr), steps)
        start = None if state else trained_runs.initial_weights(self.run, self.store)
        trained = model.create(self.run, self.device, start, compiled=not self.not_compiled)
        if state:
            trained.restore(state)
            for damaged in [step for step in self.folder.stored_steps() if self.lease and step > trained.step]:
                facts = self.checkpoints / f"step-{damaged:08d}.json"  # renamed, or it would count as one of the two that are kept
                facts.replace(facts.with_suffix(".damaged"))
        return trained, state

    def _announce(self) -> None:
        """Prints and records where this attempt starts."""
        if not self.lease:
            return
        count, steps = self.processes.count, self.run.train.steps
        before = next((attempt.get("processes", count) for attempt in self.folder.attempts()[-1:]), count)
        if self.first and before != count:
            processes = f"{count} process{'es' * (count > 1)}"
            print(f"resuming on {processes} (was {before}): same batches, different dropout and GC masks", flush=True)
        if fault := self.fault or "; ".join(self.evaluator.faults):
            print(f"{self.run.id}: {fault}; the records are restored from the last checkpoint", flush=True)
        device = self.resources["device"]
        attempt = provenance(device) | {"step": self.first, "processes": count, "micro_batch": self.micro_batch}
        if self.run.train.compile:
            attempt |= {"compiled": not self.not_compiled, "not_compiled": self.not_compiled}
        self.folder.add_attempt(attempt)
        if why := attempt.get("commit_unknown"):
            print(f"the commit of the code is unknown ({why}); its fingerprint is {attempt['fingerprint']}", flush=True)
        if warning := skewed_classes(self.run):
            print(f"warning: {warning}", flush=True)
        print(f"{self.run.id}: step {self.first} of {steps} on {device}", flush=True)
        if self.not_compiled:
            print(f"torch.compile does not work here ({self.not_compiled}); the networks are not compiled, which takes longer", flush=True)
        elif self.run.train.compile and self.first < steps:
            print("compiling the networks during the first step, which takes minutes", flush=True)
            self.lease.beat(step=self.first, total=steps, phase="compile", force=True, **self.resources)

    def _rate(self) -> float:
        """Steps per second of this attempt, evaluations included, since the time left includes them too."""
        return (self.model.step - self.first) / max(time.monotonic() - self.began, 1e-9)

    def _progress(self, now: Model, phase: str = "train") -> None:
        self.writer.raise_error()
        if self.lease:
            total, fid = self.run.train.steps, self.evaluator.last
            self.lease.beat(step=now.step, total=total, rate=self._rate(), loss=now.loss, fid=fid, phase=phase, **self.resources)
            if phase == "train":
                self.watchers.scalars(now.step, {"loss": now.loss, "steps_per_second": self._rate()})

    def _show_records(self, final: bool = False) -> None:
        """Shows the watchers what was just recorded."""
        step, prefix = self.model.step, "final/" if final else ""
        rows = [record for record in self.evaluator.records.values() if (record.step, record.final) == (step, final)]
        names = {"loss": "mean_loss"}  # "loss" is that of single steps
        self.watchers.scalars(step, {prefix + names.get(record.metric, record.metric): record.value for record in rows})
        for path in sorted((self.folder.path / "samples").glob(f"step-{step:08d}.*")) if not final else []:
            self.watchers.samples(step, path)

    def _save(self, now: Model) -> None:
        if self.lease:
            self.check()
            records = json.dumps([record.to_json() for record in self.evaluator.records.values()])
            state = now.state() | {"seconds": self.evaluator.seconds(), "records": records}
            self.writer.submit(partial(self._write, now.step, state))

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self.check()
        checkpoints.save(self.checkpoints, self.folder.id, step, state, keep_steps=self.run.keep_steps)

    def _evaluate(self, now: Model) -> None:
        self._progress(now, "evaluate")
        self.evaluator.measure(now)
        if self.lease:
            self._show_records()
        if self.processes.rank == 0:
            left = timedelta(seconds=round((self.run.train.steps - now.step) / max(self._rate(), 1e-9)))
            speed = f"{self._rate():.3g} steps/s  {left} left"
            print(f"step {now.step}/{self.run.train.steps}  {speed}  loss {now.loss:.4g}  {self._main_metric()}", flush=True)

    def _write_result(self) -> None:
        if self.lease:
            self.check()
            step, seconds = self.model.step, self.evaluator.seconds()
            rate = (step - self.first) / max(seconds - self.seconds_before, 1e-9) if step > self.first else None
            result = {"step": step, "seconds": seconds, "rate": rate, "fid": self.evaluator.last, **self.resources}
            if self.fault and self.earlier and self.first == step:  # nothing was trained, so the times are still those of the first end
                result |= {key: self.earlier.get(key) for key in ("seconds", "rate", *self.resources)}
            self.folder.write_result(result | {"fingerprint": fingerprint.current(), **self.folder.seal_of_records()})
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


def main(argv: list[str] | None = None, on_step: OnStep | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.training.job", description="Run or resume one run folder to its end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto", help=", ".join(DEVICES))
    parser.add_argument("--deadline", type=float, default=None, help="seconds after which to save and stop")
    arguments = parser.parse_args(argv)
    return run_job(arguments.folder, arguments.device, arguments.deadline, on_step)


if __name__ == "__main__":
    sys.exit(main())
