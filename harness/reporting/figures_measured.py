"""Figures from measured quantities: sample paths (Figure 1), the proxy (2), transport cost (3), and the checks of the theorems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from harness.reporting import paper_values, style
from harness.reporting.figures import suffix_of
from harness.reporting.style import COLUMN, LINES, PAGE, Figure, Look, Point
from harness.statistics.intervals import interval

_NAMES = {"ic": "IC", "ot": "batch-OT", "gc": "GC", "gc-ideal": "GC, ideal flow", "pf-ode": "PF-ODE"}
_ORDER = {"pf": 0, "ic": 1, "ot": 2, "gc": 3}
_CLEARER = {"^GC by ": "GC, endpoints of ", r"^batch-OT(, | \()([\d,]+)\)?$": r"batch-OT (batch \2)", "^(exact OT, .*)": r"\1 points"}
"""Replacements, as for re.sub, in labels of measurements."""
Drawing = tuple[Canvas, list[Point], str]
"""A canvas with its tooltips and its caption."""
R_T = "$\\tilde{R}_t$"
LEVEL = "noise level $t$"
BARS = "bars: 95 % of the Monte-Carlo error, or the interval over training seeds where there are several"


def measured_figures(rows: pd.DataFrame, scale: str) -> list[Figure]:
    """All figures that the measurements of a scale allow, data set by data set."""
    figures = []
    rows = rows[rows.scale == scale].assign(key=lambda rows: (rows.coupling + " " + rows.case).str.strip())
    with style.context():
        for (quantity, data), part in rows.groupby([rows.quantity.replace("theorem2-rtil", "theorem2"), "data"]):
            if quantity in DRAWN:
                name, title, draw = DRAWN[quantity]
                canvas, points, caption = draw(part)
                style.legend(canvas, canvas.axes[0])
                name, title = f"{name}{suffix_of(scale, data)}", f"{paper_values.data_name(data)}: {title}"
                columns = part.columns[~part.isin(["", np.nan]).all()].drop("key")
                figures.append(Figure(name, title, caption, canvas, part[columns], scale, points))
    return figures


def proxy(rows: pd.DataFrame) -> Drawing:
    """Figure 2: R̃_t against t. A second panel, where IC's by its denoiser and another coupling's were measured, divides by IC's."""
    ratios = _relative_to_ic(rows)
    canvas, (axes, *more) = style.new(PAGE, columns=2) if len(ratios) else style.new()
    looks = {key: replace(look, marker="") if key.endswith(" exact") else look for key, look in style.looks(_keys(rows)).items()}
    points = _lines(axes, rows, looks)
    axes.set(xlabel=LEVEL, ylabel=f"discrepancy proxy {R_T}")
    # on finite data the exact value falls to zero at low t; the limits of the axis are those of the others
    others = rows.value[(rows.case != "exact") & (rows.value > 0)]
    if len(others):
        axes.set(yscale="log", ylim=(0.5 * float(others.min()), None))
    style.log_scale(axes, "x")
    style.log_scale(axes)
    for box in more:
        points += _lines(box, ratios, looks)
        style.target(box, 1)
        box.set(xlabel=LEVEL, ylabel=f"{R_T} relative to IC", ylim=(0, None))
        style.log_scale(box, "x")
    return canvas, points, f"R̃_t = E‖ẋ_t − v_t(x_t)‖², equation (17); {BARS}"


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
    canvas, (axes,) = style.new(height=2.5)
    points = _lines(axes, rows, _transport_looks(rows))
    axes.set(xlabel=LEVEL, ylabel="transport cost $c(t)$")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        low, high = float(positive.min()), float(positive.max())
        start = 0.0 if (rows.x == 0).any() else low
        axes.set_xscale("symlog", linthresh=low, linscale=0.3)
        axes.set_xticks([x for x in (0, 1e-3, 0.01, 0.1, 1, 10, 100, 1000) if x == start or low <= x <= high])
        axes.xaxis.set_major_formatter(style.PLAIN_NUMBERS)
        axes.minorticks_off()
        axes.set_xlim(start, 1.1 * high)
    moved = ", each endpoint moved to the nearest data point" if (rows.quantity == "cost-data").any() else ""
    return canvas, points, f"c(t) = E‖f(x_t, σ_t) − z‖²{moved}, equation (19); c(0) is IC's cost; {BARS}"


