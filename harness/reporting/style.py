"""How figures look: one restrained style, colours of Okabe and Ito that colour-blind readers can tell apart, one look a coupling."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from harness.store.files import write_atomic

COLUMN, PAGE = 3.25, 6.75
"""Widths in inches of one and of two columns."""
RC = {
    "font.family": "sans-serif",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "legend.handlelength": 2.0,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.3,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "pdf.fonttype": 3,  # as vectors; embedding the fonts whole (42) takes four times as long
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777",
)  # fmt: skip
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
    "batch-ot": ("#8C6D31", "h"),
    "reflow": (GREEN, "d"),
}
"""By coupling; of a GC that pairs or predicts otherwise, by its variant."""
_OWN = ("*", "h", "<", ">", "p", "d")
_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    line: object = "-"
    hollow: bool = False

    def options(self) -> dict[str, object]:
        """Keyword arguments for a line."""
        face = "white" if self.hollow else self.color
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face, "markeredgewidth": 0.7}


def looks(slugs: Iterable[str]) -> dict[str, Look]:
    """A look for each coupling of a figure. A coupling has one colour and marker everywhere; what else differs changes the line."""
    found: dict[str, Look] = {}
    used: dict[tuple[str, str], int] = {}
    own = 0
    for name in slugs:
        base = _base(name)
        if base in LOOKS:
            color, marker = LOOKS[base]
        elif base.startswith("gc-"):
            color, marker = GREY, "^"
        else:
            color, marker, own = "#8C6D31", _OWN[own % len(_OWN)], own + 1
        times = used.get((color, marker), 0)
        used[color, marker] = times + 1
        found[name] = Look(color, marker, _LINES[times % len(_LINES)], hollow=times > 0)
    return found


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
    """A drawn figure. data: the numbers behind it. points: for the page's hover, (axes, x, y, what it says)."""

    name: str
    title: str
    caption: str
    canvas: Canvas
    data: pd.DataFrame
    scale: str = ""
    points: list[tuple[Axes, float, float, str]] = field(default_factory=list)

    def fractions(self, most: int = 1500) -> list[tuple[float, float, str]]:
        """The points (of more than `most`, every k-th) as fractions of width and height from the upper left corner, for an overlay."""
        width, height = self.canvas.bbox.size
        found = []
        for axes, x, y, text in self.points[:: -(-len(self.points) // most) or 1]:
            px, py = axes.transData.transform((x, y))
            if 0 <= px <= width and 0 <= py <= height:
                found.append((round(px / width, 4), round(1 - py / height, 4), text))
        return found


def new(width: float = COLUMN, height: float = 2.3, columns: int = 1, rows: int = 1, **options: object) -> tuple[Canvas, list[Axes]]:
    """An empty figure and its axes, row by row. Call within `mpl.rc_context(RC)`."""
    canvas = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False, **options)
    return canvas, list(axes.flat)


def steps(axes: Axes) -> None:
    """Training steps on the x axis: few round ticks, 20k instead of 20,000 in long trainings."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    long = axes.get_xlim()[1] > 10_000
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if long and x else f"{x:,.0f}"))


def log_scale(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis, with plain numbers where they are short, and labels and lines between the decades where there are few."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = sorted(axes.get_ylim() if which == "y" else axes.get_xlim())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain if low >= 1e-3 and high <= 2e4 else LogFormatterSciNotation())
    labelled = "" if high / low > 300 else "235" if high / low > 5 else "234568"
    axis.set_minor_locator(LogLocator(subs=[int(digit) for digit in labelled] or range(2, 10), numticks=50))
    axis.set_minor_formatter(plain if labelled else NullFormatter())
    if labelled:
        axes.grid(True, which="minor", axis=which)


def pretty(label: str) -> str:
    """A label with the sign instead of its name."""
    return label.replace("mu=", "μ = ")


def save(figure: Figure, folder: Path) -> dict[str, Path]:
    """folder/<name>.pdf, .png and .csv; returns them by suffix. Fixes the layout, so call it before `svg` and `fractions`."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):  # ticks are made when they are drawn
        figure.canvas.draw_without_rendering()
        if len(figure.canvas.axes) > 1:  # the first pass may change the ticks, and with them the room that panels leave each other
            figure.canvas.draw_without_rendering()
    figure.canvas.set_layout_engine("none")
    paths = {}
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        paths[suffix] = folder / f"{figure.name}.{suffix}"
        write_atomic(paths[suffix], _rendered(figure.canvas, suffix, metadata), durable=False)
    paths["csv"] = folder / f"{figure.name}.csv"
    write_atomic(paths["csv"], figure.data.to_csv(index=False).encode(), durable=False)
    return paths


def svg(figure: Figure) -> str:
    """The figure as an <svg> element for the page."""
    text = _rendered(figure.canvas, "svg", {"Date": None}).decode()
    return text[text.index("<svg") :]


def _rendered(canvas: Canvas, suffix: str, metadata: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        canvas.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()
