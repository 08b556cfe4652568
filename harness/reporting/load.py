"""Reads the results folder for a report: run folders, published records, baselines. Records become one tidy frame.

Damaged files and rows are left out and named in `LoadedResults.damage`.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config.baselines import BaselineJob, stored_job
from harness.config.parts import SCALE_NAMES
from harness.config.run import Run
from harness.errors import DamagedFile, HarnessError
from harness.store.files import disk_errors, parse_lines, read_json
from harness.store.records import FIELDS, NUMBERS, valid
from harness.store.runs import RunFolder, State, Store

RecordsByRun = dict[str, list[tuple[Any, ...]]]
"""Records of each run id, as tuples of FIELDS."""


@dataclass(frozen=True)
class LoadedRun:
    """One run of the results folder. source: "runs" (a run folder) or "published".

    id: the run id by this version of the code. name: the id when it ran, which differs where configs have gained fields since.
    """

    run: Run
    id: str
    name: str
    source: str
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
        seconds = (self.result or {}).get("seconds")
        return float(seconds) if isinstance(seconds, (int, float)) else None


@dataclass(frozen=True)
class Baselines:
    """A file of baselines: the metrics of samples of known quality (see harness.metrics.baselines), with the meaning of protocol hashes."""

    scale: str
    data: str
    rows: tuple[Mapping[str, Any], ...]
    protocols: Mapping[str, Mapping[str, Any]]
    path: Path
    source: str


@dataclass
class LoadedResults:
    """The content of a results folder. runs: by id. frame: their records, one per row, with columns FIELDS. damage: what was left out."""

    root: Path
    runs: dict[str, LoadedRun] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    baselines: list[Baselines] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """Scales that have runs, the smallest first."""
        return sorted({entry.run.scale for entry in self.runs.values()}, key=SCALE_NAMES.index)

    def of_scale(self, scale: str) -> list[LoadedRun]:
        """The runs of a scale."""
        return [entry for entry in self.runs.values() if entry.run.scale == scale]

    def find(self, run_ids: Iterable[str]) -> list[LoadedRun]:
        """Those of these runs that were loaded."""
        return [self.runs[run_id] for run_id in run_ids if run_id in self.runs]

    def state(self, run_id: str) -> str:
        """The state of a run, "not run" if nothing of it was loaded."""
        return self.runs[run_id].state if run_id in self.runs else "not run"

    def baselines_of(self, data: str, protocols: Collection[str]) -> Baselines | None:
        """The baselines of a data set that share most of these protocols (hashes); None if none shares one."""
        fitting = [baselines for baselines in self.baselines if baselines.data == data and protocols & baselines.protocols.keys()]
        return max(fitting, key=lambda baselines: len(protocols & baselines.protocols.keys()), default=None)


def read(root: Path) -> LoadedResults:
    """Everything below a results folder.

    A run that has both a run folder and published records counts once: the run folder if it is done, else the published records.
    """
    loaded = LoadedResults(root)
    records: RecordsByRun = {}
    for folder in Store(root).folders():
        _read_folder(loaded, folder, records)
    for path in sorted((root / "published").glob("*/")):
        _read_published(loaded, path, records)
    frame = pd.DataFrame.from_records([*chain.from_iterable(records.values())], columns=list(FIELDS))
    frame[list(NUMBERS)] = frame[list(NUMBERS)].apply(pd.to_numeric)
    loaded.frame = frame.astype({"run": "category", "metric": "category", "protocol": "category", "final": bool})
    return loaded


def _read_folder(loaded: LoadedResults, folder: RunFolder, records: RecordsByRun) -> None:
    path = folder.path / "records.jsonl"
    try:
        run = stored_job(folder.config(), folder.id, folder.path / "config.json")
        if isinstance(run, BaselineJob):
            if folder.state() is State.DONE:
                _read_baselines(loaded, folder.path / "baselines.json", "runs")
            return
        state, result, error, attempts = folder.state(), folder.result(), folder.error(), folder.attempts()
        rows = read_records(path, loaded.damage.append) if path.exists() else []
    except HarnessError as problem:
        loaded.damage.append(f"{problem.what}: {problem.details.get('where', folder.path)}; the run is left out")
        return
    if state is State.DONE and result is None:
        state = State.STOPPED
    samples = tuple(sorted(path for path in (folder.path / "samples").glob("step-*") if path.suffix in (".png", ".npy")))
    entry = LoadedRun(run, run.id, folder.id, "runs", folder.path, str(state), result, tuple(attempts), error, samples)
    _add(loaded, records, entry, rows, path)


def _add(loaded: LoadedResults, records: RecordsByRun, entry: LoadedRun, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Adds a run and its valid records, the later of two for the same step and metric; reports how many are invalid."""
    valid_rows = [row for row in rows if valid(row)]
    if invalid := len(rows) - len(valid_rows):
        loaded.damage.append(f"{invalid} record{'s' * (invalid > 1)} without a finite value or with missing fields in {path}; left out")
    by_key = {(row["step"], row["metric"], row["final"]): (entry.id, *map(row.get, FIELDS[1:])) for row in valid_rows}
    loaded.runs[entry.id] = entry
    records[entry.id] = list(by_key.values())


