"""The table of an experiment at one scale: its cells, the baselines, the paper's table beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.config import presets
from harness.config.run import Independent
from harness.reporting import comparisons, paper_values
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.load import Baselines
from harness.reporting.statistics import interval
from harness.reporting.tables import MISSING, Shown, Small, Table
from harness.reporting.values import COVERAGE, METRICS, QUALITY, Column, Numbers, decimals

BASELINES = {
    "heldout": "real data, held out",
    "heldout-at-n": "real data, held out, at n",
    "train-resampled": "training set resampled",
    "gaussian-fit": "Gaussian fit",
    "noise": "pure noise",
}
_SHORT = {"precision": "prec.", "classes_missing": "missing", "modes_missing": "missing", "class_tv": "class TV"}
_EMBEDDED = ("digits", "fashion-mnist")
_WALL_CLOCK = (
    "stopped at iCT-IC's wall-clock time: the last evaluation of GC within the seconds that iCT-IC of its seed trained for, as recorded; "
    "it means something only where both ran on equal machines under equal load",
)
_MODELS = {"ic": "IC", "gc-0.5": "GC (mu=0.5)"}


def experiment_table(study: ExperimentCells, numbers: Numbers, title: str = "") -> Table:
    """Rows: the cells of the study, then the baselines. Name: <experiment>-<scale>. What is not there is shown as missing."""
    study = replace(study, cells=tuple(cell for cell in study.cells if cell.run.objective.kind != "denoiser"))  # not a sampler
    metrics = numbers.metrics(study.cells) or ["fid", "kid", "is"]
    quality = [name for name in QUALITY if name in metrics]
    main = _part(study, numbers, quality, best=True)
    coverage = [name for name in COVERAGE if name in metrics]
    more = [_part(study, numbers, coverage, best=False)] if coverage else []
    data = pd.concat([main.data, *(table.data for table in more)], ignore_index=True)
    paper = paper_values.table(study.name)
    short = (title or study.title or study.name).partition(";")[0].rstrip(". ")
    name, heading = f"{study.name}-{study.scale}", f"{short} ({study.scale} scale)"
    own = study.report.get("notes", ())
    notes = (*own, *main.notes, *_classifier(study), *_times_below(study, numbers), *_published(study, numbers), *_absent(study, numbers))
    extra = [Table(f"{name}-coverage", f"{heading}: diversity", t.headers, t.rows, t.notes, t.rules, t.data) for t in more]
    return Table(name, heading, main.headers, main.rows, notes, main.rules, data, (*extra, *([paper] if paper else [])))


def _part(study: ExperimentCells, numbers: Numbers, metrics: Sequence[str], best: bool) -> Table:
    rows: list[tuple[Shown, ...]] = []
    rules: set[int] = set()
    tidy: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    paper = best and any(comparisons.paper_value(study, cell, name) for cell in study.cells for name in metrics)
    beside = (2 + paper) * best
    for data in study.data:
        cells = study.of(data)
        columns = {name: numbers.column(cells, name) for name in metrics}
        if len(study.data) > 1:
            rows.append((paper_values.data_name(data),))
        places = {name: _decimals(name, columns[name]) for name in metrics}
        for cell in cells:
            shown = [_value(columns[name], cell, name, places[name]) for name in metrics]
            extra = _beside(study, cell, cells, numbers, columns, places, paper) if best else []
            rows.append((cell.label, _seeds(cell, columns, metrics), *shown, *extra))
            tidy += _tidy(study, cell, columns, numbers, best)
        if best and study.name == "table3":
            known, numbers_of = _wall_clock(data, cells, numbers, columns, places)
            rows += [(*row, *[""] * (beside - 1)) for row in known]
            tidy += [{"scale": study.scale, "data": data, **row} for row in numbers_of]
            notes |= dict.fromkeys(_WALL_CLOCK * bool(numbers_of))
        baselines = numbers.book.baselines_of(data, {column.protocol for column in columns.values() if column.protocol})
        if baselines:
            rules.add(len(rows))
            known, numbers_of = _baseline_rows(baselines, metrics, columns, places, beside)
            rows += known
            tidy += [{"scale": study.scale, "data": data, **row} for row in numbers_of]
        elif best and any(column.cells for column in columns.values()):
            notes[
                f"{paper_values.data_name(data)}: no baselines yet; python -m harness.metrics.baselines {study.name} --scale {study.scale}"
            ] = None
        notes |= dict.fromkeys(_how(data, cells, columns, numbers, len(study.data) > 1))
        notes |= dict.fromkeys(f"left out: {text}" for column in columns.values() for text in column.left_out)
    if best:
        rows += _never_run(study, metrics, beside)
    main = metrics[0] if metrics else "fid"
    headers = ("model", "n", *(_SHORT.get(name, METRICS[name].title) for name in metrics))
    held_against = study.report.get("baseline", "ic")
    headers += (f"best {METRICS[main].title}", f"against {_MODELS.get(held_against, held_against)}") if best else ()
    headers += ("the paper",) if paper else ()
    return Table("", "", headers, tuple(rows), tuple(notes) if best else (), frozenset(rules), pd.DataFrame(tidy))


def _beside(
    study: ExperimentCells,
    cell: Cell,
    cells: Sequence[Cell],
    numbers: Numbers,
    columns: Mapping[str, Column],
    places: Mapping[str, int],
    paper: bool,
) -> list[Shown]:
    """Best over training, the difference from the baseline, and the paper's value where the table has any."""
    main = next(iter(columns))
    found = comparisons.difference(cell, comparisons.baseline(study, cell, cells), columns[main])
    told = [_best(cell, numbers, columns, places), comparisons.shown(found, main)]
    return told + ([comparisons.paper_cell(study, cell, list(columns))] if paper else [])


