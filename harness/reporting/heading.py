"""What stands above the axes of a figure: its title, what it was made from, and a legend of everything that is drawn."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.cbook import is_math_text
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from harness.reporting.noise import CLIPPED
from harness.reporting.style import BAND, BLACK, DARK_GREY, GREY, Figure, Point, drawn
from harness.stats.intervals import Interval

MARGIN = 4.0
"""Points around the heading."""
TITLE, SMALL = 7.5, 6.5
"""Sizes in points of the title, and of the lines below it and the legend."""
LEADING = 1.35
"""Height of a line in units of its size, at least."""
LEGEND_GAP = 3.0
"""Points below a legend."""
HANDLE = 1.9
"""Length of a legend's handle in units of its size."""
HANDLE_WIDTH = (HANDLE + 0.8) * SMALL
"""Points of a handle and the space beside it."""
POINTS = 72
"""Points of an inch."""


@dataclass(frozen=True)
class Subject:
    """What a figure was made from, stated below its title. data: as the figures print it. seeds: numbers of training seeds of its means,
    none where no trained model is shown. records: the label of the record set.
    """

    data: str
    scale: str
    records: str
    seeds: Collection[int] = ()

    def __str__(self) -> str:
        low, high = min(self.seeds, default=0), max(self.seeds, default=0)
        count = "" if not high else f"{low} to {high} seeds" if low < high else "1 seed" if high == 1 else f"{high} seeds"
        return "; ".join(filter(None, [f"{self.data}, {self.scale} scale", count, self.records]))


def finish(canvas: Canvas, title: str, subject: Subject, keys: Iterable[Artist] = ()) -> None:
    """Puts title, subject and a legend of everything with a label above the axes; the figure grows by their height. Call it last.

    keys: further entries of the legend, for what is drawn without a label of its own (see `keys`).
    """
    named: dict[str, Artist] = {}
    for axes in canvas.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            marker = handle[0] if isinstance(handle, ErrorbarContainer) else handle  # the bars have an entry of their own
            named.setdefault(label, marker or handle)
    width = canvas.get_figwidth() * POINTS
    inside = width - 2 * MARGIN
    lines = [(line, TITLE, BLACK) for line in wrapped(drawn(title[:1].upper() + title[1:]), TITLE, inside)]
    lines += [(line, SMALL, DARK_GREY) for line in _subject_lines(subject, inside)]
    texts = [canvas.text(0, 0, text, size=size, color=color, va="top", ha="left", in_layout=False) for text, size, color in lines]
    legends = [_legend(canvas, entries, inside) for entries in (named, {str(key.get_label()): key for key in keys}) if entries]
    parts: list[tuple[Text | Legend, float]] = [
        (text, max(LEADING * size, _height(canvas, text) + 1.5)) for text, (_, size, _) in zip(texts, lines, strict=True)
    ]
    parts += [(legend, _height(canvas, legend) + LEGEND_GAP) for legend in legends]
    above = 2 * MARGIN + sum(height for _, height in parts)
    height = canvas.get_figheight() * POINTS + above
    canvas.set_figheight(height / POINTS)
    canvas.set_layout_engine("constrained", rect=(0, 0, 1, 1 - above / height))
    down = MARGIN
    for part, needed in parts:
        corner = MARGIN / width, 1 - down / height
        if isinstance(part, Legend):
            part.set_bbox_to_anchor(corner, canvas.transFigure)
        else:
            part.set_position(corner)
        down += needed


def _legend(canvas: Canvas, entries: Mapping[str, Artist], width: float) -> Legend:
    """A legend with as many columns as fit into that width, its labels broken where one is wider."""
    labels = ["\n".join(wrapped(label, SMALL, width - HANDLE_WIDTH)) for label in entries]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0.0, "borderpad": 0.0}
    columns = _columns(list(entries), width)
    legend = canvas.legend(list(entries.values()), labels, ncols=columns, columnspacing=1.0, handlelength=HANDLE, **place)
    legend.set_in_layout(False)
    return legend


