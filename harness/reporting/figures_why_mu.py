"""Figures of `why_mu`: bias, variance and quality over mu; the parts of the first two; endpoints beside samples over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from harness.reporting import figure_requests, heading, noise, paper_values, style
from harness.reporting.figure_requests import suffix_of
from harness.reporting.figures import columns_of
from harness.reporting.heading import Subject
from harness.reporting.style import BLACK, BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, SKY, VERMILLION, Figure, Look, Point
from harness.reporting.values import METRICS, bounds_of
from harness.reporting.why_mu import BETWEEN, BIAS, GRADIENT, QUALITY, RATIO, RELATIVE, SPREAD, WITHIN_GC, WITHIN_IC, Models
from harness.reporting.why_mu_table import ENDPOINT_MU, endpoint_metrics
from harness.stats.intervals import Interval, interval

LOOKS = (Look(BLUE, "o"), Look(VERMILLION, "^"), Look(GREEN, "s"), Look(SKY, "D"))
"""One colour and marker for each number of intervals; a fifth grid has those of the first."""
PARTS = ((WITHIN_IC, BLACK, "v", "within IC rows"), (WITHIN_GC, ORANGE, "P", "within GC rows"), (BETWEEN, PURPLE, "*", "between them"))
"""The parts of the variance of the gradient, with colour, marker and name."""
OFFSET = 0.016
"""Distance in mu between the points of neighbouring grids."""
MU = "μ (share of GC rows; 0 is IC)"


def why_mu_figures(all_models: Sequence[Models], scale: str) -> list[Figure]:
    """The figures of each data set that was measured."""
    return figure_requests.figures_of(figure_requests.why_mu(all_models, scale))


class Panel:
    """One panel over mu, which collects the numbers that it draws.

    log: the criterion that a logarithmic axis shows; None for a linear axis. lowest: as for `noise.show_noise`.
    """

    def __init__(self, axes: Axes, models: Models, label: str, log: str | None = None, lowest: float | None = 0.0) -> None:
        self.axes, self.models, self.log, self.lowest = axes, models, log, lowest
        shown = [value for n in models.grids for value in over_seeds(models, log, n).values()] if log else []
        self.floor = noise.floor_of((value.mean for value in shown), shown) if shown else None
        self.clipped = False
        self.intervals: list[Interval] = []
        self.rows: list[dict[str, object]] = []
        self.points: list[Point] = []
        axes.set(
            xlabel=style.drawn(MU), ylabel=label if "$" in label else style.drawn(label), xlim=(-0.05, 1.05), xticks=[0, 0.25, 0.5, 0.75, 1]
        )
        axes.xaxis.set_major_formatter(style.PLAIN_NUMBERS)

    def measured(self, criterion: str, n: int, look: Look, label: str, values: Mapping[float, Interval] | None = None) -> None:
        """The means of a criterion on one grid, with intervals over seeds. values: by mu, instead of the criterion's."""
        if values is None:
            values = over_seeds(self.models, criterion, n)
        if not values:
            return
        means = list(values.values())
        self.intervals += means
        beside = OFFSET * (
            self.models.grids.index(n) - (len(self.models.grids) - 1) / 2
        )  # so that bars of different N do not cover each other
        places, shown = [mu + beside for mu in values], look.of(max(value.n for value in means))
        self.clipped |= noise.bars(self.axes, places, means, shown, style.drawn(label), floor=self.floor, line=True)
        for mu, value in values.items():
            self.rows.append({"of": criterion, "N": n, "mu": mu, "value": value.mean, **columns_of(value)})
            self.points.append((self.axes, mu, value.mean, f"{label}\nμ = {mu:g}: {criterion} {value.mean:.4g}"))

    def closed_form(self, criterion: str, n: int, look: Look, values: Mapping[float, float] | None = None) -> None:
        """The closed form, dashed, without changing the limits that the measurements have given."""
        curve = self.models.closed_form(criterion, n) if values is None else values
        self.axes.plot(list(curve), list(curve.values()), color=look.color, linewidth=0.9, linestyle=style.DASHED, zorder=1)
        self.rows += [{"of": f"{criterion}, closed form", "N": n, "mu": mu, "value": value} for mu, value in curve.items()]

    def finish(self) -> None:
        """Scale and limits of the axis: those of the measurements, and of the closed form where it stays within a factor of them."""
        if self.log:
            means = [value.mean for value in self.intervals if value.mean > 0]
            if means and self.floor:
                self.axes.set_ylim(self.floor, 2 * max(means))
            style.log_scale(self.axes)
        noise.show_noise(self.axes, map(noise.noise_of, self.intervals), lowest=self.lowest)
        if self.log:
            style.log_scale(self.axes)


