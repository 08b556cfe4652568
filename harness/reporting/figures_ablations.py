"""Figures of the ablations: final values for each setting, IC and GC side by side, and how the variants of GC converge."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from harness.data.catalogue import main_metric
from harness.reporting import figure_requests, heading, noise, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.figure_requests import suffix_of
from harness.reporting.figures import SeedValues, axis_label, subject
from harness.reporting.naming import phrases
from harness.reporting.style import Figure
from harness.reporting.values import CellValues

ONE_PER_ROW = ("table3", "mechanism", "couplings")
"""Experiments in which every cell has a row of its own, whose label is the cell's."""

LINE = 30
"""Characters in one line of the label of a row; longer lines would leave no room for the values."""


def ablation_figures(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Figure]:
    """The figures of those experiments that have values."""
    return figure_requests.figures_of(figure_requests.ablations(experiments, cell_values))


def _setting(cell: Cell) -> str:
    """How the cell's settings differ from those of Table 1, in words; for ECT the length of the training and what else distinguishes it."""
    distinct, follows = phrases(cell.differs, cell.run)
    if cell.run.objective.kind == "ect":
        return ", ".join([f"{cell.run.train.steps:,} steps", *distinct])
    return ", ".join(distinct or follows) or "as in Table 1"


def in_lines(label: str, most: int = LINE) -> str:
    """A label of several phrases, separated by commas, in lines of at most `most` characters, or of one phrase that is longer."""
    lines: list[str] = []
    for phrase in label.split(", "):
        if lines and len(lines[-1]) + 2 + len(phrase) <= most:
            lines[-1] += f", {phrase}"
        else:
            lines.append(phrase)
    return ",\n".join(lines)


def final_values(experiment: ExperimentCells, data: str, cell_values: CellValues, title: str) -> Figure | None:
    """Final values: one row per setting, one marker per coupling, bars for the interval over seeds. None for less than two values."""
    metric, cells = main_metric(data), experiment.of(data)
    column = cell_values.column(cells, metric)
    measured = [cell for cell in cells if cell.key in column.cells]
    if len(measured) < 2:
        return None
    single = experiment.name in ONE_PER_ROW or len({_setting(cell) for cell in measured}) == 1
    rows: dict[str, list[Cell]] = {}
    for cell in measured:
        rows.setdefault(style.pretty(cell.label) if single else _setting(cell), []).append(cell)
    fullest = max(map(len, rows.values()))
    names = {place: in_lines(place) for place in rows}
    lines = [name.count("\n") + 1 for name in names.values()]
    most = max(map(sum, pairwise(lines)), default=lines[0])  # of two labels one below the other, which must not touch
    canvas, (axes,) = style.new(height=0.5 + max(0.2, 0.1 * fullest, 0.07 * most) * len(rows))
    looks = style.looks(dict.fromkeys(cell.slug for cell in measured))
    labels = {cell.slug: style.drawn(cell.label.partition(";")[0].partition(", ")[0]) for cell in reversed(measured)}
    numbers = {cell.key: len(column.cells[cell.key].values) for cell in measured}
    drawn = SeedValues(axes, metric, horizontal=True)
    for number, (place, group) in enumerate(rows.items()):
        for position, cell in enumerate(group):
            y = number + (position - (len(group) - 1) / 2) * min(0.22, 0.7 / len(group))  # so that no marker hides another
            common = {"data": cell.data, "setting": place, "model": cell.label, "key": cell.key, "metric": metric}
            drawn.dots(cell, common, column.cells[cell.key], y, looks[cell.slug], None if single else labels.pop(cell.slug, None))
    axes.set_yticks(range(len(rows)), [style.drawn(name) for name in names.values()])
    axes.margins(x=0.06)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"final {axis_label(metric)}")
    axes.tick_params(axis="y", length=0)
    noise.show_noise(axes, drawn.spreads, "x")
    notes = experiment.notes if experiment.name == "mechanism" else ()
    caption = "; ".join(["At each run's last step", *notes])
    name = f"{experiment.name}{suffix_of(experiment.scale, data)}"
    made_from, keys = subject(measured, cell_values, numbers.values()), heading.keys(drawn.intervals, "row", dots=True)
    return heading.figure(name, canvas, title, made_from, caption, pd.DataFrame(drawn.rows), drawn.points, keys)
