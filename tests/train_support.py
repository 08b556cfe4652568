"""Shared by the tests of training: a run that trains in a fraction of a second, and comparisons of states."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch

from harness.config.parts import BatchOT, Data, Ema, Evaluation, GeneratorAugmented, Independent, Network, Training
from harness.config.run import Run
from harness.data import datasets
from harness.training.loop import Hooks, train
from harness.training.model import Model, create

COUPLINGS = {"ic": Independent(), "ot": BatchOT(), "gc": GeneratorAugmented(mu=0.5)}


def tiny_run(coupling="ic", steps: int = 24, batch: int = 16, dropout: float = 0.2, optimizer: str = "adam", **changes) -> Run:
    """Eight Gaussians, an MLP of 16 x 2, three doublings of the grid."""
    values = {
        "scale": "toy",
        "data": Data(name="eight-gaussians"),
        "network": Network(kind="mlp", width=16, depth=2, dropout=(dropout,)),
        "coupling": COUPLINGS.get(coupling, coupling) if isinstance(coupling, str) else coupling,
        "train": Training(steps=steps, batch=batch, lr=1e-3, optimizer=optimizer, threads=1),
        "ema": Ema(rate=0.9),
        "evaluation": Evaluation(every=10, samples=32, resamplings=2, grid=4),
        "checkpoint_every": 7,
    }
    return Run(**{**values, **changes})


def data_of(run: Run) -> datasets.Dataset:
    return datasets.load(run.data.name)


def fresh(run: Run) -> Model:
    return create(run)


def trained(run: Run, hooks: Hooks | None = None, start: Model | None = None, **options) -> Model:
    """The run's model after training it from `start`, or from the beginning."""
    model = start or fresh(run)
    train(run, data_of(run), model, hooks or Hooks(), **options)
    return model


def stop_after(model: Model, step: int) -> Callable[[], bool]:
    return lambda: model.step >= step


def copied(run: Run, model: Model) -> Model:
    """A new model with the state that `model` would write to a checkpoint."""
    buffer = io.BytesIO()
    torch.save(model.state(), buffer)
    buffer.seek(0)
    again = fresh(run)
    again.restore(torch.load(buffer, weights_only=True))
    return again


def flat(state, prefix: str = "") -> dict[str, object]:
    """Every leaf of nested dictionaries and lists by its path."""
    if isinstance(state, dict):
        return {path: leaf for key, value in state.items() for path, leaf in flat(value, f"{prefix}/{key}").items()}
    if isinstance(state, list):
        return flat(dict(enumerate(state)), prefix)
    return {prefix: state}


def difference(a, b) -> list[str]:
    """Paths at which two states are not equal bit for bit; times, and the records that hold some, may differ."""
    a, b = flat(a), flat(b)
    same = {
        path
        for path in a.keys() & b.keys()
        if (torch.equal(a[path], b[path]) if isinstance(a[path], torch.Tensor) else a[path] == b[path] or path in ("/seconds", "/records"))
    }
    return sorted((a.keys() | b.keys()) - same)
