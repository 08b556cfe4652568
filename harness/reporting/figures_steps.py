"""The figure of quality against the number of function evaluations: models that are measured with one, two and more sampling steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.data.catalogue import main_metric
from harness.reporting import heading, noise, style
from harness.reporting.cells import Cell
from harness.reporting.experiment_notes import few_steps_in_words
from harness.reporting.figures import SeedValues, axis_label, subject
from harness.reporting.naming import NETWORKS
from harness.reporting.style import Figure, Look
from harness.reporting.values import CellValues, Value, step_counts
from harness.stats.intervals import Interval
from harness.store.records import few_step_name

MOST_COLUMNS = 3
"""Panels beside each other."""


@dataclass(frozen=True)
class Line:
    """One model. values: by number of steps, for at least two numbers."""

    cell: Cell
    values: Mapping[int, Value]
    label: str


def against_steps(cells: Sequence[Cell], cell_values: CellValues, name: str, title: str) -> Figure | None:
    """Final values against the number of steps, with bars for the interval over seeds: a panel for each training length and network.

    cells: of one data set, with times. None without values of two numbers of steps. Models of other times or re-noising than the others
    are lines of their own, whose labels say so.
    """
    lines = _lines(cells, cell_values)
    if not lines:
        return None
    metric, panels = main_metric(cells[0].data), _panels(lines)
    columns = min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = (style.COLUMN, 2.3) if columns == 1 else (style.PAGE, 2.0 * rows)
    canvas, boxes = style.new(width, height, columns, rows, share=True)
    intervals = [value.interval for line in lines for value in line.values.values()]
    means, numbers = [interval.mean for interval in intervals], [interval.n for interval in intervals]
    log = max(means) > 4 * min(means) > 0
    floor = noise.floor_of(means, intervals) if log else None
    looks = style.looks(dict.fromkeys(_look_key(line, lines) for line in lines))
    drawings = []
    for axes, (panel, members) in zip(boxes, panels.items(), strict=False):
        drawings.append(SeedValues(axes, metric, floor=floor))
        _draw(drawings[-1], [(line, looks[_look_key(line, lines)]) for line in members], numbers)
        axes.set_title(panel if len(panels) > 1 else "")
    for position, axes in enumerate(boxes):
        axes.set_visible(position < len(panels))
        if position + columns >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("function evaluations")
        if position % columns == 0:
            axes.set_ylabel(f"final {axis_label(metric)}")
    most = max(count for line in lines for count in line.values)
    boxes[0].set(xlim=(0.6, most + 0.4), xticks=np.arange(1, most + 1))
    for axes in boxes if log else ():
        style.log_scale(axes)
    noise.show_noise(boxes[0], [spread for drawn in drawings for spread in drawn.spreads])
    for axes in boxes if log else ():
        style.log_scale(axes)  # the labels of its ticks depend on its limits
    data = pd.concat([pd.DataFrame(drawn.rows) for drawn in drawings], ignore_index=True)
    points = [point for drawn in drawings for point in drawn.points]
    keys = heading.keys(intervals, "bar", dots=True, clipped=any(drawn.clipped for drawn in drawings))
    made_from = subject([line.cell for line in lines], cell_values, numbers)
    return heading.figure(name, canvas, _title(title, lines), made_from, _caption(lines, intervals), data, points, keys)


def _draw(drawn: SeedValues, lines: Sequence[tuple[Line, Look]], numbers: Sequence[int]) -> None:
    """Draws the lines of one panel, beside each other so that no marker hides another. numbers: those of seeds in the whole figure."""
    for position, (line, look) in enumerate(lines):
        beside = (position - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
        n = max(value.interval.n for value in line.values.values())
        means = [value.interval.mean for value in line.values.values()]
        label = style.drawn(style.with_seeds(line.label, n, numbers))
        drawn.axes.plot([count + beside for count in line.values], means, label=label, **look.of(n).options())
        for count, value in line.values.items():
            common = {"data": line.cell.data, "model": line.cell.label, "key": line.cell.key, "metric": drawn.metric, "steps": count}
            common |= {"protocol": value.protocol, "samples": value.samples}
            drawn.dots(line.cell, common, value, count + beside, look)


def _lines(cells: Sequence[Cell], cell_values: CellValues) -> list[Line]:
    """The cells with values of at least two numbers of steps; each number of steps, with its times and re-noising, has one protocol."""
    metric = main_metric(cells[0].data)
    one_step = cell_values.column(cells, metric)
    found: dict[str, dict[int, Value]] = {key: {1: value} for key, value in one_step.cells.items()}
    for group in _by_sampling(cells).values():
        for count in step_counts(group)[1:]:
            column = cell_values.column([cell for cell in group if cell.key in found], few_step_name(metric, count))
            for key, value in column.cells.items():
                found[key][count] = value
    shown = [cell for cell in cells if len(found.get(cell.key, ())) > 1]
    names = {cell.key: f"{_name(cell)}{_sampling(cell, shown)}" for cell in shown}
    common = Counter((_panel(cell, shown), names[cell.key]) for cell in shown)
    return [
        Line(cell, found[cell.key], names[cell.key] if common[_panel(cell, shown), names[cell.key]] == 1 else cell.label) for cell in shown
    ]


def _by_sampling(cells: Sequence[Cell]) -> dict[tuple[object, ...], list[Cell]]:
    """The cells by times and re-noising of their evaluation."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.run.evaluation.times, cell.run.evaluation.renoising), []).append(cell)
    return groups


