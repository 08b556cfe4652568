"""Writes figures as files and as SVG for the page, on two cores where that is safe: most of the report's time is spent here."""

from __future__ import annotations

import io
import multiprocessing
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure as Canvas

from harness.reporting import style
from harness.reporting.style import COLUMN, Figure
from harness.store.files import disk_errors, write_atomic
from harness.store.machine import cores

FEW = 4
"""Number of figures up to which starting processes does not pay."""
_PRIVATE = {0xE156: "𝔼"}
"""Characters of matplotlib's own fonts for mathematics, and those that every browser shows: \\mathbb{E}."""
_inherited: list[Figure] = []
"""In the processes of `draw_all`: all figures, which they inherit through the fork, since figures are slow to pickle."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it. svg: an element for an HTML page. points: tooltips, at fractions of width and height."""

    name: str
    title: str
    caption: str
    scale: str
    wide: bool
    svg: str
    points: tuple[tuple[float, float, str], ...]


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Drawn]:
    """Draws every figure, in order; in two forked processes unless this process has threads, torch, or one core."""
    if len(figures) > FEW and _can_fork():
        try:
            with ProcessPoolExecutor(2, multiprocessing.get_context("fork"), _inherited.extend, (figures,)) as pool:
                return list(pool.map(_draw_inherited, range(len(figures)), repeat(folder)))
        except BrokenProcessPool:  # a process died, perhaps because memory ran out
            pass
    return [draw(figure, folder) for figure in figures]


def _can_fork() -> bool:
    """Whether a fork is safe and pays: Linux, two cores, no threads that could hold a lock, no torch."""
    return sys.platform == "linux" and cores() > 1 and threading.active_count() == 1 and "torch" not in sys.modules


def _draw_inherited(index: int, folder: Path) -> Drawn:
    return draw(_inherited[index], folder)


def draw(figure: Figure, folder: Path) -> Drawn:
    """Writes folder/<name>.pdf, .png and .csv, and returns the figure for the page."""
    save(figure, folder)
    wide = figure.canvas.get_figwidth() > COLUMN
    return Drawn(figure.name, figure.title, figure.caption, figure.scale, wide, svg(figure), tuple(figure.fractions()))


def save(figure: Figure, folder: Path) -> None:
    """Writes folder/<name>.pdf, .png and .csv. Fixes the layout, so call it before `svg` and `fractions`."""
    with disk_errors(folder, "create a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with style.context():  # ticks are made when they are drawn
        figure.canvas.draw_without_rendering()
        if len(figure.canvas.axes) > 1:  # the first pass may change the ticks, and with them the space between panels
            figure.canvas.draw_without_rendering()
    figure.canvas.set_layout_engine("none")
    contents = {
        "pdf": _rendered(figure.canvas, "pdf", {"CreationDate": None}),
        "png": _rendered(figure.canvas, "png", {"Software": None}),
        "csv": figure.data.to_csv(index=False).encode(),
    }
    for suffix, content in contents.items():
        write_atomic(folder / f"{figure.name}.{suffix}", content, durable=False)


def _rendered(canvas: Canvas, suffix: str, metadata: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    with style.context():
        canvas.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an <svg> element for the page, which forbids inline styles and needs unique ids.

    Styles become presentation attributes, whose colours the page's style sheet replaces in dark mode. Fonts are left to the style sheet.
    """
    root = ElementTree.fromstring(_rendered(figure.canvas, "svg", {"Date": None}))
    for element in root.iter():
        for child in [child for child in element if child.tag.endswith(("}metadata", "}style"))]:
            element.remove(child)
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        declarations = (part.partition(":") for part in attributes.pop("style", "").split(";") if part)
        attributes |= {name.strip(): value.strip() for name, _, value in declarations}
        # a marker is defined without a colour: it has that of each <use>, which the style sheet can replace
        referenced = re.search("^(?!image).*[0-9a-f]{10}$", attributes.get("id", ""))
        for unused in ("font-family", "image-rendering", "stroke" if referenced else "id"):
            attributes.pop(unused, None)
        for name in attributes.keys() & {"href", "clip-path"}:
            attributes[name] = attributes[name].replace("#", f"#{figure.name}-")
        if referenced:
            attributes["id"] = f"{figure.name}-{attributes['id']}"
        element.attrib = attributes
        element.tag = element.tag.rpartition("}")[2]
        shown = (element.text or "").translate(_PRIVATE)
        element.text, element.tail = shown if element.tag in ("text", "tspan") else None, None
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": figure.title}
    return ElementTree.tostring(root, encoding="unicode")