def criteria(models: Models, scale: str) -> Figure | None:
    """Bias, variance of the gradient and quality over mu, one line for each number of intervals."""
    if BIAS not in models.criteria:
        return None
    canvas, axes = style.new(PAGE, 2.1, 3)
    bias = Panel(axes[0], models, r"bias $\mathbb{E}\|f-f_{\mathrm{ideal}}\|^2/d$", log=BIAS)
    variance = Panel(axes[1], models, "gradient variance (1 at μ = 0)", log=RELATIVE)
    quality = Panel(axes[2], models, f"{models.quality} of samples", log=QUALITY)
    for n, look in zip(models.grids, cycle(LOOKS)):
        for panel, criterion in ((bias, BIAS), (variance, RELATIVE), (quality, QUALITY)):
            panel.measured(criterion, n, look, f"N = {n}")
            if panel is not quality:
                panel.closed_form(criterion, n, look)
    title = f"Why μ: bias, variance and {models.quality} against μ"
    caption = (
        "N: intervals of the last grid; f_ideal: the exact flow of the training data; variance: of the gradient of one row, over that of "
    )
    caption += "the model with μ = 0; closed form: linear f on Gaussian data"
    return _figure(f"why-mu{suffix_of(scale, models.data)}", canvas, title, models, scale, caption, [bias, variance, quality])


def parts(models: Models, scale: str) -> Figure | None:
    """The spread of what is generated, the parts of the gradient's variance on the finest grid, and GC's variance over IC's."""
    if BIAS not in models.criteria:
        return None
    canvas, axes = style.new(PAGE, 2.1, 3)
    n = models.grids[-1]
    spread = Panel(axes[0], models, "spread (1: that of the ideal flow)")
    split = Panel(axes[1], models, f"share of the variance, N = {n}", lowest=None)
    ratio = Panel(axes[2], models, "variance of GC rows / IC rows")
    for grid, look in zip(models.grids, cycle(LOOKS)):
        for panel, criterion in ((spread, SPREAD), (ratio, RATIO)):
            panel.measured(criterion, grid, look, f"N = {grid}")
            panel.closed_form(criterion, grid, look)
    total = models.closed_form(GRADIENT, n)
    for criterion, color, marker, name in PARTS:
        look, exact = Look(color, marker), models.closed_form(criterion, n)
        split.measured(criterion, n, look, name, share(models, criterion, n))
        split.closed_form(criterion, n, look, {mu: value / total[mu] for mu, value in exact.items()})
    for box in (axes[0], axes[2]):
        box.axhline(1, color=GREY, linewidth=0.6, zorder=0)
    title = "Why μ: the parts of bias and variance"
    caption = (
        "Spread: standard deviation, 1 means as wide as the data; N: intervals of the last grid; closed form: linear f on Gaussian data"
    )
    return _figure(f"why-mu-parts{suffix_of(scale, models.data)}", canvas, title, models, scale, caption, [spread, split, ratio])


