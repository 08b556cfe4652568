"""The mean loss of the training steps between two evaluations, added up on the device without waiting for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from harness.training.batches import ALONE, Processes


@dataclass
class MeanLoss:
    """The sums of the losses of the steps since the last evaluation, a part of every checkpoint.

    sums: (processes,) float64, one sum for each process. The loss that a process adds is the number of processes times its rows' part of
    the mean over the batch, so that the mean of the sums is the sum of the batches' mean losses per row. The own sum is up to date always,
    those of the others after `share`. A process keeps its own sum apart, so that moments at which the sums are shared change no digit.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    steps: int = 0
    """Training steps in the sums."""
    processes: Processes = ALONE

    def start(self, processes: Processes, device: torch.device) -> None:
        """Goes on with these processes on this device; where their number has changed, each gets the same part of what was summed."""
        same = len(self.sums) == processes.count
        self.sums = (self.sums if same else self.sums.mean().repeat(processes.count)).to(device)
        self.processes = processes

    def add(self, loss: Tensor) -> None:
        """Adds the loss of one step of this process, () on its device, without reading its value."""
        self.sums[self.processes.rank] += loss
        self.steps += 1

    def share(self) -> None:
        """Gets the sums of the other processes; all call it at the same step."""
        if self.processes.count > 1:
            own = torch.zeros_like(self.sums)
            own[self.processes.rank] = self.sums[self.processes.rank]
            dist.all_reduce(own)
            self.sums = own

    def take(self) -> tuple[float, int]:
        """The mean over the steps of the loss per row of each batch, and their number, at least 1; starts anew. All processes call it."""
        self.share()
        mean, steps = self.sums.mean().item() / self.steps, self.steps
        self.sums, self.steps = torch.zeros_like(self.sums), 0
        return mean, steps

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; complete after `share`."""
        return {"sums": self.sums, "steps": self.steps}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint; from one of an earlier version, which has no sums, with no step yet."""
        if state is not None:
            self.sums, self.steps = state["sums"].clone(), state["steps"]
