"""Figures of the ablations: final values setting by setting, IC and GC side by side, and how the variants of GC converge."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from harness.reporting import paper_values, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.figures import curves, legend, suffix_of
from harness.reporting.naming import phrases
from harness.reporting.style import RC, Figure
from harness.reporting.values import METRICS, Numbers, Value

TITLES = {
    "table2": "fine-tuning a diffusion model by ECT (Table 2)",
    "table3": "ablations of iCT-GC (Table 3)",
    "schedule": "other noise schedules",
    "scaling": "less data, another width, fewer or more steps",
    "mechanism": "other pairs from the same endpoint predictor",
}
ONE_A_ROW = ("table3", "mechanism")
"""Studies in which every cell is a setting of its own."""
PLAIN = "as in Table 1"


def ablation_figures(studies: Sequence[ExperimentCells], numbers: Numbers) -> list[Figure]:
    """The figures of those studies that have values at hand."""
    found: list[Figure] = []
    with mpl.rc_context(RC):
        for study in studies:
            for data in study.data if study.name in TITLES else ():
                cells = [cell for cell in study.of(data) if cell.run.objective.kind != "denoiser"]
                suffix, title = suffix_of(study.scale, data), f"{paper_values.data_name(data)}: {TITLES[study.name]}"
                metric = numbers.main(cells)
                drawn = [settings(study.name, cells, numbers, metric, f"{study.name}{suffix}", f"{title}, final {METRICS[metric].title}")]
                if study.name == "mechanism":
                    drawn.append(curves(cells, numbers, metric, f"mechanism-training{suffix}", f"{title}, {METRICS[metric].title}"))
                for figure in drawn:
                    if figure:
                        figure.scale = study.scale
                        found.append(figure)
    return found


def setting(cell: Cell) -> str:
    """What tells the cell's settings from Table 1's, in words; of ECT the length of the training."""
    if cell.run.objective.kind == "ect":
        return f"{cell.run.train.steps:,} steps"
    tells, follows = phrases(cell.differs, cell.run)
    return ", ".join(tells or follows) or PLAIN


def settings(study: str, cells: Sequence[Cell], numbers: Numbers, metric: str, name: str, title: str) -> Figure | None:
    """Final values, a row a setting, a marker a coupling; bars: the interval over seeds."""
    column = numbers.column(cells, metric)
    there = [cell for cell in cells if cell.key in column.cells]
    if len(there) < 2:
        return None
    single = study in ONE_A_ROW
    places = {cell.key: style.pretty(cell.label) if single else setting(cell) for cell in there}
    order = list(dict.fromkeys(places.values()))
    fullest = max(list(places.values()).count(place) for place in order)
    canvas, (axes,) = style.new(height=0.9 + max(0.2, 0.1 * fullest) * len(order) + (0 if single else 0.25))
    looks = style.looks(dict.fromkeys(cell.slug for cell in there))
    shown: dict[str, str] = {cell.slug: style.pretty(cell.label.partition(";")[0].partition(", ")[0]) for cell in reversed(there)}
    rows, points = [], []
    for cell in there:
        found, y = column.cells[cell.key], order.index(places[cell.key])
        label = shown.pop(cell.slug, None) if not single else None
        _dot(axes, found, y + _shift(cell, there, places), looks[cell.slug], label)
        made = found.interval
        common = {"data": cell.data, "setting": places[cell.key], "model": cell.label, "key": cell.key, "metric": metric}
        rows.append(common | {"mean": made.mean, "low": made.low, "high": made.high, "n": made.n})
        for seed, value in found.values.items():
            rows.append(common | {"seed": seed, "mean": value, "run": cell.runs[seed]})
            text = f"{cell.label}, seed {seed}\nfinal {METRICS[metric].title} {value:.4g}\n{cell.runs[seed]}"
            points.append((axes, float(value), y + _shift(cell, there, places), text))
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.margins(x=0.06)
    axes.set_xlabel(f"final {METRICS[metric].title}")
    axes.tick_params(axis="y", length=0)
    if not single:
        legend(canvas, axes)
    several = any(len(column.cells[cell.key].values) > 1 for cell in there)
    bars = "bars: 95 % interval over training seeds, where there are several; dots: single seeds"
    caption = f"at each run's last step; {bars if several else 'one training seed'}"
    return Figure(name, title, caption, canvas, pd.DataFrame(rows), points=points)


def _shift(cell: Cell, cells: Sequence[Cell], places: dict[str, str]) -> float:
    """Within its row, so that no marker hides another."""
    together = [other.key for other in cells if places[other.key] == places[cell.key]]
    return (together.index(cell.key) - (len(together) - 1) / 2) * min(0.22, 0.7 / len(together))


def _dot(axes: Axes, found: Value, y: float, look: style.Look, label: str | None) -> None:
    made = found.interval
    spread = None if made.low is None else [[made.mean - made.low], [made.high - made.mean]]
    face = "white" if look.hollow else look.color
    options = {"color": look.color, "markerfacecolor": face, "markersize": 4, "elinewidth": 0.9, "capsize": 1.5, "label": label}
    axes.errorbar([made.mean], [y], xerr=spread, fmt=look.marker, zorder=3, **options)
    axes.plot(list(found.values.values()), [y] * len(found.values), ".", color=look.color, markersize=2, alpha=0.5, zorder=2)
