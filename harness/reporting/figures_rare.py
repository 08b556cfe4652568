"""Figure of the experiment with a rare class: the share of that class among generated samples over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.data.catalogue import info
from harness.reporting import figure_requests, heading, noise, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.figures import SeedValues, complete, subject
from harness.reporting.findings_rare import DROPPED, METRIC
from harness.reporting.style import Figure
from harness.reporting.values import CellValues


def rare_figures(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Figure]:
    """The figure of each data set with a rare class that has values."""
    return figure_requests.figures_of(figure_requests.rare(experiments, cell_values))


def share_over_training(cells: Sequence[Cell], data: str, cell_values: CellValues, name: str) -> Figure | None:
    """The share of the rare class over its share in the data against the training step, one line per model. None without values."""
    frames = {cell.key: complete(cell_values.curves(cell, METRIC)) for cell in cells}
    shown, rare = [cell for cell in cells if not frames[cell.key].empty], info(data).rare
    if not shown or rare is None:
        return None
    canvas, (axes,) = style.new()
    samples = shown[0].run.evaluation.samples
    error = noise.NORMAL * ((1 - rare.share) / (rare.share * samples)) ** 0.5
    style.target(axes, 1, "share in the data")
    axes.axhspan(1 - error, 1 + error, color=style.GREY, alpha=style.BAND, linewidth=0, label="95 % of one evaluation (binomial)")
    looks, drawn = style.looks(cell.key for cell in shown), SeedValues(axes, METRIC, "value")
    numbers = {cell.key: frames[cell.key].shape[1] for cell in shown}
    for cell in shown:
        label = style.with_seeds(cell.label, numbers[cell.key], numbers.values())
        drawn.curve(cell, frames[cell.key], looks[cell.key].of(numbers[cell.key]), label)
    axes.set(xlabel="training step", ylabel="rare class: share over true share")
    style.steps(axes)
    caption = f"Below {DROPPED:g}, a class counts as dropped; one evaluation of {samples:,} samples per point"
    if _cut(axes, [row for row in drawn.rows if row["seed"] == "mean"], shown[0].run.train.steps):
        caption += "; early points above the axis are cut: few samples are like the data there, and shares of few say little"
    made_from, keys = subject(shown, cell_values, numbers.values()), heading.keys(drawn.intervals)
    title = f"share of the rare class ({100 * rare.share:g} % of the data) during training"
    return heading.figure(name, canvas, title, made_from, caption, pd.DataFrame(drawn.rows), drawn.points, keys)


def _cut(axes: Axes, means: Sequence[Mapping[str, Any]], steps: int) -> bool:
    """Limits the axis to what is shown after the first quarter of the training; returns whether a mean lies above it."""
    late = [row["high"] if row["high"] is not None else row["value"] for row in means if row["step"] > steps / 4]
    top = 1.1 * max([1.5, *late])
    axes.set_ylim(-0.03 * top, top)
    return any(row["value"] > top for row in means)
