"""Figures from training records: convergence (Figures 4, 5), final values against mu, transport during training, samples (Figure 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from harness.config.parts import GeneratorAugmented
from harness.config.presets import PRESETS_BY_SCALE
from harness.data.catalogue import main_metric
from harness.reporting import paper_values, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.style import BAND, COLUMN, DASHED, PAGE, Figure, Look, Point
from harness.reporting.values import METRICS, CellValues, Value
from harness.statistics.intervals import Interval, interval

AXIS_LABELS = {
    "fid": "FID",
    "w2": "$W_2$",
    "pair_cost": "transport cost E‖x′ − z′‖²",
    "endpoint_fid": "FID of endpoints",
    "endpoint_w2": "$W_2$ of endpoints",
}


def training_figures(experiment: ExperimentCells, cell_values: CellValues) -> list[Figure]:
    """All figures that the runs of a scale allow, data set by data set."""
    with style.context():
        return [figure for data in experiment.data for figure in _of_data(experiment, cell_values, data) if figure]


def _of_data(experiment: ExperimentCells, cell_values: CellValues, data: str) -> list[Figure | None]:
    cells = sorted((cell for cell in experiment.of(data) if cell.run.objective.kind == "ict"), key=_rank)
    if not cells:
        return []
    presets_only = [cell for cell in cells if not cell.differs and not cell.key.endswith("*")]
    plain = [cell for cell in presets_only if _is_plain(cell)]
    main = [cell for cell in presets_only if cell.key in ("ic", "ot", "gc-0.5") or cell.run.coupling.kind == "custom"]
    by_mu = [cell for cell in plain if cell.key in ("ic", "ot", *(f"gc-{mu}" for mu in (0.1, 0.3, 0.5, 0.7, 1)))]
    frozen = [cell for cell in cells if getattr(cell.run.coupling, "predictor", "") == "frozen"]
    frozen.sort(key=lambda cell: -(cell_values.predictor_steps(cell.run) or 0))
    name, suffix, metric = paper_values.data_name(data), suffix_of(experiment.scale, data), main_metric(data)
    title = METRICS[metric].title
    return [
        curves(main, cell_values, metric, f"convergence{suffix}", f"{name}: {title} during training, the models of Table 1"),
        curves(
            by_mu if len(by_mu) > 3 else [], cell_values, metric, f"figure5{suffix}", f"{name}: {title} during training, by μ (Figure 5)"
        ),
        over_mu(plain, cell_values, metric, f"mu{suffix}", f"{name}: final {title} against μ"),
        curves(
            [*plain[:1], *frozen] if frozen else [],
            cell_values,
            metric,
            f"figure4{suffix}",
            f"{name}: GC with a frozen endpoint predictor (Figure 4)",
        ),
        curves(main, cell_values, "pair_cost", f"transport-training{suffix}", f"{name}: transport cost of the training pairs", log=False),
        curves(by_mu, cell_values, f"endpoint_{metric}", f"figure7{suffix}", f"{name}: {title} of endpoints from IC points (Figure 7)"),
        samples(main, cell_values, f"figure8{suffix}", f"{name}: samples at the last step, first seed (Figure 8)"),
    ]


def _rank(cell: Cell) -> tuple[int, float, str]:
    """IC, batch-OT, GC by mu, then the rest."""
    order = {"independent": 0, "batch-ot": 1, "gc": 2}
    return order.get(cell.run.coupling.kind, 3), getattr(cell.run.coupling, "mu", 0.0), cell.key


def suffix_of(scale: str, data: str) -> str:
    """-digits, or -paper-cifar10 where a scale has more than one data set."""
    usual = PRESETS_BY_SCALE[scale].table1 if scale in PRESETS_BY_SCALE else ()
    return f"-{scale}" if usual == (data,) else f"-{scale}-{data}"


def _is_plain(cell: Cell) -> bool:
    coupling = cell.run.coupling
    return coupling == GeneratorAugmented(mu=coupling.mu) if isinstance(coupling, GeneratorAugmented) else coupling.kind != "custom"


@dataclass
class SeedValues:
    """The numbers of a figure over training seeds, collected while it is drawn: rows for its CSV, points for the page's tooltips."""

    axes: Axes
    metric: str
    column: str = "mean"
    horizontal: bool = False
    """The values lie along the x axis."""
    rows: list[dict[str, object]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def add(self, cell: Cell, common: Mapping[str, object], summary: Interval, values: Mapping[int, float], at: float, when: str) -> None:
        """Adds a mean over seeds with its interval, and the value of each seed. at: the other coordinate. when: in words, for tooltips."""
        self.rows.append({**common, self.column: summary.mean, "low": summary.low, "high": summary.high, "n": summary.n})
        for seed, value in values.items():
            self.rows.append({**common, "seed": seed, self.column: value, "run": cell.runs[seed]})
            text = f"{style.pretty(cell.label)}, seed {seed}\n{when} {METRICS[self.metric].title} {value:.4g}\n{cell.runs[seed]}"
            self.points.append((self.axes, *((value, at) if self.horizontal else (at, value)), text))

    def dots(self, cell: Cell, common: Mapping[str, object], value: Value, at: float, look: Look, label: str | None = None) -> None:
        """Draws final values, the mean with its interval and the single seeds, and adds them. at: the other coordinate."""
        summary, seeds = value.interval, list(value.values.values())
        bar = None if summary.low is None or summary.high is None else [[summary.mean - summary.low], [summary.high - summary.mean]]
        options = look.options() | {"linestyle": "none", "markersize": 4, "elinewidth": 0.9, "capsize": 1.5, "zorder": 3, "label": label}
        dots: dict[str, Any] = {"color": look.color, "markersize": 2, "alpha": 0.5, "zorder": 2}
        if self.horizontal:
            self.axes.errorbar([summary.mean], [at], xerr=bar, **options)
            self.axes.plot(seeds, [at] * len(seeds), ".", **dots)
        else:
            self.axes.errorbar([at], [summary.mean], yerr=bar, **options)
            self.axes.plot([at] * len(seeds), seeds, ".", **dots)
        self.add(cell, common, summary, value.values, at, "final")


def curves(cells: Sequence[Cell], cell_values: CellValues, metric: str, name: str, title: str, log: bool = True) -> Figure | None:
    """A metric against the training step: one line per cell, with a band for the interval over its seeds."""
    frames = {cell.key: cell_values.curves(cell, metric) for cell in cells}
    shown = [cell for cell in cells if not frames[cell.key].empty]
    if not shown:
        return None
    canvas, (axes,) = style.new()
    looks = style.looks(cell.key for cell in shown)
    drawn = SeedValues(axes, metric, "value")
    for cell in shown:
        frame, look = frames[cell.key], looks[cell.key]
        summaries = []
        for step, row in frame.iterrows():
            values = dict(row.dropna())
            summaries.append(interval(list(values.values())))
            common = {"data": cell.data, "model": cell.label, "key": cell.key, "metric": metric, "step": step, "seed": "mean"}
            drawn.add(cell, common, summaries[-1], values, step, f"step {step:,}:")
        mean, low, high = np.array([(summary.mean, summary.low, summary.high) for summary in summaries], dtype=float).T
        every = max(1, len(frame) // 10)
        axes.plot(frame.index, mean, label=style.drawn_label(cell.label), markevery=every, **look.options())
        if not np.isnan(low).all():
            lowest = 0.5 * float(np.nanmin(frame.to_numpy())) if log else -np.inf
            axes.fill_between(frame.index, np.maximum(low, lowest), high, color=look.color, alpha=BAND, linewidth=0)
    axes.set(xlabel="training step", ylabel=AXIS_LABELS[metric])
    style.steps(axes)
    if log:
        style.log_scale(axes)
    style.legend(canvas, axes)
    seeds = sorted({frames[cell.key].shape[1] for cell in shown})
    counts = "-".join(map(str, seeds[:: max(1, len(seeds) - 1)]))
    line = f"Line: mean over training seeds; band: its 95 % interval ({counts} seeds)"
    caption = "One training seed, so no interval" if seeds == [1] else line
    return Figure(name, title, caption, canvas, pd.DataFrame(drawn.rows), cells[0].scale, drawn.points)


def over_mu(cells: Sequence[Cell], cell_values: CellValues, metric: str, name: str, title: str) -> Figure | None:
    """Final values against mu, where mu = 0 is IC, and batch-OT's as a horizontal line. cells: by mu. None for less than four values."""
    column = cell_values.column(cells, metric)
    by_mu = {getattr(cell.run.coupling, "mu", 0.0): cell for cell in cells if cell.key in column.cells and cell.key != "ot"}
    if len(by_mu) < 4:
        return None
    canvas, (axes,) = style.new()
    drawn = SeedValues(axes, metric)
    means = [column.cells[cell.key].interval.mean for cell in by_mu.values()]
    axes.plot(list(by_mu), means, color=style.GREY, linewidth=0.8, zorder=1)
    labels = {"ic": "iCT-IC", "gc": "iCT-GC"}
    for mu, cell in by_mu.items():
        coupling = "gc" if mu else "ic"
        common = {"mu": mu, "model": cell.label, "metric": metric}
        drawn.dots(cell, common, column.cells[cell.key], mu, style.look(coupling), labels.pop(coupling, None))
    if "ot" in column.cells:
        batch_ot = column.cells["ot"].interval
        style.level(axes, batch_ot.mean, batch_ot.low, batch_ot.high, style.ORANGE, DASHED, "iCT-OT")
        summary = {"mean": batch_ot.mean, "low": batch_ot.low, "high": batch_ot.high, "n": batch_ot.n}
        drawn.rows.append({"model": "iCT-OT", "metric": metric, **summary})
    style.legend(canvas, axes)
    axes.set(xlabel="μ (share of generator-augmented pairs; 0 is iCT-IC)", ylabel=f"final {AXIS_LABELS[metric]}")
    axes.set_xticks(np.linspace(0, 1, 6))
    if max(means) > 4 * min(means) > 0:
        style.log_scale(axes)
    caption = "Bars: 95 % interval over training seeds, at the fixed last step; dots: single seeds"
    return Figure(name, title, caption, canvas, pd.DataFrame(drawn.rows), cells[0].scale, drawn.points)


def samples(cells: Sequence[Cell], cell_values: CellValues, name: str, title: str) -> Figure | None:
    """The last sample grid of the first seed of each cell, side by side."""
    pictures: list[tuple[Cell, np.ndarray]] = []
    rows_of_csv = []
    for cell in cells:
        entries = [cell_values.loaded.runs[run] for _, run in sorted(cell.runs.items()) if run in cell_values.loaded.runs]
        entry = next((entry for entry in entries if entry.samples), None)
        if entry and (picture := _picture(entry.samples[-1], cell_values.loaded.damage)) is not None:
            pictures.append((cell, picture))
            rows_of_csv.append({"model": cell.label, "run": entry.id, "file": entry.samples[-1].name})
    if not pictures:
        return None
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    width = PAGE if columns > 1 else COLUMN
    canvas, axes = style.new(width, rows * (width / columns + 0.12), columns, rows)
    for box in axes[len(pictures) :]:
        box.axis("off")
    reach = 1.15 * max(float(np.quantile(np.abs(picture), 0.99)) for _, picture in pictures)
    for box, (cell, picture) in zip(axes, pictures, strict=False):
        if picture.shape[1:] == (2,):
            box.scatter(picture[:, 0], picture[:, 1], s=5, color=style.look(cell.key).color, linewidths=0, alpha=0.8)
            box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        else:
            box.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            box.axis("off")
        box.set_title(style.drawn_label(cell.label), pad=3)
    caption = "First training seed, the same noise for every model, no selection"
    return Figure(name, title, caption, canvas, pd.DataFrame(rows_of_csv), cells[0].scale)


def _picture(path: Path, damage: list[str]) -> np.ndarray | None:
    """Grey or RGB pixels (h, w[, 3]), or points (n, 2). None where the file is damaged, which is added to `damage`."""
    try:
        if path.suffix == ".npy":
            return read_points(path)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels
    except (OSError, ValueError, SyntaxError) as error:
        damage.append(f"damaged sample grid {path} ({type(error).__name__}); left out")
        return None


def read_points(path: Path) -> np.ndarray:
    """Points (n, 2). Raises ValueError or OSError when the file is damaged or holds something else."""
    points: np.ndarray = np.load(path, allow_pickle=False)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"no finite points (n, 2) in {path}")
    return points
