"""Figures from measured quantities: sample paths (Figure 1), the proxy (2), transport cost (3), and the checks of the theorems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from harness.reporting import figure_requests, heading, noise, paper_values, style
from harness.reporting.figures import columns_of
from harness.reporting.heading import Subject
from harness.reporting.style import COLUMN, LINES, PAGE, Figure, Look, Point
from harness.stats.intervals import Interval
from harness.stats.measured import measured_mean
from harness.store.records import RecordSet

_NAMES = {"ic": "IC", "ot": "batch-OT", "gc": "GC", "gc-ideal": "GC, ideal flow", "pf-ode": "PF-ODE"}
_ORDER = {"pf": 0, "ic": 1, "ot": 2, "gc": 3}
_CLEARER = {"^GC by ": "GC, endpoints of ", r"^batch-OT(, | \()([\d,]+)\)?$": r"batch-OT (batch \2)", "^(exact OT, .*)": r"\1 points"}
"""Replacements, as for re.sub, in labels of measurements."""
LEVEL = "noise level $t$"
RECORDS: Mapping[RecordSet, str] = {
    "own": "own measurements",
    "published": "published measurements",
    "both": "own and published measurements",
}


@dataclass
class Drawing:
    """A canvas while it is drawn: its caption, tooltips, and the means that it shows."""

    canvas: Canvas
    caption: str = ""
    points: list[Point] = field(default_factory=list)
    means: list[dict[str, object]] = field(default_factory=list)
    """Key, x and the columns of the interval, for the CSV."""
    monte_carlo: bool = False
    """Some bars are Monte-Carlo errors."""
    intervals: list[Interval] = field(default_factory=list)
    """Means over training seeds; those of one seed for trained models only."""
    clipped: bool = False

    def keys(self) -> list[Artist]:
        """Legend entries for bars and hollow markers."""
        over_seeds = [interval for interval in self.intervals if interval.n > 1]
        how = ["of spread over seeds and Monte-Carlo error"] if any(interval.low is not None for interval in over_seeds) else []
        how += ["of the Monte-Carlo error alone"] if self.monte_carlo else []
        entries = [heading.bar_key(f"bars: 95 % interval {', else '.join(how)}")] if how else []
        if any(interval.n == 1 for interval in self.intervals):
            entries.append(heading.single_key("hollow: one trained model (1 seed)"))
        return [*entries, *([heading.clipped_key()] if self.clipped else [])]


def measured_figures(rows: pd.DataFrame, scale: str, records: RecordSet = "own") -> list[Figure]:
    """All figures that the measurements of a scale allow, data set by data set. records: the set that the rows are from."""
    return figure_requests.figures_of(figure_requests.measured(rows, scale, records))


def measured_figure(rows: pd.DataFrame, quantity: str, data: str, name: str, scale: str, records: RecordSet) -> Figure:
    """The figure of one quantity of a data set. rows: with a column `key`, the coupling and the case."""
    drawing = DRAWN[quantity](rows)
    seeds = {interval.n for interval in drawing.intervals} or {1} & set(rows.seed.notna().astype(int))
    subject = Subject(paper_values.data_name(data), scale, RECORDS[records], seeds)
    frame = rows[rows.columns[~rows.isin(["", np.nan]).all()]]
    if drawing.means:
        columns = ["quantity", "key", "x"] if "x" in frame else ["quantity", "key"]
        frame = frame.merge(pd.DataFrame(drawing.means), how="left", on=columns)
    title, keys = figure_requests.MEASURED[quantity][1], drawing.keys()
    return heading.figure(name, drawing.canvas, title, subject, drawing.caption, frame.drop(columns="key"), drawing.points, keys)


def proxy(rows: pd.DataFrame) -> Drawing:
    """Figure 2: R̃_t against t. A second panel, where IC's by its denoiser and another coupling's were measured, divides by IC's."""
    ratios = _relative_to_ic(rows)
    canvas, (axes, *more) = style.new(PAGE, columns=2) if len(ratios) else style.new()
    drawing = Drawing(canvas, "R̃_t = E‖ẋ_t − v_t(x_t)‖², equation (17)")
    looks = {key: replace(look, marker="") if key.endswith(" exact") else look for key, look in style.looks(_keys(rows)).items()}
    # on finite data the exact value falls to zero at low t; the limits of the axis are those of the others
    others = rows[(rows.case != "exact") & (rows.value > 0)]
    _lines(drawing, axes, rows, looks, floor=_floor(others))
    axes.set(xlabel=LEVEL, ylabel=f"discrepancy proxy {style.drawn('R̃_t')}")
    if len(others):
        axes.set(yscale="log", ylim=(_floor(others), None))
    style.log_scale(axes, "x")
    style.log_scale(axes)
    for box in more:
        _lines(drawing, box, ratios, looks, kept=False)
        style.target(box, 1, "equal to IC")
        box.set(xlabel=LEVEL, ylabel=f"{style.drawn('R̃_t')} relative to IC", ylim=(0, None))
        style.log_scale(box, "x")
    return drawing


