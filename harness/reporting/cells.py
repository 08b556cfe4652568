"""Groups runs into cells, the rows of a table: runs that differ only in the training seed form one cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.config import presets
from harness.config.experiments import load
from harness.config.identity import NOT_IDENTITY, differences, short_hash
from harness.config.parts import Custom, Independent
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.reporting.load import LoadedResults
from harness.reporting.naming import label, phrases, slug


@dataclass(frozen=True)
class Cell:
    """One row of a table: a configuration and its runs, whether they have records or not.

    key: objective and coupling (ic, ot, gc-0.5, ect-ic), followed by `differs`: the other differences from the first cell of that
    objective and coupling, as "train.lr=0.0001". Where one has EDM2's network and the other has not, so that nearly everything differs, it
    is the network and then the differences from the first cell that has EDM2's as well, or has not.
    """

    scale: str
    data: str
    key: str
    label: str
    run: Run
    """One of the runs; their configs differ in the seed only."""
    runs: Mapping[int, str]
    """Run ids by training seed, in ascending order."""
    wanted: frozenset[int]
    """Seeds that were asked for; others are here because they have records."""
    differs: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Objective and coupling, without differences."""
        return slug(self.run)


def family(run: Run, known: Mapping[str, Run]) -> str:
    """Hash of everything that determines a result, except the seed. The id of a needed run is replaced by its family if it is known."""
    values = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "seed")}
    coupling, init = dict(values["coupling"]), values.get("init")
    if coupling.get("frozen"):
        values["coupling"] = coupling | {"frozen": _need(coupling["frozen"], known)}
    if init and init["kind"] == "run":
        values["init"] = init | {"ref": _need(init["ref"], known)}
    return short_hash(values)


def _need(name: str, known: Mapping[str, Run]) -> str:
    """What identifies a needed run apart from its seed."""
    return family(known[name], known) if name in known else re.sub(r"-s\d+-[0-9a-f]{12}$", "", name)


def group_runs(runs: Sequence[Run], known: Mapping[str, Run], wanted: Collection[str]) -> list[Cell]:
    """The cells of these runs, in their order. known: further runs by id, for needed runs. wanted: ids of the runs asked for."""
    known = {**known, **{run.id: run for run in runs}}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data.name, family(run, known)), []).append(run)
    cells: list[Cell] = []
    first: dict[tuple[str, str], Run] = {}
    first_with: dict[tuple[str, str, bool], Run] = {}
    for (data, _), members in groups.items():
        run = members[0]
        base = first.setdefault((data, slug(run)), run)
        own = first_with.setdefault((data, slug(run), _is_edm2(run)), run)
        if _is_edm2(base) == _is_edm2(run):
            differs = _differences(base, run, known)
        else:
            differs = (f"network.kind={run.network.kind}", f"data.labels={run.data.labels}", *_differences(own, run, known))
        by_seed = {member.seed: member.id for member in sorted(members, key=lambda member: member.seed)}
        seeds = frozenset(seed for seed, run_id in by_seed.items() if run_id in wanted)
        key = f"{slug(run)} {', '.join(differs)}".strip()
        cells.append(Cell(run.scale, data, key, _label(run, differs, known, cells), run, by_seed, seeds, differs))
    return cells


def _is_edm2(run: Run) -> bool:
    return run.network.kind == "edm2"


def _label(run: Run, differs: Sequence[str], known: Mapping[str, Run], others: Sequence[Cell]) -> str:
    """The shortest label that differs from those of the cells before it."""
    distinct, follows = phrases(differs, run)
    name = "; ".join(filter(None, [label(run, known), ", ".join(distinct)]))
    taken = any(other.label == name and other.data == run.data.name for other in others)
    return "; ".join([name, ", ".join(follows)]) if taken and follows else name


def _differences(base: Run, run: Run, known: Mapping[str, Run]) -> tuple[str, ...]:
    """What differs between two configs of one coupling, as "key=value" of the second; without seeds, also those of needed runs."""
    changes = []
    for key, (before, value) in differences(base.to_dict(), run.to_dict()).items():
        if key in (*NOT_IDENTITY, "seed"):
            continue
        if key in ("coupling.frozen", "init.ref"):
            if _need(before, known) == _need(value, known):
                continue
            if need := known.get(value):
                value = f"{slug(need)}, {need.train.steps} steps"
        changes.append(f"{key}={value}")
    return tuple(changes)


