"""The training steps that are measured: the scales' networks, on real digits and points and on drawn images of the other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from harness.config import presets
from harness.config.parts import Coupling
from harness.config.run import Run, varied
from harness.core.randomness import generator
from harness.data import datasets
from harness.data.catalogue import info
from harness.data.datasets import Dataset
from harness.errors import HarnessError, unknown

NEVER = 10**9
"""A step that no benchmark reaches."""
DRAWN_ROWS = 2048
"""Images that are drawn where the real ones would have to be downloaded."""


@dataclass(frozen=True)
class Shape:
    """A preset by name. cpu_batch: rows of a step on a CPU, where the preset's would take minutes; None for the preset's. batch: chosen."""

    name: str
    scale: str
    data: str
    cpu_batch: int | None = None
    batch: int | None = None

    def run(self, coupling: Coupling, device: torch.device) -> Run:
        """The preset of a coupling as a run that never ends, is never evaluated and never saved."""
        run = presets.make(self.scale, self.data, coupling, 0)
        rows = self.batch or (self.cpu_batch if device.type == "cpu" else None) or run.train.batch
        run = varied(run, train={"steps": NEVER, "batch": rows}, evaluation={"every": NEVER})
        return run.model_copy(update={"checkpoint_every": NEVER})

    def load(self, device: torch.device) -> Dataset:
        """The data on the device: real where the package contains them, else drawn images of the same size (see `drawn_images`)."""
        if info(self.data).source or self.data == "fashion-mnist":
            return Dataset(self.data, "train", "drawn", drawn_images(info(self.data).shape).to(device))
        return datasets.load(self.data, device=device)

    @property
    def is_images(self) -> bool:
        return len(info(self.data).shape) == 3


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("toy", "toy", "eight-gaussians"),
        Shape("digits", "digits", "digits"),
        Shape("fashion", "fashion", "fashion-mnist", cpu_batch=4),
        Shape("cifar10", "paper", "cifar10", cpu_batch=2),
    )
}


def drawn_images(shape: tuple[int, ...], rows: int = DRAWN_ROWS) -> torch.Tensor:
    """uint8 images (rows, *shape) that are smooth, like photographs, and the same on every machine: interpolated 4 x 4 noise."""
    coarse = torch.randn(rows, shape[0], 4, 4, generator=generator(0, "measure"))
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    return (smooth * 64 + 127.5).clamp(0, 255).round().to(torch.uint8)


def chosen_shapes(text: str) -> tuple[Shape, ...]:
    """The shapes that an option names: digits,cifar10 or, with another batch, cifar10:32. Raises HarnessError for what is none."""
    shapes = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, colon, batch = word.partition(":")
        if name not in SHAPES:
            raise unknown("shape", name, SHAPES, where="--shapes")
        if colon and not (batch.isdecimal() and 1 <= len(batch) <= 6 and int(batch)):
            raise HarnessError("not a batch", where="--shapes", found=word, expected=f"{name} or {name}:ROWS, such as {name}:32")
        shapes.append(replace(SHAPES[name], batch=int(batch) if colon else None))
    if not shapes or len({shape.name for shape in shapes}) < len(shapes):
        raise HarnessError("no shape, or one twice", where="--shapes", found=text, expected=f"some of {','.join(SHAPES)}")
    return tuple(shapes)


@contextmanager
def threads_of(run: Run) -> Iterator[None]:
    """The threads that the run trains with."""
    before = torch.get_num_threads()
    torch.set_num_threads(run.train.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
