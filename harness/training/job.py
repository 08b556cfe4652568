"""What one job does: take the lease of a run folder, resume, train, measure, record. `python -m harness.training.job RUN_FOLDER`.

The same command starts and continues. Exit codes: 0 done, 2 bad input, 3 failed, 75 stopped at a deadline or by SIGTERM with a
checkpoint saved (start again to continue), 76 another process owns the folder.
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
from pathlib import Path

import torch
import torch._dynamo  # torch.optim loads it at first use, for seconds; here, so that processes forked by a launcher share it
import torch.distributed as dist

from harness.config.baselines import BaselineJob, job_from_dict
from harness.config.run import GeneratorAugmented, Run
from harness.core.consistency import Preconditioned
from harness.data import datasets
from harness.data.catalogue import metric_label
from harness.errors import HarnessError
from harness.metrics.reference_statistics import MetricOptions, reference_of
from harness.store.exit_codes import ExitCode
from harness.store.lease import Busy, Lease, LeaseLost
from harness.store.provenance import provenance
from harness.store.runs import RunFolder, Store
from harness.training import checkpoints, model, trained_runs
from harness.training.baseline_job import run_baselines
from harness.training.batches import Processes
from harness.training.devices import device_name, join_processes, prepare_torch, torch_device
from harness.training.evaluation import Evaluator
from harness.training.loop import Diverged, Hooks, train

STOP_EVERY = 10
"""Steps between the moments at which several processes agree whether to stop."""


def run_job(path: Path, device: str = "auto", deadline: float | None = None) -> int:
    """Runs or resumes one run folder to its end; returns an exit code. deadline: seconds from now after which to save and stop."""
    folder = RunFolder(Path(path))
    processes = join_processes()
    owner = processes.rank == 0 and (folder.path / "config.json").exists()  # to take a lease makes the folder
    try:
        if folder.result() is not None:
            print(f"{folder.id} is done already")
            return ExitCode.DONE
        with folder.acquire() if owner else nullcontext() as lease:
            return _ending(folder, lease, device, deadline, processes)
    except (Busy, LeaseLost) as error:
        print(error, file=sys.stderr)
        return ExitCode.BUSY
    except HarnessError as error:  # the lease itself could not be written
        print(error, file=sys.stderr)
        return ExitCode.BAD_INPUT
    finally:
        if processes.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _ending(folder: RunFolder, lease: Lease | None, device: str, deadline: float | None, processes: Processes) -> int:
    """`_owned`, its failures told and written down while the folder is still ours: another start may follow at once."""
    try:
        run = job_from_dict(folder.config(), where=folder.path / "config.json")
        if isinstance(run, BaselineJob):
            return run_baselines(run, folder, lease, torch_device(device), deadline)
        return _owned(run, folder, lease, torch_device(device), deadline, processes)
    except (Busy, LeaseLost):
        raise
    except HarnessError as error:
        print(error, file=sys.stderr)
        _note(folder, lease, "input", str(error))
        return ExitCode.BAD_INPUT
    except Diverged as error:
        print(f"{folder.id} diverged: {error}", file=sys.stderr)
        _note(folder, lease, "diverged", f"{error}; the last checkpoint before it is kept")
        return ExitCode.FAILED
    except Exception as error:
        traceback.print_exc()
        _note(folder, lease, "crash", f"{type(error).__name__}: {error}", traceback.format_exc())
        return ExitCode.FAILED


def _note(folder: RunFolder, lease: Lease | None, kind: str, message: str, trace: str = "") -> None:
    """Writes error.json, if the folder is ours. Raises LeaseLost if it is another's by now; a full disk must not hide the first message."""
    if lease is None:
        return
    lease.check()
    with suppress(HarnessError):
        folder.write_error(kind, message, trace, (folder.read_heartbeat() or {}).get("step"))


