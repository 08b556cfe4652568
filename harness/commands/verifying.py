"""`harness verify`: trains finished or published runs again with today's code and compares their records bit for bit."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands.common import store
from harness.config.baselines import stored_job
from harness.config.parts import SCALE_NAMES
from harness.config.run import Run
from harness.console import Console
from harness.errors import FOREIGN, HarnessError
from harness.store import fingerprint, record_file, verified
from harness.store.runs import State, Store, match_run
from harness.store.verified import Comparison
from harness.sweep.launch import launch
from harness.sweep.plan import make_plan
from harness.sweep.supervisor import LaunchOptions
from harness.sweep.table import duration, emit, render

_CODE = ("time", "fingerprint", "parts", "commit", "dirty", "versions", "python", "device")
"""What verified.json keeps of the start of a run that was trained again."""
_MACHINE = ("device", "processes", "micro_batch", "compiled", "python", "versions")


@dataclass(frozen=True)
class Subject:
    """A finished run whose records are to be made again."""

    run: Run
    name: str
    folder: Path
    """Where verified.json goes: the run folder, or that of its published scale."""
    records: Sequence[Mapping[str, Any]]
    complete: bool
    """Whether `records` are all of the run."""
    attempts: Sequence[Mapping[str, Any]]
    seconds: float
    """How long it was trained, 0 if that is not known."""


def verify(arguments: argparse.Namespace) -> int:
    """Exit code 0 if every run could be compared and is equal, else 1.

    The runs, and those that they need, are trained in verify/<fingerprint>/ of the results folder; the same command continues.
    """
    root, out = store(arguments).root, Console()
    damage: list[str] = []
    available = subjects(root, damage)
    for fault in damage:
        emit(out, f"Warning: {fault}; left out")
    chosen = choose(available, arguments.targets, root)
    again = Store(root / "verify" / fingerprint.current())
    plan = make_plan(_with_needs([subject.run for subject in chosen], available), again, device=arguments.device)
    before = sum({subject.run.id: subject.seconds for subject in chosen if subject.run.id in {row.id for row in plan.active}}.values())
    took = f"; when they were made, this took {duration(before)} of training" if before else ""
    emit(out, f"{len(plan.active)} of {len(plan.rows)} runs are to be trained in {again.root}{took}")
    launch(plan, again, LaunchOptions(arguments.executor, arguments.workers, arguments.device, site=arguments.site), out)
    rows, ended = [], 0
    for subject in chosen:
        folder = again.folder(subject.run.id)
        if folder.state() is not State.DONE:
            rows.append([subject.name, _source(subject), "not trained again", str(folder.state())])
            ended = 1
            continue
        comparison = verified.compare(subject.records, folder.records(), subject.complete)
        code = folder.attempts()[-1]
        verified.write(subject.folder, {key: code.get(key) for key in _CODE}, {subject.name: comparison})
        rows.append([subject.name, _source(subject), "equal" if comparison.equal else "NOT equal", _details(comparison, subject, code)])
        ended = ended if comparison.equal else 1
    emit(out, render(["run", "records of", "trained again", "details"], rows))
    equal = sum(row[2] == "equal" for row in rows)
    emit(out, f"\n{equal} of {len(rows)} equal, bit for bit, with today's code ({fingerprint.current()}); the new runs are in {again.root}")
    return ended


def subjects(root: Path, damage: list[str]) -> list[Subject]:
    """All finished runs of a results folder, and all published ones. A run folder that cannot be read, and published records that are
    damaged, are left out and named in `damage`."""
    from harness.reporting.publish import read_published  # only here, since it imports pandas

    finished = []
    for folder in Store(root).folders():
        with _named(folder.path, damage):
            if folder.state() is State.DONE and isinstance(run := stored_job(folder.config(), folder.id, folder.path), Run):
                records = record_file.trusted(folder.path / record_file.NAME, folder.id, folder.result(), lambda text: None)
                finished.append(Subject(run, folder.id, folder.path, records, True, folder.attempts(), _seconds(folder.result())))
    for where in sorted((root / "published").glob("*/")):
        runs: dict[str, Any] = {}
        with _named(where, damage):
            runs, rows = read_published(where)
        for name, facts in runs.items():
            with _named(where / "runs.json", damage):
                run = stored_job(facts["config"], name, where / "runs.json")
                if isinstance(run, Run):
                    attempts, seconds = facts.get("attempts", []), _seconds(facts.get("result"))
                    finished.append(Subject(run, name, where, rows.get(name, []), False, attempts, seconds))
    return finished


@contextlib.contextmanager
def _named(path: Path, damage: list[str]) -> Iterator[None]:
    """Adds to `damage` what the block raises for a file that is damaged or cannot be read."""
    try:
        yield
    except HarnessError as error:
        damage.append(f"{error.what}: {error.details.get('where', path)}")
    except FOREIGN as error:
        damage.append(f"{path} is damaged ({type(error).__name__}: {error})")


def _seconds(result: Mapping[str, Any] | None) -> float:
    seconds = (result or {}).get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def choose(available: Sequence[Subject], targets: Sequence[str], root: Path) -> list[Subject]:
    """The subjects that scales and beginnings of run names or hashes select. Raises HarnessError if one selects nothing."""
    names = sorted({subject.name for subject in available})
    chosen: dict[int, Subject] = {}
    for target in targets:
        if target in SCALE_NAMES:
            matching = [subject for subject in available if subject.run.scale == target]
        else:
            name = match_run(Path(target).name if Path(target).is_dir() else target, names, root)
            matching = [subject for subject in available if subject.name == name]
        if not matching:
            raise HarnessError(
                "no finished runs to verify", where=root, found=target, expected="a scale or a run that is done or published"
            )
        chosen |= {id(subject): subject for subject in matching}
    return list(chosen.values())


def _with_needs(runs: Sequence[Run], available: Sequence[Subject]) -> list[Run]:
    """The runs and those that they need. Raises HarnessError if a needed run is neither finished nor published."""
    by_id = {subject.run.id: subject.run for subject in available} | {subject.name: subject.run for subject in available}
    wanted, todo = {}, list(runs)
    while todo:
        run = todo.pop()
        wanted[run.id] = run
        for need in run.needs:
            if need not in by_id:
                raise HarnessError("a run that is needed is neither finished nor published", where=run.id, found=need)
            if need not in wanted:
                todo.append(by_id[need])
    return list(wanted.values())


def _source(subject: Subject) -> str:
    return "own" if subject.complete else "published"


def _details(comparison: Comparison, subject: Subject, code: Mapping[str, Any]) -> str:
    """How many records were compared, which differ, and what else differs between the two machines."""
    if comparison.equal:
        return f"{comparison.records:,} records"
    if not comparison.different:
        return "there are no records to compare"
    text = f"{len(comparison.different):,} of {comparison.records:,} records differ, first {comparison.different[0]}"
    before = subject.attempts[-1] if subject.attempts else {}
    other = [name for name in _MACHINE if before.get(name) != code.get(name)]
    return f"{text}; made with another {', '.join(other)}, which can change the last digits" if other else text
