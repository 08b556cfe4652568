"""The plain baseline: iCT with IC, batch-OT or GC in the most direct form, against which the harness's steps are measured.

Written from the paper (arXiv 2406.09570, Algorithm 1) and this project's description of it: fp32, eager, contiguous tensors; the EMA
network predicts an endpoint for every row of the batch, of which those of the mask are used; batch-OT is solved in line; a DataLoader with
workers converts the images one by one; Lion and the EMA go tensor by tensor. One step on the same pairs gives the loss and the weights of
the harness's step up to rounding (tests/test_bench_plain.py), so that a ratio of the two compares equal work.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from lion_pytorch import Lion
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from harness.bench.plain_network import PlainUNet
from harness.config.curriculum import grid_points
from harness.config.parts import BatchOT, GeneratorAugmented
from harness.config.run import Run
from harness.core import schedules
from harness.core.optimal_transport import assignment
from harness.data.datasets import Dataset
from harness.training import model


@dataclass(frozen=True)
class PlainBatch:
    """One step: data x and noise z, both (n, ...), levels low < high (n,), and which rows become GC (n,), bool; None for no GC."""

    x: Tensor
    z: Tensor
    low: Tensor
    high: Tensor
    gc: Tensor | None
    dropout: int = 0
    """Seed of the dropout masks, the same for student and teacher."""


class Rows(TorchDataset[Tensor]):
    """A data set as a DataLoader's workers read it: one converted row after the other."""

    def __init__(self, data: Dataset) -> None:
        self.rows, self.is_images = data.rows.cpu(), data.is_images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = self.rows[index]
        return row.float() / 127.5 - 1 if self.is_images else row


class PlainFunction(nn.Module):
    """The consistency function of equation (3) around a plain network."""

    def __init__(self, network: nn.Module, sigma_data: float, sigma_min: float) -> None:
        super().__init__()
        self.model, self.sigma_data, self.sigma_min = network, sigma_data, sigma_min

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s, data = sigma.view(-1, *[1] * (x.dim() - 1)), self.sigma_data
        skip = data**2 / ((s - self.sigma_min) ** 2 + data**2)
        out = data * (s - self.sigma_min) / (s**2 + data**2).sqrt()
        return skip * x + out * self.model(x / (s**2 + data**2).sqrt(), sigma.log() / 4)


class PlainTrainer:
    """Trains a run without end. on: called with the name of each stage of a step when it ends, for the breakdown.

    The run has an iCT objective; its coupling is IC, batch-OT, or GC with the EMA network as its predictor. `close` ends the workers.
    """

    def __init__(
        self, run: Run, data: Dataset, device: torch.device, workers: int = 0, on: Callable[[str], None] = lambda stage: None
    ) -> None:
        self.run, self.device, self.on, self.step_number = run, device, on, 0
        trained = model.preconditioned(run)
        network: nn.Module = trained.model
        if run.network.kind == "ddpmpp":
            network = PlainUNet(run.network, data.shape[0], data.shape[-1])
            network.load_state_dict(trained.model.state_dict())
        self.online = PlainFunction(network, run.noise.sigma_data, run.noise.sigma_min).to(device)
        self.ema = copy.deepcopy(self.online).eval().requires_grad_(False)
        settings, parameters = run.train, list(self.online.parameters())
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "lion":
            self.optimizer = Lion(parameters, lr=settings.lr, betas=settings.betas)
        else:
            kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.RAdam
            self.optimizer = kind(parameters, lr=settings.lr, betas=settings.betas, foreach=False)
        self.loader: DataLoader[Tensor] = DataLoader(
            Rows(data), settings.batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        self.batches = self._forever()

    def close(self) -> None:
        """Ends the workers of the DataLoader."""
        self.batches.close()
        self.loader._iterator = None

    def _forever(self) -> Generator[Tensor, None, None]:
        while True:
            yield from self.loader

    def train(self, steps: int) -> None:
        """That many steps on batches of the DataLoader."""
        for _ in range(steps):
            self.step(self.draw())
            self.on("other")

    def draw(self) -> PlainBatch:
        """The next batch: data of the loader, noise, levels and mask of torch's own generator, and the pairs of batch-OT."""
        run, objective = self.run, self.run.objective
        assert objective.kind == "ict", "the plain baseline trains on a grid"
        x = next(self.batches).to(self.device, non_blocking=True)
        z = torch.randn_like(x)
        points = grid_points(self.step_number, run.train.steps, objective.n0, objective.n1)
        levels = schedules.noise_levels(points, run.noise.sigma_min, run.noise.sigma_max, run.noise.rho)
        chosen = torch.multinomial(schedules.level_probabilities(levels, objective.p_mean, objective.p_std), len(x), replacement=True)
        low, high = (level.to(self.device, torch.float32) for level in (levels[chosen], levels[chosen + 1]))
        gc = torch.rand(len(x), device=self.device) < run.coupling.mu if isinstance(run.coupling, GeneratorAugmented) else None
        self.on("data")
        if isinstance(run.coupling, BatchOT):
            z = z[assignment(x, z).to(self.device)]
            self.on("assignment")
        return PlainBatch(x, z, low, high, gc, dropout=self.step_number)

    def step(self, batch: PlainBatch) -> Tensor:
        """One training step, Algorithm 1; returns the loss, detached."""
        x, z, on = batch.x, batch.z, self.on
        low, high = (level.view(-1, *[1] * (x.dim() - 1)) for level in (batch.low, batch.high))
        if batch.gc is not None:
            with torch.no_grad():
                endpoint = self.ema(x + low * z, batch.low)
            x = torch.where(batch.gc.view_as(low), endpoint, x)
            on("predictor")
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(batch.dropout)
        student = self.online(x + high * z, batch.high)
        on("student forward")
        with torch.no_grad():
            torch.manual_seed(batch.dropout)
            teacher = self.online(x + low * z, batch.low)
        on("teacher")
        loss = (self._distance(student, teacher) / (batch.high - batch.low)).mean()
        loss.backward()
        on("backward")
        self.optimizer.step()
        on("optimizer")
        decay = 0.0 if self.step_number < self.run.ema.copy_steps else self.run.ema.rate
        with torch.no_grad():
            for average, weight in zip(self.ema.parameters(), self.online.parameters(), strict=True):
                average.mul_(decay).add_(weight, alpha=1 - decay)
        on("EMA")
        self.step_number += 1
        return loss.detach()

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The pseudo-Huber distance of each row, c = 0.00054 sqrt(d) on CIFAR-10."""
        objective = self.run.objective
        assert objective.kind == "ict" and objective.distance == "pseudo-huber"
        c = objective.huber * math.sqrt(student[0].numel())
        return ((student - teacher).square().flatten(1).sum(1) + c**2).sqrt() - c
