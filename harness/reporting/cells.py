"""From runs to the cells of a table: runs that differ in nothing but the training seed are one cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.config import presets
from harness.config.experiments import expand, load
from harness.config.identity import NOT_IDENTITY, difference, short_hash
from harness.config.run import Custom, Independent, Run
from harness.errors import HarnessError
from harness.reporting.load import Book
from harness.reporting.naming import label, phrases, slug


@dataclass(frozen=True)
class Cell:
    """One row of a table: a configuration and its runs by training seed, at hand or not.

    key: objective and coupling (ic, ot, gc-0.5, ect-ic), with what else differs from the first cell of that name. differs: that
    difference alone, as "train.lr=0.0001".
    """

    scale: str
    data: str
    key: str
    label: str
    run: Run
    """The run of the first seed, for its config."""
    runs: Mapping[int, str]
    wanted: frozenset[int]
    """Seeds that were asked for; of others only what is at hand counts."""
    differs: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Objective and coupling alone."""
        return slug(self.run)


def family(run: Run, known: Mapping[str, Run]) -> str:
    """Hash of everything that decides a result but the seed. A run that this one needs counts by its own family where it is known."""
    values = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "seed")}
    coupling, init = dict(values["coupling"]), values.get("init")
    if coupling.get("frozen"):
        values["coupling"] = coupling | {"frozen": _need(coupling["frozen"], known)}
    if init and init["kind"] == "run":
        values["init"] = init | {"ref": _need(init["ref"], known)}
    return short_hash(values)


def _need(name: str, known: Mapping[str, Run]) -> str:
    return family(known[name], known) if name in known else re.sub(r"-s\d+-[0-9a-f]{12}$", "", name)


def cells(runs: Iterable[Run], known: Mapping[str, Run] | None = None, wanted: Collection[str] | None = None) -> list[Cell]:
    """The cells of these runs, in their order. known: further runs by id, for needs. wanted: ids of those asked for; all by default."""
    runs = list(runs)
    known = {**(known or {}), **{run.id: run for run in runs}}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data.name, family(run, known)), []).append(run)
    found: list[Cell] = []
    first: dict[tuple[str, str], Run] = {}
    for (data, _), members in groups.items():
        run = members[0]
        base = first.setdefault((data, slug(run)), run)
        differs = tuple(_differences(base, run, known)) if base is not run else ()
        by_seed = {member.seed: member.id for member in members}
        seeds = frozenset(seed for seed, run_id in by_seed.items() if wanted is None or run_id in wanted)
        key = f"{slug(run)} {', '.join(differs)}".strip()
        found.append(Cell(run.scale, data, key, _label(run, differs, known, found), run, by_seed, seeds, differs))
    return found


def _label(run: Run, differs: Sequence[str], known: Mapping[str, Run], others: Sequence[Cell]) -> str:
    """In as few words as tell it from the cells before it."""
    tells, follows = phrases(differs, run)
    name = "; ".join(filter(None, [label(run, known), ", ".join(tells)]))
    taken = any(other.label == name and other.data == run.data.name for other in others)
    return "; ".join([name, ", ".join(follows)]) if taken and follows else name


def _differences(base: Run, run: Run, known: Mapping[str, Run]) -> list[str]:
    """What two configurations of one coupling differ in, as "key=value" of the second; seeds and the seeds of needs aside."""
    skipped = (*(f"{name}:" for name in NOT_IDENTITY), "seed:")
    lines = [line for line in difference(base.to_dict(), run.to_dict()) if not line.startswith(skipped)]
    found = []
    for line in lines:
        key, _, change = line.partition(": ")
        if key in ("coupling.frozen", "init.ref"):
            names = change.split(" -> ")
            if _need(names[0], known) == _need(names[1], known):
                continue
            need = known.get(names[1])
            change = f"{names[0]} -> {slug(need)}, {need.train.steps} steps" if need else change
        found.append(f"{key}={change.partition(' -> ')[2]}")
    return found


@dataclass(frozen=True)
class ExperimentCells:
    """The cells of one experiment at one scale, or of all runs of a scale."""

    name: str
    scale: str
    cells: tuple[Cell, ...]
    title: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the experiment's REPORT says: title; baseline, the model that the others are held against; notes for below its table; absent,
    {scale: {data: reason}}."""

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(cell.data for cell in self.cells))

    def of(self, data: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.data == data]

    def cell(self, data: str, key: str) -> Cell | None:
        """The plain cell of that objective and coupling: the first one, which differs in nothing else."""
        return next((cell for cell in self.of(data) if cell.key == key), None)


def experiment_cells(
    name: str,
    scale: str,
    book: Book,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    couplings: Sequence[str] = (),
) -> ExperimentCells:
    """The cells of an experiment. Without seeds: the experiment's own, and of others what is at hand; likewise user couplings at hand.

    Raises HarnessError for an unknown experiment, scale, key or coupling.
    """
    known = {entry.id: entry.run for entry in book.entries.values()}
    runs = expand(name, scale, seeds, settings, couplings)
    wanted = {run.id for run in runs}
    here = sorted({run.seed for run in known.values() if run.scale == scale})
    if seeds is None and here:
        runs += [run for run in expand(name, scale, here, settings, couplings) if run.id in known and run.id not in wanted]
    if not couplings:
        runs += _own_couplings(runs, known)
    report = load(name).report
    return ExperimentCells(name, scale, tuple(cells(runs, known, wanted)), report=report if isinstance(report, dict) else {})


def _own_couplings(runs: Sequence[Run], known: Mapping[str, Run]) -> list[Run]:
    """Runs at hand with a user's coupling that are this experiment's independent runs otherwise."""
    there = {run.id for run in runs}
    return [
        run
        for run in known.values()
        if isinstance(run.coupling, Custom) and run.model_copy(update={"coupling": Independent()}).id in there and run.id not in there
    ]


def all_cells(scale: str, book: Book) -> ExperimentCells:
    """All runs of a scale as one study. The plain cells are those of the presets; others carry what differs, and an asterisk.

    Where no run of a data set is the presets' (all were made with other settings, or by an older version), the settings that most of
    its runs share count as plain.
    """
    runs = [entry.run for entry in book.entries.values() if entry.run.scale == scale]
    known = {run.id: run for run in runs}
    plain = {run.id for run in runs if _is_preset(run)}
    for data in {run.data.name for run in runs} - {known[name].data.name for name in plain}:
        settings = {run.id: _settings(run) for run in runs if run.data.name == data and run.objective.kind == "ict"}
        usual = Counter(settings.values()).most_common(1)
        plain |= {name for name, found in settings.items() if found == usual[0][0]}
    plain |= {run.id for run in runs if run.objective.kind != "ict"}  # no presets: the first cell of a name is the plain one
    runs.sort(key=lambda run: (run.id not in plain, run.data.name, run.seed, run.id))
    marked = [
        cell if cell.differs or cell.run.id in plain else replace(cell, key=f"{cell.key} *")  # must not pass for the plain cell
        for cell in cells(runs, known)
    ]
    return ExperimentCells("everything", scale, tuple(marked))


def _is_preset(run: Run) -> bool:
    """Whether a run is a preset's, but for coupling and seed."""
    try:
        return presets.make(run.scale, run.data.name, run.coupling, run.seed).id == run.id
    except HarnessError:
        return False


def _settings(run: Run) -> str:
    """Hash of a config without what the cells of one table differ in: coupling, seed and the dropout that goes with the coupling."""
    values = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "seed", "coupling")}
    return short_hash(values | {"network": {**values["network"], "dropout": None}})
