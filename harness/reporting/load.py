"""Reads the results folder for a report: the user's own runs, published records, or both. Records become one tidy frame.

Damaged files and rows are left out and named in `LoadedResults.damage`.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain as joined
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from harness.config.baselines import BaselineJob, stored_job
from harness.config.parts import SCALE_NAMES, CustomData
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import FOREIGN, DamagedFile, HarnessError
from harness.locations import read_regular, results_root
from harness.reporting import rehearsed
from harness.store import chain, fingerprint, record_file, verified
from harness.store import published as digests
from harness.store.fields import ATTEMPT, PROGRESS, well_formed
from harness.store.files import disk_errors, parse_lines, parse_written_lines, read_json
from harness.store.made_by import MadeBy, made_by, summarised
from harness.store.records import FIELDS, NUMBERS, RecordSet, valid, valid_columns
from harness.store.runs import RunFolder, State, Store

Source = Literal["own", "published"]
"""Where a run comes from: a folder of results/runs, or results/published."""
RecordsByRun = dict[str, list[tuple[Any, ...]]]
"""Records of each run id, as tuples of FIELDS."""


@dataclass(frozen=True)
class LoadedRun:
    """One run of the results folder.

    id: the run id by this version of the code. name: the id when it ran, which differs where configs have gained fields since.
    """

    run: Run
    id: str
    name: str
    source: Source
    path: Path
    state: str
    result: Mapping[str, Any] | None = None
    attempts: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None
    samples: tuple[Path, ...] = ()
    """Sample grids, in the order of their steps."""

    @property
    def done(self) -> bool:
        return self.result is not None

    @property
    def training_seconds(self) -> float | None:
        """Seconds of training without evaluations, once it is done."""
        return float(seconds) if isinstance(seconds := (self.result or {}).get("seconds"), (int, float)) else None

    @property
    def commit(self) -> str:
        """The commit of the last start, "" if it is unknown."""
        return str((self.attempts[-1] if self.attempts else {}).get("commit") or "")

    @cached_property
    def made_by(self) -> MadeBy:
        """By which code it was made, compared with today's."""
        code = made_by(self.attempts)
        return replace(code, equal=verified.read(self.path, fingerprint.current()).get(self.name)) if code.note else code

    @property
    def devices(self) -> frozenset[str]:
        """The processors or GPUs that the run was trained on."""
        return frozenset(str(attempt["device"]) for attempt in self.attempts if attempt.get("device"))


