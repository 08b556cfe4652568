"""What stands beside a cell's own value: how it does against the model it is an alternative to, and what the paper reports."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.identity import NOT_IDENTITY, short_hash
from harness.reporting import paper_values
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.statistics import ALPHA, Paired, paired
from harness.reporting.tables import MISSING, Shown, Small
from harness.reporting.values import METRICS, Column

_PARTS = ("coupling", "seed", "init", *NOT_IDENTITY)


def baseline(study: ExperimentCells, cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell that this one is held against: iCT-IC (or the experiment's own choice) with the same settings, else its plain one.

    None for the baseline itself.
    """
    prefix = "" if cell.run.objective.kind == "ict" else f"{cell.run.objective.kind}-"
    wanted = prefix + study.report.get("baseline", "ic")
    own = [other for other in cells if other.slug == wanted]
    alike = [other for other in own if _settings(other) == _settings(cell)]
    found = next(iter(alike or own), None)
    return None if found is None or found.key == cell.key else found


def _settings(cell: Cell) -> str:
    """Hash of a config without coupling, seed, and the dropout that goes with the coupling."""
    values = {key: value for key, value in cell.run.to_dict().items() if key not in _PARTS}
    return short_hash(values | {"network": {**values["network"], "dropout": None}})


def difference(cell: Cell, other: Cell | None, column: Column) -> Paired | None:
    """The cell's values less those of its baseline, by training seed."""
    if other is None or cell.key not in column.cells or other.key not in column.cells:
        return None
    return paired(column.cells[cell.key].values, column.cells[other.key].values)


def verdict(found: Paired, metric: str) -> str:
    """better, worse or not separable, with p below; or that one seed allows no test."""
    if found.p is None:
        return "one seed: no test"
    if found.p >= ALPHA:
        return f"not separable\np = {found.p:.2g}"
    lower = METRICS[metric].better == "lower"
    return f"{'better' if (found.mean < 0) == lower else 'worse'}\np = {found.p:.2g}"


def shown(found: Paired | None, metric: str) -> Shown:
    """The relative difference, and the verdict below."""
    if found is None or found.relative is None:
        return MISSING
    return Small(f"{found.relative:+.0%}", verdict(found, metric))


def paper_value(study: ExperimentCells, cell: Cell, metric: str) -> tuple[float, float | None] | None:
    """What the paper reports for this cell, in its unit: in this table, else for plain cells in Table 1. Paper scale only."""
    if cell.scale != "paper":
        return None
    if study.name == "table2":
        lengths = paper_values.paper()["table2"]["steps"]
        length = next((name for name, steps in lengths.items() if steps == cell.run.train.steps), "")
        return paper_values.value("table2", cell.data, cell.slug, length) if metric == "fid" else None
    if study.name == "table3":
        found = paper_values.value("table3", cell.data, _variant(cell), metric)
        if found:
            return found
    return None if cell.differs else paper_values.value("table1", cell.data, cell.key, metric)


def _variant(cell: Cell) -> str:
    """The name of Table 3's row."""
    if cell.slug == "gc-0.5-online":
        return "online"
    if cell.slug == "gc-0.5":
        return "dropout" if any(cell.run.network.dropout) else "reference"
    return ""


def paper_cell(study: ExperimentCells, cell: Cell, metrics: Sequence[str]) -> Shown:
    """The paper's values of these metrics, the first one large."""
    found = {name: value for name in metrics if (value := paper_value(study, cell, name))}
    texts = [_text(value) for value in found.values()]
    if not texts:
        return MISSING
    names = [METRICS[name].title for name in found]
    return Small(texts[0], "\n".join(f"{name} {text}" for name, text in zip(names[1:], texts[1:], strict=True)))


def _text(value: tuple[float, float | None]) -> str:
    return f"{value[0]:.2f}" + (f" +- {value[1]:.2f}" if value[1] is not None else "")
