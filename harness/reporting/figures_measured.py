"""Figures from measured quantities: sample paths (1), the proxy (2), transport cost (3), and the checks of the theorems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from harness.reporting import paper_values, style
from harness.reporting.figures import suffix_of
from harness.reporting.statistics import interval
from harness.reporting.style import COLUMN, LINES, PAGE, Figure, Look, Point

_NAMES = {"ic": "IC", "ot": "batch-OT", "gc": "GC", "pf-ode": "PF-ODE"}
_ORDER = {"pf": 0, "ic": 1, "ot": 2, "gc": 3}
_BROKEN = (LINES[2], LINES[1], (0, (2, 1.5)), *LINES[3:])
Parts = tuple[Canvas, list[Point], str]
"""What a function below draws: the canvas, the tooltips and the caption."""
R_T = "$\\tilde{R}_t$"
BARS = "bars: 95 % of the Monte-Carlo error, or the interval over training seeds where there are several"


def measured_figures(rows: pd.DataFrame, scale: str) -> list[Figure]:
    """All figures that the measurements of a scale allow, data set by data set."""
    figures = []
    rows = rows[rows.scale == scale].assign(key=lambda rows: (rows.coupling + " " + rows.case).str.strip())
    with style.context():
        for (quantity, data), part in rows.groupby([rows.quantity.replace(TOGETHER), "data"], sort=True):
            if quantity in DRAWN:
                name, title, draw = DRAWN[quantity]
                canvas, points, caption = draw(part)
                style.legend(canvas, canvas.axes[0])
                name, title = f"{name}{suffix_of(scale, data)}", f"{paper_values.data_name(data)}: {title}"
                figures.append(Figure(name, title, caption, canvas, _tidy(part), scale, points))
    return figures


def proxy(rows: pd.DataFrame) -> Parts:
    """Figure 2: R̃_t against t. Beside it, relative to IC's by its denoiser, where that and another coupling's were measured."""
    ratios = _relative_to_ic(rows)
    canvas, (axes, *more) = style.new(*((PAGE, 2.3, 2) if len(ratios) else ()))
    looks = {key: replace(look, marker="") if key.endswith(" exact") else look for key, look in style.looks(_keys(rows)).items()}
    points = _lines(axes, rows, looks)
    axes.set(xlabel="$t$", ylabel=R_T)
    # on finite data the exact value falls to zero at low t; the axis is for the others
    others = rows.value[(rows.case != "exact") & (rows.value > 0)]
    if len(others):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5 * float(others.min()))
    style.log_scale(axes, "x")
    style.log_scale(axes)
    for box in more:
        points += _lines(box, ratios, looks)
        style.target(box, 1)
        box.set(xlabel="$t$", ylabel=f"{R_T} relative to IC", ylim=(0, None))
        style.log_scale(box, "x")
    return canvas, points, f"R̃_t = E‖ẋ_t − v_t(x_t)‖², equation (17); {BARS}"


def _relative_to_ic(rows: pd.DataFrame) -> pd.DataFrame:
    """R̃_t over IC's by denoiser at the same t, errors taken as independent; empty without IC's or without another coupling's."""
    base = rows[(rows.coupling == "ic") & (rows.case != "exact")].groupby("x")
    level, level_error = base.value.mean(), base.se.apply(lambda se: (se**2).sum() ** 0.5 / len(se))
    ratios = rows[rows.x.isin(level.index) & (rows.coupling != "ic") | (rows.case == "exact")].copy()
    if level.empty or not (rows.coupling != "ic").any():
        return ratios[:0]
    below, error = ratios.x.map(level), ratios.x.map(level_error)
    ratios["se"] = ((ratios.se / below) ** 2 + (ratios.value * error / below**2) ** 2) ** 0.5
    ratios["value"] = ratios.value / below
    return ratios[ratios.value.notna()]