def _name(cell: Cell) -> str:
    """Objective and coupling, without what the panels say."""
    return cell.label.partition(";")[0].removesuffix(f", {cell.run.train.steps:,} steps")


def _sampling(cell: Cell, others: Sequence[Cell]) -> str:
    """How the cell's samples are drawn, as far as it distinguishes it from the others."""
    evaluation, parts = cell.run.evaluation, []
    if len({other.run.evaluation.times for other in others}) > 1:
        parts.append(f"t = {', '.join(f'{t:g}' for t in evaluation.times)}")
    if len({other.run.evaluation.renoising for other in others}) > 1:
        parts.append(evaluation.renoising)
    return "".join(f", {part}" for part in parts)


def _panels(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines by training length, and by network where there are several, the shortest training first."""
    panels: dict[str, list[Line]] = {}
    cells = [line.cell for line in lines]
    for line in sorted(lines, key=lambda line: (line.cell.run.network.kind == "edm2", line.cell.run.train.steps)):
        panels.setdefault(_panel(line.cell, cells), []).append(line)
    return panels


def _panel(cell: Cell, others: Sequence[Cell]) -> str:
    several = len({other.run.network.kind for other in others}) > 1
    network = f"{NETWORKS.get(cell.run.network.kind, cell.run.network.kind)}, " if several else ""
    return f"{network}{cell.run.train.steps:,} training steps"


def _look_key(line: Line, lines: Sequence[Line]) -> str:
    """What lines of the same look share: the coupling, in each panel once, or else the whole setting."""
    cells = [other.cell for other in lines]
    alike = [cell for cell in cells if (_panel(cell, cells), cell.slug) == (_panel(line.cell, cells), line.cell.slug)]
    return line.cell.slug if alike[0] == line.cell else line.cell.key


def _title(title: str, lines: Sequence[Line]) -> str:
    """The title, with the further noise levels and the re-noising where they are the same for all."""
    evaluations = [line.cell.run.evaluation for line in lines]
    times, renoisings = ({getattr(evaluation, name) for evaluation in evaluations} for name in ("times", "renoising"))
    if len(times) == 1:
        levels = evaluations[0].times
        title += f", the {'second' if len(levels) == 1 else 'further ones'} at t = {', '.join(f'{t:g}' for t in levels)}"
    return f"{title}, {evaluations[0].renoising} re-noising" if len(renoisings) == 1 else title


def _caption(lines: Sequence[Line], intervals: Sequence[Interval]) -> str:
    """How the values were measured: samples, resamplings, seeds, intervals, sampling, protocols."""
    values = [(count, value) for line in lines for count, value in line.values.items()]
    samples = sorted({value.samples for _, value in values if value.samples})
    resamplings = sorted({line.cell.run.evaluation.resamplings for line in lines})
    seeds, method = sorted({interval.n for interval in intervals}), heading.method(intervals)
    return "; ".join(
        [
            f"Means over n = {_either(seeds)} training seed{'s' * (seeds != [1])}, of {_either(resamplings)} evaluations of "
            f"{_either(samples)} samples of the last model",
            f"bars: 95 % interval over seeds ({method})" if method else "one seed, so no interval",
            *dict.fromkeys(few_steps_in_words(line.cell.run.evaluation) for line in lines),
            "protocols by number of steps: " + ", ".join(sorted({f"{count} {value.protocol}" for count, value in values})),
        ]
    )


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)
