"""How figures look: the style, the Okabe-Ito colours (safe for colour-blind readers), axes and texts.

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
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import LineStyleType

COLUMN, PAGE = 3.25, 6.75
"""Widths in inches of one and of two columns."""
RC = matplotlib.rc_params_from_file(Path(__file__).with_name("templates") / "figures.mplstyle", use_default_template=False)
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY, BROWN, DARK_GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777", "#8C6D31", "#555555",
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
OTHER_MARKERS = ("*", "s", "<", "P", ">", "h")
"""Markers of the second and further settings of one coupling."""
LARGER = 4.4
"""Size in points of markers whose shape is lost at the usual size."""
BAND = 0.15
"""Opacity of interval bands."""
Point = tuple[Axes, float, float, str]
"""A tooltip of the page: axes, x and y in data coordinates, text."""


def context() -> AbstractContextManager[None]:
    """The style, for a `with` block around everything that draws."""
    return matplotlib.rc_context(RC)


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a curve. hollow: the marker is an outline, which stands for one training seed."""

    color: str
    marker: str
    line: LineStyleType = "-"
    hollow: bool = False

    def of(self, n: int) -> Look:
        """This look for a mean over n training seeds: hollow for one."""
        return replace(self, hollow=n == 1)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line with markers."""
        face = "white" if self.hollow else self.color
        shape = {"marker": self.marker, "markersize": LARGER if self.marker in "PX*p" else RC["lines.markersize"]}
        return {"color": self.color, "linestyle": self.line, "markerfacecolor": face, "markeredgewidth": 0.7, **shape}


def looks(slugs: Iterable[str]) -> dict[str, Look]:
    """A look for each slug of a figure. A coupling has the same colour in every figure, and the same marker where its settings are the
    usual ones; other settings change line and marker.
    """
    by_slug: dict[str, Look] = {}
    used: Counter[tuple[str, str]] = Counter()
    for name in slugs:
        base = _base(name)
        pair = LOOKS.get(base) or ((GREY, "^") if base.startswith("gc-") else (BROWN, "*"))
        color, marker = pair
        others = [other for other in OTHER_MARKERS if other != marker]
        by_slug[name] = Look(color, others[(used[pair] - 1) % len(others)] if used[pair] else marker, LINES[used[pair] % len(LINES)])
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
