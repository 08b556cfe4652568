"""What one benchmark measures, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.bench.profiles import PROFILES, Profile, usable
from harness.bench.shapes import Shape
from harness.bench.trainers import run_of
from harness.bench.turns import Timed, take_turns


@dataclass(frozen=True)
class Setting:
    """seconds: of each comparison, without compilation. quick: fewer and smaller measurements. folder: for files of measurements.

    detailed: the shapes for which more than the steps is measured. compile_here: measure profiles that compile the network.
    """

    device: torch.device
    seconds: float
    shapes: tuple[Shape, ...]
    detailed: tuple[Shape, ...]
    folder: Path
    profiles: tuple[Profile, ...] = PROFILES
    compile_here: bool = False
    quick: bool = False

    def turns(self, calls: Mapping[str, Timed], warm: bool = False) -> dict[str, list[float]]:
        """The calls by turns; see `take_turns`."""
        return take_turns(calls, self.seconds, warm=warm)

    def profiles_for(self, shape: Shape) -> tuple[list[Profile], list[str]]:
        """The profiles that can be measured with a shape, and notes on the others; see `usable`."""
        return usable(self.profiles, run_of(shape, "GC", self.device), self.device, self.compile_here)

    def where(self, shape: Shape) -> str:
        """The name of a shape in the rows: with its batch, since speeds depend on it."""
        return f"{shape.name}, batch {run_of(shape, 'GC', self.device).train.batch}"
