"""The evidence behind a number of a table: runs, commits, configs, commands and records, for `harness why table1 digits gc fid`."""

from __future__ import annotations

import json
from dataclasses import replace

from harness.config.identity import canonical_json
from harness.config.parts import Custom
from harness.config.selection import Selection
from harness.errors import HarnessError, unknown
from harness.reporting import paper_values
from harness.reporting.cells import Cell, ExperimentCells, experiment_cells
from harness.reporting.load import LoadedResults, LoadedRun
from harness.reporting.other_networks import own_metric
from harness.reporting.values import METRICS, CellValues
from harness.stats.uncertainty import plus_minus
from harness.store.records import parted_name


def explain(selection: Selection, model: str, metric: str, loaded: LoadedResults, data: str | None = None) -> list[str]:
    """The evidence behind a metric of one model, line by line. data: the data set, by default the experiment's first one.

    Raises HarnessError for an unknown name, and if no run of the model has a final value.
    """
    experiment, scale = selection.experiment, selection.scale
    table, cell_values = experiment_cells(selection, loaded), CellValues(loaded)
    cell = _cell(table, model, data)
    metric = _metric(metric)
    column = cell_values.column(table.of(cell.data), metric)
    value = column.cells.get(cell.key)
    if value is None:
        available = cell_values.metrics([cell])
        states = ", ".join(sorted({loaded.state(run) for run in cell.runs.values()}))
        raise HarnessError(
            f"no final {METRICS[metric].title} of {cell.label}",
            where=f"{experiment}, {scale}, {cell.data}",
            found=f"its runs are: {states}",
            expected="one of " + ", ".join(available) if available else "finished runs",
            nearest=available[0] if available else selection.command("harness sweep"),
        )
    estimate, info = value.interval, METRICS[metric]
    interval = "" if estimate.low is None else f", 95 % interval [{estimate.low:.6g}, {estimate.high:.6g}]"
    label = loaded.label_of(loaded.find(cell.runs[seed] for seed in value.values))
    factor = "" if info.factor == 1 else f"   (tables show it times {info.factor:g})"
    noise = "none measured" if value.noise is None else f"{value.noise:.3g} between {cell.run.evaluation.resamplings} evaluations"
    lines = [
        f"{cell.label}, {metric}, {paper_values.data_name(cell.data)}, {experiment} at the {scale} scale; {label}",
        f"  {estimate.mean:.6g}{interval} ({estimate.method}), {estimate.n} training seed{'s' * (estimate.n > 1)}{factor}",
        f"  evaluation noise (sd, pooled): {noise}, {value.samples} samples each",
        f"  taken at the last step, {cell.run.train.steps:,}; protocol {value.protocol}{_meaning(loaded, cell.data, value.protocol)}",
    ]
    paper = paper_values.value(experiment, cell.data, cell.key, metric)
    if paper:
        lines.append(f"  the paper: {plus_minus(*paper, 'g', 'g', '+-')} {info.title}")
    lines += [f"  left out: {text}" for text in column.left_out]
    for seed, run in cell.runs.items():
        lines += ["", *_run(cell_values, selection, seed, run, metric, seed in value.values)]
    return lines


def _cell(table: ExperimentCells, model: str, data: str | None) -> Cell:
    """The cell whose key or label is `model`, else the only one whose key begins with it."""
    if data is not None and data not in table.data:
        raise unknown("data set", data, table.data, where=table.name)
    cells = table.of(data or table.data[0])
    similar = [cell for cell in cells if cell.key.startswith(model)]
    matches = [cell for cell in cells if model in (cell.key, cell.label)] or similar
    if len(matches) == 1:
        return matches[0]
    if similar:
        names = ", ".join(f'"{cell.label}"' if cell.differs else cell.key for cell in similar)
        what = "more than one model begins like this"
        raise HarnessError(what, where=table.name, found=model, expected=f"one of {names}", nearest=similar[0].key)
    raise unknown("model", model, [cell.key for cell in cells], where=table.name)


def _metric(name: str) -> str:
    """The metric of that name or title, in any case; that of another feature network as fid@MyFeatures."""
    metric, network = own_metric(name)
    if network:
        return f"{_metric(metric)}@{network}"
    by_title = {metric.title.lower(): metric.name for metric in METRICS.values()}
    metric = by_title.get(name.lower(), name.lower())
    if parted_name(metric)[0] not in METRICS:
        raise unknown("metric", name, METRICS)
    return metric


def _meaning(loaded: LoadedResults, data: str, protocol: str) -> str:
    baselines = loaded.baselines_of(data, {protocol})
    return f": {canonical_json(baselines.protocols[protocol])}" if baselines else ""


def _run(cell_values: CellValues, selection: Selection, seed: int, run: str, metric: str, counts: bool) -> list[str]:
    """The evidence of one run. counts: whether its value is part of the mean."""
    entry = cell_values.loaded.runs.get(run)
    if entry is None:
        return [f"seed {seed}: {run}: not run"]
    record = cell_values.final(run, metric)
    number = "no final value" if record is None else f"{record.value:.6g}" + ("" if counts else "  (left out: another protocol)")
    place = "folder" if entry.source == "own" else "published in"
    lines = [
        f"seed {seed}: {number}   {entry.name}",
        f"  {place}: {entry.path}",
        f"  state: {entry.state}{f', {note}' if (note := entry.made_by.note) else ''}",
        *_attempts(entry),
    ]
    couplings = (entry.run.coupling.source,) if isinstance(entry.run.coupling, Custom) else ()
    again = replace(selection, seeds=(seed,), couplings=couplings)
    lines.append(f"  again: {again.command(f'harness run {entry.id} --experiment')}")
    lines.append(f"  config: {canonical_json(entry.run.to_dict())}")
    if record is not None:
        lines.append(f"  record: {json.dumps(record.to_json())}")
    return lines


def _attempts(entry: LoadedRun) -> list[str]:
    lines = []
    for number, attempt in enumerate(entry.attempts, 1):
        unknown = f"unknown ({attempt['commit_unknown']})" if attempt.get("commit_unknown") else "unknown"
        commit = str(attempt["commit"])[:12] if attempt.get("commit") else unknown
        commit += f" with uncommitted changes {attempt['dirty']}" if attempt.get("dirty") else ""
        commit += f", code {attempt['fingerprint']}" if attempt.get("fingerprint") else ""
        asked = attempt.get("experiment") or {}
        versions = ", ".join(f"{name} {version}" for name, version in (attempt.get("versions") or {}).items() if version)
        where = ", ".join(str(attempt[key]) for key in ("host", "device") if attempt.get(key))
        lines.append(f"  start {number}, at step {attempt.get('step', 0)}: commit {commit}; {where}")
        lines.append(f"    versions: Python {attempt.get('python')}, {versions}")
        lines.append(f"    command: {attempt.get('command')}")
        lines += [f"    experiment: {asked.get('name')}, file {asked.get('sha256')}"] if asked else []
    return lines
