"""Everything on disk that a report is made of, as one tidy frame: run folders, published records, baselines. No torch.

What is damaged is named in `Book.damage` and left out; the rest is reported.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.config.baselines import is_baselines
from harness.config.identity import identity_digest
from harness.config.overrides import from_dict
from harness.config.run import SCALE_NAMES, Run
from harness.errors import HarnessError
from harness.store.files import read_json, read_lines
from harness.store.records import FIELDS, NUMBERS, TYPES, valid
from harness.store.runs import RunFolder, State, Store

_MANY = b'"class_share/'


@dataclass(frozen=True)
class Entry:
    """One run at hand. source: "runs" (a run folder) or "published".

    id: what this version of the code calls the run. name: what it was called when it ran; configs have grown fields since, perhaps.
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
    """Sample grids, the youngest step last."""

    @property
    def done(self) -> bool:
        return self.result is not None


@dataclass(frozen=True)
class Baselines:
    """A file of baselines: what real data, a Gaussian fit and pure noise give under one protocol. See harness.metrics.baselines."""

    scale: str
    data: str
    rows: tuple[Mapping[str, Any], ...]
    protocols: Mapping[str, Mapping[str, Any]]
    path: Path
    source: str


@dataclass
class Book:
    """What was found. frame: one row a measurement, columns FIELDS, runs in `entries` only."""

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(FIELDS)))
    baselines: list[Baselines] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """Scales at hand, the smallest first."""
        return sorted({entry.run.scale for entry in self.entries.values()}, key=SCALE_NAMES.index)

    def baselines_of(self, data: str, protocols: Collection[str]) -> Baselines | None:
        """The baselines of a data set that share most of these protocols (hashes); None if none shares one."""
        fitting = [baselines for baselines in self.baselines if baselines.data == data and protocols & baselines.protocols.keys()]
        return max(fitting, key=lambda baselines: len(protocols & baselines.protocols.keys()), default=None)


def read(root: Path) -> Book:
    """All runs below a results folder.

    A run that lies there twice counts once: the run folder when it is done, else the published records.
    """
    root = Path(root)
    book = Book(root)
    columns: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for folder in Store(root).folders():
        _read_folder(book, folder, columns)
    for where in sorted(path for path in (root / "published").glob("*") if path.is_dir()):
        _read_published(book, where, columns)
    frame = pd.DataFrame(columns)
    for name in NUMBERS:
        frame[name] = pd.to_numeric(frame[name])
    for name in ("run", "metric", "protocol"):
        frame[name] = frame[name].astype("category")
    book.frame = frame.astype({"final": bool})
    return book


def _read_folder(book: Book, folder: RunFolder, columns: dict[str, list[Any]]) -> None:
    try:
        config = folder.config()
        if is_baselines(config):
            if folder.state() is State.DONE:
                _read_baselines(book, folder.path / "baselines.json", "runs")
            return
        run = _genuine(config, folder.id, folder.path / "config.json")
        state, result, error, attempts = folder.state(), folder.result(), folder.error(), folder.attempts()
        rows = _rows(folder.path / "records.jsonl", book.damage)
    except HarnessError as problem:
        book.damage.append(f"{problem.what}: {problem.details.get('where', folder.path)}; the run is left out")
        return
    if state is State.DONE and result is None:
        state = State.STOPPED
    samples = tuple(sorted(path for path in (folder.path / "samples").glob("step-*") if path.suffix in (".png", ".npy")))
    book.entries[run.id] = Entry(run, run.id, folder.id, "runs", folder.path, str(state), result, tuple(attempts), error, samples)
    _collect(rows, run.id, folder.path / "records.jsonl", columns, book.damage.append)


def _genuine(config: Mapping[str, Any], name: str, where: object) -> Run:
    """The run of a stored config. Raises HarnessError when it is not the config that the run was named after."""
    run = from_dict(config, where=where)
    if identity_digest(config)[:12] != name.rpartition("-")[2]:
        raise HarnessError("config and name of a run disagree", where=where, found=name, expected=f"...-{identity_digest(config)[:12]}")
    return run


