"""Peak memory of a training process with each coupling and profile, of the plain baseline, and of a complete short run.

Each is a process of its own. The memory of the host contains Python, PyTorch and the data set; that of a GPU what PyTorch has allocated.
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from harness.bench.children import answer, child
from harness.bench.profiles import FP32
from harness.bench.rows import MEBIBYTES, Row, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape
from harness.bench.trainers import COUPLINGS, HarnessSteps, PlainSteps, run_of
from harness.config import presets
from harness.config.parts import GeneratorAugmented
from harness.config.run import Run, varied
from harness.store.runs import RunFolder
from harness.training.job import run_job

PART = "memory"
STEPS = 2
"""Training steps before the peak is read: the second one has the state of the optimizer."""
COMPLETE = ("toy", "digits")
"""The shapes of which a complete run is measured as well, with evaluations and checkpoints: it takes seconds."""


def measure(setting: Setting) -> Iterator[Row | str]:
    """The peaks of each shape; in a quick benchmark those of GC alone."""
    for shape in setting.detailed:
        where = setting.where(shape)
        run = run_of(shape, "GC", setting.device)
        wanted = [("plain GC", run)]
        for coupling in ("GC",) if setting.quick else COUPLINGS:
            wanted.append((f"fp32 {coupling}", FP32.applied(run_of(shape, coupling, setting.device))))
        profiles = [profile for profile in setting.profiles_for(shape)[0] if profile != FP32]
        wanted += [(f"{profile.name} GC", profile.applied(run)) for profile in profiles[-1:] if not setting.quick]
        for name, run in wanted:
            yield from _peaks(setting, where, name, shape, run)
        if shape.name in COMPLETE and not shape.batch and not setting.quick:
            yield from _peaks(setting, where, "complete GC run, start to end", shape, _short_run(shape))


def _short_run(shape: Shape) -> Run:
    """The preset of GC with few steps and all of its evaluation."""
    run = presets.make(shape.scale, shape.data, GeneratorAugmented(mu=0.5), 0)
    return varied(run, train={"steps": 4}, evaluation={"every": 2})


def _peaks(setting: Setting, where: str, name: str, shape: Shape, run: Run) -> Iterator[Row]:
    with child(_measure, name, shape, run.to_dict(), str(setting.device), str(setting.folder)) as connection:
        host, gpu = answer(connection)
    bar = "under 1,000" if name.startswith("complete") and shape.name == "digits" else ""
    yield row(PART, where, name, MEBIBYTES, [host], bar)
    if setting.device.type == "cuda":
        yield row(PART, where, f"{name}, on the GPU", MEBIBYTES, [gpu])


def _measure(connection: Connection, name: str, shape: Shape, config: dict[str, object], device_name: str, folder: str) -> None:
    """In the child: trains, and sends the peaks of host and GPU in MiB."""
    config.pop("format")
    run, device = Run.model_validate(config), torch.device(device_name)
    if name.startswith("complete"):
        stored = RunFolder.create(Path(folder) / "memory", run.id, run.to_dict())
        with redirect_stdout(io.StringIO()):
            code = run_job(stored.path, device.type)
        if code:
            raise RuntimeError(f"the run ended with {code}: {stored.error()}")
    else:
        data = shape.load(device)
        trainer = PlainSteps(run, data, device) if name.startswith("plain") else HarnessSteps(run, data, device)
        for _ in range(STEPS):
            trainer()
        trainer.close()
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    connection.send((_host_peak(), gpu))


def _host_peak() -> float:
    """The largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
