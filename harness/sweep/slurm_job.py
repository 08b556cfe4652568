"""What SLURM starts: one run folder, in this process, until the run is done or the job's time is over. The job then requeues itself.

The pickled callable names a folder and holds no state: when SLURM starts it again, the run resumes from the folder's newest checkpoint.
The job requeues itself by `scontrol requeue`; it does not rewrite the pickle, which would be lost if the node died in the meantime.

A job ends in time in one of three ways, each in case the one before fails: its own deadline, at which it saves at the end of a step;
SLURM's warning signal, which has the same effect; and, if no step ends soon after the signal, a requeue from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from harness.errors import HarnessError
from harness.locations import project_root
from harness.store.account import complete_environment
from harness.store.exit_codes import ExitCode
from harness.store.files import read_json
from harness.store.lease import EXPIRY, INTERVAL, holder
from harness.store.provenance import code
from harness.store.runs import RunFolder, Store
from harness.sweep.local_processes import load_entry, log_to
from harness.sweep.slurm_queue import ask, batch_of

WAIT = EXPIRY + 6 * INTERVAL
"""Seconds to wait for a folder that is owned: after the loss of a node its old owner counts as alive for EXPIRY seconds."""
UNSAVED = 30.0
"""Seconds before the time limit at which a warned job that has not reached the end of a step is requeued without saving."""


@dataclass(frozen=True)
class RunTask:
    """Runs one folder; every process of the job calls it. Exits with the code of harness.training.job, so that `afterok` means done."""

    folder: str
    token: str
    entry: str
    """module:function; main([folder, "--device", device, "--deadline", seconds]) -> exit code."""
    device: str
    save_before: float
    """Seconds before the job's time limit at which to save and stop."""
    restarts: int
    """Consecutive starts without progress after which the run is given up."""

    def checkpoint(self) -> DelayedSubmission:
        """What submitit starts again if the job is stopped before `__call__` has begun: the same task."""
        return DelayedSubmission(self)

    def __call__(self) -> str:
        os.environ.pop("MASTER_PORT", None)  # of the user's shell: two jobs on one node need two ports
        first = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True).rank == 0
        folder = RunFolder(Path(self.folder))
        complete_environment()
        os.chdir(project_root())
        if first:
            log_to(folder.log)
            _report_changed_code(folder, self.token)
            wait_until_free(folder)
        signal.signal(signal.SIGUSR2, lambda *_: self._warned(folder, first))
        arguments = [self.folder, "--device", self.device]
        if (left := seconds_left()) is not None:
            arguments += ["--deadline", str(max(1.0, left - self.save_before))]
        ended = load_entry(self.entry)(arguments)
        if ended == ExitCode.STOPPED and not first:
            return "stopped"  # an exit code other than 0 would kill the first process while it asks for the requeue
        if ended == ExitCode.STOPPED:
            ended = self._again(folder, saved=True)
        if ended != ExitCode.DONE:
            sys.exit(ended)  # SystemExit is no Exception, so submitit does not catch it
        return "done"

    def _warned(self, folder: RunFolder, first: bool) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # what harness.training.job understands
        if first:
            left = seconds_left(fresh=True) or 0.0
            timer = threading.Timer(max(left - UNSAVED, left / 2), self._again, (folder, False))
            timer.daemon = True
            timer.start()

    def _again(self, folder: RunFolder, saved: bool) -> int:
        """Requeues this job, unless someone ended it or the run makes no progress; returns the exit code.

        A job that is cancelled, preempted or requeued by others gets SIGTERM too; SLURM then no longer calls it RUNNING.
        """
        if starts_in_vain(folder, saved) >= self.restarts:
            message = f"{self.restarts} consecutive starts ended before a step was saved; give a job more time in the site file"
            folder.write_error("time", message, step=(folder.read_heartbeat() or {}).get("step"))
            return ExitCode.FAILED
        job_id = JobEnvironment().job_id  # of this job; in an array, $SLURM_JOB_ID may be that of the complete array
        state = _persistent("squeue", "--noheader", f"--jobs={job_id}", "--format=%T")
        if state == "RUNNING":
            with contextlib.suppress(HarnessError):  # raised if the run belongs to another submission by now
                Store(folder.path.parent.parent).mark_submitted(folder.id, self.token, "slurm")
                done = _persistent("scontrol", "requeue", job_id) is not None
                print(f"requeued as job {job_id}" if done else f"job {job_id} could not be requeued", flush=True)
        return ExitCode.STOPPED


def starts_in_vain(folder: RunFolder, saved: bool) -> int:
    """How many of the latest starts began at the same step and got no further. saved: the step of the heartbeat is on disk."""
    begins = [int(attempt.get("step") or 0) for attempt in folder.attempts()]
    if not begins or (saved and int((folder.read_heartbeat() or {}).get("step") or 0) > begins[-1]):
        return 0
    return len(list(itertools.takewhile(lambda step: step == begins[-1], reversed(begins))))


def wait_until_free(folder: RunFolder) -> None:
    """Waits while another process owns the folder, at most WAIT seconds; an owner that still holds it then is alive."""
    end = time.monotonic() + WAIT
    owner = holder(folder.path)
    if owner and not owner.free():
        print(f"waiting for this run's folder: {owner.describe()}", flush=True)
    while (owner := holder(folder.path)) and not owner.free() and time.monotonic() < end:
        time.sleep(1)


def seconds_left(fresh: bool = False) -> float | None:
    """Seconds until SLURM ends this job; None without a limit. fresh: ask SLURM, since the limit may have changed after the start."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit() and not fresh:
        return int(end) - time.time()
    return duration(ask("squeue", "--noheader", f"--jobs={JobEnvironment().job_id}", "--format=%L") or "")


def duration(text: str) -> float | None:
    """Seconds from SLURM's D-HH:MM:SS, HH:MM:SS or MM:SS; None for words like UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _persistent(*command: str) -> str | None:
    """`ask`, up to 6 times, every 5 seconds, while SLURM's controller does not answer, as when it restarts."""
    for number in range(6):
        if number:
            time.sleep(5)
        if (answer := ask(*command)) is not None:
            return answer.strip()
    return None


def _report_changed_code(folder: RunFolder, token: str) -> None:
    """Prints a line if the code has changed since the submission: a job runs the code as it is when the job starts."""
    with contextlib.suppress(HarnessError):
        then = read_json(folder.path.parent.parent / "slurm" / batch_of(token) / "batch.json").get("code")
        if then != code():
            print(f"the code has changed since this run was submitted: {then} -> {code()}", flush=True)
