"""A command of the harness as a job: srun waits for a place on the cluster, runs the command there, and shows its output here."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from harness.errors import HarnessError
from harness.store.runs import Store
from harness.sweep.executors import Executor, choose_executor, slurm_answers
from harness.sweep.site import Site, limits_of_jobs


def on_a_login_node() -> bool:
    """Whether this process runs outside of a job on a machine where SLURM answers."""
    return "SLURM_JOB_ID" not in os.environ and slurm_answers()


def belongs_into_a_job(executor: Executor, store: Store) -> bool:
    """Whether what computes for long is a job here: on a login node, unless the sweeps of this results folder train on this machine.

    Raises HarnessError as `choose_executor`.
    """
    return on_a_login_node() and choose_executor(executor, store).executor == "slurm"


def note_of_login_node() -> str:
    """One line for commands that compute in this process on a login node; "" elsewhere."""
    if not on_a_login_node():
        return ""
    return "note: SLURM answers here, so this may be a login node, and this command computes on it; to compute in a job: srun harness ..."


def srun(site: Site, name: str, words: list[str]) -> list[str]:
    """The command that runs `harness WORDS` as one process of one job with what the site file asks for.

    The lines of `setup` come first. Options of the table [sbatch] are passed on, but for export: srun passes the environment on, as the
    command needs.
    """
    options: dict[str, object] = {
        "job-name": name,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.time,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": site.cpus,
        "mem": f"{round(site.memory * 1024)}M" if site.memory else None,
        "gpus-per-node": site.gpus_per_node and 1,
        **limits_of_jobs(),
        **site.sbatch,
        "export": "ALL",
    }
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items() if value not in (None, False)]
    command = [sys.executable, "-m", "harness", *words]
    if site.setup:
        command = ["bash", "-c", "\n".join([*site.setup, "exec " + shlex.join(command)])]
    return ["srun", *flags, *command]


def run_in_a_job(site: Site, name: str, words: list[str]) -> int:
    """Runs `srun` and returns the exit code of the command. Raises HarnessError if there is no srun."""
    command = srun(site, name, words)
    print(f"in a job, since this may be a login node: {shlex.join(command)}", flush=True)
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        inside = f"harness {shlex.join(words)}, inside a job"
        raise HarnessError("srun cannot be started", where="srun", found=error.strerror or error, nearest=inside) from error
