"""What the loop does around the optimizer where a run asks for it: the learning rate of a step, and gradients without NaN and infinity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.config.parts import Training


class HasGroups(Protocol):
    """An optimizer with torch's parameter groups."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


def learning_rate(settings: Training, step: int) -> float:
    """The rate of 0-based training step `step`: lr / sqrt(max(step / lr_decay_from, 1)) (arXiv 2312.02696, equation 67), or lr."""
    start = settings.lr_decay_from
    return settings.lr if start is None else settings.lr / max(step / start, 1.0) ** 0.5


def set_learning_rate(optimizer: HasGroups, settings: Training, step: int) -> None:
    """Gives the optimizer the rate of this step; a constant one stays untouched."""
    if settings.lr_decay_from is not None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)


class ZeroedGradients:
    """Sets what is not finite in gradients to zero, and counts it on the gradients' device, without waiting for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # entries, and steps with at least one
        self._steps = 0

    @torch.no_grad()
    def zero(self, parameters: Iterable[Tensor]) -> None:
        """Treats the gradients of one step, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        entries = torch.stack([(~gradient.isfinite()).sum() for gradient in gradients]).sum()
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        self._counts += torch.stack([entries, (entries > 0).to(entries)])
        self._steps += 1

    def take(self) -> tuple[int, int, int]:
        """Since the last call: entries set to zero, steps with at least one such entry, and all steps."""
        entries, affected = self._counts.tolist()
        steps, self._steps = self._steps, 0
        self._counts.zero_()
        return entries, affected, steps
