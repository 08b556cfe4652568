"""Reads all that a report uses: run folders, published records, baselines. Records become one tidy frame.

Damaged files and rows are named in `LoadedResults.damage` and left out.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.config.baselines import is_baselines
from harness.config.identity import identity_digest
from harness.config.overrides import from_dict
from harness.config.parts import SCALE_NAMES
from harness.config.run import Run
from harness.errors import DamagedFile, HarnessError
from harness.store.files import disk_errors, parse_lines, read_json
from harness.store.records import FIELDS, NUMBERS, TYPES, valid
from harness.store.runs import RunFolder, State, Store

_CLASS_SHARE = b'"class_share/'

Columns = dict[str, list[Any]]
"""Records by field."""


@dataclass(frozen=True)
class LoadedRun:
    """One run with records. source: "runs" (a run folder) or "published".

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
    """The content of a results folder. frame: one row per record, columns FIELDS, of `runs` only. damage: what was left out."""

    root: Path
    runs: dict[str, LoadedRun] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(FIELDS)))
    baselines: list[Baselines] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """Scales that have runs, the smallest first."""
        return sorted({entry.run.scale for entry in self.runs.values()}, key=SCALE_NAMES.index)

    def baselines_of(self, data: str, protocols: Collection[str]) -> Baselines | None:
        """The baselines of a data set that share most of these protocols (hashes); None if none shares one."""
        fitting = [baselines for baselines in self.baselines if baselines.data == data and protocols & baselines.protocols.keys()]
        return max(fitting, key=lambda baselines: len(protocols & baselines.protocols.keys()), default=None)


def read(root: Path) -> LoadedResults:
    """All runs below a results folder.

    A run that has both a run folder and published records counts once: the run folder if it is done, else the published records.
    """
    root = Path(root)
    loaded = LoadedResults(root)
    records: dict[str, Columns] = {}
    for folder in Store(root).folders():
        _read_folder(loaded, folder, records)
    for path in sorted(path for path in (root / "published").glob("*") if path.is_dir()):
        _read_published(loaded, path, records)
    frame = pd.DataFrame({name: [*chain.from_iterable(columns[name] for columns in records.values())] for name in FIELDS})
    for name in NUMBERS:
        frame[name] = pd.to_numeric(frame[name])
    loaded.frame = frame.astype({"run": "category", "metric": "category", "protocol": "category", "final": bool})
    return loaded


def _read_folder(loaded: LoadedResults, folder: RunFolder, records: dict[str, Columns]) -> None:
    path = folder.path / "records.jsonl"
    try:
        config = folder.config()
        if is_baselines(config):
            if folder.state() is State.DONE:
                _read_baselines(loaded, folder.path / "baselines.json", "runs")
            return
        run = _checked_run(config, folder.id, folder.path / "config.json")
        state, result, error, attempts = folder.state(), folder.result(), folder.error(), folder.attempts()
        with disk_errors(path, "read"):
            rows = _parse(path.read_bytes(), path, loaded.damage.append) if path.exists() else []
    except HarnessError as problem:
        loaded.damage.append(f"{problem.what}: {problem.details.get('where', folder.path)}; the run is left out")
        return
    if state is State.DONE and result is None:
        state = State.STOPPED
    samples = tuple(sorted(path for path in (folder.path / "samples").glob("step-*") if path.suffix in (".png", ".npy")))
    loaded.runs[run.id] = LoadedRun(run, run.id, folder.id, "runs", folder.path, str(state), result, tuple(attempts), error, samples)
    records[run.id] = _columns(rows, run.id, path, loaded.damage.append)


def _checked_run(config: Mapping[str, Any], name: str, where: object) -> Run:
    """The run of a stored config. Raises HarnessError when the config does not match the hash in the run's name."""
    run = from_dict(config, where=where)
    if identity_digest(config)[:12] != name.rpartition("-")[2]:
        raise HarnessError("config and name of a run disagree", where=where, found=name, expected=f"...-{identity_digest(config)[:12]}")
    return run