def _rows(path: Path, damage: list[str]) -> list[dict[str, Any]]:
    """The records of a file; parsed in one go, line by line only where something is damaged."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HarnessError(f"cannot read: {error.strerror}", where=path) from error
    if _MANY in text:  # class shares are most of a run, and only the final ones are reported
        text = b"\n".join(line for line in text.split(b"\n") if _MANY not in line or b"true" in line)
    rows = _parse_all(text)
    return read_lines(path, on_damage=damage.append) if rows is None else rows


def _parse_all(text: bytes) -> list[dict[str, Any]] | None:
    try:
        rows = json.loads(b"[" + text.strip().replace(b"\n", b",") + b"]")
    except ValueError:
        return None
    return rows if all(type(row) is dict for row in rows) else None


def _collect(rows: Iterable[Mapping[str, Any]], run: str, where: Path, columns: dict[str, list[Any]], tell: Callable[[str], None]) -> None:
    """Adds the good rows of one run, the later of two for the same step and metric; tells what is wrong with the others."""
    rows = list(rows)
    found = {name: [row.get(name) for row in rows] for name in FIELDS}
    if _all_good(found):
        for name in FIELDS:
            columns[name] += [run] * len(rows) if name == "run" else found[name]
        return
    kept: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    wrong = 0
    for row in rows:
        if valid(row):
            kept[row["step"], row["metric"], row["final"]] = row
        else:
            wrong += 1
    if wrong:
        tell(f"{wrong} record{'s' if wrong > 1 else ''} without a finite value or with missing fields in {where}; left out")
    for name in FIELDS:
        columns[name] += [run] * len(kept) if name == "run" else [row.get(name) for row in kept.values()]


def _all_good(found: Mapping[str, list[Any]]) -> bool:
    """Whether every record is whole, finite and stands once; column by column, for this is most of a large report's time."""
    if any(not set(map(type, found[name])) <= types for name, types in TYPES.items()):
        return False
    keys = set(zip(found["step"], found["metric"], found["final"], strict=True))
    return len(keys) == len(found["value"]) and bool(np.isfinite(np.asarray(found["value"], dtype=float)).all())


def _read_published(book: Book, where: Path, columns: dict[str, list[Any]]) -> None:
    for path in sorted((where / "baselines").glob("*.json")):
        _read_baselines(book, path, "published")
    try:
        runs = read_json(where / "runs.json")["runs"]
        rows = read_compressed(where / "records.jsonl.gz", book.damage.append)
    except (HarnessError, KeyError) as problem:
        told = problem.what if isinstance(problem, HarnessError) else "damaged file, it names no runs"
        book.damage.append(f"{told}: {where}; these published records are left out")
        return
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row.get("run"), []).append(row)
    for name, facts in runs.items():
        try:
            run = _genuine(facts["config"], name, where / "runs.json")
            result, attempts = facts.get("result"), tuple(facts.get("attempts", ()))
        except (HarnessError, KeyError, TypeError, AttributeError) as problem:
            book.damage.append(f"damaged run {name} in {where / 'runs.json'} ({type(problem).__name__}); left out")
            continue
        if run.id in book.entries:
            if book.entries[run.id].done:
                continue
            _drop(columns, run.id)  # an unfinished run folder: the published, finished run counts
        samples = tuple(sorted((where / "samples").glob(f"{name}.*")))
        book.entries[run.id] = Entry(run, run.id, name, "published", where, "done", result, attempts, None, samples)
        _collect(by_run.get(name, []), run.id, where / "records.jsonl.gz", columns, book.damage.append)


def _drop(columns: dict[str, list[Any]], run: str) -> None:
    keep = [i for i, name in enumerate(columns["run"]) if name != run]
    for name in FIELDS:
        columns[name][:] = [columns[name][i] for i in keep]


def read_compressed(path: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines. Raises HarnessError when it cannot be unpacked; tells of damaged lines."""
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise HarnessError("cannot unpack published records", where=path, found=str(error)) from error
    rows = _parse_all(text)
    if rows is not None:
        return rows
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        row = _parse_all(line)
        if row:
            found.append(row[0])
        elif line.strip():
            tell(f"damaged line {path}:{number}; left out")
    return found


def _read_baselines(book: Book, path: Path, source: str) -> None:
    try:
        found = read_json(path)
        rows = tuple(row for row in found["rows"] if math.isfinite(row["value"]) and row["metric"] and row["row"] and row["protocol"])
        baselines = Baselines(found["scale"], found["data"], rows, dict(found["protocols"]), path, source)
    except (HarnessError, KeyError, TypeError, ValueError) as problem:
        book.damage.append(f"damaged file of baselines {path} ({type(problem).__name__}); left out")
        return
    book.baselines.append(baselines)
