"""From figures to files and to SVG for the page, on two cores where that is safe: most of the report's time is spent here."""

from __future__ import annotations

import io
import multiprocessing
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure as Canvas

from harness.reporting import style
from harness.reporting.style import COLUMN, Figure
from harness.store.files import write_atomic
from harness.store.machine import cores

FEW = 4
"""Number of figures up to which starting a second process does not pay."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page needs it. svg: an element for an HTML page. points: tooltips, at fractions of width and height."""

    name: str
    title: str
    caption: str
    scale: str
    wide: bool
    svg: str
    points: tuple[tuple[float, float, str], ...]


def draw(figure: Figure, folder: Path) -> Drawn:
    """Writes folder/<name>.pdf, .png and .csv."""
    save(figure, folder)
    wide = figure.canvas.get_figwidth() > COLUMN
    return Drawn(figure.name, figure.title, figure.caption, figure.scale, wide, svg(figure), tuple(figure.fractions()))


def draw_all(figures: Sequence[Figure], folder: Path) -> list[Drawn]:
    """Draws every figure, in order. A forked child draws every second one, unless this process has threads, torch, or one core."""
    if len(figures) <= FEW or not _can_fork():
        return [draw(figure, folder) for figure in figures]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(figures[1::2], folder, sender))
    child.start()
    sender.close()
    drawn = [draw(figure, folder) for figure in figures[::2]]
    try:
        others = receiver.recv()
    except EOFError:  # the child died, perhaps because memory ran out
        others = [draw(figure, folder) for figure in figures[1::2]]
    child.join()
    if isinstance(others, Exception):
        raise others
    return [figure for pair in zip_longest(drawn, others) for figure in pair if figure]


def _can_fork() -> bool:
    """Whether a fork is safe and pays: Linux, two cores, no threads that could hold a lock, no torch."""
    return sys.platform == "linux" and cores() > 1 and threading.active_count() == 1 and "torch" not in sys.modules


def _send(figures: Sequence[Figure], folder: Path, sender: Connection) -> None:
    try:
        sender.send([draw(figure, folder) for figure in figures])
    except Exception as error:
        sender.send(error)
    finally:
        sender.close()


def save(figure: Figure, folder: Path) -> dict[str, Path]:
    """Writes folder/<name>.pdf, .png and .csv; returns them by suffix. Fixes the layout, so call it before `svg` and `fractions`."""
    folder.mkdir(parents=True, exist_ok=True)
    with style.context():  # ticks are made when they are drawn
        figure.canvas.draw_without_rendering()
        if len(figure.canvas.axes) > 1:  # the first pass may change the ticks, and with them the space between panels
            figure.canvas.draw_without_rendering()
    figure.canvas.set_layout_engine("none")
    paths = {suffix: folder / f"{figure.name}.{suffix}" for suffix in ("pdf", "png", "csv")}
    write_atomic(paths["pdf"], _rendered(figure.canvas, "pdf", {"CreationDate": None}), durable=False)
    write_atomic(paths["png"], _rendered(figure.canvas, "png", {"Software": None}), durable=False)
    write_atomic(paths["csv"], figure.data.to_csv(index=False).encode(), durable=False)
    return paths


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
        referenced = re.search("^(?!image).*[0-9a-f]{10}$", attributes.get("id", ""))
        attributes.pop(
            "stroke" if referenced else "id", None
        )  # a marker has the colour of each <use>, where the style sheet can replace it
        unused = ("font-family", "image-rendering")
        element.attrib = {name: _renamed(name, value, figure.name) for name, value in attributes.items() if name not in unused}
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = element.text if element.tag in ("text", "tspan") else None, None
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": figure.title}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(attribute: str, value: str, prefix: str) -> str:
    """The value of an attribute, with a prefix for ids and references to them."""
    if attribute == "id":
        return f"{prefix}-{value}"
    return value.replace("#", f"#{prefix}-") if attribute in ("href", "clip-path") else value
