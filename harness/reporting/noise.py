"""How figures show noise: bands and bars of intervals, also on logarithmic axes, and axes that show at least the noise of their points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from scipy.special import stdtrit

from harness.reporting.style import BAND, Look
from harness.stats.intervals import ALPHA, Interval

CLIPPED: Literal[11] = 11
LEFT: Literal[8] = 8
"""Markers for an interval that continues below a logarithmic axis: carets that point down and to the left."""
MOST_MARKERS = 12
"""Markers on one line, at most."""


def floor_of(values: Iterable[float], intervals: Iterable[Interval] = ()) -> float:
    """The lower end of a logarithmic axis that shows these values, at which intervals are clipped.

    It lies at half of the lowest positive value, or lower where an interval ends between there and a twentieth of that value.
    """
    lowest = min((value for value in values if value > 0), default=1.0)
    ends = [interval.low for interval in intervals if interval.low is not None and lowest / 20 <= interval.low < lowest / 2]
    return 0.8 * min(ends) if ends else lowest / 2


def band(axes: Axes, x: Sequence[float], intervals: Sequence[Interval], color: str, floor: float | None = None) -> bool:
    """A band for the intervals of a curve, interrupted where there is none.

    floor: the lower end of a logarithmic axis (see `floor_of`). A lower bound below it is drawn at it, with a caret. Returns whether there
    is such a bound.
    """
    low = [math.nan if interval.low is None else interval.low for interval in intervals]
    high = [math.nan if interval.high is None else interval.high for interval in intervals]
    below = [place for place, value in zip(x, low, strict=True) if floor is not None and value < floor]
    shown = low if floor is None else [max(value, floor) if value == value else value for value in low]
    axes.fill_between(x, shown, high, color=color, alpha=BAND, linewidth=0)
    if floor is not None and below:
        axes.plot(below, [floor] * len(below), linestyle="none", marker=CLIPPED, markersize=3, color=color, clip_on=False)
    return bool(below)


def bars(
    axes: Axes,
    at: Sequence[float],
    values: Sequence[Interval],
    look: Look,
    label: str | None = None,
    *,
    floor: float | None = None,
    horizontal: bool = False,
    line: bool = False,
) -> bool:
    """Markers at means, with bars for their intervals where they have one.

    at: the other coordinates. horizontal: the values lie along the x axis. line: the markers are joined, and only some of many are drawn.
    floor, and what is returned: as for `band`.
    """
    means = [value.mean for value in values]
    low = [value.mean if value.low is None else value.low for value in values]
    high = [value.mean if value.high is None else value.high for value in values]
    below = [place for place, value in enumerate(values) if floor is not None and value.low is not None and value.low < floor]
    shown = low if floor is None else [max(value, floor) for value in low]
    lengths = [[max(0.0, a - b) for a, b in zip(means, shown, strict=True)], [a - b for a, b in zip(high, means, strict=True)]]
    options: dict[str, Any] = look.options() | ({} if line else {"linestyle": "none", "zorder": 3})
    every = max(1, len(means) // MOST_MARKERS) if line else 1
    if any(map(any, lengths)):
        place: dict[str, Any] = {"x": means, "y": at, "xerr": lengths} if horizontal else {"x": at, "y": means, "yerr": lengths}
        axes.errorbar(**place, **options, label=label, elinewidth=0.9, capsize=1.5, errorevery=every, markevery=every)
    else:
        axes.plot(*((means, at) if horizontal else (at, means)), **options, label=label, markevery=every)
    if floor is not None and below:
        places = ([floor] * len(below), [at[k] for k in below]) if horizontal else ([at[k] for k in below], [floor] * len(below))
        marker = LEFT if horizontal else CLIPPED
        axes.plot(*places, linestyle="none", marker=marker, markersize=3, color=look.color, clip_on=False)
    return bool(below)


NOISES = 4.0
"""An axis spans at least this many standard deviations of the noise of its points."""
NORMAL = 1.96
"""Standard errors in half of a 95 % interval of one estimate."""
UNKNOWN_NOISE = 0.1
"""Noise between training seeds in units of the value, assumed where there is one seed."""


def noise_of(value: Interval, evaluation: float | None = None) -> tuple[float, float]:
    """A point for `show_noise`: its value, and the standard deviation between training seeds or between evaluations, whichever is larger.

    evaluation: standard deviation between evaluations of one model, None if unknown. That between seeds follows from the interval as if
    it were Student's t.
    """
    between_seeds = 0.0
    if value.low is not None and value.high is not None:
        quantile = float(stdtrit(value.n - 1, 1 - ALPHA / 2)) / math.sqrt(value.n) if value.n > 1 else NORMAL
        between_seeds = max(value.high - value.mean, value.mean - value.low) / quantile  # one side may be cut at a bound
    elif value.n == 1:
        between_seeds = UNKNOWN_NOISE * abs(value.mean)
    return value.mean, max(between_seeds, evaluation or 0.0)


def show_noise(axes: Axes, points: Iterable[tuple[float, float]], which: Literal["x", "y"] = "y", lowest: float | None = 0.0) -> None:
    """Widens an axis to NOISES times the largest noise of its points, so that differences within the noise look small.

    points: values, each with the standard deviation of its noise. A logarithmic axis spans as many standard deviations of the values'
    logarithms, taken as at most 1. lowest: what the quantity cannot fall below, which an axis is not widened beyond; None without such a
    value. Call it when everything is drawn and the axis has its scale.
    """
    points = list(points)
    low, high = sorted(axes.get_ylim() if which == "y" else axes.get_xlim())
    inverted = axes.yaxis_inverted() if which == "y" else axes.xaxis_inverted()
    if (axes.get_yscale() if which == "y" else axes.get_xscale()) == "log":
        span = NOISES * max((min(1.0, noise / value) for value, noise in points if value > 0), default=0.0)
        factor = math.exp(max(0.0, span - math.log(high / low)) / 2)
        low, high = low / factor, high * factor
    else:
        span = max(high - low, NOISES * max((noise for _, noise in points), default=0.0))
        least = -math.inf if lowest is None else min(low, lowest)
        low = max(least, (low + high - span) / 2)
        high = max(high, low + span)
    limits = (high, low) if inverted else (low, high)
    if which == "y":
        axes.set_ylim(*limits)
    else:
        axes.set_xlim(*limits)