def _transport_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A curve has the colour of the coupling whose model predicts its endpoints, hollow for the ideal flow; levels are broken lines."""
    looks = {key: style.look(key.rpartition("by ")[2]) for key in _keys(rows)}
    looks = {key: replace(look, hollow=key == "gc-ideal") for key, look in looks.items()}
    lines = zip(rows.key[rows.x.isna()].unique(), cycle(LINES[1:]))
    return looks | {key: replace(looks[key], line=line) for key, line in lines}


def theorem1(rows: pd.DataFrame) -> Drawing:
    """Equation (7): the ratio to its limit against N, and its distance from 1 on logarithmic axes."""
    canvas, (left, right) = style.new(PAGE, 2.4, 2)
    looks = _distance_looks(rows)
    distances = rows.assign(value=(rows.value - 1).abs(), se=np.nan)
    points = _lines(left, rows, looks) + _lines(right, distances, looks)
    style.target(left, 1)
    style.target(right, 0.03)
    left.set(xlabel="number of timesteps $N$", ylabel="ratio to the limit")
    lowest = 0.3 * max(float(distances.value.min()), 1e-5)
    right.set(xlabel="number of timesteps $N$", ylabel="|ratio − 1|", yscale="log", ylim=(lowest, None))
    for axes in (left, right):
        style.log_scale(axes, "x")
    style.log_scale(right)
    ratio = "Equation (7): N^α (L_CT − L_CD) over its limit C T^(α−1) R(θ), by distance and largest noise level T"
    return canvas, points, f"{ratio}; dashed: the limit, and on the right the 3 % that the claim allows; {BARS}"


def _distance_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A colour for each distance; broken lines and hollow markers from its second range of noise levels on."""
    keys = _keys(rows)
    distances = [next((name for name in ("squared", "pseudo-Huber", "norm") if name in key), "other") for key in keys]
    return dict(zip(keys, style.looks(map(" ".join, zip(distances, keys, strict=True))).values(), strict=True))


def theorem2(rows: pd.DataFrame) -> Drawing:
    """Theorem 2: R̃_t of IC and of GC with the ideal flow (theorem2-rtil) as points, power laws of the fitted slopes (theorem2) as lines."""
    canvas, (axes,) = style.new()
    measured, slopes = rows[rows.quantity == "theorem2-rtil"], rows[rows.quantity == "theorem2"]
    looks = style.looks(_keys(measured))
    points = _lines(axes, measured, looks, line=False)
    for row in slopes.itertuples():
        part = measured[(measured.coupling == row.coupling) & (measured.case == "")]
        x, level = np.log(part.x), np.log(part.value)
        fit = np.exp(level.mean() + row.value * (x - x.mean()))
        label = f"{_label(part)}: slope {row.value:.2f} ± {1.96 * row.se:.2f}".replace("-", "−")
        axes.plot(part.x, fit, color=looks[row.coupling].color, linewidth=1, label=label)
    axes.set(xlabel=LEVEL, ylabel=f"discrepancy proxy {R_T}")
    style.log_scale(axes, "x")
    style.log_scale(axes)
    return canvas, points, f"Lines: least squares on both logarithms, slopes with their 95 % interval; {BARS}"


def lemma1(rows: pd.DataFrame) -> Drawing:
    """Lemma 1: finite differences of c(t) as points, its right-hand side as a line; -c'(t) on a logarithmic axis where c only falls."""
    canvas, (axes,) = style.new()
    falls = bool((rows.value < 0).all() and not (rows.truth >= 0).any())
    shown = rows.assign(value=-rows.value, truth=-rows.truth) if falls else rows
    single = shown.key.nunique() == 1
    if single:
        shown = shown.assign(label="finite differences")
    looks = style.looks(_keys(shown))
    points = _lines(axes, shown, looks, line=False)
    for key, part in shown.groupby("key"):
        truth = part.dropna(subset=["truth"]).groupby("x").truth.mean()
        prefix = "" if single else f"{_label(part)}, "
        axes.plot(truth.index, truth, color=looks[key].color, label=style.drawn_label(f"{prefix}by Lemma 1"), linewidth=1)
    axes.set(xlabel=LEVEL, ylabel="−c′(t)" if falls else "c′(t)")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 5 * positive.min():
        style.log_scale(axes, "x")
    if falls:
        style.log_scale(axes)
    return canvas, points, f"Points: finite differences; line: −2 σ̇_t E⟨(∂f/∂x) w_t, w_t⟩; {BARS}"


