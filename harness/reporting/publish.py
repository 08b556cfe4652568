"""Publish finished runs: small committed records with provenance, from which the report is rebuilt on any machine.

results/published/<scale>/
    runs.json           config, result and attempts (commit, versions, device, command) of each run
    records.jsonl.gz    the records; of the class shares only the final ones
    baselines/  measured/  what the tables and figures need besides
    samples/            the last sample grid of the first seed of each cell
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import Parser
from harness.config.run import SCALE_NAMES
from harness.errors import HarnessError
from harness.reporting import load
from harness.reporting.cells import ExperimentCells, experiment_cells
from harness.reporting.load import Book, Entry, read_compressed
from harness.store.files import encode, read_json, read_lines, write_atomic

FORMAT = 1
MOST_BYTES = 4_000_000
"""Of one scale's folder; sample grids are left out before it is passed."""
_PRIVATE = ("user", "host", "pid", "job_id")


def main(argv: Sequence[str] | None = None) -> int:
    """`harness publish ...`; returns an exit code: 2 for bad input."""
    from harness.locations import results_root

    parser = Parser(prog="harness publish", description="Write the small records of finished runs to results/published/, to be committed.")
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a file of experiments/, without .py")
    parser.add_argument("--scale", choices=SCALE_NAMES, default="digits", help="default digits")
    parser.add_argument("--results", type=Path, metavar="DIR", help="the results folder; default $HARNESS_RESULTS or results/")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to publish; default the results folder")
    try:
        chosen = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
        root = chosen.results or results_root()
        for line in publish(chosen.experiment, chosen.scale, root, chosen.to):
            print(line)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def publish(experiment: str, scale: str, root: Path, to: Path | None = None) -> list[str]:
    """Adds the finished runs of an experiment to published/<scale>/ of `to`; those published before stay. Returns what to tell.

    Raises HarnessError when no run is finished, or when the records alone pass MOST_BYTES.
    """
    book = load.read(root)
    found = experiment_cells(experiment, scale, book)
    entries = [book.entries[run] for cell in found.cells for run in cell.runs.values() if run in book.entries]
    done = [entry for entry in entries if entry.done and entry.source == "runs"]
    where = Path(to or root) / "published" / scale
    if not done:
        open_runs = len(entries) - sum(entry.done for entry in entries)
        told = f"{open_runs} unfinished" if open_runs else "none"
        sweep = f"harness sweep {experiment} --scale {scale}"
        raise HarnessError(f"no finished runs of {experiment}", where=root / "runs", found=told, nearest=sweep)
    runs, rows = _before(where)
    for entry in done:
        runs[entry.name] = _facts(entry, root)
        rows[entry.name] = _slim(read_lines(entry.path / "records.jsonl", on_damage=book.damage.append))
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for name in sorted(runs) for row in rows.get(name, ()))
    packed = gzip.compress(text.encode(), 9, mtime=0)
    if len(packed) > MOST_BYTES:
        expected = f"at most {MOST_BYTES / 1e6:g} MB of records"
        raise HarnessError("too much to publish", where=where, found=f"{len(packed) / 1e6:.1f} MB", expected=expected)
    where.mkdir(parents=True, exist_ok=True)
    write_atomic(where / "records.jsonl.gz", packed)
    write_atomic(where / "runs.json", encode({"format": FORMAT, "runs": dict(sorted(runs.items()))}))
    fresh = [baselines for baselines in book.baselines if baselines.scale == scale and baselines.source == "runs"]
    copied = [_copy(baselines.path, where / "baselines", f"{baselines.path.parent.name}.json") for baselines in fresh]
    copied += [_copy(path, where / "measured") for path in sorted((root / "measured" / scale).glob("*.csv"))]
    grids = _samples(found, book, where)
    size = sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    unfinished = [entry.id for entry in entries if not entry.done]
    return [
        f"{len(done)} runs of {experiment} published, {len(copied)} files of baselines and measurements, {grids} sample grids",
        f"{len(runs)} runs now in {where}, {size / 1e6:.2f} MB",
        *([f"not finished, so left out: {', '.join(unfinished)}"] if unfinished else []),
        *(f"warning: {text}" for text in book.damage),
        f"commit it: git add {where}",
    ]


def _before(where: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """What is published already. Raises HarnessError when it is damaged, rather than overwrite it."""
    if not (where / "runs.json").exists():
        return {}, {}
    damage: list[str] = []
    runs = dict(read_json(where / "runs.json")["runs"])
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_compressed(where / "records.jsonl.gz", damage.append):
        rows.setdefault(row["run"], []).append(row)
    if damage:
        raise HarnessError("the published records are damaged", where=where, found=damage[0], nearest=f"git checkout {where}")
    return runs, rows


def _facts(entry: Entry, root: Path) -> dict[str, Any]:
    """Config as it ran, result, and attempts without names of people and machines and without paths of this machine."""
    attempts = [{key: value for key, value in attempt.items() if key not in _PRIVATE} for attempt in entry.attempts]
    for attempt in attempts:
        if isinstance(attempt.get("command"), str):
            attempt["command"] = attempt["command"].replace(str(root.resolve()), "results").replace(str(root), "results")
    return {"config": read_json(entry.path / "config.json"), "result": entry.result, "attempts": attempts}


def _slim(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows if row.get("final") or not str(row.get("metric", "")).startswith("class_share/")]


def _copy(path: Path, folder: Path, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or path.name)
    if path.resolve() != target.resolve():
        shutil.copyfile(path, target)
    return target


def _samples(found: ExperimentCells, book: Book, where: Path) -> int:
    """Copies the last grid of the first finished seed of each cell, as far as MOST_BYTES allows."""
    count = 0
    for cell in found.cells:
        entries = [book.entries[run] for _, run in sorted(cell.runs.items()) if run in book.entries]
        first = next((entry for entry in entries if entry.source == "runs" and entry.done and entry.samples), None)
        if first is None:
            continue
        room = MOST_BYTES - sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
        grid = first.samples[-1]
        if grid.stat().st_size <= room:
            (where / "samples").mkdir(exist_ok=True)
            shutil.copyfile(grid, where / "samples" / f"{first.name}{grid.suffix}")
            count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
