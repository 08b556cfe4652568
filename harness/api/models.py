"""Trained models: load one, train one here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from harness.config.parts import Custom
from harness.config.run import Run
from harness.errors import HarnessError
from harness.locations import user_folder
from harness.sharing import model
from harness.sharing.model import TrainedModel
from harness.store.exit_codes import ExitCode
from harness.store.machine import check_device
from harness.store.runs import RunFolder, Store
from harness.sweep.doctor import absent
from harness.training.devices import torch_device
from harness.training.job import run_job
from harness.training.user_couplings import try_out


def load(
    name: str | Path, results: str | Path | None = None, device: str = "cpu", which: Literal["ema", "online"] | None = None
) -> TrainedModel:
    """The model of a finished run, ready to use.

    name: the beginning of a run's name or hash ("digits-gc-0.5-s0"), a run folder, or a file that `harness export --weights` wrote
    ("FILE.safetensors"). results: the results folder with the runs; by default $HARNESS_RESULTS, else results/. device: "cpu", "cuda" or
    "auto". which: the moving average of the weights, or the weights in training; by default the average, or what the file has.

    No code that belongs to the run is executed. Raises HarnessError for a name that no run has or several have (which it names), and for a
    run that is not finished.

        model = harness.load("digits-gc-0.5-s0")
        images = model.pixels(model.sample(16))         # uint8 (16, 8, 8, 1)
    """
    return model.load(name, Store(_folder(results)), torch_device(check_device(device)), which)


def run(run: Run, results: str | Path | None = None, device: str = "auto") -> TrainedModel:
    """Trains a run here, in this process, and returns its model. A run that is finished is only loaded; one that was stopped continues.

    run: see `preset` and `experiment`. results: the folder in which the run gets a folder of its own, as on the command line; by default
    $HARNESS_RESULTS, else results/. device: "auto" (a GPU that torch can use, else the CPU), "cpu" or "cuda". Progress is printed.

    Interrupting the kernel (Ctrl-C) stops it with a checkpoint saved; call it again to continue. Torch's random numbers and number of
    threads are afterwards what they were before. Raises HarnessError for a run that needs others which are not finished, for missing data,
    for a coupling that does not work or that nobody has trusted (see `preset`), and if training diverges.

        model = harness.run(harness.preset("toy", coupling="gc-0.5", changes={"train.steps": 400}))
    """
    store = Store(_folder(results))
    _check(run, store, device)
    folder = RunFolder.create(store.root, run.id, run.to_dict())
    with _torch_as_before():
        code = run_job(folder.path, device)
    if code != ExitCode.DONE:
        raise _failure(folder, code)
    return model.of_folder(folder, torch_device(device))


def _folder(results: str | Path | None) -> Path | None:
    return None if results is None else user_folder(results, "results")


def _check(run: Run, store: Store, device: str) -> None:
    """Raises HarnessError for what can be known before the run folder exists."""
    check_device(device)
    if threading.current_thread() is not threading.main_thread():
        advice = "harness sweep, or a process of its own"
        raise HarnessError("a run is trained in the main thread, which alone receives signals", where=run.id, nearest=advice)
    store.check_writable()
    if needs := [need for need in run.needs if store.folder(need).result() is None]:
        advice = "train these first; harness.experiment returns runs in the order in which they need each other"
        raise HarnessError("this run needs others that are not finished", where=run.id, found=", ".join(needs), nearest=advice)
    if missing := absent([run]):
        fix = "harness doctor EXPERIMENT says how to fix it"
        raise HarnessError("data sets or weights of this run are missing", where=run.id, found="; ".join(missing), nearest=fix)
    if isinstance(run.coupling, Custom):
        try_out(run)


def _failure(folder: RunFolder, code: ExitCode) -> HarnessError:
    """Why a job did not end with a trained model."""
    error = folder.error() or {}
    if code == ExitCode.STOPPED:
        step = (folder.read_heartbeat() or {}).get("step")
        return HarnessError(
            "stopped before the end, with a checkpoint saved", where=folder.path, found=f"step {step}", nearest="call it again"
        )
    if code == ExitCode.BUSY:
        return HarnessError("another process works on this run", where=folder.path, expected="one process at a time")
    return HarnessError("the run failed", where=folder.path, found=error.get("message") or code.name.lower())


@contextmanager
def _torch_as_before() -> Iterator[None]:
    """Restores afterwards what training sets for the whole process: threads, determinism, TF32, torch's random numbers."""
    threads, cudnn, matmul = torch.get_num_threads(), torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
