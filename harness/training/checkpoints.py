"""Checkpoints: written atomically, two kept, loaded with weights_only=True; the newest VALID one wins.

checkpoints/step-00001000.pt holds the tensors, step-00001000.json beside it their SHA-256, size, run and step. The JSON is written last: a
checkpoint without it was never finished. A damaged file is named and the next older one is taken.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError
from harness.store.files import atomic_file, disk_errors, write_atomic


class _HashingFile:
    """A file that knows the SHA-256 of what was written, and why the disk refused it, which torch.save hides."""

    def __init__(self, file) -> None:
        self.file, self.hash, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data) -> int:
        self.hash.update(data)
        self.size += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(folder: Path, run_id: str, step: int, state: dict[str, Any], *, keep: int = 2, keep_steps: Iterable[int] = ()) -> Path:
    """Writes the checkpoint of `step`, then removes all but the newest `keep` and those of `keep_steps`.

    Raises HarnessError when the disk is full or not writable; older checkpoints are untouched then.
    """
    path = folder / f"step-{step:08d}.pt"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        target = _HashingFile(file)
        try:
            torch.save(state, target)
        except RuntimeError as error:
            raise target.error or error from None
    facts = {"run": run_id, "step": step, "sha256": target.hash.hexdigest(), "size": target.size}
    write_atomic(path.with_suffix(".json"), json.dumps(facts).encode())
    kept = {*steps(folder)[-keep:], *keep_steps}
    for old in steps(folder):
        if old not in kept:
            for suffix in (".json", ".pt"):
                (folder / f"step-{old:08d}{suffix}").unlink(missing_ok=True)
    return path


def steps(folder: Path) -> list[int]:
    """The steps of all finished checkpoints, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.json"))


def load(folder: Path, run_id: str, step: int) -> dict[str, Any]:
    """The state saved at `step`, on the CPU: load_state_dict brings each tensor to where it belongs, which for the optimizers' step counts
    is the CPU. Raises HarnessError for a missing, damaged or foreign checkpoint."""
    path = folder / f"step-{step:08d}.pt"
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        if facts["run"] != run_id:
            raise HarnessError(
                "the checkpoint is of another config",
                where=path,
                found=facts["run"],
                expected=run_id,
                nearest="every config has a folder of its own; move the file back to its run",
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != facts["sha256"]:
            raise HarnessError(
                "the checkpoint is damaged",
                where=path,
                found=f"{path.stat().st_size} bytes, sha256 {digest[:12]}",
                expected=f"{facts['size']} bytes, sha256 {facts['sha256'][:12]}",
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        stored = "one of the stored steps: " + (", ".join(map(str, steps(folder))) or "none")
        raise HarnessError("the checkpoint cannot be read", where=path, found=error, expected=stored) from None


def load_newest(folder: Path, run_id: str, warn: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The newest valid state, or None when there is no checkpoint yet. Damaged ones are named through `warn`.

    Raises HarnessError when checkpoints exist and none is valid, or when one is of another config.
    """
    problems = []
    for step in reversed(steps(folder)):
        try:
            return load(folder, run_id, step)
        except HarnessError as error:
            if "another config" in error.what:
                raise
            problems.append(error)
            warn(f"{error}\n  the next older checkpoint is tried")
    if problems:
        raise HarnessError(
            "no checkpoint of this run can be read",
            where=folder,
            found=f"{len(problems)} damaged: {problems[0].what}",
            expected="at least one valid checkpoint",
            nearest="move the checkpoints folder away to start this run anew",
        )
    return None