def paths(rows: pd.DataFrame) -> Drawing:
    """Figure 1: sample paths in the plane around the data, one panel per coupling."""
    keys = sorted(
        _keys(rows), key=lambda key: key.startswith("gc-") and not key.startswith("gc-ideal")
    )  # the ideal flow before trained models
    canvas, axes = style.new(PAGE if len(keys) > 1 else COLUMN, PAGE / max(len(keys), 2) + 0.3, len(keys), share=True)
    ends = rows[rows.t == rows.t.min()]
    reach = 2.5 * float(ends[["x", "value"]].abs().quantile(0.98).max())
    for box, key in zip(axes, keys, strict=True):
        part, color = rows[rows.key == key], style.look(key).color
        for _, path in part.groupby("path"):
            path = path.sort_values("t")
            box.plot(path.x, path.value, color=color, linewidth=0.6, alpha=0.6)
            box.plot(path.x.iloc[0], path.value.iloc[0], "o", color=style.BLACK, markersize=1.8, zorder=3)
        box.set_title(style.drawn_label(_label(part)), pad=3)
        box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$")
        box.xaxis.set_major_locator(MaxNLocator(5))
        box.yaxis.set_major_locator(MaxNLocator(5))
    axes[0].set_ylabel("$x_2$")
    return canvas, [], "One line per sample, from its noise (outside the axes) to its endpoint (dot)"


DRAWN: dict[str, tuple[str, str, Callable[[pd.DataFrame], Drawing]]] = {
    "path": ("figure1", "sample paths (Figure 1)", paths),
    "rtil": ("figure2", "discrepancy proxy R̃_t (Figure 2)", proxy),
    "cost": ("figure3", "quadratic transport cost c(t) (Figure 3)", transport),
    "cost-data": ("figure3-data", "transport cost c(t) from the nearest data points", transport),
    "theorem1": ("theorem1", "Theorem 1, the ratio of equation (7)", theorem1),
    "theorem2": ("theorem2", "Theorem 2, decay of R̃_t with t", theorem2),
    "lemma1": ("lemma1", "Lemma 1, the derivative of c(t)", lemma1),
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


def _lines(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], line: bool = True) -> list[Point]:
    """Draws one line per coupling and case, of its most frequent protocol; rows without x are levels. Returns the tooltips."""
    points: list[Point] = []
    for key in _keys(rows):
        part = rows[rows.key == key]
        part = part[part.protocol == part.protocol.mode().iloc[0]]
        text, look = style.pretty(_label(part)), looks[key]
        label = style.drawn_label(text)
        constant, curve = part[part.x.isna()], part[part.x.notna()]
        if len(constant):
            mean, half = _mean(constant)
            style.level(axes, mean, mean - half, mean + half, look.color, look.line, label)
        if len(curve):
            x, mean, half = np.array([(x, *_mean(at_x)) for x, at_x in curve.groupby("x")], dtype=float).T
            options = look.options() | ({} if line else {"linestyle": "none"})
            axes.errorbar(x, mean, half, label=label, elinewidth=0.8, capsize=1.2, markevery=max(1, len(x) // 12), **options)
            for row in curve.itertuples():
                error = "" if np.isnan(row.se) else f" ± {row.se:.2g}"
                points.append((axes, row.x, row.value, f"{text}\nat {row.x:g}: {row.value:.5g}{error}"))
    return points


def _mean(rows: pd.DataFrame) -> tuple[float, float]:
    """Mean, and half of its 95 % interval: over seeds where there are several, else by the row's own error (0 where there is none)."""
    if len(rows) > 1 and rows.seed.nunique() == len(rows):
        over_seeds = interval(list(rows.value))
        return over_seeds.mean, 0.0 if over_seeds.high is None else over_seeds.high - over_seeds.mean
    return float(rows.value.mean()), 1.96 * float((rows.se**2).sum() ** 0.5 / len(rows))
