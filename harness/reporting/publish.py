"""Publishes finished runs: small records with provenance, to be committed, from which any machine can rebuild the report.

results/published/<scale>/
    runs.json           config, result and attempts (commit, fingerprint of the code, versions, device, command) of each run
    records.jsonl.gz    the records; of the class shares only the final ones
    baselines/          files of baselines
    measured/           measurements that are not training records
    samples/            the last sample grid of the first seed of each cell
    digests.json        checksums of these files and of each run (harness.store.published)
    verified.json       which runs `harness verify` has trained again, with which code (harness.store.verified)
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
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
from harness.store import fingerprint, measurements, record_file, verified
from harness.store import published as digests
from harness.store.files import encode, read_json, write_atomic
from harness.store.git import commit_exists, file_of_commit, unavailable
from harness.store.made_by import parts_of
from harness.store.records import valid
from harness.store.runs import RunFolder

FORMAT = 1
MOST_BYTES = 4_000_000
"""Limit of one scale's folder; sample grids that would exceed it are left out."""
Rows = dict[str, list[dict[str, Any]]]
"""Records by run id."""
_PRIVATE = ("user", "host", "pid", "job_id", "not_compiled")


def publish(selection: Selection, root: Path, to: Path | None = None, replace: bool = False, allow_uncommitted: bool = False) -> list[str]:
    """Adds the finished runs of an experiment to published/<scale>/ of `to`, by default `root`; runs published before stay.

    replace: also publish runs that have fewer records than published before or records that do not fit their checksums, drop published
    records of runs that runs.json does not list, and replace published files that do not fit digests.json. allow_uncommitted: also publish
    runs whose code or experiment is in no commit of this repository; their entry then says so. Returns a summary, line by line. Raises
    HarnessError, before anything is written, if no run is finished, if the code of a run is not committed, if published records would be
    lost without `replace`, or if the records alone exceed MOST_BYTES.
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
    options = ["--to", str(to)] if to else []
    fresh = [baselines for baselines in loaded.baselines if baselines.scale == scale and baselines.source == "own"]
    baselines_by_job = {baselines.path.parent.name: read_json(baselines.path) for baselines in fresh}
    origins = {entry.name: entry.attempts for entry in done}
    origins |= {name: (content["provenance"],) for name, content in baselines_by_job.items() if content.get("provenance")}
    uncommitted = {name: reason for name, attempts in origins.items() if (reason := not_committed(attempts))}
    if not allow_uncommitted:
        _refuse_uncommitted(uncommitted, root, selection.command("harness publish", "--allow-uncommitted", *options))
    runs, published = read_published(where, check=not replace)
    runs = {name: facts if _is_traced(facts) else _with_origin(facts, root) for name, facts in runs.items()}
    rows = dict(published)
    for entry in done:
        path = entry.path / record_file.NAME
        config = read_json(entry.path / "config.json")
        runs[entry.name] = _with_origin({"config": config, "result": entry.result, "attempts": entry.attempts}, root)
        trusted = record_file.trusted(path, entry.name, entry.result, lambda text: None)  # `loaded.damage` names the others
        reported = load.without_curves_of_classes(trusted)
        rows[entry.name] = [{key: value for key, value in row.items() if key != "check"} for row in reported]
    if not replace:
        again = selection.command("harness publish", "--replace", *options)
        _refuse_losses(published, {name: rows.get(name, []) for name in runs}, where, again)
        _refuse_misfits(done, root, again)
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for name in sorted(runs) for row in rows.get(name, ()))
    packed = gzip.compress(text.encode(), 9, mtime=0)
    if len(packed) > MOST_BYTES:
        expected = f"at most {MOST_BYTES / 1e6:g} MB of records"
        raise HarnessError("too much to publish", where=where, found=f"{len(packed) / 1e6:.1f} MB", expected=expected)
    where.mkdir(parents=True, exist_ok=True)
    (where / digests.NAME).unlink(missing_ok=True)  # after a crash in between, the folder is unchecked, not damaged
    write_atomic(where / "records.jsonl.gz", packed)
    write_atomic(where / "runs.json", encode({"format": FORMAT, "runs": dict(sorted(runs.items()))}))
    _write_baselines(baselines_by_job, where / "baselines", root)
    copied = [_copy(path, where / "measured", f"{name}.csv") for name, path in measured_files(selection, root).items()]
    grids, files = _samples(table, loaded, where), len(baselines_by_job) + len(copied)
    for entry in done:
        verified.copy(entry.path, where)
    digests.write_digests(where, runs, {name: rows.get(name, []) for name in runs})
    unfinished = [entry.id for entry in entries if not entry.done]
    untraced = _listed({name: facts["uncommitted"] for name, facts in runs.items() if "uncommitted" in facts})
    return [
        f"{len(done)} runs of {experiment} published, {files} files of baselines and measurements, {grids} sample grids",
        f"{len(runs)} runs now in {where}, {_size(where) / 1e6:.2f} MB",
        *([f"not finished, so left out: {', '.join(unfinished)}"] if unfinished else []),
        *([f"not traced to a commit, as their entries say: {untraced}"] if untraced else []),
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


def _refuse_misfits(entries: Sequence[LoadedRun], root: Path, again: str) -> None:
    """Raises HarnessError if records of a run do not fit its checksums, since these would be left out."""
    faults = {entry.name: fault for entry in entries if (fault := RunFolder(entry.path).records_fault())}
    if faults:
        raise HarnessError(
            "records do not fit their checksums",
            where=root / "runs",
            found=_listed(faults),
            expected="records as they were measured",
            nearest=f"harness run {next(iter(faults))}, which restores them; to publish the others without them: {again}",
        )


def not_committed(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Why the code or the experiment of a run cannot be looked up in this repository; "" if it can, for every start of the run."""
    if not attempts:
        return "no start is recorded"
    return next(filter(None, map(_not_committed, attempts)), "")