@dataclass(frozen=True)
class Baselines:
    """A file of baselines: the metrics of samples of known quality (see harness.metrics.baselines), with the meaning of protocol hashes.

    absent: why a baseline has no row, by its name.
    """

    scale: str
    data: str
    rows: tuple[Mapping[str, Any], ...]
    protocols: Mapping[str, Mapping[str, Any]]
    path: Path
    source: Source
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass
class LoadedResults:
    """The content of a results folder. runs: by id. frame: their records, one per row, with columns FIELDS. damage: what was left out."""

    root: Path
    runs: dict[str, LoadedRun] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    baselines: list[Baselines] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    records: RecordSet = "own"
    """Which set of records this is."""
    usual: RecordSet = "own"
    """The set that is read where none is asked for."""
    rehearsal: bool = False
    """Whether these are the runs of a rehearsal (harness rehearse), of which nothing is a result; they are never mixed with others."""
    counts: Mapping[Source, Counter[str]] = field(default_factory=dict)
    """How many runs with records each source has, by scale, whether they were loaded or not."""
    selected: dict[Selection, tuple[Run, ...]] = field(default_factory=dict, repr=False, compare=False)  # see `cells.selected_runs`

    @property
    def scales(self) -> list[str]:
        """Scales that have runs, the smallest first."""
        return sorted({entry.run.scale for entry in self.runs.values()}, key=SCALE_NAMES.index)

    @property
    def label(self) -> str:
        """The set of records in words, for captions."""
        return self.label_of(self.runs.values())

    @property
    def set_name(self) -> str:
        """The set of records in one word, for CSV files."""
        return rehearsed.set_name(self.runs.values()) if self.rehearsal else self.records

    @property
    def part(self) -> str:
        """Folder for tables and figures, below that of the usual set, which it never replaces: "" for the usual set."""
        return "" if self.records == self.usual else self.records

    def label_of(self, entries: Iterable[LoadedRun]) -> str:
        """The set of records in words, for the caption of what was made from these runs: with commits, and with machines if they differ."""
        entries = list(entries)
        if self.rehearsal:
            return rehearsed.label(self.runs.values())
        published = [entry for entry in entries if entry.source == "published"]
        if self.records == "own":
            text = "own runs"
        elif self.records == "both":
            text = f"own and published pooled ({len(entries) - len(published)} own, {len(published)} published runs)"
        else:
            commits = sorted({entry.commit[:7] for entry in published if entry.commit})
            named = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}" if len(commits) < 4 else f"{len(commits)} commits"
            text = f"published records of {named}" if commits else "published records"
        devices = sorted(frozenset().union(*(entry.devices for entry in entries)))
        return f"{text}; pooled across machines: {', '.join(devices)}" if len(devices) > 1 else text

    @property
    def custom_sets(self) -> dict[str, CustomData]:
        """The users' sets that runs were trained on, by name."""
        return {entry.run.data.name: entry.run.data.custom for entry in self.runs.values() if entry.run.data.custom}

    def of_scale(self, scale: str) -> list[LoadedRun]:
        """The runs of a scale."""
        return [entry for entry in self.runs.values() if entry.run.scale == scale]

    def find(self, run_ids: Iterable[str]) -> list[LoadedRun]:
        """Those of these runs that were loaded."""
        return [self.runs[run_id] for run_id in run_ids if run_id in self.runs]

    @property
    def code(self) -> str:
        """The finished runs that today's code did not make, in one line; "" if there are none."""
        return summarised(entry.made_by for entry in self.runs.values() if entry.done)

    def state(self, run_id: str) -> str:
        """The state of a run, "not run" if nothing of it was loaded."""
        return self.runs[run_id].state if run_id in self.runs else "not run"

    def baselines_of(self, data: str, protocols: Collection[str]) -> Baselines | None:
        """The baselines of a data set that share most of these protocols (hashes); None if none shares one."""
        fitting = [baselines for baselines in self.baselines if baselines.data == data and protocols & baselines.protocols.keys()]
        return max(fitting, key=lambda baselines: len(protocols & baselines.protocols.keys()), default=None)