def transport(rows: pd.DataFrame) -> Parts:
    """Figure 3: c(t) against t; what does not depend on t is a level. The colour is that of the coupling whose model predicts."""
    canvas, (axes,) = style.new(height=2.5)
    points = _lines(axes, rows, _transport_looks(rows))
    axes.set(xlabel="$t$", ylabel="$c(t)$")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        first = [0.0] if (rows.x == 0).any() else []
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.3)
        axes.set_xticks(first + [10.0**power for power in range(-3, 4) if positive.min() <= 10.0**power <= positive.max()])
        axes.xaxis.set_major_formatter(style.PLAIN_NUMBERS)
        axes.minorticks_off()
        axes.set_xlim(0 if first else float(positive.min()), 1.1 * float(positive.max()))
    moved = ", each endpoint moved to the nearest data point" if (rows.quantity == "cost-data").any() else ""
    return canvas, points, f"c(t) = E‖f(x_t, σ_t) − z‖²{moved}, equation (19); c(0) is IC's cost; {BARS}"


def _transport_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A curve has the colour of the coupling whose model predicts its endpoints, the ideal flow's is hollow; levels are broken lines."""
    levels = list(rows.key[rows.x.isna()].unique())
    looks = {}
    for key in _keys(rows):
        look = style.look(key.rpartition("by ")[2])
        if key in levels:
            look = replace(look, line=_BROKEN[levels.index(key) % len(_BROKEN)])
        looks[key] = replace(look, hollow=True) if key == "gc-ideal" else look
    return looks


def theorem1(rows: pd.DataFrame) -> Parts:
    """Equation (7): the ratio to its limit against N, and its distance from 1 on logarithmic axes, beside the 3 % that the claim allows."""
    canvas, (left, right) = style.new(PAGE, 2.4, 2)
    looks = _distance_looks(rows)
    distances = rows.assign(value=(rows.value - 1).abs(), se=np.nan)
    points = _lines(left, rows, looks) + _lines(right, distances, looks)
    style.target(left, 1)
    style.target(right, 0.03)
    left.set(xlabel="$N$", ylabel="$N^α$ ($L_{CT}$ − $L_{CD}$) relative to its limit")
    right.set(xlabel="$N$", ylabel="distance from 1", ylim=(0.3 * max(float(distances.value.min()), 1e-5), None))
    for axes in (left, right):
        style.log_scale(axes, "x")
    style.log_scale(right)
    return canvas, points, f"Equation (7); the limit is C T^(α−1) R(θ), so the ratio tends to 1; dashed on the right: 3 %; {BARS}"


def _distance_looks(rows: pd.DataFrame) -> dict[str, Look]:
    """A colour for each distance, lines broken and hollow for the second and further range of levels."""
    kinds = {"squared": (style.BLACK, "o"), "norm": (style.VERMILLION, "^"), "pseudo-Huber": (style.BLUE, "s")}
    looks: dict[str, Look] = {}
    for key in _keys(rows):
        color, marker = next((look for kind, look in kinds.items() if kind in key), (style.GREY, "D"))
        times = sum(look.color == color for look in looks.values())
        looks[key] = Look(color, marker, ("-", *_BROKEN)[times % (len(_BROKEN) + 1)], hollow=times > 0)
    return looks


def theorem2(rows: pd.DataFrame) -> Parts:
    """Theorem 2: R̃_t of IC and of GC with the ideal flow (theorem2-rtil), and power laws of the fitted slopes (theorem2)."""
    canvas, (axes,) = style.new()
    measured, slopes = rows[rows.quantity == "theorem2-rtil"], rows[rows.quantity == "theorem2"]
    names = measured.coupling.str.partition("-")[0].map(_NAMES)
    measured = measured.assign(label=names.where(measured.case == "", names + ", " + measured.case))
    looks = style.looks(_keys(measured))
    points = _lines(axes, measured, looks, line=False)
    for row in slopes.itertuples():
        part = measured[(measured.coupling == row.coupling) & (measured.case == "")]
        x, level = np.log(part.x), np.log(part.value)
        fit = np.exp(level.mean() + row.value * (x - x.mean()))
        label = f"slope {row.value:.2f} ± {1.96 * row.se:.2g}"
        axes.plot(part.x, fit, color=looks[row.coupling].color, linewidth=1, label=label)
    axes.set(xlabel="$t$", ylabel=R_T)
    style.log_scale(axes, "x")
    style.log_scale(axes)
    return canvas, points, f"GC: with the ideal flow; lines: least squares on both logarithms, 95 % interval; {BARS}"


