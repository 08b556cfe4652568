"""The harness's trainer and the plain one as calls that train a few steps and return the seconds of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from harness.bench.plain import PlainTrainer
from harness.bench.shapes import Shape, threads_of
from harness.config.parts import BatchOT, Coupling, GeneratorAugmented, Independent
from harness.config.run import Run
from harness.data.datasets import Dataset
from harness.store.machine import cores
from harness.theory.rate import seconds_of
from harness.training import model
from harness.training.batches import ALONE, Processes
from harness.training.devices import prepare_torch
from harness.training.loop import Hooks, train

COUPLINGS: dict[str, Coupling] = {"IC": Independent(), "OT": BatchOT(), "GC": GeneratorAugmented(mu=0.5)}
"""The couplings of Table 1."""
TURN = 0.12
"""Seconds that one call trains, at least one step."""
MOST_WORKERS = 4
"""Processes of the plain baseline's DataLoader."""


class HarnessSteps:
    """Trains a run that never ends; each call trains `per_call` steps and returns the seconds of one. Nothing is measured or saved.

    A call begins with a step that is not timed, unless single steps take so long that its pairs and its check of the loss hardly count: the
    loop checks the loss after its first step, and batch-OT's first pairs are not yet solved.
    """

    def __init__(
        self, run: Run, data: Dataset, device: torch.device, assign_ahead: bool = True, processes: Processes = ALONE, per_call: int = 1
    ) -> None:
        self.run, self.data, self.device, self.per_call = run, data, device, per_call
        self.assign_ahead, self.processes = assign_ahead, processes
        self.slow_to_start = run.train.compile
        prepare_torch(run.model_copy(update={"train": run.train.model_copy(update={"threads": 0})}))  # see `threads_of`
        with threads_of(run):
            self.model = model.create(run, device)

    def __call__(self) -> float:
        first = self.model.step + (self.per_call > 1 or (isinstance(self.run.coupling, BatchOT) and self.assign_ahead))
        start = end = now(self.device)

        def stop() -> bool:
            nonlocal end
            if self.model.step == first + self.per_call:
                end = now(self.device)
            return self.model.step >= first + self.per_call

        def checked(trained: model.Model) -> None:
            nonlocal start
            if trained.step == first:
                start = now(self.device)

        with threads_of(self.run):
            hooks = Hooks(stop=stop, progress=checked)
            train(self.run, self.data, self.model, hooks, assign_ahead=self.assign_ahead, processes=self.processes)
        return (end - start) / self.per_call

    def close(self) -> None:
        """Nothing to end: the thread of batch-OT ends with each call."""


class PlainSteps:
    """The plain baseline, as `HarnessSteps`."""

    def __init__(self, run: Run, data: Dataset, device: torch.device, on: Callable[[str], None] = lambda stage: None) -> None:
        self.run, self.device, self.per_call, self.slow_to_start = run, device, 1, False
        self.trainer = PlainTrainer(run, data, device, workers=min(MOST_WORKERS, cores()), on=on)

    def __call__(self) -> float:
        tf32 = torch.backends.cudnn.allow_tf32  # the library's; but not the deterministic convolutions that the harness asks for
        with threads_of(self.run), torch.backends.cudnn.flags(enabled=True, deterministic=False, allow_tf32=tf32):
            return seconds_of(lambda: self.trainer.train(self.per_call), self.device) / self.per_call

    def close(self) -> None:
        """Ends the workers of the DataLoader."""
        self.trainer.close()


def fit_turns(trainers: Iterable[HarnessSteps | PlainSteps]) -> None:
    """Makes the calls that do not count: the first compiles and creates the optimizer's state. Sets how many steps make a call of TURN."""
    for trainer in trainers:
        seconds = trainer()
        if seconds < TURN or trainer.slow_to_start:
            seconds = trainer()
        trainer.per_call = max(1, min(100, round(TURN / max(seconds, 1e-6))))


def now(device: torch.device) -> float:
    """The clock in seconds, once the GPU is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run_of(shape: Shape, coupling: str, device: torch.device) -> Run:
    """The run of a shape with one of COUPLINGS."""
    return shape.run(COUPLINGS[coupling], device)
