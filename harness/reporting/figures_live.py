"""Curves of runs that are still at work: one line per run, as far as each has come."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.reporting import heading, style
from harness.reporting.cells import Cell
from harness.reporting.figures import axis_label, subject
from harness.reporting.style import Figure, Point
from harness.reporting.values import METRICS, CellValues


def single_runs(cells: Sequence[Cell], cell_values: CellValues, metric: str, name: str, title: str) -> Figure | None:
    """A metric against the training step, one line for each run; the runs of a cell share its look. None without values."""
    curves = {cell.key: cell_values.curves(cell, metric) for cell in cells}
    shown = [cell for cell in cells if not curves[cell.key].empty]
    if not shown:
        return None
    canvas, (axes,) = style.new()
    looks = style.looks(cell.key for cell in shown)
    rows: list[dict[str, object]] = []
    points: list[Point] = []
    for cell in shown:
        for number, (seed, curve) in enumerate(curves[cell.key].items()):
            known = curve.dropna()
            label = style.drawn(cell.label) if number == 0 else None
            axes.plot(known.index, known, label=label, **looks[cell.key].of(1).options() | {"linewidth": 0.9, "markersize": 2.5})
            for step, value in known.items():
                rows.append({"model": cell.label, "seed": seed, "step": step, "value": value})
                points.append((axes, step, value, f"{cell.label}, seed {seed}\nstep {step:,}: {METRICS[metric].title} {value:.4g}"))
    axes.set(xlabel="training step", ylabel=axis_label(metric))
    style.steps(axes)
    if all(row["value"] > 0 for row in rows):  # type: ignore[operator]
        style.log_scale(axes)
    made_from = subject(shown, cell_values, {curves[cell.key].shape[1] for cell in shown})
    return heading.figure(name, canvas, title, made_from, "One line per run, as far as it has come", pd.DataFrame(rows), points)