def _owned(run: Run, folder: RunFolder, lease: Lease | None, device: torch.device, deadline: float | None, processes: Processes) -> int:
    """The job itself, once the folder is ours. lease: None on all processes but the first, which alone writes."""
    prepare_torch(run)
    data = datasets.load(run.data.name, limit=run.data.limit, device=device)
    store = Store(folder.path.parent.parent)
    stored = folder.path / "checkpoints"
    state = checkpoints.load_newest(stored, run.id, warn=lambda text: print(text, file=sys.stderr))
    start = None if state else first_weights(run, store)
    trained = model.create(run, data.shape, data.classes or 0, device, start)
    seconds = 0.0
    if state:
        seconds = state["seconds"]
        trained.restore(state)
        for damaged in [step for step in checkpoints.steps(stored) if step > trained.step and lease is not None]:
            path = stored / f"step-{damaged:08d}.json"  # or it would count as one of the two that are kept
            path.replace(path.with_suffix(".damaged"))
    options = MetricOptions(run.protocol.sample_range, run.protocol.quantisation)
    against = reference_of(run.data.name, options, store.root / "cache", device) if processes.rank == 0 else None
    check = lease.check if lease is not None else lambda: None
    evaluator = Evaluator(run, folder, data, against, processes, seconds, check)
    if processes.rank == 0:
        evaluator.restore(json.loads(state["records"]) if state else [])
        before = [attempt.get("processes", processes.count) for attempt in folder.attempts()[-1:]]
        if state and before != [processes.count]:
            print(f"begun on {before[0]} processes, goes on on {processes.count}: the same batches, other dropout and GC masks", flush=True)
        folder.add_attempt(provenance(device_name(device)) | {"step": trained.step, "processes": processes.count})
        print(f"{run.id}: step {trained.step} of {run.train.steps} on {device_name(device)}", flush=True)
    where = {"device": device_name(device), "processes": processes.count}
    first, began = trained.step, time.monotonic()

    def rate() -> float:
        """Steps a second of this attempt, measurements included, since the time left has them too."""
        return (trained.step - first) / max(time.monotonic() - began, 1e-9)

    def progress(now: model.Model, phase: str = "train") -> None:
        if lease is not None:
            lease.beat(step=now.step, total=run.train.steps, rate=rate(), loss=now.loss, fid=evaluator.last, phase=phase, **where)

    def save(now: model.Model) -> None:
        if lease is not None:
            check()
            records = json.dumps([record.to_json() for record in evaluator.records.values()])
            state = now.state() | {"seconds": evaluator.seconds(), "records": records}
            checkpoints.save(stored, run.id, now.step, state, keep_steps=run.keep_steps)

    def assess(now: model.Model) -> None:
        progress(now, "evaluate")
        evaluator(now)
        if processes.rank == 0:
            left = timedelta(seconds=round((run.train.steps - now.step) / max(rate(), 1e-9)))
            speed = f"{rate():.3g} steps/s  {left} left"
            print(f"step {now.step}/{run.train.steps}  {speed}  loss {now.loss:.4g}  {_main_metric(evaluator)}", flush=True)

    with stopper(deadline, processes, trained) as stop:
        hooks = Hooks(save=save, evaluate=assess, progress=progress, stop=stop, pairs=evaluator.pairs)
        frozen = frozen_predictor(run, store, data.shape, data.classes or 0, device)
        whole = train(run, data, trained, hooks, frozen=frozen, processes=processes)
        if not whole:
            return ExitCode.STOPPED
        progress(trained, "evaluate")
        evaluator.final(trained)
    if lease is not None:
        check()
        trained_for = evaluator.seconds()
        speed = (trained.step - first) / max(trained_for - seconds, 1e-9) if trained.step > first else None
        folder.write_result({"step": trained.step, "seconds": trained_for, "rate": speed, "fid": evaluator.last, **where})
        print(f"{run.id}: done, {_main_metric(evaluator)}", flush=True)
    return ExitCode.DONE


def _main_metric(evaluator: Evaluator) -> str:
    return "not measured" if evaluator.last is None else f"{metric_label(evaluator.data.name)} {evaluator.last:.4g}"


def first_weights(run: Run, store: Store) -> dict[str, torch.Tensor] | None:
    """The weights that a run starts from when they are not random: the EMA of another run, or public EDM weights."""
    if run.init is None:
        return None
    if run.init.kind == "run":
        return trained_runs.ema_state(store.find(run.init.ref))
    from harness.locations import data_root
    from harness.training.edm_weights import load_edm_weights

    return load_edm_weights(data_root(None) / "weights" / run.init.ref)


def frozen_predictor(run: Run, store: Store, shape: tuple[int, ...], classes: int, device: torch.device) -> Preconditioned | None:
    """The endpoint predictor of GC with predictor = "frozen": the EMA network of another run, at its last or a stored step."""
    if not isinstance(run.coupling, GeneratorAugmented) or run.coupling.frozen is None:
        return None
    folder = store.find(run.coupling.frozen)
    state = trained_runs.ema_state(folder, run.coupling.frozen_step)
    return trained_runs.network(trained_runs.run_of(folder), folder, state, shape, classes).to(device)


@contextmanager
def stopper(deadline: float | None, processes: Processes, trained: model.Model) -> Iterator[Callable[[], bool]]:
    """stop() for the training loop: true after SIGTERM, SIGINT or the deadline; several processes agree on it every STOP_EVERY steps."""
    until = None if deadline is None else time.monotonic() + deadline
    asked = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)

    def stop() -> bool:
        mine = bool(asked) or (until is not None and time.monotonic() > until)
        if processes.count == 1:
            return mine
        if trained.step % STOP_EVERY:
            return False
        votes = torch.tensor(int(mine))
        dist.all_reduce(votes)
        return bool(votes.item())

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.training.job", description="Run or resume one run folder to its end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--deadline", type=float, default=None, help="seconds after which to save and stop")
    arguments = parser.parse_args(argv)
    return run_job(arguments.folder, arguments.device, arguments.deadline)


if __name__ == "__main__":
    sys.exit(main())
