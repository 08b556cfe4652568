"""What one step trains on: data, noise, levels, and for batch-OT the next assignment, solved ahead in a thread.

Order, noise and levels are drawn for the whole batch on every process, which takes its slice: the same batch on any number of processes,
and no two processes ever see the same noise.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.config.run import ConsistencyTraining, Noise, Run
from harness.core import couplings, schedules
from harness.core.randomness import generator
from harness.data.datasets import Dataset


@dataclass(frozen=True)
class Processes:
    """This process among those that train the run together."""

    rank: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch; sizes differ by at most one."""
        return slice(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, rows: int) -> Tensor:
    return torch.randperm(rows, generator=generator(seed, "order", epoch))


def batch_indices(rows: int, batch: int, step: int, seed: int, keep_partial: bool = False) -> Tensor:
    """Data rows of one step, a walk through one addressed permutation after another; (batch,) int64.

    keep_partial: every epoch ends with its own, shorter batch (the released code); otherwise every batch is full.
    """
    if keep_partial:
        each = math.ceil(rows / batch)
        epoch, place = divmod(step, each)
        return _permutation(seed, epoch, rows)[place * batch : (place + 1) * batch]
    first, last = step * batch, (step + 1) * batch
    pieces = []
    for epoch in range(first // rows, (last - 1) // rows + 1):
        order = _permutation(seed, epoch, rows)
        pieces.append(order[max(0, first - epoch * rows) : last - epoch * rows])
    return torch.cat(pieces)


Batch = tuple[Tensor, Tensor, Tensor | None]
"""(x, z, labels) of one process's rows."""


@dataclass
class Batches:
    """Draws (x, z, labels) of a step; for couplings that can, solves the next pairs ahead in a thread.

    A pool is the `coupling.steps` consecutive steps whose rows are coupled together: one step, but for batch-OT over more rows than the
    batch. It is addressed by its number, so a run that goes on in the midst of one makes the same pairs again.
    """

    run: Run
    data: Dataset
    processes: Processes
    coupling: couplings.Coupling
    device: torch.device
    pool: ThreadPoolExecutor | None = None
    ahead: dict[int, Future] = field(default_factory=dict)

    def draw(self, step: int) -> Batch:
        """Data and noise of this process's rows, uncoupled (or coupled, when the coupling needs (x, z) alone)."""
        number, place = divmod(step, self.coupling.steps)
        return self.draw_pool(number)[place]

    def draw_pool(self, number: int) -> list[Batch]:
        """What `draw` gives, for all steps of a pool."""
        k = self.coupling.steps
        rows, x, z = zip(*(self._draw(step) for step in range(number * k, (number + 1) * k)), strict=True)
        if self.coupling.ahead and self.coupling.whole_batch:
            sizes = [len(part) for part in rows]
            x, z = (part.split(sizes) for part in self.coupling(torch.cat(x), torch.cat(z), None, None, None))
        return [self._mine(*step) for step in zip(rows, x, z, strict=True)]

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, data, noise) of a step over all processes."""
        run = self.run
        rows = batch_indices(len(self.data), run.train.batch, step, run.seed, run.protocol.last_batch == "released").to(self.device)
        x = self.data.batch(rows)
        return rows, x, torch.randn(x.shape, generator=generator(run.seed, "noise", step, device=self.device), device=self.device)

    def _mine(self, rows: Tensor, x: Tensor, z: Tensor) -> Batch:
        mine = self.processes.rows(len(rows))
        labels = one_hot(self.data, rows[mine]) if self.run.data.labels else None
        x, z = x[mine], z[mine]
        if self.coupling.ahead and not self.coupling.whole_batch:
            x, z = self.coupling(x, z, None, None, None)
        return x, z, labels

    def __call__(self, step: int) -> Batch:
        if self.pool is None:
            return self.draw(step)
        k = self.coupling.steps
        number, place = divmod(step, k)
        for wanted in (number, number + 1):
            if wanted not in self.ahead and wanted * k < self.run.train.steps:
                self.ahead[wanted] = self.pool.submit(self.draw_pool, wanted)
        drawn = self.ahead[number].result()[place]
        if place == k - 1 or step + 1 == self.run.train.steps:
            del self.ahead[number]
        return drawn


def one_hot(data: Dataset, rows: Tensor) -> Tensor:
    """Labels of the rows, (n, classes) float32."""
    return nn.functional.one_hot(data.labels[rows], data.classes).float()


@functools.lru_cache(maxsize=8)
def _grid(points: int, noise: Noise, law: ConsistencyTraining) -> tuple[Tensor, Tensor, Tensor]:
    levels = schedules.noise_levels(points, noise.sigma_min, noise.sigma_max, noise.rho)
    return levels, schedules.level_probabilities(levels, law.p_mean, law.p_std), schedules.inverse_gap(levels)


def levels_of_step(run: Run, step: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, weight) noise levels and loss weights of a whole batch, (rows,) float64 on the CPU; a denoiser has low = high."""
    objective, draw = run.objective, generator(run.seed, "level", step)
    if objective.kind == "ict":
        levels, probabilities, weights = _grid(
            schedules.grid_points(step, run.train.steps, objective.n0, objective.n1), run.noise, objective
        )
        i = schedules.sample_levels(probabilities, rows, draw)
        return levels[i], levels[i + 1], weights[i]
    t = schedules.log_normal_times(rows, objective.p_mean, objective.p_std, draw)
    if objective.kind == "denoiser":
        return t, t, torch.ones_like(t)
    r = schedules.ect_lower_times(t, schedules.ect_stage(step, objective.double), objective.q, objective.k, objective.b)
    return r, t, 1 / (t - r)


def global_rows(run: Run, rows: int, step: int) -> int:
    """Rows of a step over all processes: the batch, or the rest of an epoch under the released protocol."""
    if run.protocol.last_batch == "paper":
        return run.train.batch
    return len(batch_indices(rows, run.train.batch, step, run.seed, True))
