"""What one step trains on: data, noise and noise levels; a thread draws the next step, and for batch-OT solves its assignment.

Every process draws the order, noise and levels of the complete batch and takes its own rows, so any number of processes trains on the
same batch, and no two processes see the same noise.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.config.curriculum import grid_points
from harness.config.parts import ConsistencyTraining, Denoising, Noise
from harness.config.run import Run
from harness.core import couplings, schedules
from harness.core.consistency import edm_weight
from harness.core.randomness import generator
from harness.core.transfer import send
from harness.data.datasets import Dataset


@dataclass(frozen=True)
class Processes:
    """The number of this process, and how many train the run together."""

    rank: int = 0
    count: int = 1

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch; sizes differ by at most one."""
        return slice(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)


ALONE = Processes()


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


def step_rows(run: Run, rows: int, step: int) -> Tensor:
    """`batch_indices` of a step under the run's protocol, over all processes. rows: number of data rows."""
    return batch_indices(rows, run.train.batch, step, run.seed, keep_partial=run.protocol.last_batch == "released")


@dataclass(frozen=True)
class Step:
    """The n rows of one training step that this process trains on, all on its device.

    x: data, (n, ...). z: noise, like x. labels: one-hot, (n, classes), or None for an unconditional model. low, high: noise levels of
    teacher and student, (n,) float64, equal for a denoiser. weight: of each row's loss, (n,) float64.
    """

    x: Tensor
    z: Tensor
    labels: Tensor | None
    low: Tensor
    high: Tensor
    weight: Tensor


class Batches:
    """Draws the steps of a run: batches(number) is a `Step`, already coupled where the coupling needs data and noise only.

    A group is the `coupling.steps` consecutive steps whose rows are coupled together: a single step, except for batch-OT over more rows
    than the batch. It is addressed by its number, so a run that is resumed within a group draws the same pairs again.
    assign_ahead: draw the next group in a thread, which `close` ends, on a GPU or where its coupling needs data and noise only.
    """

    def __init__(self, run: Run, data: Dataset, processes: Processes, coupling: couplings.Coupling, *, assign_ahead: bool = False) -> None:
        self.run, self.data, self.processes, self.coupling = run, data, processes, coupling
        self.device = data.rows.device
        slow = coupling.ahead or self.device.type == "cuda"  # without an assignment, a CPU draws a batch in less time than a thread costs
        self.thread = ThreadPoolExecutor(1, "pairs") if assign_ahead and slow else None
        self.ahead: dict[int, Future[list[Step]]] = {}
        self.last: tuple[int, list[Step]] = (-1, [])

    def __call__(self, number: int) -> Step:
        group, place = divmod(number, self.coupling.steps)
        if self.thread:
            wanted = [i for i in (group, group + 1) if i * self.coupling.steps < self.run.train.steps]
            self.ahead = {i: self.ahead.get(i) or self.thread.submit(self.draw_group, i) for i in wanted}
            return self.ahead[group].result()[place]
        if group != self.last[0]:
            self.last = group, self.draw_group(group)
        return self.last[1][place]

    def close(self) -> None:
        if self.thread:
            self.thread.shutdown(wait=True, cancel_futures=True)

    def draw_group(self, group: int) -> list[Step]:
        """All steps of a group."""
        steps = range(group * self.coupling.steps, (group + 1) * self.coupling.steps)
        rows, x, z = zip(*map(self._draw, steps), strict=True)
        if self.coupling.ahead and self.coupling.whole_batch:
            sizes = [len(part) for part in rows]
            pairs = self.coupling.function(torch.cat(x), torch.cat(z), **self._classes(torch.cat(rows)))
            x, z = (part.split(sizes) for part in pairs)
        return [self._own_rows(*parts) for parts in zip(steps, rows, x, z, strict=True)]

    def couple(self, number: int, step: Step, predict: couplings.Predict | None) -> Step:
        """Step `number` with its coupled pairs; unchanged where they are already coupled."""
        if self.coupling.ahead:
            return step
        draws = generator(self.run.seed, "mask", number, self.processes.rank)
        classes = {"classes": step.labels.argmax(1)} if self.coupling.within_classes and step.labels is not None else {}
        x, z = self.coupling.function(step.x, step.z, step.low, predict, draws, **classes)
        return replace(step, x=x, z=z)

    def _classes(self, rows: Tensor) -> dict[str, Tensor]:
        """The class of each data row, as the argument of a coupling within classes."""
        if not self.coupling.within_classes:
            return {}
        assert self.data.labels is not None
        return {"classes": self.data.labels[rows]}

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, data, noise) of a step over all processes."""
        rows = send(step_rows(self.run, len(self.data), step), self.device)
        x = self.data.batch(rows)
        return rows, x, torch.randn(x.shape, generator=generator(self.run.seed, "noise", step, device=self.device), device=self.device)

    def _own_rows(self, step: int, rows: Tensor, x: Tensor, z: Tensor) -> Step:
        own = self.processes.rows(len(rows))
        labels = one_hot(self.data, rows[own]) if self.run.data.labels else None
        x, z = x[own], z[own]
        if self.coupling.ahead and not self.coupling.whole_batch:
            draws = {"generator": generator(self.run.seed, "mask", step, self.processes.rank)} if self.coupling.draws else {}
            x, z = self.coupling.function(x, z, **self._classes(rows[own]), **draws)
        return Step(x, z, labels, *(send(level[own], self.device) for level in draw_levels(self.run, step, len(rows))))


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
    return r, t, edm_weight(t, run.noise.sigma_data) if objective.weighting == "edm" else 1 / (t - r)
