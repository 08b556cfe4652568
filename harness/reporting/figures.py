"""Figures from training records: convergence (Figures 4, 5), final values over mu, transport during training, samples (Figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from PIL import Image

from harness.config import presets
from harness.config.run import GeneratorAugmented
from harness.errors import HarnessError
from harness.reporting import paper_values, style
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.statistics import interval
from harness.reporting.style import COLUMN, PAGE, RC, Figure
from harness.reporting.values import METRICS, Numbers

BAND = "line: mean over training seeds; band: its 95 % interval"
PAPER_MU = (0.1, 0.3, 0.5, 0.7, 1.0)
_Y = {"fid": "FID", "w2": "W2", "pair_cost": "E‖x′ − z′‖²", "endpoint_fid": "FID of endpoints", "endpoint_w2": "W2 of endpoints"}


def training_figures(study: ExperimentCells, numbers: Numbers) -> list[Figure]:
    """All figures that the runs of a scale allow, data set by data set."""
    drawn: list[Figure | None] = []
    with mpl.rc_context(RC):
        for data in study.data:
            drawn += _of_data(study, numbers, data)
    found = [figure for figure in drawn if figure]
    for figure in found:
        figure.scale = study.scale
    return found


def _of_data(study: ExperimentCells, numbers: Numbers, data: str) -> list[Figure | None]:
    cells = sorted((cell for cell in study.of(data) if cell.run.objective.kind == "ict"), key=_rank)
    if not cells:
        return []
    whole = [cell for cell in cells if not cell.differs and not cell.key.endswith("*")]
    plain = [cell for cell in whole if _is_plain(cell)]
    main = [cell for cell in plain if cell.key in ("ic", "ot", "gc-0.5")] + [cell for cell in whole if cell.run.coupling.kind == "custom"]
    some = [cell for cell in plain if cell.key in ("ic", "ot", *(f"gc-{mu:g}" for mu in PAPER_MU))]
    frozen = [cell for cell in cells if getattr(cell.run.coupling, "predictor", "") == "frozen"]
    frozen.sort(key=lambda cell: -_strength(cell, numbers))
    name, suffix, metric = paper_values.data_name(data), suffix_of(study.scale, data), numbers.main(cells)
    title = METRICS[metric].title
    return [
        curves(main, numbers, metric, f"convergence{suffix}", f"{name}: {title} during training, the models of Table 1"),
        curves(some, numbers, metric, f"figure5{suffix}", f"{name}: {title} during training, by mu (Figure 5)") if len(some) > 3 else None,
        over_mu(plain, numbers, metric, f"mu{suffix}", f"{name}: final {title} over mu"),
        curves([*plain[:1], *frozen], numbers, metric, f"figure4{suffix}", f"{name}: GC with a frozen endpoint predictor (Figure 4)")
        if frozen
        else None,
        curves(main, numbers, "pair_cost", f"transport-training{suffix}", f"{name}: transport cost of the pairs trained on", log=False),
        curves(some, numbers, f"endpoint_{metric}", f"figure7{suffix}", f"{name}: {title} of endpoints from IC points (Figure 7)"),
        samples(main, numbers, f"figure8{suffix}", f"{name}: samples of the last model, first seed (Figure 8)"),
    ]


def _strength(cell: Cell, numbers: Numbers) -> int:
    """Training steps of a frozen predictor."""
    entry = numbers.book.entries.get(cell.run.coupling.frozen)
    return cell.run.coupling.frozen_step or (entry.run.train.steps if entry else 0)


def _rank(cell: Cell) -> tuple[int, float, str]:
    """IC, batch-OT, GC by mu, then the rest."""
    order = {"independent": 0, "batch-ot": 1, "gc": 2}
    return order.get(cell.run.coupling.kind, 3), getattr(cell.run.coupling, "mu", 0.0), cell.key


def suffix_of(scale: str, data: str) -> str:
    """-digits, or -paper-cifar10 where a scale has more than one data set."""
    usual = presets.SCALES[scale].table1 if scale in presets.SCALES else ()
    return f"-{scale}" if usual == (data,) else f"-{scale}-{data}"


def _is_plain(cell: Cell) -> bool:
    coupling = cell.run.coupling
    return coupling.kind != "custom" and (coupling.kind != "gc" or coupling == GeneratorAugmented(mu=coupling.mu))


def curves(cells: Sequence[Cell], numbers: Numbers, metric: str, name: str, title: str, log: bool = True) -> Figure | None:
    """A metric against the training step, one line a cell, a band over its seeds."""
    frames = {cell.key: numbers.curves(cell, metric) for cell in cells}
    shown = [cell for cell in cells if not frames[cell.key].empty]
    if not shown:
        return None
    canvas, (axes,) = style.new()
    looks = style.looks(cell.key for cell in shown)
    rows, points = [], []
    for cell in shown:
        frame = frames[cell.key]
        made = [interval(list(values.dropna())) for _, values in frame.iterrows()]
        mean = np.array([one.mean for one in made])
        every = max(1, len(frame) // 10)
        axes.plot(frame.index, mean, label=style.pretty(cell.label), markevery=every, **looks[cell.key].options())
        if any(one.low is not None for one in made):
            low = np.array([np.nan if one.low is None else one.low for one in made])
            high = np.array([np.nan if one.high is None else one.high for one in made])
            lowest = 0.5 * float(np.nanmin(frame.to_numpy())) if log else -np.inf
            axes.fill_between(frame.index, np.maximum(low, lowest), high, color=looks[cell.key].color, alpha=0.15, linewidth=0)
        for one, (step, values) in zip(made, frame.iterrows(), strict=True):
            common = {"data": cell.data, "model": cell.label, "key": cell.key, "metric": metric, "step": step}
            rows.append(common | {"seed": "mean", "value": one.mean, "low": one.low, "high": one.high, "n": one.n})
            for seed, value in values.dropna().items():
                rows.append(common | {"seed": seed, "value": value, "run": cell.runs[seed]})
                text = f"{cell.label}, seed {seed}\nstep {step:,}: {METRICS[metric].title} {value:.4g}\n{cell.runs[seed]}"
                points.append((axes, float(step), float(value), text))
    axes.set_xlabel("training step")
    axes.set_ylabel(_Y.get(metric, METRICS[metric].title))
    style.steps(axes)
    if log:
        style.log_scale(axes)
    legend(canvas, axes)
    n = sorted({frames[cell.key].shape[1] for cell in shown})
    caption = "one training seed, so no interval" if n == [1] else f"{BAND} ({'-'.join(map(str, n[:: max(1, len(n) - 1)]))} seeds)"
    return Figure(name, title, caption, canvas, pd.DataFrame(rows), points=points)


def legend(canvas: Canvas, axes: Axes) -> None:
    """Above the axes, over the whole width, where no line can hide it; the figure grows with its rows."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if len(labels) <= 3 else 2 if len(labels) <= 4 else 3
    columns = max(1, min(columns, 66 // (max(map(len, labels), default=0) + 6)))
    canvas.set_figheight(canvas.get_figheight() + 0.13 * max(0, -(-len(labels) // columns) - 3))
    canvas.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.0, handlelength=1.7)


def over_mu(cells: Sequence[Cell], numbers: Numbers, metric: str, name: str, title: str) -> Figure | None:
    """Final values over mu, IC being mu = 0; batch-OT as a level."""
    column = numbers.column(cells, metric)
    by_mu = {getattr(cell.run.coupling, "mu", 0.0): cell for cell in cells if cell.key in column.cells and cell.key != "ot"}
    if len(by_mu) < 4:
        return None
    canvas, (axes,) = style.new()
    looks = style.looks(cell.key for cell in cells)
    rows, points = [], []
    mus = sorted(by_mu)
    axes.plot(mus, [column.cells[by_mu[mu].key].interval.mean for mu in mus], color=style.GREY, linewidth=0.8, zorder=1)
    for mu in mus:
        cell = by_mu[mu]
        found, look = column.cells[cell.key], looks[cell.key]
        made = found.interval
        spread = None if made.low is None else [[made.mean - made.low], [made.high - made.mean]]
        axes.errorbar([mu], [made.mean], spread, fmt=look.marker, color=look.color, markersize=4, elinewidth=0.9, capsize=1.5, zorder=3)
        axes.plot([mu] * len(found.values), list(found.values.values()), ".", color=look.color, markersize=2, alpha=0.5, zorder=2)
        rows.append({"mu": mu, "model": cell.label, "metric": metric, "mean": made.mean, "low": made.low, "high": made.high, "n": made.n})
        for seed, value in found.values.items():
            rows.append({"mu": mu, "model": cell.label, "metric": metric, "seed": seed, "mean": value, "run": cell.runs[seed]})
            text = f"{cell.label}, seed {seed}\nfinal {METRICS[metric].title} {value:.4g}\n{cell.runs[seed]}"
            points.append((axes, float(mu), float(value), text))
    if "ot" in column.cells:
        made = column.cells["ot"].interval
        axes.axhline(made.mean, color=style.ORANGE, linestyle=(0, (4, 1.5)), linewidth=1, label="iCT-OT")
        if made.low is not None:
            axes.axhspan(made.low, made.high, color=style.ORANGE, alpha=0.15, linewidth=0)
        legend(canvas, axes)
        rows.append({"model": "iCT-OT", "metric": metric, "mean": made.mean, "low": made.low, "high": made.high, "n": made.n})
    axes.set_xlabel("μ (share of generator-augmented pairs; 0 is iCT-IC)")
    axes.set_ylabel(f"final {METRICS[metric].title}")
    axes.set_xticks(np.linspace(0, 1, 6))
    means = [column.cells[by_mu[mu].key].interval.mean for mu in mus]
    if max(means) > 4 * min(means) > 0:
        style.log_scale(axes)
    caption = "bars: 95 % interval over training seeds, at the fixed last step; dots: single seeds"
    return Figure(name, title, caption, canvas, pd.DataFrame(rows), points=points)


def samples(cells: Sequence[Cell], numbers: Numbers, name: str, title: str) -> Figure | None:
    """The last sample grid of the first seed of each cell, side by side."""
    grids: list[tuple[Cell, str, Path]] = []
    for cell in cells:
        for _, run in sorted(cell.runs.items()):
            entry = numbers.book.entries.get(run)
            if entry and entry.samples:
                grids.append((cell, run, entry.samples[-1]))
                break
    pictures = [(cell, run, path, picture) for cell, run, path in grids if (picture := _picture(path, numbers.book.damage)) is not None]
    if not pictures:
        return None
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    width = PAGE if columns > 1 else COLUMN
    canvas, axes = style.new(width, rows * (width / columns + 0.12), columns, rows)
    for box in axes[len(pictures) :]:
        box.axis("off")
    points = pictures[0][3].ndim == 2 and pictures[0][3].shape[1] == 2
    reach = max(float(np.quantile(np.abs(picture), 0.99)) for *_, picture in pictures) if points else 0.0
    for box, (cell, _, _, picture) in zip(axes, pictures, strict=False):
        if points:
            color = style.looks([cell.key])[cell.key].color
            box.scatter(picture[:, 0], picture[:, 1], s=5, color=color, linewidths=0, alpha=0.8)
            limits = (-1.15 * reach, 1.15 * reach)
            box.set(xlim=limits, ylim=limits, aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        else:
            box.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            box.axis("off")
        box.set_title(style.pretty(cell.label), pad=3)
    data = pd.DataFrame([{"model": cell.label, "run": run, "file": path.name} for cell, run, path, _ in pictures])
    return Figure(name, title, "first training seed, addressed noise, no selection", canvas, data)


def _picture(path: Path, damage: list[str]) -> np.ndarray | None:
    """Grey or RGB pixels (h, w[, 3]), or points (n, 2); None, and told, where the file is damaged."""
    try:
        if path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
            if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
                raise HarnessError("no points", where=path)
            return found
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if _is_grey(image) else "RGB"))
    except (OSError, ValueError, SyntaxError, HarnessError) as error:
        damage.append(f"damaged sample grid {path} ({type(error).__name__}); left out")
        return None


def _is_grey(image: Image.Image) -> bool:
    if image.mode != "RGB":
        return True
    red, green, blue = (np.asarray(band) for band in image.split())
    return bool((red == green).all() and (green == blue).all())
