"""The folder of a rehearsal or a smoke test: chosen, made the place where every part of the harness works, and cleared at the end.

FOLDER/
    data/             the marked data folder: stand-ins, prepared; removed when everything passed
    experiments/      the experiment as rehearsed, which plan, launcher and report read
    results/          run folders, tables, figures and the page report.html, all of which say that they are a rehearsal
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.baselines import Job
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.locations import may_write
from harness.rehearsal.kinds import network_bytes
from harness.store.files import disk_errors, write_atomic
from harness.store.gpus import find_gpus
from harness.store.machine import Device, choose_device
from harness.store.runs import RunFolder, State, Store
from harness.sweep.memory import GIB, gib
from harness.sweep.summary import explain


def chosen_device(wish: Device) -> Device:
    """A GPU if torch can use one, else the CPU, at every scale. Raises HarnessError as `choose_device` for a GPU that was asked for."""
    if wish == "auto":
        return "cuda" if find_gpus().usable else "cpu"
    return choose_device(wish)


def new_folder(wish: Path | None, selection: Selection, below: str) -> Path:
    """The folder that a person named, or <results>/<below>/<experiment>-<scale>-<time>; not made yet.

    Raises HarnessError if it is not empty or cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
    folder = wish or Store(selection.results).root / below / f"{selection.experiment}-{selection.scale}-{stamp}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        expected, nearest = "a new or empty folder: what is there is never touched", str(folder / below.removesuffix("s"))
        raise HarnessError("the folder is not empty", where="--output", found=folder, expected=expected, nearest=nearest)
    if not may_write(folder):
        raise HarnessError("no permission to write here", where=folder, nearest="--output DIR, in a folder of your own")
    return folder


def check_disk(runs: Sequence[Run], folder: Path, at_once: int = 1) -> None:
    """Raises HarnessError if stand-ins and checkpoints do not fit: three checkpoints of `at_once` runs, and those that others need."""
    weights = {run.init.ref: network_bytes(run) for run in runs if run.init and run.init.kind == "edm"}
    needed_runs = {name for run in runs for name in run.needs}
    kept = sum(2 * 4 * network_bytes(run) for run in runs if run.id in needed_runs)
    needed = GIB / 2 + sum(weights.values()) + at_once * 3 * 4 * max(map(network_bytes, runs)) + kept
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        what, nearest = "the disk is too small for the rehearsal", "--output DIR on another disk"
        raise HarnessError(what, where=existing, found=f"{gib(free)} free", expected=f"about {gib(needed)}", nearest=nearest)


def make(folder: Path) -> dict[str, str]:
    """The variables that make every part of the harness work in the folder of the rehearsal."""
    names = {"HARNESS_DATA": "data", "HARNESS_RESULTS": "results", "HARNESS_EXPERIMENTS": "experiments"}
    with disk_errors(folder, "create a folder"):
        for name in names.values():
            (folder / name).mkdir(parents=True, exist_ok=True)
    return {variable: str(folder / name) for variable, name in names.items()}


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """While the block works, the environment of this process, and of those that it starts, has these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def write_experiment(folder: Path, name: str, title: str, runs: Sequence[Run], report: Any = None) -> None:
    """The experiment of that name with these runs, which plan, launcher and report read. report: its REPORT.

    As in every experiment, the runs on a set of the user's own are those of --data.
    """
    text = (
        "import json\nfrom pathlib import Path\n\n"
        "from harness.config import presets\nfrom harness.config.overrides import from_dict\n\n"
        'STORED = json.loads(Path(__file__).with_suffix(".json").read_text())\n'
        '__doc__, REPORT = STORED["title"], STORED["report"]\n\n\n'
        "def runs(scale, seeds):\n"
        '    stored = [from_dict(config, where=__file__) for config in STORED["runs"]]\n'
        "    return [run for run in stored if not run.data.custom or run.data.name in presets.scale(scale).table1]\n"
    )
    place = folder / "experiments" / f"{name}.py"
    content = {"title": title, "report": report if isinstance(report, dict) else None, "runs": [run.to_dict() for run in runs]}
    write_atomic(place.with_suffix(".json"), json.dumps(content, indent=1, default=str).encode())
    write_atomic(place, text.encode())


def unfinished(jobs: Iterable[Job], store: Store) -> dict[str, str]:
    """Those of the jobs that are not done, and why."""
    folders = [store.folder(job.id) for job in jobs]
    return {folder.id: f"{explain(folder)} (log: {folder.log})" for folder in folders if folder.state() is not State.DONE}


def remove_checkpoints(folder: RunFolder) -> None:
    """Removes the tensors of a run that nothing needs any more."""
    for path in (folder.path / "checkpoints").glob("step-*"):
        path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Removes what a successful rehearsal leaves behind and nobody needs: data, weights, checkpoints."""
    for run in Store(folder / "results").folders():
        remove_checkpoints(run)
    for name in ("data", "sources", "results/cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
