"""A smoke test: all runs of a plan for a few steps, then the complete report, in a folder of its own (harness.rehearsal.places).

It is a rehearsal of all runs of a plan in place of one of each kind, on the user's data where they are there, without stopping any run. The
folder has smoke-test.json as well: what became of each run.
"""

from __future__ import annotations

import contextlib
import io
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from harness.config.custom_data import custom_set
from harness.config.experiments import load
from harness.config.parts import SMOKE_TEST
from harness.config.run import Run
from harness.config.selection import Selection
from harness.data.catalogue import info_of
from harness.errors import HarnessError
from harness.locations import data_root
from harness.rehearsal import places, stand_ins
from harness.rehearsal.kinds import TRAIN_ROWS
from harness.rehearsal.short_runs import Given, is_narrowed, short_runs, steps_text
from harness.rehearsal.stand_ins import Real
from harness.store import stand_ins as marks
from harness.store.files import write_json
from harness.store.machine import Device, cores, device_kind
from harness.store.runs import Store
from harness.sweep.executors import Executor
from harness.sweep.launch import launch
from harness.sweep.plan import make_plan, wanted_jobs
from harness.sweep.supervisor import LaunchOptions
from harness.sweep.table import counted, duration, emit
from harness.theory.studies import STUDIES

FOLDER = "smoke-tests"
"""Below the results folder: where smoke tests go by default."""
MOST_WORKERS = 8
"""Processes at once on a CPU: more would need much memory for runs of a few seconds."""
MOST_TEXT = 500
"""Characters of `Run.rehearsal`."""


@dataclass(frozen=True)
class Options:
    """What the command line says. folder: new or empty; None for one below the results folder. workers: None for as many as fit."""

    selection: Selection
    folder: Path | None = None
    device: Device = "auto"
    executor: Executor = "local"
    workers: int | None = None


def smoke_test(options: Options, console: Console) -> int:
    """Tests an experiment; 0 if every run and the report ended well, 1 if not, 128 + n if signal n stopped it.

    Raises HarnessError for bad input, before anything is written: an unknown experiment, a folder that is not empty, damaged data, too
    little disk, a device that is not there.
    """
    began, selection = time.monotonic(), options.selection
    planned = [job for job in wanted_jobs(selection) if isinstance(job, Run)]
    if not planned:
        raise HarnessError("this experiment has no runs to test", where=selection.experiment)
    marks.check(planned[0])
    experiment, device, real = load(selection.experiment), places.chosen_device(options.device), data_root()
    take = stand_ins.found(planned, real)
    given = _given(planned, take)
    runs = list(short_runs(planned, given).values())
    workers = options.workers or (None if device == "cuda" else min(MOST_WORKERS, cores()))
    folder = places.new_folder(options.folder, selection, FOLDER)
    places.check_disk(runs, folder, at_once=workers or 1)
    emit(console, f"{given.text}; nothing of it is a result\n{counted(len(runs), 0)} on {device_kind(device)}, in {folder}")
    with places.environment(places.make(folder)):
        note = partial(stand_ins.print_note, console)
        broken = stand_ins.build(runs, folder / "data", folder / "sources", real, note, take).faults
        copied = {name: custom for name in take.prepared if (custom := custom_set(name))}
        runs = list(short_runs(planned, replace(given, custom=copied)).values())
        places.write_experiment(folder, selection.experiment, experiment.title, runs, experiment.report)
        chosen = Selection(selection.experiment, selection.scale, results=folder / "results", data=selection.data)
        store = Store(folder / "results")
        launched = LaunchOptions(executor=options.executor, workers=workers, device=device, restarts=1)
        ended, signal = _train(chosen, store, launched, console)
        broken |= ended
        if signal is None:
            broken |= _report(chosen, store)
    if signal is not None:
        emit(console, f"stopped; what there is lies in {folder}, which can be removed")
        return 128 + signal
    seconds = time.monotonic() - began
    facts = {"what": f"{given.text}; nothing of it is a result", "passed": not broken, "seconds": seconds, "device": device_kind(device)}
    write_json(folder / "smoke-test.json", facts | {"runs": [run.id for run in runs], "faults": broken})
    _conclude(broken, len(runs), seconds, folder, console)
    return 1 if broken else 0


def _given(planned: Sequence[Run], take: Real) -> Given:
    """What the runs get, with the text that says so. It is one for all: in tables, runs of one model must not differ in it."""
    sets = {run.data.name: info_of(run.data) for run in planned}
    few = frozenset(name for name, dataset in sets.items() if dataset.needs_inception)
    short = short_runs(planned, Given(few))
    missing = [name for name in sets if name in few - take.prepared]
    missing += ["Inception"] if few and not take.inception else []
    missing += ["EDM's weights"] if any(run.init and run.init.kind == "edm" for run in planned) else []
    parts = [f"{SMOKE_TEST}: {steps_text(short.values())}"]
    parts += ["narrow networks"] if is_narrowed(planned, short) else []
    parts += [f"the first {TRAIN_ROWS} images of {', '.join(name for name in sets if name in take.prepared)}"] if take.prepared else []
    parts += [f"stand-ins for {', '.join(missing)}"] if missing else []
    return Given(few, text=", ".join(parts)[:MOST_TEXT])


def _train(chosen: Selection, store: Store, options: LaunchOptions, console: Console) -> tuple[dict[str, str], int | None]:
    """The plan carried out by the launcher: the jobs that are not done, and why, and the signal that stopped it."""
    try:
        plan = make_plan(wanted_jobs(chosen), store, device=options.device, selection=chosen)
        result = launch(plan, store, options, console)
        return places.unfinished([row.run for row in plan.rows], store), result.signal
    except Exception as error:
        return {"launcher": _cause(error)}, None


def _report(chosen: Selection, store: Store) -> dict[str, str]:
    """`harness report` of the experiment, printed, and of everything; what broke."""
    from harness.reporting import produce

    try:
        if chosen.experiment not in STUDIES:
            produce.experiment(store.root, chosen, "own", rehearsal=True)
        with contextlib.redirect_stdout(io.StringIO()):  # the page has all of it
            produce.everything(store.root, chosen.scale, "own", rehearsal=True)
    except Exception as error:
        return {"report": _cause(error)}
    return {}


def _cause(error: Exception) -> str:
    """An error in one line, of a fault of the program with its place."""
    return " ".join((str(error) if isinstance(error, HarnessError) else "".join(traceback.format_exception(error, limit=-3))).split())


def _conclude(broken: Mapping[str, str], runs: int, seconds: float, folder: Path, console: Console) -> None:
    """Prints what became of everything, and removes what a successful smoke test leaves behind."""
    if broken:
        emit(console, "\nWhat broke:")
        for name, why in broken.items():
            emit(console, f"  {name}: {why}")
        emit(console, f"\nsmoke test failed ({counted(runs, 0)}, {duration(seconds)})")
    else:
        places.clear(folder)
        emit(console, f"\nsmoke test passed ({counted(runs, 0)}, {duration(seconds)}); nothing of it is a result")
    emit(console, f"Written: {folder / 'smoke-test.json'}, {folder / 'results' / 'report.html'}, {folder / 'results' / 'tables'}")