def _relative_to_ic(rows: pd.DataFrame) -> pd.DataFrame:
    """R̃_t over IC's by denoiser at the same t, errors taken as independent; empty without IC's or without another coupling's."""
    is_ic = rows.coupling == "ic"
    by_level = rows[is_ic & (rows.case != "exact")].groupby("x")
    ratios = rows[:0] if is_ic.all() else rows[~is_ic | (rows.case == "exact")]
    level, error = ratios.x.map(by_level.value.mean()), ratios.x.map(by_level.se.agg(lambda se: np.linalg.norm(se) / len(se)))
    value = ratios.value / level
    return ratios.assign(value=value, se=np.hypot(ratios.se, value * error) / level).dropna(subset="value")


def transport(rows: pd.DataFrame) -> Drawing:
    """Figure 3: c(t) against t; costs that do not depend on t are horizontal lines."""
    canvas, (axes,) = style.new(height=2.1)
    moved = ", each endpoint moved to the nearest data point" if (rows.quantity == "cost-data").any() else ""
    drawing = Drawing(canvas, f"c(t) = E‖f(x_t, σ_t) − z‖²{moved}, equation (19); c(0) is IC's cost; horizontal lines do not depend on t")
    _lines(drawing, axes, rows, _transport_looks(rows))
    axes.set(xlabel=LEVEL, ylabel=f"transport cost {style.drawn('c(t)')}")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        low, high = float(positive.min()), float(positive.max())
        start = 0.0 if (rows.x == 0).any() else low
        axes.set_xscale("symlog", linthresh=low, linscale=0.3)
        axes.set_xticks([x for x in (0, 1e-3, 0.01, 0.1, 1, 10, 100, 1000) if x == start or low <= x <= high])
        axes.xaxis.set_major_formatter(style.PLAIN_NUMBERS)
        axes.minorticks_off()
        axes.set_xlim(start, 1.1 * high)
    _show_noise(drawing, axes)
    return drawing


def _transport_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A curve has the colour of the coupling whose model predicts its endpoints, a star for the ideal flow; levels are broken lines."""
    looks = {key: style.look(key.rpartition("by ")[2]) for key in _keys(rows)}
    looks = {key: replace(look, marker="*" if key == "gc-ideal" else look.marker) for key, look in looks.items()}
    lines = zip(rows.key[rows.x.isna()].unique(), cycle(LINES[1:]))
    return looks | {key: replace(looks[key], line=line) for key, line in lines}


def theorem1(rows: pd.DataFrame) -> Drawing:
    """Equation (7): the ratio to its limit against N, and its distance from 1 on logarithmic axes."""
    canvas, (left, right) = style.new(PAGE, 2.0, 2)
    ratio = "Equation (7): N^α (L_CT − L_CD) over its limit C T^(α−1) R(θ), by distance and largest noise level T"
    drawing = Drawing(canvas, f"{ratio}; on the right its distance from the limit 1, of which the claim allows 3 %")
    looks = _distance_looks(rows)
    distances = rows.assign(value=(rows.value - 1).abs())
    lowest = 0.3 * max(float(distances.value.min()), 1e-5)
    _lines(drawing, left, rows, looks)
    _lines(drawing, right, distances, looks, floor=lowest, kept=False)
    style.target(left, 1, "the limit, and 3 % from it")
    style.target(right, 0.03, "the limit, and 3 % from it")
    left.set(xlabel="number of timesteps $N$", ylabel="ratio to the limit")
    right.set(xlabel="number of timesteps $N$", ylabel="|ratio − 1|", yscale="log", ylim=(lowest, None))
    for axes in (left, right):
        style.log_scale(axes, "x")
    style.log_scale(right)
    return drawing


def _distance_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A colour for each distance; broken lines and other markers from its second range of noise levels on."""
    keys = _keys(rows)
    distances = [next((name for name in ("squared", "pseudo-Huber", "norm") if name in key), "other") for key in keys]
    return dict(zip(keys, style.looks(map(" ".join, zip(distances, keys, strict=True))).values(), strict=True))


