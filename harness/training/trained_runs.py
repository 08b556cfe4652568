"""Loads the EMA networks of finished runs, for runs that need them and for measurements, and the public weights that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.config.baselines import stored_job
from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.data import datasets
from harness.data.catalogue import check_content
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.locations import data_root
from harness.store.runs import RunFolder, Store
from harness.training import checkpoints, model
from harness.training.edm_weights import load_edm_weights, load_into

Which = Literal["ema", "online"]
"""The moving average of the weights, or the weights in training."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its EMA network in eval mode without gradients, and its training data."""

    run: Run
    folder: RunFolder
    network: Preconditioned
    data: Dataset
    step: int | None = None
    """The stored step of the weights; None for the last one."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, sigma) of a consistency model, D(x, sigma) of a denoiser; x (n, ...) and sigma (n,), in the network's dtype."""
        return self.network(x, sigma)


def load(folder: RunFolder, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, step: int | None = None) -> TrainedRun:
    """The run of a folder at its end, or at a stored step. Raises HarnessError for a run that is not done or has no such checkpoint,
    and for one of a rehearsal."""
    run = run_of(folder)
    if run.rehearsal:
        what = "a run of a rehearsal is no result, and nothing is measured on it"
        raise HarnessError(what, where=folder.path, found=run.rehearsal, expected="a run of harness reproduce or harness sweep")
    check_content(run.data.name, run.data.custom)
    data = datasets.load(run.data.name, limit=run.data.limit, device=device)
    return TrainedRun(run, folder, network(folder, step).to(device, dtype), data, step)


def run_of(folder: RunFolder) -> Run:
    """The run of a folder, from its config. Raises ConfigMismatch for the config of another run, HarnessError for a baselines job."""
    run = stored_job(folder.config(), folder.id, where=folder.path / "config.json")
    if not isinstance(run, Run):
        raise HarnessError("baselines have no trained model", where=folder.path, expected="the folder of a trained run")
    return run


def network(folder: RunFolder, step: int | None = None, which: Which = "ema") -> Preconditioned:
    """The network of a run on the CPU, in eval mode, without gradients. Raises HarnessError as `weights`."""
    module = model.preconditioned(run_of(folder))
    load_into(module, weights(folder, step, which), folder.path)
    return module.eval().requires_grad_(False)


def weights(folder: RunFolder, step: int | None = None, which: Which = "ema") -> dict[str, Tensor]:
    """The weights at the end, or at a stored step; never those of another step.

    Raises HarnessError for a run that is not done, DamagedFile if the checkpoint is damaged or absent.
    """
    run, done = run_of(folder), folder.result() is not None
    if step is None and not done:
        fix, actual = f"harness run {folder.id}", folder.records_fault() or folder.state()
        raise HarnessError("this run is not finished", where=folder.path, found=actual, expected="done", nearest=fix)
    last = run.train.steps
    restore = f"harness clear {folder.id}, then the same sweep again, which trains this run to the same numbers" if done else None
    state = checkpoints.load(folder.path / "checkpoints", folder.id, last if step is None else step, last, restore)
    return state[which]


def initial_weights(run: Run, store: Store) -> dict[str, Tensor] | None:
    """The weights that a run starts from: the EMA of another run, public EDM weights, or None for random ones."""
    if run.init is None:
        return None
    if run.init.kind == "run":
        return weights(store.find(run.init.ref))
    return load_edm_weights(data_root() / "weights" / run.init.ref)


def frozen_predictor(run: Run, store: Store, device: torch.device) -> Preconditioned | None:
    """The endpoint predictor of GC with predictor = "frozen": the EMA network of another run, at its last or a stored step; else None."""
    if not isinstance(run.coupling, GeneratorAugmented) or run.coupling.frozen is None:
        return None
    return network(store.find(run.coupling.frozen), run.coupling.frozen_step).to(device)
