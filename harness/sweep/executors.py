"""Which launcher carries out a sweep. A results folder stays with the launcher that its first sweep used."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Literal, get_args

from harness.errors import HarnessError, unknown
from harness.store.files import disk_errors, read_json, write_json
from harness.store.runs import Store
from harness.sweep.slurm_queue import ask

Executor = Literal["auto", "inline", "local", "slurm"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
RECORD = "executor.json"
"""The file of a results folder with the launcher that its sweeps use."""


@dataclass(frozen=True)
class ExecutorChoice:
    """A launcher and why it was chosen."""

    executor: Literal["inline", "local", "slurm"]
    reason: str


def choose_executor(wish: Executor, store: Store) -> ExecutorChoice:
    """The launcher that `wish` means in this results folder.

    auto: the launcher recorded there; without a record, SLURM where it answers, and local elsewhere. Raises HarnessError for an unknown
    name, and for SLURM where it does not answer.
    """
    if wish not in EXECUTORS:
        raise unknown("executor", wish, EXECUTORS, where="--executor")
    choice = _recorded(store) if wish == "auto" else ExecutorChoice(wish, "--executor")
    if choice is None:
        return ExecutorChoice("slurm", "SLURM answers") if slurm_answers() else ExecutorChoice("local", "no SLURM answers here")
    if choice.executor == "slurm" and not slurm_answers():
        reason = f"no sbatch, or sinfo fails; SLURM was chosen by: {choice.reason}"
        raise HarnessError("SLURM does not answer here", where="--executor", found=reason, nearest="--executor local")
    return choice


def record_executor(choice: ExecutorChoice, store: Store) -> None:
    """Makes later sweeps of this results folder use the same launcher. inline, which is for debugging, is not recorded."""
    recorded = _recorded(store)
    if choice.executor == "inline" or (recorded and recorded.executor == choice.executor):
        return
    with disk_errors(store.root, "make a folder"):
        store.root.mkdir(parents=True, exist_ok=True)
    write_json(store.root / RECORD, {"executor": choice.executor, "reason": choice.reason, "time": time.time()})


def slurm_answers() -> bool:
    """True where jobs can be submitted: sbatch exists and sinfo lists a partition."""
    return shutil.which("sbatch") is not None and bool((ask("sinfo", "--noheader", patience=20) or "").strip())


def _recorded(store: Store) -> ExecutorChoice | None:
    """The recorded launcher; None if there is no record, or a damaged one."""
    path = store.root / RECORD
    try:
        executor = read_json(path).get("executor")
    except HarnessError:
        return None
    return ExecutorChoice(executor, f"earlier sweeps used it, see {path}") if executor in ("local", "slurm") else None
