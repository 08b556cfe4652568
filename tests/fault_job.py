"""harness.training.job with injected faults, at moments that a signal from outside would hit only by chance.

Each run has a process of its own, so the job's functions can be patched.

$FAULTS names a folder. Its plan.json maps a run id to [[kind, step], ...]; each fault happens once, in order, at the first moment of its
kind at or after its step. fired-<run>-<n> marks the n-th; <run>.steps has a line `pid step` for every step that was trained; <run>.owner is
locked by the kernel while a process owns the run's folder.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.store.lease import Lease
from harness.store.runs import RunFolder
from harness.training import checkpoints, job

AT_A_STEP = ("kill", "term", "launcher")
"""kill -9; a stop by SIGTERM; kill -9 of the launcher."""
AT_THE_START = ("deadline",)
WHILE_SAVING = ("kill while saving", "kill before facts")
"""In the middle of a checkpoint's file; after this file but before the JSON beside it."""
AFTER_MEASURING = ("kill after measuring",)
"""After the records are written, before the checkpoint is."""
AT_THE_END = ("kill before result", "cut result")
CUTS = {"cut records": "records.jsonl", "cut heartbeat": "heartbeat.json", "cut attempts": "attempts.jsonl", "cut config": "config.json"}
CHECKPOINTS = ("cut checkpoint", "flip checkpoint", "cut facts")
"""Damage to the newest checkpoint."""


class Faults:
    """The faults of one run, and those that have happened."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.home = folder, Path(os.environ["FAULTS"])
        self.written: Callable[[], None] = lambda: None
        """Waits until the last checkpoint is written."""
        self.plan = json.loads((self.home / "plan.json").read_text()).get(folder.id, [])

    def due(self, kinds, step: int) -> str | None:
        """The kind of the next fault if it is one of these and its step has come; it is marked as happened."""
        number = len(list(self.home.glob(f"fired-{self.folder.id}-*")))
        if number == len(self.plan) or self.plan[number][0] not in kinds or step < self.plan[number][1]:
            return None
        (self.home / f"fired-{self.folder.id}-{number}").open("x").close()
        return self.plan[number][0]

    def at_a_step(self, step: int, stop: Callable[[], bool]) -> bool:
        """Injects the fault due after a step; True if the run must save and stop. stop: the job's own."""
        line = f"{os.getpid()} {step}\n".encode()
        with (self.home / f"{self.folder.id}.steps").open("ab", buffering=0) as file:
            file.write(line)
        kind = self.due([*AT_A_STEP, *CUTS, *CHECKPOINTS], step)
        if kind == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == "launcher":
            os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
        elif kind in CUTS:
            cut(self.folder.path / CUTS[kind])
        elif kind in CHECKPOINTS:
            self.written()
            path = sorted((self.folder.path / "checkpoints").glob("step-*.json"))[-1].with_suffix(".pt")
            flip(path) if kind == "flip checkpoint" else cut(path.with_suffix(".json") if kind == "cut facts" else path)
        if kind and kind not in AT_A_STEP[1:]:
            die()
        while kind == "launcher" and not stop():
            time.sleep(0.005)  # the job itself notices that its launcher is gone
        return stop()


def main(argv: list[str]) -> int:
    faults = Faults(RunFolder(Path(argv[0])))
    _own(faults)
    _train(faults)
    _save(faults)
    _end(faults)
    _note_writer(faults)
    return job.main([*argv, *(["--deadline", "0"] if faults.due(AT_THE_START, 0) else [])])


def _own(faults: Faults) -> None:
    """The kernel releases its lock when the process ends in any way, so it checks the lease independently."""
    acquire, release, held = RunFolder.acquire, Lease.release, []

    def acquire_both(self, *args, **options):
        lease = acquire(self, *args, **options)
        held.append((faults.home / f"{self.id}.owner").open("w"))
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (faults.home / f"two-owners-{self.id}").touch()
        return lease

    def release_both(self):
        if held:
            held.pop().close()
        release(self)

    RunFolder.acquire, Lease.release = acquire_both, release_both


def _train(faults: Faults) -> None:
    train = job.train

    def with_faults(run, data, model, hooks, **options):
        def stop() -> bool:
            return faults.at_a_step(model.step, hooks.stop)

        def evaluate(now) -> None:
            hooks.evaluate(now)
            if faults.due(AFTER_MEASURING, now.step):
                die()

        return train(run, data, model, replace(hooks, stop=stop, evaluate=evaluate), **options)

    job.train = with_faults


def _save(faults: Faults) -> None:
    save, write, at = checkpoints.save, checkpoints.write_atomic, []

    def save_with_faults(folder, run_id, step, state, **options):
        at[:] = [faults.due(WHILE_SAVING, step)]
        return save(folder, run_id, step, state, **options)

    def write_with_faults(path, data) -> None:
        if at == ["kill while saving"]:
            path.with_name(f".{path.name}.1-ab.tmp").write_bytes(data[: len(data) // 2])
            die()
        if at == ["kill before facts"] and path.suffix == ".json":
            die()
        write(path, data)

    checkpoints.save, checkpoints.write_atomic = save_with_faults, write_with_faults


def _note_writer(faults: Faults) -> None:
    """The newest checkpoint is damaged when it is complete, not while it is written."""
    create = checkpoints.Writer.__init__

    def create_and_note(self) -> None:
        create(self)
        faults.written = self.wait

    checkpoints.Writer.__init__ = create_and_note


def _end(faults: Faults) -> None:
    write = RunFolder.write_result

    def write_with_faults(self, result) -> None:
        kind = faults.due(AT_THE_END, result["step"])
        if kind == "kill before result":
            die()
        write(self, result)
        if kind == "cut result":
            cut(self.path / "result.json")
            die()

    RunFolder.write_result = write_with_faults


def cut(path: Path) -> None:
    """Keeps the first two thirds, as a crash of the machine may."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def flip(path: Path) -> None:
    """Changes a byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
