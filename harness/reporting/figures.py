"""Figures from training records: convergence (Figures 4, 5, 7), final values against mu, transport during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.reporting import figure_requests, heading, noise, paper_values, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.heading import Subject
from harness.reporting.style import DASHED, Figure, Look, Point
from harness.reporting.values import METRICS, CellValues, Value, bounds_of
from harness.stats.intervals import Bounds, Interval, interval


def training_figures(experiment: ExperimentCells, cell_values: CellValues) -> list[Figure]:
    """All figures that the runs of a scale allow, data set by data set."""
    return figure_requests.figures_of(figure_requests.training(experiment, cell_values))


def axis_label(metric: str) -> str:
    """A metric as an axis names it."""
    return style.drawn("transport cost E‖x′ − z′‖²" if metric == "pair_cost" else METRICS[metric].title)


@dataclass
class SeedValues:
    """What a figure over training seeds draws, collected meanwhile: rows for its CSV, points for the page's tooltips, intervals."""

    axes: Axes
    metric: str
    column: str = "mean"
    horizontal: bool = False
    """The values lie along the x axis."""
    floor: float | None = None
    """Lower end of a logarithmic axis; see `noise.floor_of`."""
    clipped: bool = False
    """An interval continues below it."""
    rows: list[dict[str, object]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    spreads: list[tuple[float, float]] = field(default_factory=list)
    """Values with their noise; see `noise.show_noise`."""

    def add(self, cell: Cell, common: Mapping[str, object], summary: Interval, values: Mapping[int, float], at: float, when: str) -> None:
        """Adds a mean over seeds with its interval, and the value of each seed. at: the other coordinate. when: in words, for tooltips."""
        self.rows.append({**common, self.column: summary.mean, **columns_of(summary)})
        for seed, value in values.items():
            self.rows.append({**common, "seed": seed, self.column: value, "run": cell.runs[seed]})
            text = f"{style.pretty(cell.label)}, seed {seed}\n{when} {METRICS[self.metric].title} {value:.4g}\n{cell.runs[seed]}"
            self.points.append((self.axes, *((value, at) if self.horizontal else (at, value)), text))
        self.intervals.append(summary)
        self.spreads.append(noise.noise_of(summary))

    def curve(self, cell: Cell, frame: pd.DataFrame, look: Look, label: str, per_step: int = 1) -> None:
        """Draws values by step (rows) and seed (columns), their means as a line and their intervals as a band, and adds them.

        per_step: what one step counts on the x axis, such as the images of a batch.
        """
        x, summaries = [int(step) * per_step for step in frame.index], _over_seeds(frame, bounds_of(self.metric, cell.data))
        for (step, row), at, summary in zip(frame.iterrows(), x, summaries, strict=True):
            common = {"data": cell.data, "model": cell.label, "key": cell.key, "metric": self.metric, "step": step, "seed": "mean"}
            self.add(cell, common, summary, dict(row.dropna()), at, f"step {step:,}:")
        means, every = [summary.mean for summary in summaries], max(1, len(x) // noise.MOST_MARKERS)
        self.axes.plot(x, means, label=style.drawn(label), markevery=every, **look.options())
        self.clipped |= noise.band(self.axes, x, summaries, look.color, self.floor)

    def dots(self, cell: Cell, common: Mapping[str, object], value: Value, at: float, look: Look, label: str | None = None) -> None:
        """Draws final values, the mean with its interval and the single seeds, and adds them. at: the other coordinate."""
        summary, seeds = value.interval, list(value.values.values())
        look = look.of(summary.n)
        self.clipped |= noise.bars(self.axes, [at], [summary], look, label, floor=self.floor, horizontal=self.horizontal)
        if len(seeds) > 1:
            places = (seeds, [at] * len(seeds)) if self.horizontal else ([at] * len(seeds), seeds)
            self.axes.plot(*places, ".", color=look.color, markersize=2, alpha=0.5, zorder=2)
        self.add(cell, common, summary, value.values, at, "final")
        self.spreads.append((summary.mean, value.noise or 0.0))


def columns_of(summary: Interval) -> dict[str, object]:
    """The columns of an interval in a figure's CSV."""
    return {"low": summary.low, "high": summary.high, "n": summary.n, "interval": summary.method}


def subject(cells: Sequence[Cell], cell_values: CellValues, seeds: Iterable[int]) -> Subject:
    """What a figure of these cells was made from. seeds: the numbers of training seeds of its means."""
    loaded = cell_values.loaded
    label = loaded.label_of(loaded.find(run for cell in cells for run in cell.runs.values()))
    return Subject(paper_values.data_name(cells[0].data), cells[0].scale, label, set(seeds))


def curves(
    cells: Sequence[Cell],
    cell_values: CellValues,
    metric: str,
    name: str,
    title: str,
    log: bool = True,
    doublings: Sequence[int] = (),
    note: str = "",
) -> Figure | None:
    """A metric against the training step: one line per cell, with a band for the interval over its seeds. None without values.

    doublings: steps at which N doubles, each a vertical line. note: goes to the end of the caption.
    """
    every_seed = {cell.key: cell_values.curves(cell, metric) for cell in cells}
    frames = {key: complete(frame) for key, frame in every_seed.items()}
    shown = [cell for cell in cells if not frames[cell.key].empty]
    if not shown:
        return None
    canvas, (axes,) = style.new()
    looks = style.looks(cell.key for cell in shown)
    intervals = [summary for cell in shown for summary in _over_seeds(frames[cell.key], bounds_of(metric, cell.data))]
    floor = noise.floor_of((summary.mean for summary in intervals), intervals) if log else None
    drawn = SeedValues(axes, metric, "value", floor=floor)
    numbers = {cell.key: frames[cell.key].shape[1] for cell in shown}
    for cell in shown:
        label = style.with_seeds(cell.label, numbers[cell.key], numbers.values())
        drawn.curve(cell, frames[cell.key], looks[cell.key].of(numbers[cell.key]), label)
    for number, step in enumerate(doublings):
        axes.axvline(step, color=style.GREY, linewidth=0.8, linestyle=":", zorder=0, label=None if number else "N doubles")
    axes.set(xlabel="training step", ylabel=axis_label(metric))
    style.steps(axes)
    if log:
        style.log_scale(axes)
    noise.show_noise(axes, drawn.spreads)
    if log:
        style.log_scale(axes)  # the labels of its ticks depend on its limits
    caption = "Lines: means over training seeds" if max(numbers.values()) > 1 else "One training seed, so no interval"
    if behind := sum(every_seed[cell.key].shape[1] - numbers[cell.key] for cell in shown):
        caption += f"; left out: {behind} run{'s' * (behind > 1)} that {'have' if behind > 1 else 'has'} not come as far as the others"
    caption = f"{caption}; {note}" if note else caption
    made_from, keys = subject(shown, cell_values, numbers.values()), heading.keys(drawn.intervals, clipped=drawn.clipped)
    return heading.figure(name, canvas, title, made_from, caption, pd.DataFrame(drawn.rows), drawn.points, keys)


def complete(curves: pd.DataFrame) -> pd.DataFrame:
    """Curves (a column for each seed) without the seeds that have not come to the last step.

    A mean over fewer seeds from some step on would jump there.
    """
    return curves.loc[:, curves.iloc[-1].notna()].dropna() if len(curves) else curves


def _over_seeds(frame: pd.DataFrame, bounds: Bounds) -> list[Interval]:
    """The mean over seeds (columns) of each row, with its interval."""
    return [interval(list(row.dropna()), bounds) for _, row in frame.iterrows()]


def over_mu(cells: Sequence[Cell], cell_values: CellValues, metric: str, name: str, title: str) -> Figure | None:
    """Final values against mu, where mu = 0 is IC, and batch-OT's as a horizontal line. cells: by mu. None for less than four values."""
    column = cell_values.column(cells, metric)
    by_mu = {getattr(cell.run.coupling, "mu", 0.0): cell for cell in cells if cell.key in column.cells and cell.key != "ot"}
    if len(by_mu) < 4:
        return None
    canvas, (axes,) = style.new()
    means = [column.cells[cell.key].interval.mean for cell in by_mu.values()]
    log = max(means) > 4 * min(means) > 0
    drawn = SeedValues(
        axes, metric, floor=noise.floor_of(means, [column.cells[cell.key].interval for cell in by_mu.values()]) if log else None
    )
    axes.plot(list(by_mu), means, color=style.GREY, linewidth=0.8, zorder=1, label="line through the means")
    fullest = max(by_mu, key=lambda mu: (mu > 0, column.cells[by_mu[mu].key].interval.n))
    labels = {0.0: "iCT-IC", fullest: "iCT-GC"}
    for mu, cell in by_mu.items():
        coupling = "gc" if mu else "ic"
        common = {"mu": mu, "model": cell.label, "metric": metric}
        drawn.dots(cell, common, column.cells[cell.key], mu, style.look(coupling), labels.get(mu))
    if "ot" in column.cells:
        batch_ot = column.cells["ot"].interval
        label = f"iCT-OT, {'1 seed' if batch_ot.n == 1 else f'{batch_ot.n} seeds, with its interval'}"
        style.level(axes, batch_ot.mean, batch_ot.low, batch_ot.high, style.ORANGE, DASHED, label)
        drawn.rows.append({"model": "iCT-OT", "metric": metric, "mean": batch_ot.mean, **columns_of(batch_ot)})
        drawn.spreads.append(noise.noise_of(batch_ot))
    axes.set(xlabel=style.drawn("share μ of generator-augmented pairs (0: iCT-IC)"), ylabel=f"final {axis_label(metric)}")
    axes.set_xticks(np.linspace(0, 1, 6))
    if log:
        style.log_scale(axes)
    noise.show_noise(axes, drawn.spreads)
    caption = "At the fixed last step"
    shown = [column.cells[cell.key].interval.n for cell in cells if cell.key in column.cells]
    keys = heading.keys(drawn.intervals, "bar", dots=True, clipped=drawn.clipped)
    return heading.figure(name, canvas, title, subject(cells, cell_values, shown), caption, pd.DataFrame(drawn.rows), drawn.points, keys)
