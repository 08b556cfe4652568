"""How figures look: the style, axes and texts; looks.py has the colours and markers.

A figure is drawn in this order, so that it says what it was made from and shows its noise (see noise.py and heading.py):

    with style.context():
        canvas, (axes,) = style.new()
        look = style.look("gc-0.5").of(n)  # hollow for one seed
        noise.bars(axes, x, intervals, look, style.drawn(label))  # or axes.plot and noise.band for a curve, style.level for a constant
        style.log_scale(axes)  # where the axis is logarithmic
        noise.show_noise(axes, map(noise.noise_of, intervals))  # no axis shows less than the noise of its points
        subject = heading.Subject(paper_values.data_name(data), scale, loaded.label, seeds={interval.n for interval in intervals})
        return heading.figure(name, canvas, title, subject, caption, frame, points, heading.keys(intervals, "bar"))

Texts are written in plain characters, as "FID at μ = 0.5" or "R̃_t"; `drawn` sets their mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import LineStyleType

from harness.reporting.looks import BLACK as BLACK
from harness.reporting.looks import BLUE as BLUE
from harness.reporting.looks import BROWN as BROWN
from harness.reporting.looks import DARK_GREY as DARK_GREY
from harness.reporting.looks import DASHED as DASHED
from harness.reporting.looks import GREEN as GREEN
from harness.reporting.looks import GREY as GREY
from harness.reporting.looks import LARGER as LARGER
from harness.reporting.looks import LINES as LINES
from harness.reporting.looks import LOOKS as LOOKS
from harness.reporting.looks import ORANGE as ORANGE
from harness.reporting.looks import OTHER_MARKERS as OTHER_MARKERS
from harness.reporting.looks import PURPLE as PURPLE
from harness.reporting.looks import SKY as SKY
from harness.reporting.looks import VERMILLION as VERMILLION
from harness.reporting.looks import Look as Look
from harness.reporting.looks import look as look
from harness.reporting.looks import looks as looks

COLUMN, PAGE = 3.25, 6.75
"""Widths in inches of one and of two columns."""
RC = matplotlib.rc_params_from_file(Path(__file__).with_name("templates") / "figures.mplstyle", use_default_template=False)
BAND = 0.15
"""Opacity of interval bands."""
Point = tuple[Axes, float, float, str]
"""A tooltip of the page: axes, x and y in data coordinates, text."""


def context() -> AbstractContextManager[None]:
    """The style, for a `with` block around everything that draws."""
    return matplotlib.rc_context(RC)


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


def few_ticks() -> MaxNLocator:
    """At most five ticks at round numbers, the same on both axes of a plane."""
    return MaxNLocator(4, steps=[1, 2, 5, 10])


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


def level(axes: Axes, mean: float, low: float | None, high: float | None, color: str, line: LineStyleType, label: str) -> None:
    """A horizontal line for a value that does not depend on x, with a band for its interval. Its label says what it is and its n."""
    axes.axhline(mean, color=color, linestyle=line, label=label)
    if low is not None and high is not None and low < high:
        axes.axhspan(low, high, color=color, alpha=BAND, linewidth=0)


def target(axes: Axes, y: float, label: str) -> None:
    """A thin dashed line at a value that the curves are compared with."""
    axes.axhline(y, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0, label=label)


def with_seeds(label: str, n: int, numbers: Iterable[int]) -> str:
    """A label that states its number of training seeds where the means of one figure have different numbers."""
    if len(set(numbers)) < 2:
        return label
    return f"{label}, {n} seed{'s' * (n > 1)}"


def pretty(label: str) -> str:
    """A label with the sign for μ, and without the identifiers of GC variants."""
    for plain, shown in (("mu=", "μ = "), (", fresh-noise)", ", fresh noise)"), (", batch-ot)", ", batch-OT)")):
        label = label.replace(plain, shown)
    return label


_MATHEMATICS = {
    "E‖x′ − z′‖²": r"$𝔼\|x′-z′\|^2$",
    "R̃_t": r"$\widetilde{R}_t$",
    "R(θ)": r"$R(\theta)$",
    "−c′(t)": "$-c′(t)$",
    "c′(t)": "$c′(t)$",
    "c(t)": "$c(t)$",
    "W2": "$W_2$",
    "n0=": "$n_0$ = ",
    "n1=": "$n_1$ = ",
    "rho=": r"$\rho$ = ",
    "T = ": "$T$ = ",
    "N = ": "$N$ = ",
    "μ": r"$\mu$",
}
"""Mathematics in plain text, and how matplotlib sets it.

𝔼 and ′ are characters of the font. By their commands they would come from fonts that a browser lacks, and the page shows characters.
"""


def drawn(text: str) -> str:
    """A text for matplotlib, with its mathematics set as such. Dollar signs of the text itself stay dollar signs."""
    text = pretty(text)
    if "$" in text:  # matplotlib does not set a text that has both
        return text.replace("$", r"\$")
    text = re.sub(r"(\d)x(?=\d)", "\\1×", text)
    return re.sub("|".join(map(re.escape, _MATHEMATICS)), lambda match: _MATHEMATICS[match[0]], text)