def _never_run(study: ExperimentCells, metrics: Sequence[str], beside: int) -> list[tuple[Shown, ...]]:
    """The paper's rows of data sets that the experiment leaves out, as missing."""
    rows: list[tuple[Shown, ...]] = []
    paper = paper_values.paper().get(study.name, {})
    for data in study.report.get("absent", {}).get(study.scale, {}):
        rows.append((paper_values.data_name(data),))
        for row in (row for row in paper.get("rows", ()) if row["data"] == data):
            for length, steps in paper.get("steps", {}).items():
                label = f"{paper_values.MODELS[row['model']]}, {steps:,} steps"
                value = row[length]
                told = [f"{value[0]:.2f}" + (f" +- {value[1]:.2f}" if len(value) > 1 else "")] if beside == 3 else []
                rows.append((label, "0", *[MISSING] * (len(metrics) + 2), *told))
    return rows


def _wall_clock(
    data: str, cells: Sequence[Cell], numbers: Numbers, columns: Mapping[str, Column], places: Mapping[str, int]
) -> tuple[list[tuple[Shown, ...]], list[dict[str, Any]]]:
    """Table 3's row "stopped at iCT-IC's wall-clock": GC where it stood when IC of the same seed had ended, one evaluation a seed."""
    cell = next((cell for cell in cells if cell.key == "gc-0.5"), None)
    if cell is None:
        return [], []
    independent = {seed: presets.make(cell.scale, data, Independent(), seed).id for seed in cell.runs}
    limits = {seed: seconds for seed, run in independent.items() if (seconds := numbers.trained(run)) is not None}
    label = f"{cell.label}, stopped at iCT-IC's wall-clock time"
    shown: list[Shown] = []
    tidy = []
    n = 0
    for name, column in columns.items():
        values = [numbers.at_seconds(cell.runs[seed], name, column.protocol, limit) for seed, limit in limits.items()]
        found = [value for value in values if value is not None]
        made = interval([value * METRICS[name].factor for value in found]) if found else None
        n = max(n, len(found))
        low = "" if made is None or made.low is None else f"[{number(made.low, places[name])}, {number(made.high, places[name])}]"
        shown.append(Small(number(made.mean, places[name]), low) if made else MISSING)
        if made:
            own = interval(found)
            tidy.append({"model": label, "key": f"{cell.key} at wall-clock", "kind": "model", "metric": name, "seeds": own.n})
            tidy[-1] |= {"protocol": column.protocol, "mean": own.mean, "low": own.low, "high": own.high, "interval": own.method}
    return [(label, str(n), *shown, "")], tidy


def _decimals(metric: str, column: Column) -> int:
    factor = METRICS[metric].factor
    places = decimals(value.interval.mean * factor for value in column.cells.values())
    return max(2, min(places, 3)) if metric not in ("classes_missing", "modes_missing") else 1


