"""Job arrays: groups of runs that request the same and wait for the same jobs, split at MaxArraySize and submitted with submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from harness.errors import HarnessError
from harness.store.files import disk_errors, write_json
from harness.store.lease import this_process
from harness.store.provenance import code
from harness.store.runs import Store
from harness.sweep.local_processes import job_environment
from harness.sweep.plan import PlannedRun
from harness.sweep.site import Site, limits_of_jobs
from harness.sweep.slurm_job import RunTask
from harness.sweep.slurm_queue import PREFIX, ask
from harness.sweep.supervisor import LaunchOptions


class Refused(HarnessError):
    """sbatch did not accept a job; nothing of it is left in the queue."""


class QueueFull(Refused):
    """The limit on submitted jobs is reached; it passes when some have ended.

    certain: SLURM names that limit; older versions only say that some policy is violated.
    """

    certain = True


@dataclass(frozen=True)
class Array:
    """Runs that are submitted together: they request the same resources and wait for the same jobs."""

    rows: tuple[PlannedRun, ...]
    threads: int
    """CPU threads per process, 0 for as many as it has CPUs."""
    after: tuple[str, ...]
    """Ids of the jobs that must succeed before."""

    def halves(self) -> list[Array]:
        """The two halves of an array of at least two runs."""
        middle = len(self.rows) // 2
        return [replace(self, rows=self.rows[:middle]), replace(self, rows=self.rows[middle:])]


def arrays(ready: Sequence[tuple[PlannedRun, tuple[str, ...]]], longest: int) -> list[Array]:
    """Arrays of at most `longest` runs, in the order given. ready: each run with the ids of the jobs that it waits for."""
    groups: dict[tuple[int, tuple[str, ...]], list[PlannedRun]] = {}
    for row, after in ready:
        groups.setdefault((row.threads, tuple(sorted(after))), []).append(row)
    return [
        Array(tuple(rows[at : at + longest]), threads, after)
        for (threads, after), rows in groups.items()
        for at in range(0, len(rows), longest)
    ]


def submit(array: Array, store: Store, site: Site, device: str, options: LaunchOptions, at_once: int | None = None) -> list[str]:
    """Submits an array to SLURM; returns the ids of its jobs. Runs that another launcher has claimed in the meantime are left out.

    Each run is marked with its token before and with its job after, so that a crash in between can be resolved by the token
    (harness.store.runs). at_once: how many of the array may run together. Raises Refused, with sbatch's words, if SLURM refuses it.
    """
    batch = secrets.token_hex(4)
    tokens: dict[str, str] = {}
    folder = store.root.resolve() / "slurm" / batch
    note = {"launcher": this_process(), "code": code(), "site": site.model_dump(), "runs": [row.id for row in array.rows]}
    with disk_errors(folder, "make a folder"):
        folder.mkdir(parents=True)
    write_json(folder / "batch.json", note)
    for row in array.rows:
        token = f"{batch}-{len(tokens)}"
        with contextlib.suppress(HarnessError):
            store.mark_submitted(row.id, token, "slurm")
            tokens[row.id] = token
    if not tokens:
        return []
    tasks = [
        RunTask(str(store.folder(name).path.resolve()), token, options.entry, device, site.save_before, options.restarts)
        for name, token in tokens.items()
    ]
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(job_name=PREFIX + batch, **parameters(site, array, at_once))
    try:
        with _own_environment(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints sbatch's words, which the launcher says
            jobs = executor.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        ask("scancel", "--quiet", f"--name={PREFIX}{batch}")  # a controller that is slow to answer may have accepted it after all
        for name, token in tokens.items():
            store.clear_submission(name, token)
        raise _refusal(_words(error)) from error
    for (name, token), job in zip(tokens.items(), jobs, strict=True):
        store.mark_submitted(name, token, "slurm", job.job_id)
    return [job.job_id for job in jobs]


def parameters(site: Site, array: Array, at_once: int | None = None) -> dict[str, object]:
    """sbatch's parameters by submitit's names; None leaves the choice to the cluster."""
    cpus = max(site.cpus, array.threads)
    environment = {**job_environment("slurm", array.threads or cpus), "SLURM_KILL_BAD_EXIT": "1"}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return {
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.time,
        "nodes": site.nodes,
        "ntasks_per_node": site.tasks_per_node,
        "cpus_per_task": cpus,
        "gpus_per_node": site.gpus_per_node,
        "mem": f"{round(site.memory * 1024)}M" if site.memory else None,
        "signal_delay_s": site.warn_before,
        "array_parallelism": at_once or len(array.rows),
        "dependency": "afterok:" + ":".join(array.after) if array.after else None,
        # Since SLURM 22.05 srun does not inherit the first from sbatch, and would bind every process to one core. Where sbatch was told
        # to export nothing, srun would start processes without the variables that the lines of `setup` export.
        "srun_args": [f"--cpus-per-task={cpus}", "--export=ALL"],
        "use_srun": site.srun,
        "setup": [*site.setup, *lines],
        "stderr_to_stdout": True,
        "wckey": None,
        # A run that needs a failed one must not wait for ever.
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **limits_of_jobs(), **_flags(site.sbatch)},
    }


def _flags(options: Mapping[str, bool | int | str]) -> dict[str, bool | int | str]:
    """The options for submitit, which writes True as a flag; an option that is False is left out."""
    return {name: value for name, value in options.items() if value is not False}


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Hides the variables of the job in which this process runs, if any: sbatch would inherit them."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {key: value for key, value in os.environ.items() if key == "SLURM_CONF"}
    with clean_env():
        os.environ.update(kept)
        yield


def _refusal(words: str) -> Refused:
    """The error for sbatch's words: AssocMaxSubmitJobLimit, QOSGrpSubmitJobsLimit and the like are limits on submitted jobs."""
    certain = re.search(r"Submit\w*Limit", words) is not None
    kind = QueueFull if certain or "job submit limit" in words else Refused
    refusal = kind("SLURM refused the jobs", where="sbatch", found=words, nearest="see the site file")
    if isinstance(refusal, QueueFull):
        refusal.certain = certain
    return refusal


def _words(error: Exception) -> str:
    """sbatch's message in submitit's error."""
    lines = [line.strip() for line in str(error).splitlines() if "sbatch: error:" in line]
    return "; ".join(line.partition("sbatch: error:")[2].strip() for line in lines) or (str(error).strip().splitlines() or ["?"])[-1]
