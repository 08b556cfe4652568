"""Publishes finished runs: small records with provenance, to be committed, from which any machine can rebuild the report.

results/published/<scale>/
    runs.json           config, result and attempts (commit, versions, device, command) of each run
    records.jsonl.gz    the records; of the class shares only the final ones
    baselines/          files of baselines
    measured/           measurements that are not training records
    samples/            the last sample grid of the first seed of each cell
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.reporting import load
from harness.reporting.cells import ExperimentCells, experiment_cells
from harness.reporting.load import LoadedResults, LoadedRun, read_records
from harness.store.files import encode, read_json, write_atomic
from harness.store.records import valid

FORMAT = 1
MOST_BYTES = 4_000_000
"""Limit of one scale's folder; sample grids that would exceed it are left out."""
Rows = dict[str, list[dict[str, Any]]]
"""Records by run id."""
_PRIVATE = ("user", "host", "pid", "job_id")


def publish(selection: Selection, root: Path, to: Path | None = None, replace: bool = False) -> list[str]:
    """Adds the finished runs of an experiment to published/<scale>/ of `to`, by default `root`; runs published before stay.

    replace: also publish runs that have fewer records than published before, and drop published records of runs that runs.json does not
    list. Returns a summary, line by line. Raises HarnessError, before anything is written, if no run is finished, if published records
    would be lost without `replace`, or if the records alone exceed MOST_BYTES.
    """
    experiment, scale, loaded = selection.experiment, selection.scale, load.read(root, "both")
    table = experiment_cells(selection, loaded)
    entries = [entry for cell in table.cells for entry in loaded.find(cell.runs.values())]
    done = [entry for entry in entries if entry.done and entry.source == "own"]
    where = Path(to or root) / "published" / scale
    if not done:
        open_runs = len(entries) - sum(entry.done for entry in entries)
        what, count = f"no finished runs of {experiment}", f"{open_runs} unfinished" if open_runs else "none"
        raise HarnessError(what, where=root / "runs", found=count, nearest=selection.command("harness sweep"))
    runs, published = _before(where)
    rows = dict(published)
    for entry in done:
        path = entry.path / "records.jsonl"
        runs[entry.name] = _facts(entry, root)
        rows[entry.name] = read_records(path, loaded.damage.append) if path.exists() or entry.name not in published else []
    if not replace:
        again = selection.command("harness publish", "--replace", *(["--to", str(to)] if to else []))
        _refuse_losses(published, {name: rows.get(name, []) for name in runs}, where, again)
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for name in sorted(runs) for row in rows.get(name, ()))
    packed = gzip.compress(text.encode(), 9, mtime=0)
    if len(packed) > MOST_BYTES:
        expected = f"at most {MOST_BYTES / 1e6:g} MB of records"
        raise HarnessError("too much to publish", where=where, found=f"{len(packed) / 1e6:.1f} MB", expected=expected)
    where.mkdir(parents=True, exist_ok=True)
    write_atomic(where / "records.jsonl.gz", packed)
    write_atomic(where / "runs.json", encode({"format": FORMAT, "runs": dict(sorted(runs.items()))}))
    fresh = [baselines for baselines in loaded.baselines if baselines.scale == scale and baselines.source == "own"]
    copied = [_copy(baselines.path, where / "baselines", f"{baselines.path.parent.name}.json") for baselines in fresh]
    copied += [_copy(path, where / "measured") for path in sorted((root / "measured" / scale).glob("*.csv"))]
    grids = _samples(table, loaded, where)
    unfinished = [entry.id for entry in entries if not entry.done]
    return [
        f"{len(done)} runs of {experiment} published, {len(copied)} files of baselines and measurements, {grids} sample grids",
        f"{len(runs)} runs now in {where}, {_size(where) / 1e6:.2f} MB",
        *([f"not finished, so left out: {', '.join(unfinished)}"] if unfinished else []),
        *(f"warning: {text}" for text in loaded.damage),
        f"to commit them: git add {shlex.quote(str(where))}",
    ]


def _refuse_losses(published: Rows, rows: Rows, where: Path, again: str) -> None:
    """Raises HarnessError if a run has fewer of its published records in `rows`. again: the command that publishes nevertheless."""
    counts = {name: (_count(rows.get(name, [])), _count(before)) for name, before in sorted(published.items())}
    losses = [f"{name}: {left} records, published {before}" for name, (left, before) in counts.items() if left < before]
    if losses:
        expected = "at least as many records of each run as are published"
        nearest = f"restore the records; to publish without those that are lost: {again}"
        raise HarnessError("published records would be lost", where=where, found="; ".join(losses), expected=expected, nearest=nearest)


def _count(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many records a report would read: valid ones, and one per step, metric and final."""
    return len({(row["step"], row["metric"], row["final"]) for row in rows if valid(row)})


def _before(where: Path) -> tuple[dict[str, Any], Rows]:
    """Runs by id and all records as published before, also those of runs that runs.json does not list.

    Raises HarnessError if they are damaged, so that they are not overwritten.
    """
    if not any((where / name).exists() for name in ("runs.json", "records.jsonl.gz")):
        return {}, {}
    damage: list[str] = []
    runs = dict(read_json(where / "runs.json")["runs"]) if (where / "runs.json").exists() else {}
    rows: Rows = {}
    for row in read_records(where / "records.jsonl.gz", damage.append):
        rows.setdefault(str(row.get("run")), []).append(row)
    if damage:
        restore = f"git checkout {shlex.quote(str(where))}"
        raise HarnessError("the published records are damaged", where=where, found=damage[0], nearest=restore)
    return runs, rows


def _facts(entry: LoadedRun, root: Path) -> dict[str, Any]:
    """Config, result, and attempts, without names of people and machines and without paths of this machine."""
    attempts = [{key: value for key, value in attempt.items() if key not in _PRIVATE} for attempt in entry.attempts]
    for attempt in attempts:
        if isinstance(attempt.get("command"), str):
            attempt["command"] = attempt["command"].replace(str(root.resolve()), "results").replace(str(root), "results")
    return {"config": read_json(entry.path / "config.json"), "result": entry.result, "attempts": attempts}


def _copy(path: Path, folder: Path, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or path.name)
    if path.resolve() != target.resolve():
        shutil.copyfile(path, target)
    return target


def _samples(table: ExperimentCells, loaded: LoadedResults, where: Path) -> int:
    """Copies the last sample grid of the first finished seed of each cell while the folder stays below MOST_BYTES; returns how many."""
    count = 0
    for cell in table.cells:
        done = [entry for entry in loaded.find(cell.runs.values()) if entry.source == "own" and entry.done and entry.samples]
        for entry in done[:1]:
            grid = entry.samples[-1]
            if _size(where) + grid.stat().st_size <= MOST_BYTES:
                _copy(grid, where / "samples", f"{entry.name}{grid.suffix}")
                count += 1
    return count


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
