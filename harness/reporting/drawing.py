"""Writes figures as files and as SVG for the page, on two cores where that is safe: most of the report's time is spent here."""

from __future__ import annotations

import gc
import io
import multiprocessing
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from xml.etree import ElementTree

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from harness.reporting import style
from harness.reporting.figure_requests import Drawn, Request
from harness.reporting.style import COLUMN, Figure
from harness.store.files import disk_errors, write_atomic
from harness.store.machine import cores

FEW = 4
"""Number of figures up to which starting processes does not pay."""
_PRIVATE = {0xE156: "𝔼"}
"""Characters of matplotlib's own fonts for mathematics, and those that every browser shows: \\mathbb{E}."""
_inherited: list[Callable[[], Any]] = []
"""In the forked processes: all tasks, which they inherit through the fork, since figures are slow to pickle."""
T = TypeVar("T")
_BACKENDS: Mapping[str, tuple[Any, str]] = {
    "png": (FigureCanvasAgg, "Software"),
    "pdf": (FigureCanvasPdf, "CreationDate"),
    "svg": (FigureCanvasSVG, "Date"),
}
"""What draws each format, and what it would add that is not the same on every day or machine."""


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Drawn]:
    """Draws every figure, in order; in two forked processes unless this process has threads, torch, or one core."""
    with _in_processes([partial(draw, figure, folder) for figure in figures]) as results:
        return results()


@contextmanager
def drawing_requests(
    requests: Sequence[Request], folder: Path, damage: list[str]
) -> Iterator[Callable[[], list[tuple[Drawn | None, list[str]]]]]:
    """Draws what is asked for, as `draw_all`, beside what the block does; gives the function that waits for the figures, to be called once.

    A figure is None where there is nothing to show. Each comes with what it adds to `damage`, which stays as it is.
    """
    with _in_processes([partial(_draw_request, request, folder, damage) for request in requests]) as results:
        yield results


def _draw_request(request: Request, folder: Path, damage: list[str]) -> tuple[Drawn | None, list[str]]:
    before = len(damage)
    figure = request.figure()
    drawn = draw(figure, folder) if figure else None
    added = damage[before:]
    del damage[before:]
    return drawn, added


@contextmanager
def _in_processes(tasks: Sequence[Callable[[], T]]) -> Iterator[Callable[[], list[T]]]:
    """Starts the tasks, in forked processes where that is safe; gives the function that returns their results, in order, once."""

    def here() -> list[T]:
        return [task() for task in tasks]

    if len(tasks) <= FEW or not _can_fork():
        yield here
        return
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"), _start_process, (tasks,))
    try:
        running = pool.map(_run_inherited, range(len(tasks)))  # starts both processes at once, before this one has threads

        def elsewhere() -> list[T]:
            try:
                return list(running)
            except BrokenProcessPool:  # a process died, perhaps because memory ran out
                return here()

        yield elsewhere
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(tasks: Sequence[Callable[[], Any]]) -> None:
    """In a forked process. What it inherits stays until it ends, so garbage collection need not look through it each time."""
    _inherited.extend(tasks)
    gc.freeze()


def _can_fork() -> bool:
    """Whether a fork is safe and pays: Linux, two cores, no threads that could hold a lock, no torch."""
    return sys.platform == "linux" and cores() > 1 and threading.active_count() == 1 and "torch" not in sys.modules


def _run_inherited(index: int) -> Any:
    return _inherited[index]()


def draw(figure: Figure, folder: Path) -> Drawn:
    """Writes folder/<name>.pdf, .png and .csv, and returns the figure for the page."""
    save(figure, folder)
    wide = bool(figure.canvas.get_figwidth() > COLUMN)
    return Drawn(figure.name, figure.title, figure.caption, figure.scale, wide, svg(figure), tuple(figure.fractions()))


def save(figure: Figure, folder: Path) -> None:
    """Writes folder/<name>.pdf, .png and .csv. Fixes the layout, so call it before `svg` and `fractions`."""
    with disk_errors(folder, "create a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    fix_layout(figure)
    contents = {
        "png": _rendered(figure.canvas, "png"),
        "pdf": _rendered(figure.canvas, "pdf"),
        "csv": figure.data.to_csv(index=False).encode(),
    }
    for suffix, content in contents.items():
        write_atomic(folder / f"{figure.name}.{suffix}", content, durable=False)


def fix_layout(figure: Figure) -> None:
    """Decides where everything in the figure lies."""
    engine = figure.canvas.get_layout_engine()
    passes = 2 if len(figure.canvas.axes) > 1 else 1  # the first may change the ticks, and with them the space between panels
    with style.context():  # ticks are made when they are measured
        for _ in range(passes):
            if engine:
                engine.execute(figure.canvas)  # without drawing, which changes nothing that the layout depends on
    figure.canvas.set_layout_engine("none")


def _rendered(canvas: Canvas, suffix: Literal["png", "pdf", "svg"]) -> bytes:
    """A canvas whose layout is fixed, in this format. `savefig` would draw it twice, the first time for its layout."""
    buffer = io.BytesIO()
    with style.context():
        canvas.set_dpi(style.RC["savefig.dpi"])
        backend, changing = _BACKENDS[suffix]
        getattr(backend(canvas), f"print_{suffix}")(buffer, metadata={changing: None})
        canvas.set_dpi(style.RC["figure.dpi"])
        FigureCanvasAgg(canvas)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an <svg> element for the page, which forbids inline styles and needs unique ids.

    Styles become presentation attributes, whose colours the page's style sheet replaces in dark mode. Fonts are left to the style sheet.
    """
    root = ElementTree.fromstring(_rendered(figure.canvas, "svg"))
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
