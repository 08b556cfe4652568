"""Which launcher carries out a sweep. A results folder stays with the launcher that its first sweep used."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import Literal

from harness.errors import HarnessError, unknown
from harness.store.files import disk_errors, read_json, write_json
from harness.store.runs import Store
from harness.sweep.options import EXECUTORS, Executor
from harness.sweep.slurm_queue import ask

RECORD = "executor.json"
"""The file of a results folder with the launcher that its sweeps use."""


@dataclass(frozen=True)
class ExecutorChoice:
    """A launcher and why it was chosen."""

    executor: Literal["inline", "local", "slurm"]
    reason: str
    asked: bool = True
    """Whether a person chose it, now or in an earlier sweep."""


def choose_executor(wish: Executor, store: Store) -> ExecutorChoice:
    """The launcher that `wish` means in this results folder.

    auto: the launcher recorded there; without a record, SLURM where it answers, and local elsewhere. Raises HarnessError for an unknown
    name, for SLURM where it does not answer, and where it answers but earlier sweeps trained locally without having been asked to: this
    may be a login node.
    """
    if wish not in EXECUTORS:
        raise unknown("executor", wish, EXECUTORS, where="--executor")
    choice = _recorded(store) if wish == "auto" else ExecutorChoice(wish, "--executor")
    if choice is None:
        slurm = slurm_answers()
        return ExecutorChoice("slurm" if slurm else "local", "SLURM answers" if slurm else "no SLURM answers here", asked=False)
    if wish == "auto" and choice.executor == "local" and not choice.asked and slurm_answers():
        where, history = store.root / RECORD, "earlier sweeps of this folder trained on machines without SLURM"
        raise HarnessError("SLURM answers here", where=where, found=history, expected="--executor slurm", nearest="--executor local")
    if choice.executor == "slurm" and not slurm_answers():
        reason = f"no sbatch, or sinfo fails; SLURM was chosen by: {choice.reason}"
        raise HarnessError("SLURM does not answer here", where="--executor", found=reason, nearest="--executor local")
    return choice


def record_executor(choice: ExecutorChoice, store: Store) -> None:
    """Makes later sweeps of this results folder use the same launcher. inline, which is for debugging, is not recorded."""
    recorded = _recorded(store)
    if choice.executor == "inline" or (recorded and recorded.executor == choice.executor and (recorded.asked or not choice.asked)):
        return
    with disk_errors(store.root, "make a folder"):
        store.root.mkdir(parents=True, exist_ok=True)
    record = {"executor": choice.executor, "reason": choice.reason, "asked": choice.asked, "time": time.time()}
    write_json(store.root / RECORD, record)


def slurm_answers() -> bool:
    """True where jobs can be submitted: sbatch exists, and sinfo lists a partition or, where sinfo does not answer, squeue does."""
    if shutil.which("sbatch") is None:
        return False
    partitions = ask("sinfo", "--noheader", patience=20)
    return (
        bool(partitions.strip())
        if partitions is not None
        else ask("squeue", "--noheader", "--user", str(os.getuid()), patience=20) is not None
    )


def _recorded(store: Store) -> ExecutorChoice | None:
    """The recorded launcher; None if there is no record, or a damaged one."""
    path = store.root / RECORD
    try:
        record = read_json(path)
    except HarnessError:
        return None
    executor = record.get("executor")
    if executor not in ("local", "slurm"):
        return None
    return ExecutorChoice(executor, f"earlier sweeps used it, see {path}", asked=record.get("asked", True) is not False)