def _not_committed(attempt: Mapping[str, Any]) -> str:
    commit = attempt.get("commit")
    if not isinstance(commit, str):
        why = attempt.get("commit_unknown")
        return f"its commit is unknown{f' ({why})' if why else ''}"
    if attempt.get("dirty"):
        return f"its code had uncommitted changes on commit {commit[:7]}"
    if reason := unavailable():
        return f"its commit {commit[:7]} cannot be looked up: {reason}"
    if not commit_exists(commit):
        return f"its commit {commit[:7]} is not in this repository"
    name, digest = _experiment(attempt)
    if name is None:
        return ""
    content = file_of_commit(commit, f"experiments/{name}.py")
    if content is None:
        return f"its experiment {name} is not in its commit {commit[:7]}"
    same = digest is None or hashlib.sha256(content).hexdigest()[: len(digest)] == digest
    return "" if same else f"its experiment {name} is not as in its commit {commit[:7]}"


def _experiment(attempt: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The experiment that asked for a run and the hash of its file. Earlier versions recorded the command only."""
    asked = attempt.get("experiment")
    if isinstance(asked, Mapping):
        return str(asked.get("name")), str(asked.get("sha256"))
    named = re.match(r"(?:harness|__main__\.py) (?:sweep|reproduce) (\w[\w-]*)", str(attempt.get("command", "")))
    name = named[1].replace("-", "_") if named else None
    return (None if name == "all" else name), None


def _refuse_uncommitted(reasons: Mapping[str, str], root: Path, again: str) -> None:
    """Raises HarnessError if there are such runs. again: the command that publishes them nevertheless."""
    if reasons:
        raise HarnessError(
            f"{len(reasons)} run{'s' * (len(reasons) != 1)} cannot be traced to a commit",
            where=root / "runs",
            found=_listed(reasons),
            expected="code and experiment of a commit in this repository, without uncommitted changes",
            nearest=f"commit them and train these runs again; to publish them with a note that they cannot be traced: {again}",
        )


def _listed(reasons: Mapping[str, str]) -> str:
    """Each reason once, with the first run that it applies to and the number of the others."""
    runs: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        runs.setdefault(reason, []).append(name)
    return "; ".join(f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}" for reason, names in runs.items())


def read_published(where: Path, check: bool = True) -> tuple[dict[str, Any], Rows]:
    """Runs by id and all records as published before, also those of runs that runs.json does not list.

    check: also compare the files with digests.json. Raises HarnessError if they are damaged, so that they are not overwritten.
    """
    if not any((where / name).exists() for name in (digests.RUNS, digests.RECORDS)):
        return {}, {}
    damage: list[str] = [f"{path}: {fault}" for path, fault in digests.misfits(where).items()] if check else []
    content = read_json(where / digests.RUNS) if (where / digests.RUNS).exists() else {"runs": {}}
    if not isinstance(content.get("runs"), dict):
        damage.append(f"{where / digests.RUNS}: it lists no runs")
        content = {"runs": {}}
    rows: Rows = {}
    for row in read_records(where / digests.RECORDS, damage.append):
        rows.setdefault(str(row.get("run")), []).append(row)
    if damage:
        restore = f"git checkout {shlex.quote(str(where))}"
        raise HarnessError("the published records are damaged", where=where, found="; ".join(damage[:5]), nearest=restore)
    return dict(content["runs"]), rows


def _is_traced(facts: Mapping[str, Any]) -> bool:
    """Whether an entry of runs.json was published with the fingerprint of its code, or with a note why it has none."""
    attempts = facts.get("attempts") or [{}]
    return "uncommitted" in facts or all("fingerprint" in attempt for attempt in attempts)


def _with_origin(facts: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """An entry of runs.json whose attempts have the fingerprint of their code, and that says why if it is in no commit."""
    attempts = [_public(attempt, root) for attempt in facts.get("attempts", ())]
    for attempt in attempts:
        if "fingerprint" not in attempt and (parts := parts_of(attempt)):
            attempt |= {"fingerprint": fingerprint.combined(parts), "parts": dict(parts)}
    reason = not_committed(attempts)
    return {**facts, "attempts": attempts, **({"uncommitted": reason} if reason else {})}


def _write_baselines(fresh: Mapping[str, Mapping[str, Any]], folder: Path, root: Path) -> None:
    """Writes new baselines by the name of their folder, and those published before again, without names of people and machines."""
    before = {path.stem: read_json(path) for path in folder.glob("*.json")}
    for name, content in {**before, **fresh}.items():
        origin = content.get("provenance") or {}
        reason = not_committed([origin]) if origin and name in fresh else ""
        folder.mkdir(exist_ok=True)
        marks = {"uncommitted": reason} if reason else {}
        write_atomic(folder / f"{name}.json", encode({**content, "provenance": _public(origin, root), **marks}))


def _public(attempt: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """An attempt without names of people and machines and without paths of this machine."""
    public = {key: value for key, value in attempt.items() if key not in _PRIVATE}
    if isinstance(public.get("command"), str):
        public["command"] = public["command"].replace(str(root.resolve()), "results").replace(str(root), "results")
    return public


def measured_files(selection: Selection, root: Path) -> dict[str, Path]:
    """The studies' measurements by name. Those of the selected seeds take the place of those of the default seeds, as asked for.

    Those on the user's own data sets are not among them: published measurements are evidence for the paper's claims.
    """
    paths = {path.stem: path for path in sorted((root / "measured" / selection.scale).glob("*.csv"))}
    chosen = selection.without_default_seeds()
    name = measurements.variant(selection.experiment, chosen.suffix())
    of_seeds = root / "measured" / selection.scale / f"{name}.csv"
    if not (selection.overrides or selection.couplings or selection.data) and of_seeds.is_file():
        paths[selection.experiment] = of_seeds
    return paths


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
