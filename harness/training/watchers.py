"""Watchers of a training: they get its scalars and sample grids while it runs, and cannot change it.

A watcher of your own is a class in a file, named by `--log FILE.py:CLASS`, with the methods of `Watcher`; those that it lacks are not
called. What it raises is printed once, and it is asked no more: the training goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.config.own_classes import Named, load
from harness.config.run import Run
from harness.errors import visible
from harness.locations import read_regular


class Watcher(Protocol):
    """What is called, on the first process only."""

    def start(self, run: Run, folder: Path, step: int) -> None:
        """Training starts, or resumes after `step` steps; what was reported of later steps will be reported again. folder: of the run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after a step: loss and steps_per_second at every check, metrics at every evaluation (final/fid: at the end)."""

    def samples(self, step: int, path: Path) -> None:
        """A sample grid was written: a PNG of images, or an NPY of points."""

    def end(self, finished: bool) -> None:
        """Training ends: it is finished, or was stopped or failed and may resume later."""


class Watchers:
    """Calls all of them, each until it fails."""

    def __init__(self, watchers: Mapping[str, object]) -> None:
        self._watchers = dict(watchers)

    def start(self, run: Run, folder: Path, step: int) -> None:
        self._call("start", run, folder, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._call("scalars", step, dict(values))

    def samples(self, step: int, path: Path) -> None:
        self._call("samples", step, path)

    def end(self, finished: bool) -> None:
        self._call("end", finished)

    def _call(self, method: str, *arguments: object) -> None:
        for name, watcher in list(self._watchers.items()):
            function: Callable[..., object] | None = getattr(watcher, method, None)
            try:
                if function:
                    function(*arguments)
            except (Exception, SystemExit) as error:  # the training must not suffer from what watches it
                del self._watchers[name]
                print(visible(f"{name} failed in {method} and is called no more: {type(error).__name__}: {error}"), file=sys.stderr)


def build(choices: Sequence[Named]) -> Watchers:
    """The chosen watchers. Raises HarnessError as `harness.config.own_classes.load`."""
    known = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    return Watchers({choice.name: (load(choice) if choice.path else known[choice.name])() for choice in choices})


class TensorBoard:
    """Event files in the folder of the run, below tensorboard/. A resumed run hides what was logged of the steps that it repeats."""

    def __init__(self) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._events, self._summaries, self._open = event_pb2, summary_pb2, EventFileWriter
        self._writer: Any = None

    def start(self, run: Run, folder: Path, step: int) -> None:
        self._writer = self._open(str(folder / "tensorboard"))
        self._writer.add_event(self._events.Event(session_log=self._events.SessionLog(status=self._events.SessionLog.START), step=step + 1))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def samples(self, step: int, path: Path) -> None:
        if path.suffix == ".png":
            image = self._summaries.Summary.Image(encoded_image_string=read_regular(path))
            self._add(step, [self._summaries.Summary.Value(tag="samples", image=image)])

    def end(self, finished: bool) -> None:
        self._writer.close()

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, summary=self._summaries.Summary(value=values)))


class WeightsAndBiases:
    """A run of Weights & Biases of the same name, in the project $WANDB_PROJECT. Offline, in the folder of the run, unless $WANDB_MODE says
    otherwise: jobs often have no network, and no account."""

    def __init__(self) -> None:
        import wandb

        self._wandb, self._run = wandb, None  # type: Any, Any

    def start(self, run: Run, folder: Path, step: int) -> None:
        project, mode = os.environ.get("WANDB_PROJECT", "consistency-harness"), os.environ.get("WANDB_MODE", "offline")
        settings = self._wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=60)
        self._run = self._wandb.init(
            project=project, id=run.id, name=run.id, group=run.slug.rpartition("-s")[0], config=run.to_dict(), dir=str(folder),
            mode=mode, resume="allow", settings=settings,
        )  # fmt: skip

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, path: Path) -> None:
        if path.suffix == ".png":
            self._run.log({"samples": self._wandb.Image(str(path))}, step=step)

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
