"""What is trained: the network, its moving average and the optimizer, and their initial state."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lion_pytorch import Lion
from torch import Tensor

from harness.config.curriculum import grid_points
from harness.config.parts import Variational
from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.core.networks import build
from harness.core.networks.encoder import NoiseEncoder
from harness.core.power_ema import gamma_of, power_decay
from harness.core.randomness import generator
from harness.core.schedules import noise_levels
from harness.data.catalogue import info_of
from harness.training.edm_weights import load_into
from harness.training.flat import FlatOptimizer, FlatParameters
from harness.training.mean_loss import MeanLoss

GRAPHS = 32
"""The most graphs that torch compiles of one function; beyond them it would train on without compiling."""


@dataclass
class Model:
    """What a checkpoint stores."""

    online: Preconditioned
    ema: Preconditioned
    weights: FlatParameters
    """The trained parameters of `online`."""
    average: FlatParameters
    """The parameters of `ema`."""
    optimizer: FlatOptimizer | torch.optim.Adam
    step: int = 0
    loss: float = math.nan
    """Of the last step at which it was read."""
    losses: MeanLoss = field(default_factory=MeanLoss)
    """Of the steps since the last evaluation."""

    def state(self) -> dict[str, Any]:
        """A copy on the CPU, which further training does not change."""
        parts = {"online": self.online.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict()}
        parts["losses"] = self.losses.state()
        return {"step": self.step, "loss": self.loss, **{name: _copied(part) for name, part in parts.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.online.load_state_dict(state["online"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses.restore(state.get("losses"))
        self.step, self.loss = state["step"], state["loss"]


def _copied(state: Any) -> Any:
    """A state dict whose tensors are copies on the CPU, which share no memory with the originals and keep their strides."""
    match state:
        case Tensor():
            return state.detach().to("cpu", copy=True)
        case dict():
            result = copy.copy(state)  # with the versions of the layers, an attribute of a network's state dict
            result.update((name, _copied(part)) for name, part in state.items())
            return result
        case list():
            return [_copied(part) for part in state]
    return state


def preconditioned(run: Run) -> Preconditioned:
    """The network of a run with initial weights, which are a function of (seed, "init")."""
    dataset, labels = info_of(run.data), run.data.labels
    levels = last_levels(run) if run.network.kind == "linear" else None
    network = build(run.network, dataset.shape, dataset.classes if labels else 0, generator(run.seed, "init"), levels)
    encoder = noise_encoder(run) if isinstance(run.coupling, Variational) else None
    return Preconditioned(network, run.noise.sigma_data, identity_level(run), run.train.precision == "bf16", encoder)


def noise_encoder(run: Run) -> NoiseEncoder:
    """The encoder of a run's learned coupling: the run's architecture without dropout, with initial weights of their own."""
    dataset, settings = info_of(run.data), run.network
    shape = (2 * dataset.shape[0], *dataset.shape[1:])
    settings = settings.model_copy(update={"dropout": (0.0,) * len(settings.dropout)})
    network = build(settings, shape, dataset.classes if run.data.labels else 0, generator(run.seed, "init", 1))
    return NoiseEncoder(network, gain=0.0 if settings.kind == "mlp" else 1.0)


def identity_level(run: Run) -> float:
    """The noise level sigma_0 at which the run's network is the identity: sigma_min, but 0 for ECT and for denoisers."""
    return run.noise.sigma_min if run.objective.kind == "ict" else 0.0


def last_levels(run: Run) -> Tensor:
    """The noise levels sigma_0 < ... < sigma_{N-1} of the last training step; (N,) float64. Only for runs with an iCT objective."""
    assert run.objective.kind == "ict", "only iCT trains on a grid"
    points = grid_points(run.train.steps - 1, run.train.steps, run.objective.n0, run.objective.n1)
    return noise_levels(points, run.noise.sigma_min, run.noise.sigma_max, run.noise.rho)


def create(run: Run, device: torch.device | str = "cpu", start: dict[str, Tensor] | None = None, compiled: bool = True) -> Model:
    """Network, EMA copy and optimizer of a run. start: initial weights that replace the random ones.

    compiled: False where torch.compile does not work, so that a run which wants it is trained without, to the same result up to rounding.
    """
    online = preconditioned(run)
    if start is not None:
        load_into(online.model, start, f"init: {run.init.ref}" if run.init else "the initial weights")
    is_images = len(info_of(run.data).shape) == 3
    online = online.to(device).to(memory_format=torch.channels_last if run.train.channels_last and is_images else torch.preserve_format)
    ema = copy.deepcopy(online).eval().requires_grad_(False)
    if run.train.compile and compiled:
        static = run.train.static_rows
        if static:  # up to eight numbers of rows, besides training with and without gradient
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        online.model.compile(dynamic=False if static else None)
        ema.model.compile(dynamic=not static)  # the number of GC rows varies from step to step
    weights, average = FlatParameters(p for p in online.parameters() if p.requires_grad), FlatParameters(ema.parameters())
    return Model(online.train(), ema, weights, average, optimizer(run, weights))


def optimizer(run: Run, weights: FlatParameters) -> FlatOptimizer | torch.optim.Adam:
    """The run's optimizer at its first learning rate, without weight decay or clipping (section 2 of the paper's appendix)."""
    settings = run.train
    if settings.optimizer == "lion":
        return FlatOptimizer(weights, partial(ForeachLion, lr=settings.lr, betas=settings.betas))
    if settings.optimizer == "radam":
        return FlatOptimizer(weights, partial(torch.optim.RAdam, lr=settings.lr, betas=settings.betas, foreach=True))
    return torch.optim.Adam(weights.parameters, lr=settings.lr, betas=settings.betas, fused=True)


class ForeachLion(Lion):
    """lion-pytorch's Lion (arXiv 2302.06675) without weight decay, over all tensors at once: the same numbers in at most half the time."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            averages = [self.state[p]["exp_avg"] for p in parameters]
            first, second = group["betas"]
            update = torch._foreach_mul(averages, first)
            torch._foreach_add_(update, gradients, alpha=1 - first)
            torch._foreach_sign_(update)
            torch._foreach_add_(parameters, update, alpha=-group["lr"])
            torch._foreach_mul_(averages, second)
            torch._foreach_add_(averages, gradients, alpha=1 - second)


def ema_decay(run: Run, step: int) -> float | None:
    """Weight of the old average at the end of 0-based training step `step`; None for no update, 0 for a plain copy.

    With ema.sigma_rel that of a power-function average, else by protocol.ema.
    paper: the constant rate. released (ema-pytorch 0.2.3): every fifth step, min(rate, 1 - (1+k)^(-2/3)). Both copy for `copy_steps`.
    """
    if run.ema.sigma_rel is not None:
        return power_decay(step + 1, gamma_of(run.ema.sigma_rel))
    released = run.protocol.ema == "released"
    if released and step % 5:
        return None
    if step < run.ema.copy_steps:
        return 0.0
    return min(run.ema.rate, 1 - (1 + step - run.ema.copy_steps) ** (-2 / 3)) if released else run.ema.rate


@torch.no_grad()
def update_ema(average: FlatParameters, weights: FlatParameters, decay: float | None) -> None:
    """average <- decay average + (1 - decay) weights, parameters only (buffers are constants)."""
    if decay is not None:
        average.buffer.lerp_(weights.buffer, 1 - decay)
