"""Questions to SLURM, by squeue, scontrol and sacct. The answers are hints: the run folders decide, and any question may go unanswered.

A submission has a token, <batch>-<index>: the job's name is harness-<batch>, and the run is element <index> of its array. So a submission
can be found even if the launcher died before it knew the job's id.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.store.files import read_json
from harness.store.lease import is_dead
from harness.store.runs import Store

PREFIX = "harness-"
SUBMITTING = 120.0
"""Seconds for which a submission without a job id may still be in progress."""
DEFAULT_ARRAY_SIZE = 1001


@dataclass(frozen=True)
class SlurmJob:
    """A job that has not ended."""

    id: str
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str = ""
    """Why it waits."""


def ask(*command: str, patience: float = 60) -> str | None:
    """The standard output of a command; None if it is missing, fails or takes more than `patience` seconds."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def queue() -> dict[str, SlurmJob] | None:
    """The jobs of this user and the harness that have not ended, by token; None if SLURM does not answer."""
    text = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j")
    if text is None:
        return None
    jobs = {}
    for line in text.splitlines():
        job_id, state, reason, name = [*line.strip().split("|", 3), "", "", ""][:4]
        if name.startswith(PREFIX):
            index = job_id.partition("_")[2] or "0"
            jobs[f"{name.removeprefix(PREFIX)}-{index}"] = SlurmJob(job_id, state, "" if reason == "None" else reason)
    return jobs


def batch_of(token: str) -> str:
    """The batch that a token belongs to."""
    return token.rpartition("-")[0]


def liveness(store: Store) -> Callable[[Mapping[str, Any]], bool | None]:
    """alive(submission) for plans: `is_alive` with SLURM's queue, which is asked for once, at the first call."""
    queue_once = functools.cache(queue)
    return lambda submission: is_alive(submission, queue_once(), store)


def is_alive(submission: Mapping[str, Any], jobs: Mapping[str, SlurmJob] | None, store: Store) -> bool | None:
    """True if the submission is in the queue, False if it is gone, None if that cannot be known.

    It cannot be known if SLURM did not answer (jobs is None), or while the launcher may still be submitting it.
    """
    if jobs is None:
        return None
    token = str(submission.get("token", ""))
    if token in jobs:
        return True
    if submission.get("job_id") is None and time.time() - float(submission.get("time", 0)) < SUBMITTING:
        path = store.root / "slurm" / batch_of(token) / "batch.json"
        launcher = read_json(path).get("launcher") if path.exists() else None
        return False if launcher and is_dead(launcher) else None
    return False


def max_array_size() -> int:
    """The longest array that the cluster accepts."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.MULTILINE)
    return max(1, int(match[1])) if match else DEFAULT_ARRAY_SIZE


def end_of(job_id: str | None) -> str:
    """How a job that left the queue ended: its state, and the reason if SLURM gives one; "" if it is unknown. Needs no accounting."""
    if not job_id:
        return ""
    facts = dict(pair.partition("=")[::2] for pair in (ask("scontrol", "--oneliner", "show", "job", job_id) or "").split())
    if facts.get("JobState"):
        reason = facts.get("Reason", "None")
        return facts["JobState"] + ("" if reason == "None" else f" ({reason})")
    text = ask("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job_id}") or ""
    return text.strip().partition("\n")[0]
