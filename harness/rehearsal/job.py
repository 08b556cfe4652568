"""What the launcher starts in a rehearsal: the job of every run (harness.training.job), stopped once and measured.

The first start of a run ends after its last step but one, as a job ends that a scheduler stops: by SIGTERM, after which the job saves and
exits, and the launcher starts it again. Each start leaves rehearsal-<n>.json in the run folder.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from harness.rehearsal.outcome import facts_of
from harness.store.files import write_json
from harness.store.runs import RunFolder
from harness.training import job


class Watch:
    """Measures the steps of one start, and stops it by a signal if it is the first one of its run."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.first = folder, not folder.stored_steps()
        self.last_step = int(folder.config().get("train", {}).get("steps", 0))
        self.steps: list[int] = []
        self.times: list[float] = []

    def __call__(self, step: int) -> None:
        """After each training step; step: how many the run has made."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.steps.append(step)
        if self.first and step == self.last_step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def facts(self) -> dict[str, Any]:
        """The steps of this start, the seconds of each but its first one, those of the processor, peaks of memory in bytes, checkpoints."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        between = [later - earlier for earlier, later in pairwise(self.times)]
        peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else 0
        own = {"stopped": self.first, "steps": self.steps, "seconds": between, "cpu_seconds": used.ru_utime + used.ru_stime}
        return own | {"peak": peak, "gpu_peak": gpu, "checkpoints": self.folder.stored_steps()}


def main(argv: list[str] | None = None) -> int:
    """As `harness.training.job.main`, whose first argument is the run folder."""
    arguments = sys.argv[1:] if argv is None else argv
    folder = RunFolder(Path(arguments[0]))
    watch = Watch(folder)
    try:
        return job.main(arguments, watch)
    finally:
        write_json(folder.path / f"rehearsal-{len(facts_of(folder)) + 1}.json", watch.facts())


if __name__ == "__main__":
    sys.exit(main())
