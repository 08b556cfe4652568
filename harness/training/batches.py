"""What one step trains on: data, noise and noise levels; for batch-OT, the next assignment is solved ahead in a thread.

Every process draws the order, noise and levels of the whole batch and takes its rows of them, so any number of processes trains on the
same batch, and no two processes see the same noise.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

import torch
from torch import Tensor, nn

from harness.config.curriculum import grid_points
from harness.config.run import ConsistencyTraining, Denoising, Noise, Run
from harness.core import couplings, schedules
from harness.core.randomness import generator
from harness.data.datasets import Dataset


@dataclass(frozen=True)
class Processes:
    """The number of this process, and how many train the run together."""

    rank: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch; sizes differ by at most one."""
        return slice(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, rows: int) -> Tensor:
    return torch.randperm(rows, generator=generator(seed, "order", epoch))


def batch_indices(rows: int, batch: int, step: int, seed: int, keep_partial: bool = False) -> Tensor:
    """Data rows of one step, consecutive parts of one addressed permutation per epoch; (batch,) int64.

    keep_partial: the last batch of an epoch holds only the rows that are left (the released code); otherwise every batch is full.
    """
    if keep_partial:
        epoch, place = divmod(step, math.ceil(rows / batch))
        return _permutation(seed, epoch, rows)[place * batch : (place + 1) * batch]
    first, last = step * batch, (step + 1) * batch
    pieces = []
    for epoch in range(first // rows, (last - 1) // rows + 1):
        order = _permutation(seed, epoch, rows)
        pieces.append(order[max(0, first - epoch * rows) : last - epoch * rows])
    return torch.cat(pieces)


@dataclass(frozen=True)
class Step:
    """The n rows of one training step that this process trains on, all on its device."""

    x: Tensor
    """Data, (n, ...)."""
    z: Tensor
    """Noise, like x."""
    labels: Tensor | None
    """One-hot, (n, classes); None for an unconditional model."""
    low: Tensor
    """The teacher's noise level, (n,) float64; that of the student for a denoiser."""
    high: Tensor
    """The student's noise level, (n,) float64."""
    weight: Tensor
    """Of the row's loss, (n,) float64."""


class Batches:
    """Draws the steps of a run. A context manager, which ends the thread.

    A group is the `coupling.steps` consecutive steps whose rows are coupled together: a single step, except for batch-OT over more rows
    than the batch. It is addressed by its number, so a run that is resumed within a group draws the same pairs again.
    assign_ahead: draw the next group in a thread, where its coupling needs data and noise only.
    """

    def __init__(
        self,
        run: Run,
        data: Dataset,
        processes: Processes,
        coupling: couplings.Coupling,
        device: torch.device,
        assign_ahead: bool = False,
    ) -> None:
        self.run, self.data, self.processes, self.coupling, self.device = run, data, processes, coupling, device
        self.thread = ThreadPoolExecutor(1, "pairs") if coupling.ahead and assign_ahead else None
        self.ahead: dict[int, Future[list[Step]]] = {}
        self.last: tuple[int, list[Step]] = (-1, [])

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.thread:
            self.thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> Step:
        """What `draw` returns, drawn ahead by the thread where there is one."""
        if self.thread is None:
            return self.draw(step)
        group, place = divmod(step, self.coupling.steps)
        for number in (group, group + 1):
            if number not in self.ahead and number * self.coupling.steps < self.run.train.steps:
                self.ahead[number] = self.thread.submit(self.draw_group, number)
        drawn = self.ahead[group].result()[place]
        if place == self.coupling.steps - 1 or step + 1 == self.run.train.steps:
            del self.ahead[group]
        return drawn

    def draw(self, step: int) -> Step:
        """This process's rows of a step; coupled already where the coupling needs data and noise only, else to be given to `couple`."""
        group, place = divmod(step, self.coupling.steps)
        if group != self.last[0]:
            self.last = group, self.draw_group(group)
        return self.last[1][place]

    def draw_group(self, group: int) -> list[Step]:
        """What `draw` returns, for all steps of a group."""
        steps = range(group * self.coupling.steps, (group + 1) * self.coupling.steps)
        rows, x, z = zip(*map(self._draw, steps), strict=True)
        if self.coupling.ahead and self.coupling.whole_batch:
            sizes = [len(part) for part in rows]
            x, z = (part.split(sizes) for part in self.coupling(torch.cat(x), torch.cat(z)))
        return [self._own_rows(*parts) for parts in zip(steps, rows, x, z, strict=True)]

    def couple(self, number: int, step: Step, predict: couplings.Predict | None) -> Step:
        """Step `number` with its coupled pairs; unchanged if `draw` has coupled them."""
        if self.coupling.ahead:
            return step
        draws = generator(self.run.seed, "mask", number, self.processes.rank)
        x, z = self.coupling(step.x, step.z, step.low, predict, draws)
        return replace(step, x=x, z=z)

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, data, noise) of a step over all processes."""
        run = self.run
        rows = batch_indices(len(self.data), run.train.batch, step, run.seed, run.protocol.last_batch == "released").to(self.device)
        x = self.data.batch(rows)
        return rows, x, torch.randn(x.shape, generator=generator(run.seed, "noise", step, device=self.device), device=self.device)

    def _own_rows(self, step: int, rows: Tensor, x: Tensor, z: Tensor) -> Step:
        own = self.processes.rows(len(rows))
        labels = one_hot(self.data, rows[own]) if self.run.data.labels else None
        x, z = x[own], z[own]
        if self.coupling.ahead and not self.coupling.whole_batch:
            x, z = self.coupling(x, z)
        return Step(x, z, labels, *(level[own].to(self.device) for level in draw_levels(self.run, step, len(rows))))


def one_hot(data: Dataset, rows: Tensor) -> Tensor:
    """Labels of the rows of a data set that has labels, (n, classes) float32."""
    assert data.labels is not None
    return nn.functional.one_hot(data.labels[rows], data.classes).float()


@functools.lru_cache(maxsize=8)
def _grid(points: int, noise: Noise, law: ConsistencyTraining) -> tuple[Tensor, Tensor, Tensor]:
    levels = schedules.noise_levels(points, noise.sigma_min, noise.sigma_max, noise.rho)
    return levels, schedules.level_probabilities(levels, law.p_mean, law.p_std), schedules.inverse_gap(levels)


def draw_levels(run: Run, step: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, weight) as in `Step`, for `rows` rows of a step, (rows,) float64 on the CPU; low = high for a denoiser."""
    objective, draws = run.objective, generator(run.seed, "level", step)
    if isinstance(objective, ConsistencyTraining):
        points = grid_points(step, run.train.steps, objective.n0, objective.n1)
        levels, probabilities, weights = _grid(points, run.noise, objective)
        i = schedules.sample_levels(probabilities, rows, draws)
        return levels[i], levels[i + 1], weights[i]
    t = schedules.log_normal_times(rows, objective.p_mean, objective.p_std, draws)
    if isinstance(objective, Denoising):
        return t, t, torch.ones_like(t)
    r = schedules.ect_lower_times(t, schedules.ect_stage(step, objective.double), objective.q, objective.k, objective.b)
    return r, t, 1 / (t - r)


def global_rows(run: Run, rows: int, step: int) -> int:
    """Rows of a step over all processes: the batch, or the rest of an epoch under the released protocol. rows: of the data."""
    if run.protocol.last_batch == "paper":
        return run.train.batch
    return len(batch_indices(rows, run.train.batch, step, run.seed, True))