def theorem2(rows: pd.DataFrame) -> Drawing:
    """Theorem 2: R̃_t of IC and of GC with the ideal flow (theorem2-rtil) as points, power laws of the fitted slopes (theorem2) as lines."""
    canvas, (axes,) = style.new()
    drawing = Drawing(canvas, "Lines: least squares on both logarithms, slopes with their 95 % interval")
    measured, slopes = rows[rows.quantity == "theorem2-rtil"], rows[rows.quantity == "theorem2"]
    looks = style.looks(_keys(measured))
    _lines(drawing, axes, measured, looks, line=False, floor=_floor(measured))
    for row in slopes.itertuples():
        part = measured[(measured.coupling == row.coupling) & (measured.case == "")]
        x, level = np.log(part.x), np.log(part.value)
        fit = np.exp(level.mean() + row.value * (x - x.mean()))
        label = f"{_label(part)}: slope {row.value:.2f} ± {1.96 * row.se:.2f}".replace("-", "−")
        axes.plot(part.x, fit, color=looks[row.coupling].color, linewidth=1, label=style.drawn(label))
    axes.set(xlabel=LEVEL, ylabel=f"discrepancy proxy {style.drawn('R̃_t')}")
    style.log_scale(axes, "x")
    style.log_scale(axes)
    return drawing


def lemma1(rows: pd.DataFrame) -> Drawing:
    """Lemma 1: finite differences of c(t) as points, its right-hand side as a line; -c'(t) on a logarithmic axis where c only falls."""
    canvas, (axes,) = style.new()
    drawing = Drawing(canvas, "Points: finite differences; line: −2 σ̇_t E⟨(∂f/∂x) w_t, w_t⟩")
    falls = bool((rows.value < 0).all() and not (rows.truth >= 0).any())
    shown = rows.assign(value=-rows.value, truth=-rows.truth) if falls else rows
    single = shown.key.nunique() == 1
    if single:
        shown = shown.assign(label="finite differences")
    looks = style.looks(_keys(shown))
    _lines(drawing, axes, shown, looks, line=False, floor=_floor(shown) if falls else None, kept=not falls)
    for key, part in shown.groupby("key"):
        truth = part.dropna(subset=["truth"]).groupby("x").truth.mean()
        prefix = "" if single else f"{_label(part)}, "
        axes.plot(truth.index, truth, color=looks[key].color, label=style.drawn(f"{prefix}by Lemma 1"), linewidth=1)
    axes.set(xlabel=LEVEL, ylabel=style.drawn("−c′(t)" if falls else "c′(t)"))
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 5 * positive.min():
        style.log_scale(axes, "x")
    if falls:
        style.log_scale(axes)
    _show_noise(drawing, axes, lowest=None)
    return drawing


def paths(rows: pd.DataFrame) -> Drawing:
    """Figure 1: sample paths in the plane around the data, one panel per coupling."""
    keys = sorted(
        _keys(rows), key=lambda key: key.startswith("gc-") and not key.startswith("gc-ideal")
    )  # the ideal flow before trained models
    canvas, axes = style.new(PAGE if len(keys) > 1 else COLUMN, PAGE / max(len(keys), 2) + 0.1, len(keys), share=True)
    ends = rows[rows.t == rows.t.min()]
    reach = 2.5 * float(ends[["x", "value"]].abs().quantile(0.98).max())
    for number, (box, key) in enumerate(zip(axes, keys, strict=True)):
        part, color = rows[rows.key == key], style.look(key).color
        for path_number, (_, path) in enumerate(part.groupby("path")):
            path = path.sort_values("t")
            labels = ("path of a sample, by coupling", "its endpoint") if number == path_number == 0 else (None, None)
            box.plot(path.x, path.value, color=color, linewidth=0.6, alpha=0.6, label=labels[0])
            box.plot(path.x.iloc[0], path.value.iloc[0], "o", color=style.BLACK, markersize=1.8, zorder=3, label=labels[1])
        box.set_title(style.drawn(_label(part)), pad=3)
        box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$")
        box.xaxis.set_major_locator(style.few_ticks())
        box.yaxis.set_major_locator(style.few_ticks())
    axes[0].set_ylabel("$x_2$")
    return Drawing(canvas, "One line per sample, from its noise (outside the axes) to its endpoint (dot)")