def _read_published(loaded: LoadedResults, folder: Path, records: RecordsByRun) -> None:
    for path in sorted((folder / "baselines").glob("*.json")):
        _read_baselines(loaded, path, "published")
    path = folder / "records.jsonl.gz"
    try:
        runs = read_json(folder / "runs.json")["runs"]
        rows = read_records(path, loaded.damage.append)
    except (HarnessError, KeyError) as problem:
        reason = problem.what if isinstance(problem, HarnessError) else "no runs in runs.json"
        loaded.damage.append(f"{reason}: {folder}; these published records are left out")
        return
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(str(row.get("run")), []).append(row)
    for name, facts in runs.items():
        try:
            run = stored_job(facts["config"], name, folder / "runs.json")
            if isinstance(run, BaselineJob):
                raise TypeError("baselines among the runs")
            result, attempts = facts.get("result"), tuple(facts.get("attempts", ()))
        except (HarnessError, KeyError, TypeError, AttributeError) as problem:
            loaded.damage.append(f"damaged run {name} in {folder / 'runs.json'} ({type(problem).__name__}); left out")
            continue
        if run.id not in loaded.runs or not loaded.runs[run.id].done:
            samples = tuple(sorted((folder / "samples").glob(f"{name}.*")))
            entry = LoadedRun(run, run.id, name, "published", folder, "done", result, attempts, samples=samples)
            _add(loaded, records, entry, by_run.get(name, []), path)


def read_records(path: Path, on_damage: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, which may be gzipped, without the class shares that are not final.

    Those are most of a run's records, and only the final ones are reported. Damaged lines are reported and left out. Raises HarnessError
    if the file cannot be read.
    """
    with disk_errors(path, "read"):
        text = path.read_bytes()
    try:
        text = gzip.decompress(text) if path.suffix == ".gz" else text
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile("cannot unpack published records", where=path, found=str(error)) from error
    lines = (b"" if b'"class_share/' in line and b"true" not in line else line for line in text.split(b"\n"))
    return parse_lines(b"\n".join(lines), path, on_damage)


def _read_baselines(loaded: LoadedResults, path: Path, source: str) -> None:
    try:
        content = read_json(path)
        rows = tuple(row for row in content["rows"] if math.isfinite(row["value"]) and row["metric"] and row["row"] and row["protocol"])
        loaded.baselines.append(Baselines(content["scale"], content["data"], rows, dict(content["protocols"]), path, source))
    except (HarnessError, KeyError, TypeError, ValueError) as problem:
        loaded.damage.append(f"damaged file of baselines {path} ({type(problem).__name__}); left out")
