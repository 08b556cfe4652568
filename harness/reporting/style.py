"""How figures look: the style, the Okabe-Ito colours (safe for colour-blind readers), and the elements that several figures share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import LineStyleType

COLUMN, PAGE = 3.25, 6.75
"""Widths in inches of one and of two columns."""
RC = matplotlib.rc_params_from_file(Path(__file__).with_name("templates") / "figures.mplstyle", use_default_template=False)
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY, BROWN = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777", "#8C6D31",
)  # fmt: skip
"""The page's style sheet has a lighter variant of the darker ones for dark mode; see templates/page.css."""
LOOKS = {
    "ic": (BLACK, "o"),
    "ot": (ORANGE, "s"),
    "gc-0.1": (SKY, "v"),
    "gc-0.3": (GREEN, "D"),
    "gc-0.5": (VERMILLION, "^"),
    "gc-0.7": (PURPLE, "P"),
    "gc-1": (BLUE, "X"),
    "gc": (VERMILLION, "^"),
    "pf-ode": (GREY, "."),
    "frozen": (BLUE, "D"),
    "online": (SKY, "<"),
    "fresh-noise": (PURPLE, "p"),
    "shuffled": (BLUE, ">"),
    "batch-ot": (BROWN, "h"),
    "reflow": (GREEN, "d"),
    "squared": (BLACK, "o"),
    "norm": (VERMILLION, "^"),
    "pseudo-Huber": (BLUE, "s"),
}
"""Colour and marker of a coupling, or of a distance of Theorem 1; a GC variant with other pairs or another predictor has its own."""
DASHED: LineStyleType = (0, (4, 1.5))
LINES: tuple[LineStyleType, ...] = ("-", DASHED, (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
BAND = 0.15
"""Opacity of interval bands."""
Point = tuple[Axes, float, float, str]
"""A tooltip of the page: axes, x and y in data coordinates, text."""


def context() -> AbstractContextManager[None]:
    """The style, for a `with` block around everything that draws."""
    return matplotlib.rc_context(RC)


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a curve. hollow: the marker is an outline."""

    color: str
    marker: str
    line: LineStyleType = "-"
    hollow: bool = False

    def options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line with markers."""
        face = "white" if self.hollow else self.color
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face, "markeredgewidth": 0.7}


def looks(slugs: Iterable[str]) -> dict[str, Look]:
    """A look for each slug of a figure. A coupling has the same colour and marker in every figure; other differences change the line."""
    by_slug: dict[str, Look] = {}
    used: Counter[tuple[str, str]] = Counter()
    other_markers = cycle(("*", "h", "<", ">", "p", "d"))
    for name in slugs:
        base = _base(name)
        pair = LOOKS.get(base) or ((GREY, "^") if base.startswith("gc-") else (BROWN, next(other_markers)))
        by_slug[name] = Look(*pair, LINES[used[pair] % len(LINES)], hollow=used[pair] > 0)
        used[pair] += 1
    return by_slug


def look(slug: str) -> Look:
    """The look of a coupling that is alone in its figure."""
    return looks([slug])[slug]


def _base(name: str) -> str:
    """gc-0.5 lr=... -> gc-0.5; gc-0.5-online -> online; gc-1-frozen -> frozen; ect-ic -> ic; ot-2048 -> ot; gc-ideal -> gc."""
    name = re.sub(r"^(ect|denoiser)-", "", name.partition(" ")[0])
    if (match := re.match(r"gc-\d[\d.]*-([a-z-]+)$", name)) and match[1] in LOOKS:
        return match[1]
    if match := re.match(r"gc-\d[\d.]*", name):
        return match[0]
    return "gc" if name.startswith("gc") else "ot" if re.match(r"ot(-|$)", name) else name


@dataclass
class Figure:
    """A drawn figure. data: the numbers behind it. points: tooltips for the page."""

    name: str
    title: str
    caption: str
    canvas: Canvas
    data: pd.DataFrame
    scale: str = ""
    points: list[Point] = field(default_factory=list)

    def fractions(self) -> list[tuple[float, float, str]]:
        """The tooltips at fractions of width and height from the upper left corner; every k-th where there are more than 1,500."""
        inside = []
        for axes, x, y, text in self.points[:: 1 + len(self.points) // 1500]:
            across, up = axes.transData.transform((x, y)) / self.canvas.bbox.size
            if 0 <= across <= 1 and 0 <= up <= 1:
                inside.append((round(across, 4), round(1 - up, 4), text))
        return inside


def new(width: float = COLUMN, height: float = 2.3, columns: int = 1, rows: int = 1, share: bool = False) -> tuple[Canvas, list[Axes]]:
    """An empty figure and its axes, row by row. share: all axes have the same limits. Call within `context()`."""
    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, list(canvas.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)


def steps(axes: Axes) -> None:
    """Training steps on the x axis: few round ticks, 20k instead of 20,000 in long trainings."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    long = axes.get_xlim()[1] > 10_000
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if long and x else f"{x:,.0f}"))


PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")


def log_scale(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis, with plain numbers where they are short, and labels and lines between the decades where there are few."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = sorted(axis.get_view_interval())
    axis.set_major_formatter(PLAIN_NUMBERS if low >= 1e-3 and high <= 2e4 else LogFormatterSciNotation())
    labelled = "" if high / low > 300 else "235" if high / low > 5 else "234568"
    axis.set_minor_locator(LogLocator(subs=[int(digit) for digit in labelled] or range(2, 10), numticks=50))
    axis.set_minor_formatter(PLAIN_NUMBERS if labelled else NullFormatter())
    if labelled:
        axes.grid(True, which="minor", axis=which)


def legend(canvas: Canvas, axes: Axes) -> None:
    """A legend above the axes, where it covers no line; the figure grows with the number of rows. No legend without labels."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = 2 if len(labels) == 4 else min(3, len(labels))
    while columns > 1 and sum(max(map(len, part)) + 6 for part in np.array_split(labels, columns)) > 67:
        columns -= 1
    canvas.set_figheight(canvas.get_figheight() + 0.13 * max(0, -(-len(labels) // columns) - 3))
    canvas.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.0, handlelength=1.7)


def level(axes: Axes, mean: float, low: float | None, high: float | None, color: str, line: LineStyleType, label: str) -> None:
    """A horizontal line for a value that does not depend on x, with a band for its interval."""
    axes.axhline(mean, color=color, linestyle=line, label=label)
    if low is not None and high is not None and low < high:
        axes.axhspan(low, high, color=color, alpha=BAND, linewidth=0)


def target(axes: Axes, y: float) -> None:
    """A thin dashed line at a value that the curves are compared with."""
    axes.axhline(y, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0)


def pretty(label: str) -> str:
    """A label with the sign for μ, and without the identifiers of GC variants."""
    for plain, shown in (("mu=", "μ = "), (", fresh-noise)", ", fresh noise)"), (", batch-ot)", ", batch-OT)")):
        label = label.replace(plain, shown)
    return label


def drawn_label(label: str) -> str:
    """A label for matplotlib, which takes text between dollar signs for mathematics unless they are escaped."""
    return pretty(label).replace("$", r"\$")
