"""Measures the chosen parts, prints them as they are ready, writes the JSON file and compares it with an earlier one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.bench import compare
from harness.bench.files import Results
from harness.bench.parts import Part
from harness.bench.printing import compare_table, part_table
from harness.bench.rows import Row
from harness.bench.setting import Setting
from harness.console import Console
from harness.errors import HarnessError
from harness.store.machine import cores
from harness.store.provenance import provenance
from harness.sweep.table import duration, emit
from harness.training.devices import device_name


def measure(parts: Sequence[Part], setting: Setting, out: Console, keep: Callable[[Results], None] = lambda results: None) -> Results:
    """Measures and prints every part. keep: called with what is measured after every part, so that an interrupted benchmark is not lost.

    A part that fails, because the memory is too small or a process ended, is left out with a note.
    """
    emit(out, f"bench on {device_name(setting.device)}, {torch.get_num_threads()} of {cores()} cores, torch {torch.__version__}")
    started = time.monotonic()
    results = Results(about(setting, 0.0))
    with tempfile.TemporaryDirectory(prefix="harness-bench-", ignore_cleanup_errors=True) as folder:
        inside = replace(setting, folder=Path(folder))
        for part in parts:
            since = time.monotonic()
            emit(out, f"\n{part.title} ({part.name})")
            rows, notes = _measured(part, inside)
            if rows:
                out.print(part_table(rows))
            for note in notes:
                emit(out, f"  {note}")
            emit(out, f"  {duration(time.monotonic() - since)}")
            results = Results(about(setting, time.monotonic() - started), [*results.rows, *rows], [*results.notes, *notes])
            keep(results)
    emit(out, f"\nwhole benchmark: {duration(time.monotonic() - started)}")
    return results


def _measured(part: Part, setting: Setting) -> tuple[list[Row], list[str]]:
    """The rows of a part, and its notes, each once."""
    rows, notes = list[Row](), list[str]()
    try:
        for item in part.measure(setting):
            if isinstance(item, Row):
                rows.append(item)
            elif item not in notes:
                notes.append(item)
    except (HarnessError, torch.OutOfMemoryError) as error:
        notes.append(f"{part.name}: the rest is not measured: {' '.join(str(error).split())}")
    return rows, notes


def about(setting: Setting, seconds: float) -> dict[str, Any]:
    """Where and how a benchmark was made, as plain JSON values."""
    origin = provenance(device_name(setting.device))
    kept = {key: origin[key] for key in ("time", "command", "python", "system", "device", "versions", "commit", "dirty", "fingerprint")}
    settings: dict[str, Any] = {"seconds": setting.seconds, "quick": setting.quick, "took": round(seconds, 1)}
    settings |= {"shapes": [setting.where(shape) for shape in setting.shapes], "profiles": [profile.name for profile in setting.profiles]}
    return {**kept, "threads": torch.get_num_threads(), "cores": cores(), "torch": torch.__version__, "settings": settings}


def print_changes(old: Results, new: Results, out: Console) -> None:
    """What changed from old to new, and which rows only one of them has."""
    emit(out, f"\nChanges since {old.about.get('command', 'the old benchmark')} (commit {str(old.about.get('commit'))[:12]})")
    if old.machine != new.machine:
        emit(out, f"  the old one ran elsewhere, {old.machine}; this one: {new.machine}. Times and rates are not comparable")
    found = compare.changes(old, new)
    if found:
        out.print(compare_table(found))
    changed = [change for change in found if change.outcome == "changed" and compare.is_ratio(change.new)]
    ratios = [change for change in found if compare.is_ratio(change.new)]
    emit(
        out, f"  {len(changed)} of {len(ratios)} ratios changed; {sum(change.p is None for change in ratios)} had too few rounds for a test"
    )
    for rows, where in zip(compare.only_in_one(old, new), ("old", "new"), strict=True):
        if rows:
            emit(out, f"  only in the {where} one: {len(rows)} row{'s' * (len(rows) > 1)}, such as {rows[0].part}: {rows[0].name}")