DRAWN: dict[str, Callable[[pd.DataFrame], Drawing]] = {
    "path": paths,
    "rtil": proxy,
    "cost": transport,
    "cost-data": transport,
    "theorem1": theorem1,
    "theorem2": theorem2,
    "lemma1": lemma1,
}


def _keys(rows: pd.DataFrame) -> list[str]:
    """The lines of a figure, each a coupling and case: IC and batch-OT before GC, batch-OT (64) before (512)."""
    keys = sorted(rows.key.unique(), key=lambda key: re.sub(r"\d+", lambda digits: digits[0].zfill(9), key))
    return sorted(keys, key=lambda key: _ORDER.get(re.split("[- ]", key)[0], 9))


def _label(part: pd.DataFrame) -> str:
    """The label of a line: that of its rows, else the name of their coupling, and their case."""
    label: str = part.label.max()
    for pattern, words in _CLEARER.items():
        label = re.sub(pattern, words, label)
    if label:
        return label
    coupling, case = part.coupling.iloc[0], part.case.iloc[0]
    kind, _, rest = coupling.partition("-")
    name = _NAMES.get(coupling) or f"{_NAMES.get(kind, kind)} ({'μ = ' if kind == 'gc' and rest[:1].isdigit() else ''}{rest})"
    return f"{name}, {case}" if case else name


def _lines(
    drawing: Drawing,
    axes: Axes,
    rows: pd.DataFrame,
    looks: Mapping[str, Look],
    *,
    line: bool = True,
    floor: float | None = None,
    kept: bool = True,
) -> None:
    """Draws one line per coupling and case, of its most frequent protocol; rows without x are levels.

    floor: as for `noise.band`. kept: the means go to the CSV, which holds the rows as they were measured.
    """
    for key in _keys(rows):
        part = rows[rows.key == key]
        part = part[part.protocol == part.protocol.mode().iloc[0]]
        text, look = style.pretty(_label(part)), looks[key]
        constant, curve = part[part.x.isna()], part[part.x.notna()]
        level = _mean(constant) if len(constant) else None
        means = {x: _mean(at_x) for x, at_x in curve.groupby("x")}
        shown = [*means.values(), *([level] if level else [])]
        if part.seed.notna().any():
            look = look.of(max(interval.n for interval in shown))
            drawing.intervals += shown
        drawing.monte_carlo |= any(interval.n == 1 and interval.low is not None for interval in shown)
        if level:
            style.level(axes, level.mean, level.low, level.high, look.color, look.line, style.drawn(text))
        if kept:
            places = [*means, *([float("nan")] if level else [])]
            drawing.means += [
                {"quantity": part.quantity.iloc[0], "key": key, "x": x} | _columns(interval)
                for x, interval in zip(places, shown, strict=True)
            ]
        if len(curve):
            label = style.drawn(text)
            drawing.clipped |= noise.bars(axes, list(means), list(means.values()), look, label, floor=floor, line=line)
            for row in curve.itertuples():
                error = "" if np.isnan(row.se) else f" ± {row.se:.2g}"
                drawing.points.append((axes, row.x, row.value, f"{text}\nat {row.x:g}: {row.value:.5g}{error}"))


def _floor(rows: pd.DataFrame) -> float:
    """`noise.floor_of` for these rows, drawn one by one."""
    return noise.floor_of(rows.value, [measured_mean([row]) for row in rows.itertuples()])


def _columns(mean: Interval) -> dict[str, object]:
    """The columns of a mean in the CSV. seeds: none for a number that depends on no trained model."""
    columns = columns_of(mean)
    return {"mean": mean.mean, "mean_low": columns["low"], "mean_high": columns["high"], "seeds": mean.n, "interval": mean.method}


def _mean(rows: pd.DataFrame) -> Interval:
    """Mean over training seeds and its 95 % interval, as tables and verdicts have it."""
    positive = rows.quantity.iloc[0] in ("rtil", "theorem2-rtil", "cost", "cost-data")
    return measured_mean(rows.itertuples(), (0.0, None) if positive else (None, None))


def _show_noise(drawing: Drawing, axes: Axes, lowest: float | None = 0.0) -> None:
    """`noise.show_noise` for the means drawn so far."""
    noise.show_noise(axes, (noise.noise_of(interval) for interval in drawing.intervals), lowest=lowest)