def number(value: float | None, places: int) -> str:
    """A number with fixed decimals, and never a negative zero."""
    if value is None:
        return MISSING
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _value(column: Column, cell: Cell, metric: str, places: int) -> Shown:
    """mean over seeds, [95 % interval], sd of evaluation."""
    found = column.cells.get(cell.key)
    if found is None:
        return MISSING
    factor, made = METRICS[metric].factor, found.interval
    lines = []
    if made.low is not None and made.low < made.high:
        lines.append(f"[{number(made.low * factor, places)}, {number(made.high * factor, places)}]")
    if found.noise is not None and (found.noise or len(set(found.values.values())) > 1):
        lines.append(f"sd {found.noise * factor:.2g}")
    return Small(number(made.mean * factor, places), "\n".join(lines))


def _seeds(cell: Cell, columns: Mapping[str, Column], metrics: Sequence[str]) -> str:
    n = max((len(columns[name].cells[cell.key].values) for name in metrics if cell.key in columns[name].cells), default=0)
    want = len(cell.wanted)
    return f"{n} of {want}" if n < want else str(n)


def _best(cell: Cell, numbers: Numbers, columns: Mapping[str, Column], places: Mapping[str, int]) -> Shown:
    main = next(iter(columns))
    found = numbers.best(cell, main, columns[main].protocol)
    if found is None:
        return MISSING
    made, (first, last) = found
    steps = f"step {first:,}" if first == last else f"steps {first:,}-{last:,}"
    return Small(number(made.mean * METRICS[main].factor, places[main]), steps)


def _tidy(study: ExperimentCells, cell: Cell, columns: Mapping[str, Column], numbers: Numbers, best: bool) -> list[dict[str, Any]]:
    """One row a metric, in the metric's own unit (KID not times 100)."""
    rows = []
    common = {"scale": study.scale, "data": cell.data, "model": cell.label, "key": cell.key, "kind": "model"}
    for name, column in columns.items():
        found = column.cells.get(cell.key)
        paper = comparisons.paper_value(study, cell, name)
        row = common | {"metric": name, "seeds": len(found.values) if found else 0, "seeds_wanted": len(cell.wanted)}
        row |= {"step": cell.run.train.steps, "protocol": column.protocol}
        if found:
            made = found.interval
            row |= {"mean": made.mean, "low": made.low, "high": made.high, "interval": made.method, "evaluation_sd": found.noise}
            row |= {"samples": found.samples, "values": " ".join(f"{seed}:{value:.8g}" for seed, value in found.values.items())}
        if best and name == next(iter(columns)) and (over := numbers.best(cell, name, column.protocol)):
            row |= {"best": over[0].mean, "best_first_step": over[1][0], "best_last_step": over[1][1]}
        if paper:
            row |= {"paper": paper[0] / METRICS[name].factor}
        other = comparisons.baseline(study, cell, study.of(cell.data))
        if best and (made := comparisons.difference(cell, other, column)):
            row |= {"against": other.key, "difference": made.mean, "difference_low": made.low, "difference_high": made.high, "p": made.p}
        rows.append(row)
    return rows


def _baseline_rows(
    baselines: Baselines, metrics: Sequence[str], columns: Mapping[str, Column], places: Mapping[str, int], blanks: int
) -> tuple[list[tuple[Shown, ...]], list[dict[str, Any]]]:
    """The rows of the baselines. Those of the models' own n share the column's protocol; held-out rows say their n."""
    rows: list[tuple[Shown, ...]] = []
    tidy = []
    for name, title in BASELINES.items():
        found = {row["metric"]: row for row in baselines.rows if row["row"] == name}
        if name not in ("heldout", "heldout-at-n"):  # of the same n, so of the same protocol or of none of ours
            found = {metric: row for metric, row in found.items() if metric in columns and row["protocol"] == columns[metric].protocol}
        if not any(metric in found for metric in metrics):
            continue
        shown = []
        for metric in metrics:
            row = found.get(metric)
            if row is None:
                shown.append(MISSING)
                continue
            factor = METRICS[metric].factor
            spread = ("sd", row.get("sd")) if row.get("sd") is not None else ("se", row.get("se"))
            sub = "" if spread[1] is None else f"{spread[0]} {spread[1] * factor:.2g}"
            shown.append(Small(number(row["value"] * factor, places[metric]), sub))
            fields = ("metric", "protocol", "resamplings")
            tidy.append(
                {"model": title, "kind": "baseline", "mean": row["value"], "samples": row["n"], **{key: row[key] for key in fields}}
            )
            tidy[-1] |= {"evaluation_sd": row.get("sd"), "se": row.get("se")}
        n = next(iter(found.values()))["n"]
        rows.append((title, f"n={n}", *shown, *[""] * blanks))
    return rows, tidy