def _parse(text: bytes, path: Path, on_damage: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of JSON lines, parsed at once, or line by line where one is damaged. Class shares that are not final are left out."""
    kept = text
    if _CLASS_SHARE in text:  # they are most of a run, and only the final ones are reported
        kept = b"\n".join(line for line in text.split(b"\n") if _CLASS_SHARE not in line or b"true" in line)
    try:
        rows = json.loads(b"[" + kept.strip().replace(b"\n", b",") + b"]")
    except ValueError:
        rows = [None]
    return rows if all(type(row) is dict for row in rows) else parse_lines(text, path, on_damage)


def _columns(rows: Sequence[Mapping[str, Any]], run: str, path: Path, on_damage: Callable[[str], None]) -> Columns:
    """The valid records of one run by field, the later of two for the same step and metric; reports how many are invalid."""
    columns = {name: [row.get(name) for row in rows] for name in FIELDS}
    if not _all_valid(columns):
        if invalid := sum(not valid(row) for row in rows):
            on_damage(f"{invalid} record{'s' * (invalid > 1)} without a finite value or with missing fields in {path}; left out")
        kept = {(row["step"], row["metric"], row["final"]): row for row in rows if valid(row)}
        columns = {name: [row.get(name) for row in kept.values()] for name in FIELDS}
    return columns | {"run": [run] * len(columns["run"])}


def _all_valid(columns: Columns) -> bool:
    """Whether every record is valid and occurs once; checked by column, since this takes most of the time of a large report."""
    if any(not set(map(type, columns[name])) <= types for name, types in TYPES.items()):
        return False
    keys = set(zip(columns["step"], columns["metric"], columns["final"], strict=True))
    return len(keys) == len(columns["value"]) and bool(np.isfinite(np.asarray(columns["value"], dtype=float)).all())


def _read_published(loaded: LoadedResults, folder: Path, records: dict[str, Columns]) -> None:
    for path in sorted((folder / "baselines").glob("*.json")):
        _read_baselines(loaded, path, "published")
    path = folder / "records.jsonl.gz"
    try:
        runs = read_json(folder / "runs.json")["runs"]
        rows = read_compressed(path, loaded.damage.append)
    except (HarnessError, KeyError) as problem:
        reason = problem.what if isinstance(problem, HarnessError) else "no runs in runs.json"
        loaded.damage.append(f"{reason}: {folder}; these published records are left out")
        return
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(str(row.get("run")), []).append(row)
    for name, facts in runs.items():
        try:
            run = _checked_run(facts["config"], name, folder / "runs.json")
            result, attempts = facts.get("result"), tuple(facts.get("attempts", ()))
        except (HarnessError, KeyError, TypeError, AttributeError) as problem:
            loaded.damage.append(f"damaged run {name} in {folder / 'runs.json'} ({type(problem).__name__}); left out")
            continue
        if run.id not in loaded.runs or not loaded.runs[run.id].done:
            samples = tuple(sorted((folder / "samples").glob(f"{name}.*")))
            loaded.runs[run.id] = LoadedRun(run, run.id, name, "published", folder, "done", result, attempts, None, samples)
            records[run.id] = _columns(by_run.get(name, []), run.id, path, loaded.damage.append)


def read_compressed(path: Path, on_damage: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines; damaged lines are reported and left out. Raises HarnessError if it cannot be unpacked."""
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile("cannot unpack published records", where=path, found=str(error)) from error
    return _parse(text, path, on_damage)


def _read_baselines(loaded: LoadedResults, path: Path, source: str) -> None:
    try:
        content = read_json(path)
        rows = tuple(row for row in content["rows"] if math.isfinite(row["value"]) and row["metric"] and row["row"] and row["protocol"])
        loaded.baselines.append(Baselines(content["scale"], content["data"], rows, dict(content["protocols"]), path, source))
    except (HarnessError, KeyError, TypeError, ValueError) as problem:
        loaded.damage.append(f"damaged file of baselines {path} ({type(problem).__name__}); left out")
