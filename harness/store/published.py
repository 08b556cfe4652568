"""The checksums of a folder of published records, published/<scale>/digests.json, by which changed and missing files are noticed.

    files   SHA-256 of each published file, by its path below the folder
    runs    of each run, SHA-256 of its entry in runs.json and of its records, so that a change leaves out only the runs that it touches

Folders that were published before there were checksums have no digests.json and are read unchecked. Files of other names, as
verified.json, are not covered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.identity import canonical_json
from harness.errors import HarnessError, MissingFile
from harness.locations import read_regular
from harness.store.files import encode_lines, read_json, write_json

NAME = "digests.json"
RUNS, RECORDS = "runs.json", "records.jsonl.gz"
_FOLDERS = ("baselines", "measured", "samples")
FORMAT = 1
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Records by run id."""


def write_digests(folder: Path, runs: Mapping[str, Any], rows: Rows) -> None:
    """Writes digests.json for the files as they are now. runs: the entries of runs.json. rows: the records of each run."""
    files = {path.relative_to(folder).as_posix(): _sha(read_regular(path)) for path in _files(folder)}
    of_runs = {name: _of_run(facts, rows.get(name, ())) for name, facts in sorted(runs.items())}
    write_json(folder / NAME, {"format": FORMAT, "files": files, "runs": of_runs})


def misfits(folder: Path) -> dict[Path, str]:
    """The published files that do not fit digests.json, each with the reason: changed, missing, or not listed. {} without digests.json.

    A damaged digests.json is itself the misfit.
    """
    try:
        listed = _digests(folder, "files")
    except HarnessError as error:
        return {folder / NAME: error.what}
    if listed is None:
        return {}
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    faults = {folder / name: f"missing, but listed in {NAME}" for name in listed.keys() - present.keys()}
    for name, path in present.items():
        if name not in listed:
            faults[path] = f"not listed in {NAME}"
        elif _sha(read_regular(path)) != listed[name]:
            faults[path] = "changed after it was published"
    return dict(sorted(faults.items()))


def misfit_runs(folder: Path, runs: Mapping[str, Any], rows: Rows) -> dict[str, str]:
    """The runs whose entry or records do not fit digests.json, each with the reason; {} without it. Arguments as for `write_digests`."""
    listed = _digests(folder, "runs")
    if listed is None:
        return {}
    faults = {}
    for name, facts in runs.items():
        expected, own = listed.get(name), _of_run(facts, rows.get(name, ()))
        if expected is None:
            faults[name] = f"not listed in {NAME}"
        elif changed := [part for part in own if own[part] != expected.get(part)]:
            faults[name] = f"its {' and '.join(changed)} changed after it was published"
    return faults | {name: f"missing, but listed in {NAME}" for name in listed if name not in runs}


def _digests(folder: Path, part: str) -> dict[str, Any] | None:
    """A part of digests.json, None if there is no such file. Raises HarnessError if it is damaged."""
    path = folder / NAME
    try:
        content = read_json(path)[part]
    except MissingFile:
        return None
    except KeyError:
        content = None
    if not isinstance(content, dict):
        raise HarnessError("damaged checksums of published records", where=path, found=f"no {part}", expected="files and runs")
    return content


def _files(folder: Path) -> list[Path]:
    """The published files that digests.json covers."""
    paths = [folder / RUNS, folder / RECORDS, *(path for name in _FOLDERS for path in (folder / name).glob("*"))]
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def _of_run(facts: object, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {"entry": _sha(canonical_json(facts).encode()), "records": _sha(encode_lines(rows))}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
