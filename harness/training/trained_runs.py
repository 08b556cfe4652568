"""What a finished run left: its EMA network, for runs that need it and for all that is measured on it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config.overrides import from_dict
from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.data import datasets
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.store.runs import RunFolder
from harness.training import checkpoints, model
from harness.training.edm_weights import load_into


@dataclass(frozen=True)
class TrainedRun:
    """A done run. `network` is its EMA network in eval mode without gradients; `data` is its training data."""

    run: Run
    folder: RunFolder
    network: Preconditioned
    data: Dataset

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, sigma) of a consistency model, D(x, sigma) of a denoiser; x (n, ...) and sigma (n,), in the network's dtype."""
        return self.network(x, sigma)


def load(folder: RunFolder, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, step: int | None = None) -> TrainedRun:
    """The run of a folder at its end, or at a stored step. Raises HarnessError for a run that is not done or has no such checkpoint."""
    run = run_of(folder)
    state = ema_state(folder, step)
    data = datasets.load(run.data.name, limit=run.data.limit, device=device)
    found = network(run, folder, state, data.shape, data.classes or 0)
    return TrainedRun(run, folder, found.to(device, dtype), data)


def run_of(folder: RunFolder) -> Run:
    """The run of a folder, from its config."""
    return from_dict(folder.config(), where=folder.path / "config.json")


def network(run: Run, folder: RunFolder, state: dict[str, Tensor], shape: tuple[int, ...], classes: int = 0) -> Preconditioned:
    """The network of a run with the given weights, in eval mode, without gradients."""
    found = model.preconditioned(run, shape, classes)
    load_into(found, state, folder.path)
    return found.eval().requires_grad_(False)


def ema_state(folder: RunFolder, step: int | None = None) -> dict[str, Tensor]:
    """EMA weights at the end, or at a stored step. Raises HarnessError for a run that is not done or has no such checkpoint."""
    if step is None and folder.result() is None:
        raise HarnessError(
            "this run is not finished", where=folder.path, found=folder.state(), expected="done", nearest=f"harness run {folder.id}"
        )
    where = folder.path / "checkpoints"
    state = checkpoints.load(where, folder.id, step) if step else checkpoints.load_newest(where, folder.id)
    if state is None:
        raise HarnessError("this run has no checkpoint", where=where, expected="a checkpoint")
    return state["ema"]