def over_seeds(models: Models, criterion: str, n: int) -> dict[float, Interval]:
    """The means of a criterion on one grid and their intervals, by mu."""
    return {mu: interval(list(by_seed.values())) for mu, by_seed in models.by_mu(criterion, n).items()}


def share(models: Models, criterion: str, n: int) -> dict[float, Interval]:
    """A part of the variance of the gradient over the total, by mu."""
    total = models.by_mu(GRADIENT, n)
    return {
        mu: interval([value / total[mu][seed] for seed, value in by_seed.items()])
        for mu, by_seed in models.by_mu(criterion, n).items()
        if by_seed.keys() <= total.get(mu, {}).keys()
    }


def endpoints(models: Models, scale: str) -> Figure | None:
    """Figure 7's question: the metric of endpoints on IC points over training, beside that of samples, on the finest grid."""
    n = models.grids[-1]
    frames = {what: {mu: models.curves(metric, n, mu) for mu in ENDPOINT_MU} for what, metric in endpoint_metrics(models).items()}
    if all(frame.empty for by_mu in frames.values() for frame in by_mu.values()):
        return None
    canvas, axes = style.new(PAGE, 2.1, 2)
    rows: list[dict[str, object]] = []
    drawn: list[Interval] = []
    clipped = False
    for box, (what, by_mu) in zip(axes, frames.items(), strict=True):
        bounds = bounds_of(models.metric, models.data)
        summaries = {mu: [interval(list(row), bounds) for _, row in frame.iterrows()] for mu, frame in by_mu.items() if not frame.empty}
        all_of_box = [value for part in summaries.values() for value in part]
        floor = noise.floor_of((value.mean for value in all_of_box), all_of_box)
        looks = style.looks(f"gc-{mu:g}" for mu in summaries)
        for (mu, values), look in zip(summaries.items(), looks.values(), strict=True):
            steps = [float(step) for step in by_mu[mu].index]
            box.plot(steps, [value.mean for value in values], label=style.drawn(f"μ = {mu:g}"), **look.of(len(by_mu[mu].columns)).options())
            clipped |= noise.band(box, steps, values, look.color, floor)
            rows += [{"of": what, "mu": mu, "step": s, "value": v.mean, **columns_of(v)} for s, v in zip(steps, values, strict=True)]
        box.set(xlabel="training step", ylabel=style.drawn(f"{METRICS[models.metric].title} of {what}"))
        style.steps(box)
        style.log_scale(box)
        noise.show_noise(box, map(noise.noise_of, all_of_box))
        style.log_scale(box)
        drawn += all_of_box
    title = f"Endpoints on IC points, which GC trains on, beside samples, N = {n}"
    caption = "Whether the predictor's error feeds on itself: the table of endpoints says whether the curves rise towards the end"
    name = f"why-mu-endpoints{suffix_of(scale, models.data)}"
    return heading.figure(
        name, canvas, title, _subject(models, scale), caption, pd.DataFrame(rows), [], heading.keys(drawn, clipped=clipped)
    )


def _subject(models: Models, scale: str) -> Subject:
    loaded = models.cell_values.loaded
    label = loaded.label_of(loaded.find(models.frame.run.unique()))
    return Subject(paper_values.data_name(models.data), scale, label, {len(models.seeds())})


def _figure(name: str, canvas: Canvas, title: str, models: Models, scale: str, caption: str, panels: Sequence[Panel]) -> Figure:
    for panel in panels:
        panel.finish()
    intervals = [value for panel in panels for value in panel.intervals if not math.isnan(value.mean)]
    dashed = Line2D([], [], color=GREY, linewidth=0.9, linestyle=style.DASHED, label="dashed: closed form")
    data, points = pd.DataFrame([row for panel in panels for row in panel.rows]), [point for panel in panels for point in panel.points]
    keys = [dashed, *heading.keys(intervals, "bar", clipped=any(panel.clipped for panel in panels))]
    return heading.figure(name, canvas, title, _subject(models, scale), caption, data, points, keys)