def _how(data: str, cells: Sequence[Cell], columns: Mapping[str, Column], numbers: Numbers, several: bool) -> list[str]:
    """How the numbers were made: step, interval, noise, protocol."""
    found = [value for column in columns.values() for value in column.cells.values()]
    if not found:
        return []
    steps = sorted({cell.run.train.steps for cell in cells})
    methods = list(dict.fromkeys(value.interval.method for value in found))
    samples = next(value.samples for value in found)
    resamplings = cells[0].run.evaluation.resamplings
    prefix = f"{paper_values.data_name(data)}: " if several else ""
    hashes = ", ".join(f"{METRICS[name].title} {column.protocol}" for name, column in columns.items() if column.protocol)
    main = METRICS[next(iter(columns))].title
    return [
        f"{prefix}n: training seeds. Mean over seeds at the fixed last step ({', '.join(f'{step:,}' for step in steps)}); "
        f"[95 % interval over seeds: {'; '.join(methods)}]; sd: between {resamplings} evaluations of {samples:,} samples of one model",
        f"{prefix}best {main}: lowest over training, one evaluation a point; it flatters every row and is no final value",
        f"{prefix}protocols: {hashes}",
        f"against: relative difference in {main} from the same settings with that model, paired by training seed (t test, alpha = 0.05)",
    ]


def _classifier(study: ExperimentCells) -> list[str]:
    if not set(study.data) & set(_EMBEDDED):
        return []
    return ["FID, KID and IS use the features of a classifier of this data set, not Inception: not comparable with the paper's values"]


def _times_below(study: ExperimentCells, numbers: Numbers) -> list[str]:
    """How many times a model's FID lies below that of pure noise, and above that of held-out data."""
    notes = []
    for data in study.data if study.name == "table1" else ():
        cells = study.of(data)
        column = numbers.column(cells, numbers.main(cells))
        baselines = numbers.book.baselines_of(data, {column.protocol} if column.protocol else set())
        rows = {row["row"]: row["value"] for row in baselines.rows if row["metric"] == column.metric} if baselines else {}
        if not column.cells or not rows.get("noise"):
            continue
        title, noise = METRICS[column.metric].title, rows["noise"]
        parts = [f"{cell.label} {noise / column.cells[cell.key].interval.mean:.1f}" for cell in cells if cell.key in column.cells]
        notes.append(f"{paper_values.data_name(data)}: times below pure noise in {title} ({noise:.3g}): {', '.join(parts)}")
    return notes


def _published(study: ExperimentCells, numbers: Numbers) -> list[str]:
    """How many of the runs are not of this results folder."""
    there = [numbers.book.entries[run] for cell in study.cells for run in cell.runs.values() if run in numbers.book.entries]
    count = sum(entry.source == "published" for entry in there)
    return [f"{count} of these {len(there)} runs are published ones, not made here"] if count else []


def _absent(study: ExperimentCells, numbers: Numbers) -> list[str]:
    """Wanted runs without final values, by state and seeds."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in study.cells:
        metric = numbers.main([cell])
        states: dict[str, list[int]] = {}
        for seed in sorted(cell.wanted):
            if numbers.final(cell.runs[seed], metric) is None:
                entry = numbers.book.entries.get(cell.runs[seed])
                states.setdefault(entry.state if entry else "not run", []).append(seed)
        for state, seeds in states.items():
            groups.setdefault((state, paper_values.data_name(cell.data), ", ".join(map(str, seeds))), []).append(cell.label)
    left_out = [
        f"missing: {paper_values.data_name(data)}, {why}" for data, why in study.report.get("absent", {}).get(study.scale, {}).items()
    ]
    return left_out + [f"missing ({state}): {data}, {', '.join(labels)}; seeds {seeds}" for (state, data, seeds), labels in groups.items()]
