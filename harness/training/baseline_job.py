"""The job of a baselines folder: measures the baselines of a data set and writes them to baselines.json."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.config.baselines import BaselineJob
from harness.metrics.baselines import measure_baselines
from harness.store import fingerprint
from harness.store.exit_codes import ExitCode
from harness.store.files import write_json
from harness.store.lease import Lease
from harness.store.provenance import provenance
from harness.store.runs import RunFolder
from harness.training.devices import device_name

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


class Interrupted(BaseException):
    """The job was asked to stop. Not an Exception, so that no library handles it."""


def run_baselines(job: BaselineJob, folder: RunFolder, lease: Lease | None, device: torch.device, deadline: float | None) -> ExitCode:
    """Measures and writes the baselines; an interrupted job keeps nothing and starts again.

    lease: None on all processes but the first, which alone measures. deadline: seconds from now after which to stop.
    """
    if lease is None:
        return ExitCode.DONE
    name = device_name(device)
    folder.add_attempt(provenance(name) | {"step": 0, "processes": 1})
    lease.beat(force=True, step=0, total=1, phase="baselines", device=name, processes=1)
    print(f"{job.id}: measuring baselines on {name}", flush=True)
    began = time.monotonic()
    try:
        with _interruptible(deadline):
            content = measure_baselines(job, folder.path.parent.parent / "cache", device)
    except Interrupted:
        print(f"{job.id}: interrupted; the same command measures it again", flush=True)
        return ExitCode.STOPPED
    lease.check()
    for why in content["absent"].values():
        print(f"{job.id}: {why}", flush=True)
    write_json(folder.path / "baselines.json", content)
    seconds = time.monotonic() - began
    lease.beat(step=1)
    result = {"step": 1, "total": 1, "seconds": seconds, "rate": 1 / seconds, "device": name, "processes": 1}
    folder.write_result(result | {"fingerprint": fingerprint.current()})
    print(f"{job.id}: done in {seconds:.1f} s", flush=True)
    return ExitCode.DONE


@contextmanager
def _interruptible(deadline: float | None) -> Iterator[None]:
    """Raises Interrupted in its block at SIGTERM, SIGINT or the deadline."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    previous = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    signal.setitimer(signal.ITIMER_REAL, deadline or 0.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in previous.items():
            signal.signal(number, handler)
