"""Figure 8: samples of each model at its last step, and as many real rows beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from harness.data.examples import real_rows
from harness.errors import FOREIGN
from harness.locations import open_regular
from harness.reporting import heading, paper_values, style
from harness.reporting.cells import Cell
from harness.reporting.heading import Subject
from harness.reporting.sample_points import read_points
from harness.reporting.style import COLUMN, PAGE, Figure
from harness.reporting.values import CellValues

REAL = "real data, random rows"
ENLARGED = 32
"""Pixels from which images are not enlarged, as in the grids that training writes."""


@dataclass(frozen=True)
class _Panel:
    title: str
    below: str
    """Second line of the title."""
    picture: np.ndarray
    """Grey or RGB pixels (h, w[, 3]), or points (n, 2)."""
    color: str


def samples(cells: Sequence[Cell], cell_values: CellValues, name: str, title: str) -> Figure | None:
    """The last samples of the first seed of each cell, side by side, with real rows in front where the data set is available."""
    panels: list[_Panel] = []
    rows_of_csv: list[dict[str, object]] = []
    shown = []
    for cell in cells:
        entries = [cell_values.loaded.runs[run] for _, run in sorted(cell.runs.items()) if run in cell_values.loaded.runs]
        entry = next((entry for entry in entries if entry.samples), None)
        if entry and (picture := _picture(entry.samples[-1], cell_values.loaded.damage)) is not None:
            n = len(picture) if _is_points(picture) else entry.run.evaluation.grid
            shown.append(entry)
            panels.append(_Panel(cell.label, f"step {entry.run.train.steps:,}, {n} samples", picture, style.look(cell.key).color))
            facts = {"seed": entry.run.seed, "step": entry.run.train.steps, "n": n, "file": entry.samples[-1].name}
            rows_of_csv.append({"model": cell.label, "run": entry.id, **facts})
    if not panels:
        return None
    n = max(int(str(row["n"])) for row in rows_of_csv)
    real = real_rows(cells[0].data, n)
    if real is not None:
        picture = real if real.ndim == 2 else grid_of(real)
        panels.insert(0, _Panel(REAL, f"training set, {len(real)} rows", picture, style.DARK_GREY))
        rows_of_csv.insert(0, {"model": REAL, "n": len(real)})
    columns = min(4 if len(panels) != 5 else 3, len(panels))
    rows = -(-len(panels) // columns)
    width = PAGE if columns > 1 else COLUMN
    canvas, axes = style.new(width, rows * (width / columns + (0.2 if _is_points(panels[0].picture) else 0.28)), columns, rows)
    for box in axes[len(panels) :]:
        box.axis("off")
    reach = 1.15 * max(float(np.quantile(np.abs(panel.picture), 0.99)) for panel in panels)
    for box, panel in zip(axes, panels, strict=False):
        if _is_points(panel.picture):
            box.scatter(panel.picture[:, 0], panel.picture[:, 1], s=5, color=panel.color, linewidths=0, alpha=0.8)
            box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            box.xaxis.set_major_locator(style.few_ticks())
            box.yaxis.set_major_locator(style.few_ticks())
            box.set_xlabel("$x_1$", labelpad=1)
        else:
            box.imshow(panel.picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            box.axis("off")
        lines = [*heading.wrapped(style.drawn(panel.title), heading.SMALL, 68 * width / columns), panel.below]
        box.set_title("\n".join(lines), size=heading.SMALL, pad=3, linespacing=1.2)
    if _is_points(panels[0].picture):
        axes[0].set_ylabel("$x_2$", labelpad=1)
    beside = "" if real is not None else "; no real data beside them, since the set is not on this machine"
    caption = f"First training seed of each model, the same noise for all, no selection{beside}"
    made_from = Subject(paper_values.data_name(cells[0].data), cells[0].scale, cell_values.loaded.label_of(shown), (1,))
    return heading.figure(name, canvas, title, made_from, caption, pd.DataFrame(rows_of_csv))


def _is_points(picture: np.ndarray) -> bool:
    return picture.shape[1:] == (2,)


def grid_of(images: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) as the grid that training writes: small ones enlarged, in about as many rows as columns; (h, w[, 3])."""
    scale = max(1, ENLARGED // images.shape[-1])
    large = images.repeat(scale, axis=2).repeat(scale, axis=3)
    padded = np.pad(large, ((0, 0), (0, 0), (scale, 0), (scale, 0)))
    columns = max(1, round(len(images) ** 0.5))
    blank = np.zeros((-len(images) % columns, *padded.shape[1:]), dtype=np.uint8)
    n, channels, height, width = (tiles := np.concatenate([padded, blank])).shape
    grid = tiles.reshape(n // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = np.pad(grid.reshape(n // columns * height, columns * width, channels), ((0, scale), (0, scale), (0, 0)))
    return pixels[..., 0] if channels == 1 else pixels


def _picture(path: Path, damage: list[str]) -> np.ndarray | None:
    """Grey or RGB pixels (h, w[, 3]), or points (n, 2). None where the file is damaged, which is added to `damage`."""
    try:
        if path.suffix == ".npy":
            return read_points(path)
        with open_regular(path) as file, Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels
    except (*FOREIGN, SyntaxError, Image.DecompressionBombError) as error:
        damage.append(f"damaged sample grid {path} ({type(error).__name__}); left out")
        return None
