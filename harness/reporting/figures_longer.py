"""Figure of the longer runs: quality over training images, and GC's advantage over IC under four settings of the default length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.config.run import Run
from harness.data.catalogue import main_metric
from harness.reporting import figure_requests, heading, noise, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.figures import SeedValues, axis_label, columns_of, complete, subject
from harness.reporting.findings_longer import BOTH, EMA, LONG, PRESET, STAGE, Setting, settings, stage_ends
from harness.reporting.style import PAGE, Figure, Point
from harness.reporting.values import METRICS, CellValues
from harness.stats.differences import Difference
from harness.stats.intervals import Interval


def longer_figures(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Figure]:
    """The figure of each data set of the experiment whose long runs have values."""
    return figure_requests.figures_of(figure_requests.longer(experiments, cell_values))


def longer_training(cells: Sequence[Cell], cell_values: CellValues, name: str) -> Figure | None:
    """Two panels: the long runs, and the ratios of the short ones. None without values of long runs."""
    metric, by_name = main_metric(cells[0].data), settings(cells, cell_values)
    long = list(by_name[LONG].cells.values()) if LONG in by_name else []
    shown = [cell for cell in long if not cell_values.curves(cell, metric).empty]
    if not shown:
        return None
    canvas, (left, right) = style.new(PAGE, 2.4, columns=2)
    drawn, numbers = _curves(left, shown, cell_values, metric)
    rows, points, ratios = _ratios(right, [by_name[key] for key in (PRESET, EMA, STAGE, BOTH, LONG) if key in by_name], metric)
    made_from = subject(cells, cell_values, numbers)
    caption = (
        "Left: ten times the steps; N doubles at the vertical lines. Right: GC over IC of the same seed at the last step (geometric mean); "
        "left of 1, GC is better"
    )
    title = f"{METRICS[metric].title} of ten times longer training, and GC's advantage under other settings of the default length"
    keys = heading.keys(drawn.intervals, clipped=drawn.clipped)
    if any(ratio.low is not None for ratio in ratios):
        keys.append(heading.bar_key("95 % interval over pairs of seeds"))
    data = pd.concat([pd.DataFrame(drawn.rows).assign(panel="training"), pd.DataFrame(rows).assign(panel="ratio")])
    return heading.figure(name, canvas, title, made_from, caption, data, [*drawn.points, *points], keys)


def _curves(axes: Axes, cells: Sequence[Cell], cell_values: CellValues, metric: str) -> tuple[SeedValues, set[int]]:
    """The curves of the long runs against training images, and the numbers of their seeds."""
    frames = {cell.key: complete(cell_values.curves(cell, metric)) for cell in cells}
    floor = noise.floor_of(value for frame in frames.values() for value in frame.to_numpy().flat)
    drawn, looks = SeedValues(axes, metric, "value", floor=floor), style.looks(cell.slug for cell in cells)
    numbers = {cell.key: frames[cell.key].shape[1] for cell in cells}
    for cell in cells:
        label = style.with_seeds(cell.label.partition(";")[0], numbers[cell.key], numbers.values())
        drawn.curve(cell, frames[cell.key], looks[cell.slug].of(numbers[cell.key]), label, cell.run.train.batch)
    axes.set(xlabel="training images", ylabel=axis_label(metric))
    style.steps(axes)
    style.log_scale(axes)
    noise.show_noise(axes, drawn.spreads)
    style.log_scale(axes)
    _stages(axes, cells[0].run)
    return drawn, set(numbers.values())


def _stages(axes: Axes, run: Run) -> None:
    """A vertical line where N doubles, and N of each stage above the axes."""
    start = 0
    for step, n in stage_ends(run):
        middle, end = (start + step) / 2 * run.train.batch, step * run.train.batch
        if step < run.train.steps:
            axes.axvline(end, color=style.GREY, linewidth=0.8, linestyle=":", zorder=0, label="N doubles" if not start else None)
        axes.annotate(f"{n}", (middle, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", size=6, color=style.DARK_GREY)
        start = step
    axes.annotate(style.drawn("N = "), (0, 1), xycoords="axes fraction", ha="right", va="bottom", size=6, color=style.DARK_GREY)


def _ratios(axes: Axes, by_setting: Sequence[Setting], metric: str) -> tuple[list[dict[str, Any]], list[Point], list[Interval]]:
    """The ratio GC / IC of each setting, by pairs of seeds: rows for the CSV, tooltips, intervals."""
    rows: list[dict[str, Any]] = []
    points: list[Point] = []
    ratios: list[Interval] = []
    labels: list[str] = []
    for setting in by_setting:
        if setting.ratio is None:
            continue
        ratio, y, label = as_ratio(setting.ratio), len(labels), described(setting.run)
        labels.append(style.drawn(label))
        ratios.append(ratio)
        noise.bars(axes, [y], [ratio], style.look("gc-0.5").of(ratio.n), horizontal=True)
        rows.append({"setting": label, "metric": metric, "value": ratio.mean, **columns_of(ratio)})
        for seed, log in setting.log_ratios.items():
            rows.append({"setting": label, "metric": metric, "seed": seed, "value": math.exp(log)})
            points.append((axes, math.exp(log), y, f"{label}, seed {seed}\nGC over IC: {math.exp(log):.3g}"))
            if len(setting.log_ratios) > 1:
                axes.plot([math.exp(log)], [y], ".", color=style.VERMILLION, markersize=2, alpha=0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(max(len(labels), 1) - 0.5, -0.5), xlabel=f"{axis_label(metric)} of GC / {axis_label(metric)} of IC")
    axes.axvline(1, color=style.GREY, linewidth=0.8, linestyle=style.DASHED, zorder=0, label="GC equals IC")
    axes.margins(x=0.08)
    noise.show_noise(axes, map(noise.noise_of, ratios), "x")
    return rows, points, ratios


def described(run: Run) -> str:
    """A setting in two lines: steps, then EMA rate and n1."""
    return f"{run.train.steps:,} steps\nEMA {run.ema.rate:g}, n1={run.objective.n1}"  # type: ignore[union-attr]  # iCT only


def as_ratio(log_ratio: Difference) -> Interval:
    """The geometric mean of a ratio with its interval, from the difference of logarithms."""
    low, high = (None if bound is None else math.exp(bound) for bound in (log_ratio.low, log_ratio.high))
    method = "Student's t on logarithms" if low is not None else "no interval"
    return Interval(math.exp(log_ratio.mean), low, high, log_ratio.n, method)