@dataclass(frozen=True)
class ExperimentCells:
    """The cells of one experiment at one scale, or of all runs of a scale."""

    name: str
    scale: str
    cells: tuple[Cell, ...]
    title: str = ""
    against: str = "ic"
    """Key of the model that the others are compared with."""
    notes: tuple[str, ...] = ()
    """The experiment's own notes below its table."""
    selection: Selection | None = None
    """The request that these cells answer; None for all runs of a scale."""
    variant: Selection | None = None
    """The request that names the table: without seeds if the default gives the same cells. None for all runs of a scale."""

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(cell.data for cell in self.cells))

    def of(self, data: str) -> list[Cell]:
        """The cells of a data set."""
        return [cell for cell in self.cells if cell.data == data]

    def cell(self, data: str, key: str) -> Cell | None:
        """The cell of that key, None if there is none."""
        return next((cell for cell in self.of(data) if cell.key == key), None)

    def samplers(self) -> ExperimentCells:
        """These cells without denoisers, which draw no samples."""
        return replace(self, cells=tuple(cell for cell in self.cells if cell.run.objective.kind != "denoiser"))


def selected_runs(selection: Selection, loaded: LoadedResults) -> list[Run]:
    """The runs of a selection, declared once for these results, since a report asks for them several times. Raises as `Selection.runs`.

    Users' sets that are not in the data folder are those that the loaded runs describe.
    """
    if selection not in loaded.selected:
        with presets.of_data(known=loaded.custom_sets):
            loaded.selected[selection] = tuple(selection.runs())
    return list(loaded.selected[selection])


def experiment_cells(selection: Selection, loaded: LoadedResults) -> ExperimentCells:
    """The cells of an experiment. A selection without seeds or couplings also includes the others that have records.

    Raises HarnessError for an unknown experiment, scale, key or coupling.
    """
    known = {entry.id: entry.run for entry in loaded.runs.values()}
    runs = selected_runs(selection, loaded)
    wanted = {run.id for run in runs}
    default = load(selection.experiment).default_seeds(selection.scale)
    further = tuple(sorted({entry.run.seed for entry in loaded.of_scale(selection.scale)}.difference(default)))
    variant = selection
    if selection.has_default_seeds():
        available = selected_runs(replace(selection, seeds=further), loaded) if further else []
        others = [run for run in available if run.id in known and run.id not in wanted]
        if selection.seeds is None:
            runs += others
        elif not others:
            variant = replace(selection, seeds=None)
    if not selection.couplings:
        runs += _users_couplings(runs, known)
    experiment = load(selection.experiment)
    report = experiment.report if isinstance(experiment.report, dict) else {}
    return ExperimentCells(
        selection.experiment,
        selection.scale,
        tuple(group_runs(runs, known, wanted)),
        title=report.get("title", experiment.title),
        against=report.get("against", "ic"),
        notes=tuple(report.get("notes", ())),
        selection=selection,
        variant=variant,
    )


def _users_couplings(runs: Sequence[Run], known: Mapping[str, Run]) -> list[Run]:
    """Known runs with a user's coupling that equal one of this experiment's independent runs otherwise."""
    ids = {run.id for run in runs}
    return [
        run
        for run in known.values()
        if isinstance(run.coupling, Custom) and run.model_copy(update={"coupling": Independent()}).id in ids and run.id not in ids
    ]


def all_cells(scale: str, loaded: LoadedResults) -> ExperimentCells:
    """All runs of a scale. The plain cells are those of the presets; the keys of others state what differs, or end in an asterisk.

    Where no run of a data set is a preset's (all were made with other settings, or by an older version), the settings that most of
    its runs share count as plain.
    """
    runs = [entry.run for entry in loaded.of_scale(scale)]
    with presets.of_data(known=loaded.custom_sets):
        plain = {run.id for run in runs if _is_preset(run)}
    for data in {run.data.name for run in runs} - {run.data.name for run in runs if run.id in plain}:
        hashes = {run.id: settings_hash(run) for run in runs if run.data.name == data and run.objective.kind == "ict"}
        usual = Counter(hashes.values()).most_common(1)
        plain |= {run_id for run_id, digest in hashes.items() if digest == usual[0][0]}
    plain |= {run.id for run in runs if run.objective.kind != "ict"}  # no presets: the first cell of a name is the plain one
    runs.sort(key=lambda run: (run.id not in plain, _is_edm2(run), run.data.name, run.seed, run.id))
    marked = [
        cell if cell.differs or cell.run.id in plain else replace(cell, key=f"{cell.key} *")  # must not be mistaken for the plain cell
        for cell in group_runs(runs, {}, loaded.runs)
    ]
    return ExperimentCells("all", scale, tuple(marked))


def _is_preset(run: Run) -> bool:
    """Whether a run is a preset's, but for coupling and seed."""
    try:
        return presets.make(run.scale, run.data.name, run.coupling, run.seed).id == run.id
    except HarnessError:
        return False


def settings_hash(run: Run) -> str:
    """Hash of a config without coupling, seed, initial weights, and the dropout that goes with the coupling."""
    values = {key: value for key, value in run.to_dict().items() if key not in (*NOT_IDENTITY, "seed", "coupling", "init")}
    return short_hash(values | {"network": {**values["network"], "dropout": None}})
