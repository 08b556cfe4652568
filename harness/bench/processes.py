"""Several processes: independent runs at the same time, as a sweep trains them, and one run over several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from harness.bench.children import answer, child
from harness.bench.profiles import FP32
from harness.bench.rows import Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.shapes import Shape
from harness.bench.trainers import TURN, HarnessSteps, run_of
from harness.store.machine import cores
from harness.training.batches import ALONE, Processes

PART = "processes"
MOST = 8
"""Processes at a time."""


def measure(setting: Setting) -> Iterator[Row | str]:
    """The first shape, on as many processes as there are cores or GPUs. One thread or one GPU each."""
    shape, device = setting.shapes[0], setting.device
    count = min(MOST, torch.cuda.device_count() if device.type == "cuda" else cores())
    if count < 2:
        yield f"processes: not measured, there is one {'GPU' if device.type == 'cuda' else 'core'}"
        return
    where = setting.where(shape)
    with ExitStack() as stack:
        alone = [stack.enter_context(child(_worker, shape, device.type, rank, 1, "")) for rank in range(count)]
        steps = max(2, round(TURN / _seconds(alone[:1], 2)))
        calls: dict[str, Callable[[], float]] = {"one": lambda: _seconds(alone[:1], steps), "runs": lambda: _seconds(alone, steps)}
        if not setting.quick:
            meeting = str(setting.folder / "processes")
            together = [stack.enter_context(child(_worker, shape, device.type, rank, count, meeting)) for rank in range(count)]
            calls["parts"] = lambda: _seconds(together, steps)
        times = setting.turns(calls)
    rates = [count * one / runs for one, runs in zip(times["one"], times["runs"], strict=True)]
    yield row(PART, where, f"steps/s of {count} runs at a time / one run", "x", rates, f"{count} if they do not slow each other down")
    if "parts" in times:
        name = f"step of one run, 1 / {count} processes"
        yield ratio(PART, where, name, times["one"], times["parts"], f"{count} if they do not wait for each other")


def _seconds(workers: list[Connection], steps: int) -> float:
    """Seconds per step of the slowest of these workers, which train at the same time."""
    for worker in workers:
        worker.send(steps)
    return max(answer(worker) for worker in workers)


def _worker(connection: Connection, shape: Shape, kind: str, rank: int, count: int, meeting: str) -> None:
    """In the child: trains so many steps as it is told and sends the seconds of one, until the connection is closed."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
    processes = ALONE
    if count > 1:
        if kind == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=count)
        processes = Processes(rank, count)
    run = FP32.applied(run_of(shape, "GC", device))
    trainer = HarnessSteps(run, shape.load(device), device, processes=processes)
    while True:
        trainer.per_call = connection.recv()
        connection.send(trainer())
