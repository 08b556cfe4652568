"""How the GC step grows with batch, resolution and width; proportional growth means that the machine is busy, less that it was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.bench.profiles import FP32
from harness.bench.rows import Row, ratio
from harness.bench.setting import Setting
from harness.bench.shapes import DRAWN_ROWS, SHAPES, drawn_images
from harness.bench.trainers import HarnessSteps, fit_turns, run_of
from harness.config.run import Run, varied
from harness.data.catalogue import info
from harness.data.datasets import Dataset

PART = "growth"
NETWORK = {"base_channels": 16, "channel_mult": (1, 1), "num_blocks": (1, 1), "dropout": (0.0, 0.0)}
"""The network of the digits scale, of which one thing after the other is enlarged."""
BATCHES = {"cpu": (16, 32, 64, 128), "cuda": (64, 128, 256, 512, 1024)}
WIDTHS = {"cpu": (16, 32, 64), "cuda": (32, 64, 128, 256)}
RESOLUTIONS = ("digits", "fashion-mnist", "celeba64")
"""Data sets whose images have 8, 32 and 64 pixels a side."""


def measure(setting: Setting) -> Iterator[Row | str]:
    """The ratio of each size's step to that of the smallest one, all sizes of one kind by turns."""
    kind = setting.device.type
    base = BATCHES[kind][0]
    yield from _grown(setting, "batch", {batch: {"train": {"batch": batch}} for batch in BATCHES[kind]})
    widths = {width: {"train": {"batch": base}, "network": {**NETWORK, "base_channels": width}} for width in WIDTHS[kind]}
    yield from _grown(setting, "width", widths)
    sizes = {info(name).shape[1]: {"train": {"batch": base}, "data": {"name": name}} for name in RESOLUTIONS}
    yield from _grown(setting, "resolution", sizes)


def _grown(setting: Setting, what: str, changes: Mapping[int, Mapping[str, Any]]) -> Iterator[Row]:
    run = varied(FP32.applied(run_of(SHAPES["digits"], "GC", setting.device)), network=NETWORK)
    trainers = {size: _steps(varied(run, **change), setting) for size, change in changes.items()}
    fit_turns(trainers.values())
    times = setting.turns({str(size): trainer for size, trainer in trainers.items()}, warm=True)
    least = min(changes)
    for size in list(changes)[1:]:
        work = size / least if what == "batch" else (size / least) ** 2
        name = f"GC step, {what} {size} / {least}"
        yield ratio(PART, "digits' network", name, times[str(size)], times[str(least)], f"{work:g} if proportional")


def _steps(run: Run, setting: Setting) -> HarnessSteps:
    name, shape = run.data.name, info(run.data.name).shape
    data = Dataset(name, "train", "drawn", drawn_images(shape, min(DRAWN_ROWS, 256)).to(setting.device))
    return HarnessSteps(run, data, setting.device)