@dataclass
class _Part:
    """What one source contributes. root: the results folder. records: by run id. rehearsal: take only the runs of a rehearsal."""

    root: Path
    rehearsal: bool = False
    runs: dict[str, LoadedRun] = field(default_factory=dict)
    records: RecordsByRun = field(default_factory=dict)
    baselines: list[Baselines] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    def add(self, entry: LoadedRun, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        """Adds a run and its valid records; reports how many are invalid."""
        self.runs[entry.id] = entry
        if columns := valid_columns(rows):
            self.records[entry.id] = list(zip(repeat(entry.id), *columns, strict=False))
            return
        valid_rows = [row for row in rows if valid(row)]
        if invalid := len(rows) - len(valid_rows):
            self.damage.append(f"{invalid} record{'s' * (invalid > 1)} without a finite value or with missing fields in {path}; left out")
        self.records[entry.id] = [(entry.id, *map(row.get, FIELDS[1:])) for row in valid_rows]

    def refuses(self, rehearsal: object, name: str, path: Path) -> bool:
        """Whether a run or baselines job, by the `rehearsal` of its config, is left out and reported as one of a rehearsal among others."""
        if bool(rehearsal) == self.rehearsal:
            return False
        self.damage.append(f"{name} ({path}) is {'not ' * self.rehearsal}of a rehearsal; left out")
        return True

    def count(self) -> Counter[str]:
        """Runs that have records or are done, by scale."""
        return Counter(entry.run.scale for name, entry in self.runs.items() if entry.done or self.records[name])


def read(root: Path, records: RecordSet | None = None, scale: str | None = None, rehearsal: bool = False) -> LoadedResults:
    """One set of records of a results folder, at one scale or at all.

    records: None for the user's own runs if there are any with records, or own measurements, at the scale, else the published records.
    "both" pools run by run: a run that has both a run folder and published records counts once, as the user's own if it is done, else as
    published. rehearsal: only the runs of a rehearsal, for the report about it; otherwise these are left out, and named as damage.
    """
    own, published = _own(root, rehearsal), _published(root, rehearsal)
    counts: dict[Source, Counter[str]] = {"own": own.count(), "published": published.count()}
    asked = SCALE_NAMES if scale is None else (scale,)
    measured = any(any((root / "measured" / name).glob("*.csv")) for name in asked)
    has_own = bool(measured or (counts["own"][scale] if scale else counts["own"]))
    usual: RecordSet = "published" if not has_own and any(os.access(root / "published" / name, os.F_OK) for name in asked) else "own"
    chosen = records or usual
    loaded = LoadedResults(root, records=chosen, usual=usual, rehearsal=rehearsal, counts=counts)
    by_run: RecordsByRun = {}
    for part in [part for source, part in (("published", published), ("own", own)) if chosen in (source, "both")]:
        for name, entry in part.runs.items():
            if scale in (None, entry.run.scale) and (name not in loaded.runs or entry.done):
                loaded.runs[name], by_run[name] = entry, part.records[name]
        loaded.baselines = [baselines for baselines in part.baselines if scale in (None, baselines.scale)] + loaded.baselines
        loaded.damage = part.damage + loaded.damage
    frame = pd.DataFrame.from_records([*joined.from_iterable(by_run.values())], columns=list(FIELDS))
    frame[list(NUMBERS)] = frame[list(NUMBERS)].apply(pd.to_numeric)
    loaded.frame = frame.astype({"run": "category", "metric": "category", "protocol": "category", "final": bool})
    return loaded


def _own(root: Path, rehearsal: bool) -> _Part:
    part = _Part(root, rehearsal)
    for folder in Store(root).folders():
        _read_folder(part, folder)
    return part


def _published(root: Path, rehearsal: bool) -> _Part:
    part, place = _Part(root, rehearsal), root / "published"
    if (place.is_symlink() or place.exists()) and not (place.is_dir() and os.access(place, os.R_OK | os.X_OK)):
        part.damage.append(f"{place} is no folder that can be read; left out")
    for path in sorted(place.glob("*/")):
        if path.name not in SCALE_NAMES:
            part.damage.append(f"{path} is not the name of a scale; left out")
            continue
        try:
            _read_published(part, path)
        except FOREIGN as problem:
            part.damage.append(f"damaged published records in {path} ({type(problem).__name__}: {problem}); left out")
    return part


def _read_folder(part: _Part, folder: RunFolder) -> None:
    try:
        _add_folder(part, folder)
    except HarnessError as problem:
        part.damage.append(f"{problem.what}: {problem.details.get('where', folder.path)}; the run is left out")
    except FOREIGN as problem:
        part.damage.append(f"damaged run {folder.path} ({type(problem).__name__}: {problem}); left out")


def _add_folder(part: _Part, folder: RunFolder) -> None:
    """Adds the run or the baselines of a folder. Raises one of FOREIGN for what cannot be read."""
    path = folder.path / record_file.NAME
    run = stored_job(folder.config(), folder.id, folder.path / "config.json")
    if part.refuses(run.rehearsal, folder.id, folder.path):
        return
    if isinstance(run, BaselineJob):
        if folder.state() is State.DONE:
            _read_baselines(part, folder.path / "baselines.json", "own")
        return
    stored, error, attempts = folder.stored_result(), folder.error(), folder.attempts()
    content = record_file.read(path)
    is_sealed = stored is not None and "records" in stored and chain.is_sealed(content, stored)
    # what `state` and `result` would say of such a run, without reading its records again for each
    state, result = (State.DONE, stored) if is_sealed else (folder.state(), folder.result())
    if result is None and stored:
        command = f"harness run {folder.id}" + (f" --results {part.root}" if part.root != results_root() else "")
        restore = f"to restore them from its last checkpoint: {command}"
        part.damage.append(f"{folder.id} is finished, but {folder.records_fault()}; {restore}")
    if is_sealed:
        rows = parse_written_lines(without_curves(content), path, part.damage.append)
    else:
        is_named = result is None and stored is not None
        on_damage = (lambda text: None) if is_named else part.damage.append
        rows = without_curves_of_classes(record_file.trusted(path, folder.id, stored, on_damage))
        if result is None and stored and rows and not record_file.lost(path, stored):
            state, result = State.DONE, stored  # the records that fit are used
    if state is State.DONE and result is None:
        state = State.STOPPED
    samples = tuple(sorted(path for path in (folder.path / "samples").glob("step-*") if re.fullmatch(r"step-\d+\.(png|npy)", path.name)))
    entry = LoadedRun(run, run.id, folder.id, "own", folder.path, str(state), result, tuple(attempts), error, samples)
    part.add(entry, rows, path)


def _read_published(part: _Part, folder: Path) -> None:
    misfits = digests.misfits(folder)
    part.damage += [
        f"{path}: {fault}; left out"
        for path, fault in misfits.items()
        if path.parent.name != "measured" and path.name not in (digests.RUNS, digests.RECORDS)
    ]
    for path in sorted((folder / "baselines").glob("*.json")):
        if path not in misfits:
            _read_baselines(part, path, "published")
    path = folder / digests.RECORDS
    try:
        runs = read_json(folder / digests.RUNS)["runs"]
        rows = read_records(path, part.damage.append)
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(str(row.get("run")), []).append(row)
        left_out = digests.misfit_runs(folder, runs, by_run) if misfits else {}
        if not isinstance(runs, dict):
            raise TypeError
    except FOREIGN as problem:
        reason = problem.what if isinstance(problem, HarnessError) else "no runs in runs.json"
        part.damage.append(f"{reason}: {folder}; these published records are left out")
        return
    part.damage += [f"published run {name} in {folder}: {fault}; left out" for name, fault in left_out.items()]
    for name, facts in runs.items():
        if name in left_out:
            continue
        try:
            run = stored_job(facts["config"], name, folder / digests.RUNS)
            if isinstance(run, BaselineJob):
                raise TypeError("baselines among the runs")
            if part.refuses(run.rehearsal, name, folder / digests.RUNS):
                continue
            result = None if facts.get("result") is None else well_formed(facts["result"], PROGRESS)
            attempts = tuple(well_formed(attempt, ATTEMPT) for attempt in facts.get("attempts", ()))
        except FOREIGN as problem:
            part.damage.append(f"damaged run {name} in {folder / digests.RUNS} ({type(problem).__name__}); left out")
            continue
        samples = tuple(path for path in sorted((folder / "samples").glob(f"{name}.*")) if path not in misfits)
        entry = LoadedRun(run, run.id, name, "published", folder, "done", result, attempts, samples=samples)
        # Published records have no checksums of their own and are not all, so that only the last step is compared with the result.
        good, faults = chain.check(by_run.get(name, []), name, {"step": (result or {}).get("step")})
        part.damage += [f"{path}, run {name}: {fault}" for fault in faults]
        part.add(entry, good, path)


def without_curves_of_classes(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without the class shares that are not final, which no report shows."""
    return [row for row in rows if row.get("final") is True or not str(row.get("metric")).startswith("class_share/")]


def read_records(path: Path, on_damage: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, which may be gzipped, without the class shares that are not final.

    Those are most of a run's records, and only the final ones are reported. Damaged lines are reported and left out. Raises HarnessError
    if the file cannot be read.
    """
    with disk_errors(path, "read"):
        text = read_regular(path)
    try:
        text = gzip.decompress(text) if path.suffix == ".gz" else text
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile("cannot unpack published records", where=path, found=str(error)) from error
    return parse_lines(without_curves(text), path, on_damage)


def without_curves(text: bytes) -> bytes:
    """JSON lines with empty ones instead of the class shares that are not final."""
    if b'"class_share/' not in text:
        return text
    return b"\n".join(b"" if b'"class_share/' in line and b"true" not in line else line for line in text.split(b"\n"))


def _read_baselines(part: _Part, path: Path, source: Source) -> None:
    try:
        content = read_json(path)
        if part.refuses(content.get("rehearsal"), content["data"], path):
            return
        rows = tuple(row for row in content["rows"] if math.isfinite(row["value"]) and row["metric"] and row["row"] and row["protocol"])
        absent = dict(content.get("absent", {}))  # files of earlier versions have none
        part.baselines.append(Baselines(content["scale"], content["data"], rows, dict(content["protocols"]), path, source, absent))
    except FOREIGN as problem:
        part.damage.append(f"damaged file of baselines {path} ({type(problem).__name__}); left out")
