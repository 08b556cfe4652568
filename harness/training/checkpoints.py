"""Checkpoints: written atomically, two kept, loaded with weights_only=True.

checkpoints/step-00001000.pt holds the tensors, step-00001000.json beside it their SHA-256, size, run and step. The JSON is written last, so
a checkpoint without it is incomplete. A run that resumes reports a damaged checkpoint and uses the next older one.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from harness.errors import ConfigMismatch, DamagedFile
from harness.locations import open_regular, read_regular
from harness.store.files import disk_errors, write_atomic
from harness.store.runs import checkpoint_steps


class Writer:
    """Writes one checkpoint at a time in a thread, while training goes on. As a context, it waits for the last one when it ends.

    An error of the thread is raised by the next call, or at the end of the context, unless this ends by another error.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Starts write() when the checkpoint before it is complete. What it writes must not change meanwhile."""
        self.wait()
        self._writing = self._thread.submit(write)

    def raise_error(self) -> None:
        """Raises the error of a checkpoint that could not be written; waits for none."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is written."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()


def save(folder: Path, run_id: str, step: int, state: dict[str, Any], *, keep: int = 2, keep_steps: Iterable[int] = ()) -> Path:
    """Writes the checkpoint of `step`, then removes all but the newest `keep` and those of `keep_steps`.

    Raises HarnessError when the disk is full or not writable; older checkpoints are left untouched.
    """
    path = folder / f"step-{step:08d}.pt"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # not the file itself: torch.save hides the error of a full disk
    torch.save(state, buffer)
    content = buffer.getbuffer()  # a view, not a second copy
    write_atomic(path, content)
    facts = {"run": run_id, "step": step, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    write_atomic(path.with_suffix(".json"), json.dumps(facts).encode())
    kept = {*checkpoint_steps(folder)[-keep:], *keep_steps}
    for old in checkpoint_steps(folder):
        if old not in kept:
            for suffix in (".json", ".pt"):
                (folder / f"step-{old:08d}{suffix}").unlink(missing_ok=True)
    return path


def load(folder: Path, run_id: str, step: int, steps_of_run: int | None = None, fix: str | None = None) -> dict[str, Any]:
    """The state saved at `step`, all on the CPU; load_state_dict moves each tensor to its device, which for step counts is the CPU.

    steps_of_run: the last step of the run, if it is known. fix: how to restore the checkpoint, for the message. Raises DamagedFile for a
    missing or damaged checkpoint, also one of another step or with weights that are not finite; ConfigMismatch for one of another run.
    """
    path = folder / f"step-{step:08d}.pt"
    try:
        facts = json.loads(read_regular(path.with_suffix(".json")))
        if facts["run"] != run_id:
            move = "move the file back to the folder of its run"
            raise ConfigMismatch("the checkpoint is of another run", where=path, found=facts["run"], expected=run_id, nearest=move)
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != facts["sha256"]:
            size, expected = path.stat().st_size, f"{facts['size']} bytes, sha256 {facts['sha256'][:12]}"
            content = f"{size} bytes, sha256 {digest[:12]}"
            raise DamagedFile("the checkpoint is damaged", where=path, found=content, expected=expected, nearest=fix)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["step"] != step or (steps_of_run is not None and step > steps_of_run):
            expected = f"step {step}" if steps_of_run is None or step <= steps_of_run else f"at most step {steps_of_run}"
            raise DamagedFile("the checkpoint is of another step", where=path, found=state["step"], expected=expected, nearest=fix)
        if weight := _not_finite(state):
            what, expected = "the checkpoint has a NaN or infinite weight", "finite weights"
            raise DamagedFile(what, where=path, found=weight, expected=expected, nearest=fix)
        return state
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        stored = "one of the stored steps: " + (", ".join(map(str, checkpoint_steps(folder))) or "none")
        raise DamagedFile("the checkpoint cannot be read", where=path, found=error, expected=stored, nearest=fix) from None


def _not_finite(state: dict[str, Any]) -> str | None:
    """The first weight of the networks that has a NaN or an infinite value."""
    weights = {f"{part}.{name}": tensor for part in ("online", "ema") for name, tensor in state.get(part, {}).items()}
    return next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)


def load_newest(folder: Path, run_id: str, warn: Callable[[str], None] = print, steps_of_run: int | None = None) -> dict[str, Any] | None:
    """The newest valid state, or None when there is no checkpoint yet; `warn` gets a message for each damaged one.

    Only for a run that resumes: whoever uses the model of a finished run needs exactly its last step. steps_of_run: as in `load`.
    Raises DamagedFile when checkpoints exist and none is valid, ConfigMismatch when one is of another run.
    """
    problems = []
    for step in reversed(checkpoint_steps(folder)):
        try:
            return load(folder, run_id, step, steps_of_run)
        except DamagedFile as error:
            problems.append(error)
            warn(f"{error}\n  trying the next older checkpoint")
    if problems:
        damaged, expected = f"{len(problems)} damaged: {problems[0].what}", "at least one valid checkpoint"
        fix = "move the checkpoints folder away to train this run again from the start"
        raise DamagedFile("no checkpoint of this run can be read", where=folder, found=damaged, expected=expected, nearest=fix)
    return None
