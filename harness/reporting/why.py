"""The way back from a number: `harness why table1 digits gc fid` names the runs, commits, configs, commands and records behind a cell."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.arguments import Parser
from harness.config.identity import canonical_json
from harness.config.run import SCALE_NAMES
from harness.errors import HarnessError, unknown
from harness.reporting import load, paper_values
from harness.reporting.cells import Cell, ExperimentCells, experiment_cells
from harness.reporting.load import Book, Entry
from harness.reporting.values import METRICS, Numbers
from harness.store.records import FIELDS


def main(argv: Sequence[str] | None = None) -> int:
    """`harness why ...`; returns an exit code: 2 for bad input."""
    from harness.locations import results_root

    parser = Parser(prog="harness why", description="Name the runs, commits, configs, commands and records behind a cell of a table.")
    parser.add_argument("experiment", metavar="EXPERIMENT", help="the table: a file of experiments/, without .py")
    parser.add_argument("scale", choices=SCALE_NAMES)
    parser.add_argument("model", metavar="MODEL", help="ic, ot, gc-0.5, ... or the beginning of one")
    parser.add_argument("metric", metavar="METRIC", help="fid, kid, is, w2, recall, ...")
    parser.add_argument("--data", help="the data set, where the scale has several")
    parser.add_argument("--results", type=Path, metavar="DIR", help="the results folder; default $HARNESS_RESULTS or results/")
    try:
        chosen = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
        book = load.read(chosen.results or results_root())
        print("\n".join(explain(chosen.experiment, chosen.scale, chosen.model, chosen.metric, book, chosen.data)))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def explain(experiment: str, scale: str, model: str, metric: str, book: Book, data: str | None = None) -> list[str]:
    """Lines of text. Raises HarnessError for an unknown experiment, model or metric, and when no run of the cell is finished."""
    found, numbers = experiment_cells(experiment, scale, book), Numbers(book)
    cell = _cell(found, model, data)
    metric = _metric(metric)
    column = numbers.column(found.of(cell.data), metric)
    value = column.cells.get(cell.key)
    if value is None:
        there = numbers.metrics([cell])
        states = ", ".join(sorted({_state(book, run) for run in cell.runs.values()}))
        raise HarnessError(
            f"no final {METRICS[metric].title} of {cell.label}",
            where=f"{experiment}, {scale}, {cell.data}",
            found=f"its runs are: {states}",
            expected="one of " + ", ".join(there) if there else "finished runs",
            nearest=there[0] if there else f"harness sweep {experiment} --scale {scale}",
        )
    made, title = value.interval, METRICS[metric]
    interval = "" if made.low is None else f", 95 % interval [{made.low:.6g}, {made.high:.6g}] ({made.method})"
    factor = "" if title.factor == 1 else f"   (the tables show it times {title.factor:g})"
    noise = "none measured" if value.noise is None else f"{value.noise:.3g} between {cell.run.evaluation.resamplings} evaluations"
    lines = [
        f"{cell.label}, {metric}, {paper_values.data_name(cell.data)}, {experiment} at the {scale} scale",
        f"  {made.mean:.6g}{interval}, {made.n} training seed{'s' * (made.n > 1)}{factor}",
        f"  evaluation noise (sd, pooled): {noise}, {value.samples} samples each",
        f"  taken at the last step, {cell.run.train.steps:,}; protocol {value.protocol}{_meaning(book, cell.data, value.protocol)}",
    ]
    paper = paper_values.value(experiment, cell.data, cell.key, metric)
    if paper:
        lines.append(f"  the paper: {paper[0]:g}" + (f" +- {paper[1]:g}" if paper[1] is not None else "") + f" {title.title}")
    lines += [f"  left out: {text}" for text in column.left_out]
    for seed, run in sorted(cell.runs.items()):
        lines += ["", *_run(book, numbers, experiment, scale, seed, run, metric, seed in value.values)]
    return lines


def _cell(found: ExperimentCells, model: str, data: str | None) -> Cell:
    if data is not None and data not in found.data:
        raise unknown("data set", data, found.data, where=found.name)
    cells = found.of(data or found.data[0])
    exact = [cell for cell in cells if model in (cell.key, cell.label)]
    begun = [cell for cell in cells if cell.key.startswith(model)]
    if len(exact or begun) == 1:
        return (exact or begun)[0]
    keys = [cell.key for cell in cells]
    if begun:
        shown = ", ".join(f'"{cell.label}"' if cell.differs else cell.key for cell in begun)
        what = "more than one model begins like this"
        raise HarnessError(what, where=found.name, found=model, expected=f"one of {shown}", nearest=begun[0].key)
    raise unknown("model", model, keys, where=found.name)


def _metric(name: str) -> str:
    by_title = {metric.title.lower(): metric.name for metric in METRICS.values()}
    chosen = by_title.get(name.lower(), name.lower())
    if chosen not in METRICS:
        raise unknown("metric", name, METRICS)
    return chosen


def _state(book: Book, run: str) -> str:
    return book.entries[run].state if run in book.entries else "not run"


def _meaning(book: Book, data: str, protocol: str) -> str:
    baselines = book.baselines_of(data, {protocol})
    return f": {canonical_json(baselines.protocols[protocol])}" if baselines else ""


def _run(book: Book, numbers: Numbers, experiment: str, scale: str, seed: int, run: str, metric: str, counts: bool) -> list[str]:
    entry = book.entries.get(run)
    if entry is None:
        return [f"seed {seed}: {run}: not run"]
    row: Any = numbers.final(run, metric)
    told = "no final value" if row is None else f"{row.value:.6g}" + ("" if counts else "  (left out: another protocol)")
    place = "folder" if entry.source == "runs" else "published in"
    lines = [f"seed {seed}: {told}   {entry.name}", f"  {place}: {entry.path}", f"  state: {entry.state}", *_attempts(entry)]
    lines.append(f"  again: harness run {entry.id} --experiment {experiment} --scale {scale}")
    lines.append(f"  config: {canonical_json(entry.run.to_dict())}")
    if row is not None:
        values = {name: (None if value != value else value) for name, value in zip(FIELDS, row, strict=True)}
        lines.append(f"  record: {json.dumps(values, default=lambda value: value.item())}")
    return lines


def _attempts(entry: Entry) -> list[str]:
    lines = []
    for number, attempt in enumerate(entry.attempts, 1):
        commit = str(attempt.get("commit"))[:12] + (f" with uncommitted changes {attempt['dirty']}" if attempt.get("dirty") else "")
        versions = ", ".join(f"{name} {version}" for name, version in (attempt.get("versions") or {}).items() if version)
        where = ", ".join(str(attempt[key]) for key in ("host", "device") if attempt.get(key))
        lines.append(f"  start {number}, at step {attempt.get('step', 0)}: commit {commit}; {where}")
        lines.append(f"    versions: Python {attempt.get('python')}, {versions}")
        lines.append(f"    command: {attempt.get('command')}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