def _height(canvas: Canvas, part: Text | Legend) -> float:
    """Points."""
    return float(part.get_window_extent().height) / canvas.dpi * POINTS


def figure(
    name: str,
    canvas: Canvas,
    title: str,
    subject: Subject,
    caption: str,
    data: pd.DataFrame,
    points: Sequence[Point] = (),
    keys: Iterable[Artist] = (),
) -> Figure:
    """The finished figure: heading and legend (see `finish`), the data set in front of the page's title, the record set in the CSV."""
    finish(canvas, title, subject, keys)
    caption = f"{caption}; {subject.records}" if subject.records else caption
    return Figure(name, f"{subject.data}: {title}", caption, canvas, data.assign(records=subject.records), subject.scale, list(points))


def _text_width(text: str, size: float) -> float:
    """Points: the widths of the words and of the spaces between them, since words repeat and mathematics is slow to measure."""
    return sum(_word_width(word, size) for word in text.split(" ")) + text.count(" ") * _word_width(" ", size)


@cache
def _word_width(text: str, size: float) -> float:
    """Points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=bool(is_math_text(text)))
    return float(width)


def wrapped(text: str, size: float, width: float) -> list[str]:
    """The text in lines of at most that width, broken between words."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _subject_lines(subject: Subject, width: float) -> list[str]:
    """The subject in lines of at most that width, broken between its parts where they fit into one."""
    lines: list[str] = []
    for part in str(subject).split("; "):
        longer = f"{lines[-1]}; {part}" if lines else part
        if lines and _text_width(drawn(longer), SMALL) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return [line for part in lines for line in wrapped(drawn(part), SMALL, width)]


def _columns(labels: Sequence[str], width: float) -> int:
    """The number of columns of a legend: as many as fit, at most four."""
    widths = [_text_width(label, SMALL) + HANDLE_WIDTH for label in labels]
    for columns in range(min(4, len(labels)), 1, -1):
        rows = -(-len(labels) // columns)
        used = [max(widths[start : start + rows]) for start in range(0, len(widths), rows)]
        if sum(used) + SMALL * (len(used) - 1) <= width:
            return len(used)
    return 1


def method(intervals: Iterable[Interval]) -> str:
    """How these intervals were computed, without degrees of freedom; empty where none was."""
    return " or ".join(sorted({interval.method.partition(",")[0] for interval in intervals if interval.low is not None}))


def keys(
    intervals: Sequence[Interval], shape: Literal["band", "bar", "row"] = "band", dots: bool = False, clipped: bool = False
) -> list[Artist]:
    """Legend entries for what intervals over training seeds are drawn with: the band or bar with its method, and hollow markers.

    shape: a band, a vertical bar, or a horizontal one. dots: the value of each of several seeds is drawn as a small dot. clipped: an
    interval continues below a logarithmic axis.
    """
    entries: list[Artist] = []
    if how := method(intervals):
        label = f"95 % interval over seeds ({how})"
        entries.append(Patch(color=GREY, alpha=2 * BAND, linewidth=0, label=label) if shape == "band" else bar_key(label, shape))
    if dots and any(interval.n > 1 for interval in intervals):
        entries.append(Line2D([], [], color=GREY, marker=".", linestyle="none", markersize=3, label="dots: single seeds"))
    if any(interval.n == 1 for interval in intervals):
        entries.append(single_key())
    return [*entries, *([clipped_key()] if clipped else [])]


def single_key(label: str = "hollow: one seed") -> Artist:
    """A legend entry for hollow markers."""
    return Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="none", label=label)


def clipped_key() -> Artist:
    """A legend entry for the carets of `noise.band` and `noise.bars`."""
    return Line2D([], [], color=GREY, marker=CLIPPED, linestyle="none", label="continues below the axis")


def bar_key(label: str, shape: Literal["bar", "row"] = "bar") -> Artist:
    """A legend entry for error bars."""
    return Line2D(
        [], [], color=GREY, marker="|" if shape == "bar" else "_", markersize=7, markeredgewidth=0.9, linestyle="none", label=label
    )