def lemma1(rows: pd.DataFrame) -> Parts:
    """Lemma 1: finite differences of c(t) as points, the right-hand side as a line; -c'(t) on a logarithmic axis where c only falls."""
    canvas, (axes,) = style.new()
    falls = bool((rows.value < 0).all() and not (rows.truth >= 0).any())
    shown = rows.assign(value=-rows.value, truth=-rows.truth) if falls else rows
    shown = shown.assign(label=shown.label.where(shown.label != "", "finite differences" if shown.coupling.nunique() == 1 else ""))
    looks = style.looks(_keys(shown))
    points = _lines(axes, shown, looks, line=False)
    for key, part in shown.groupby("key"):
        truth = part.dropna(subset=["truth"]).groupby("x").truth.mean()
        axes.plot(truth.index, truth, color=looks[key].color, label="by Lemma 1", linewidth=1)
    axes.set(xlabel="$t$", ylabel="−c′(t)" if falls else "c′(t)")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 5 * positive.min():
        style.log_scale(axes, "x")
    if falls:
        style.log_scale(axes)
    return canvas, points, f"Points: finite differences; line: −2 σ̇_t E⟨(∂f/∂x) w_t, w_t⟩; {BARS}"


def paths(rows: pd.DataFrame) -> Parts:
    """Figure 1: sample paths in the plane around the data, one panel per coupling."""

    def place(group: tuple[Any, pd.DataFrame]) -> tuple[int, bool, str, str]:
        coupling, case = group[0]
        return _ORDER.get(coupling.partition("-")[0], 9), coupling != "gc-ideal", coupling, case

    groups = sorted(rows.groupby(["coupling", "case"]), key=place)
    canvas, axes = style.new(PAGE if len(groups) > 1 else COLUMN, PAGE / max(len(groups), 2) + 0.3, len(groups), share=True)
    ends = rows[rows.t == rows.t.min()]
    reach = 2.5 * float(ends[["x", "value"]].abs().quantile(0.98).max())
    for box, ((coupling, case), part) in zip(axes, groups, strict=True):
        color = style.look(coupling).color
        for _, path in part.groupby("path"):
            path = path.sort_values("t")
            box.plot(path.x, path.value, color=color, linewidth=0.6, alpha=0.6)
            box.plot(path.x.iloc[0], path.value.iloc[0], "o", color=style.BLACK, markersize=1.8, zorder=3)
        box.set_title(style.drawn_label(_label(part, coupling, case)), pad=3)
        box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$")
        box.xaxis.set_major_locator(MaxNLocator(5))
        box.yaxis.set_major_locator(MaxNLocator(5))
    axes[0].set_ylabel("$x_2$")
    return canvas, [], "One line per sample, from its noise, outside the axes, to its end (dot)"


TOGETHER = {"theorem2-rtil": "theorem2"}
"""Quantities drawn in the figure of another."""
DRAWN: dict[str, tuple[str, str, Callable[[pd.DataFrame], Parts]]] = {
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

    def place(key: str) -> tuple[int, str]:
        return _ORDER.get(re.split("[- ]", key)[0], 9), re.sub(r"\d+", lambda digits: digits[0].zfill(9), key)

    return sorted(rows.key.unique(), key=place)


def _label(part: pd.DataFrame, coupling: str, case: str) -> str:
    given = part.label[part.label != ""]
    if len(given):
        return str(given.iloc[0])
    kind, _, rest = coupling.partition("-")
    name = _NAMES.get(coupling) or f"{_NAMES.get(kind, kind)} ({'μ = ' if kind == 'gc' and rest[:1].isdigit() else ''}{rest})"
    return ", ".join(text for text in (name, case) if text)


def _lines(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Look], line: bool = True) -> list[Point]:
    """Draws one line per coupling and case, of one protocol; rows without x are levels. Returns the tooltips."""
    points: list[Point] = []
    for key in _keys(rows):
        part = rows[rows.key == key]
        part = part[part.protocol == part.protocol.mode().iloc[0]]
        text, look = style.pretty(_label(part, part.coupling.iloc[0], part.case.iloc[0])), looks[key]
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


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers without columns that are empty throughout."""
    empty = [column for column in rows.columns if rows[column].isna().all() or (rows[column] == "").all()]
    return rows.drop(columns=[*empty, "key"])
