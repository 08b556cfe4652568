"""Figures from measured quantities: sample paths (1), the proxy (2), transport cost (3), and the theorems' checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.reporting import paper_values, style
from harness.reporting.figures import legend, suffix_of
from harness.reporting.statistics import interval
from harness.reporting.style import COLUMN, PAGE, RC, Figure

_NAMES = {"ic": "IC", "ot": "batch-OT", "gc": "GC", "pf-ode": "PF-ODE"}
_BROKEN = ((0, (1, 1)), (0, (4, 1.5)), (0, (2, 1.5)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
BARS = "bars: 95 % of the Monte-Carlo error, or the interval over training seeds where there are several"


def measured_figures(rows: pd.DataFrame, scale: str) -> list[Figure]:
    """All figures that the measurements of a scale allow, data set by data set."""
    found = []
    rows = rows[rows.scale == scale]
    with mpl.rc_context(RC):
        for (quantity, data), part in rows.groupby([rows.quantity.replace(TOGETHER), "data"], sort=True):
            if quantity in DRAWN:
                name, title, draw = DRAWN[quantity]
                figure = draw(part, f"{name}{suffix_of(scale, data)}", f"{paper_values.data_name(data)}: {title}")
                figure.scale = scale
                found.append(figure)
    return found


def proxy(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Figure 2: Rtil_t against t; beside it, over that of IC by its denoiser, where that and another coupling's were measured."""
    shares = _over_ic(rows)
    canvas, (axes, *more) = style.new(*((PAGE, 2.3, 2) if len(shares) else ()))
    looks = {key: replace(look, marker="") if key.endswith(" exact") else look for key, look in style.looks(_keys(rows)).items()}
    points, data = _lines(axes, rows, looks=looks)
    axes.set(xlabel="t", ylabel="$\\tilde{R}_t$")
    # on finite data the exact value falls to nothing at low t; the axis is for the others
    others = rows.value[(rows.case != "exact") & (rows.value > 0)]
    if len(others):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5 * float(others.min()))
    style.log_scale(axes, "x")
    style.log_scale(axes)
    for box in more:
        points += _lines(box, shares, looks=looks)[0]
        box.axhline(1, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 1.5)), zorder=0)
        box.set(xlabel="t", ylabel="$\\tilde{R}_t$ over IC's", ylim=(0, None))
        style.log_scale(box, "x")
    legend(canvas, axes)
    return Figure(name, title, f"E‖xdot_t − v_t(x_t)‖², equation (17); {BARS}", canvas, data, points=points)


def _over_ic(rows: pd.DataFrame) -> pd.DataFrame:
    """Rtil over IC's by denoiser at the same t, errors taken as independent; empty without IC's or without another coupling's."""
    base = rows[(rows.coupling == "ic") & (rows.case != "exact")].groupby("x")
    level, error = base.value.mean(), base.se.apply(lambda se: (se**2).sum() ** 0.5 / len(se))
    found = rows[rows.x.isin(level.index) & (rows.coupling != "ic") | (rows.case == "exact")].copy()
    if level.empty or not (rows.coupling != "ic").any():
        return found[:0]
    below, error = found.x.map(level), found.x.map(error)
    found["se"] = ((found.se / below) ** 2 + (found.value * error / below**2) ** 2) ** 0.5
    found["value"] = found.value / below
    return found[found.value.notna()]


def transport(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Figure 3: c(t) against t; what does not depend on t is a level. The colour is that of the coupling whose model predicts."""
    canvas, (axes,) = style.new(height=2.6)
    points, data = _lines(axes, rows, looks=_transport_looks(rows))
    axes.set(xlabel="t", ylabel="c(t)")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.3)
        decades = [10.0**power for power in range(-3, 4) if positive.min() <= 10.0**power <= positive.max()]
        axes.set_xticks(([0.0] if (rows.x == 0).any() else []) + decades)
        axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.set_xlim(0 if (rows.x == 0).any() else float(positive.min()), 1.1 * float(positive.max()))
    handles, labels = axes.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper center", ncols=2, columnspacing=1.0)
    moved = ", each endpoint moved to the nearest data point" if (rows.quantity == "cost-data").any() else ""
    caption = f"E‖f(x_t, sigma_t) − z‖²{moved}, equation (19); c(0) is IC's cost; {BARS}"
    return Figure(name, title, caption, canvas, data, points=points)


def _transport_looks(rows: pd.DataFrame) -> dict[str, style.Look]:
    """A curve has the colour of the coupling whose model predicts its endpoints, the ideal flow's is hollow; levels are broken lines."""
    levels = list(dict.fromkeys(f"{row.coupling} {row.case}".strip() for row in rows[rows.x.isna()].itertuples()))
    found = {}
    for key in _keys(rows):
        (look,) = style.looks([key.rpartition("by ")[2]]).values()
        if key in levels:
            look = replace(look, line=_BROKEN[levels.index(key) % len(_BROKEN)])
        found[key] = replace(look, hollow=True) if key == "gc-ideal" else look
    return found


def theorem1(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Equation (7): the ratio to its limit against N, and how far it is from 1 on logarithmic axes, beside the 3 % asked for."""
    canvas, (left, right) = style.new(PAGE, 2.4, 2)
    looks = _distance_looks(rows)
    points, data = _lines(left, rows, looks=looks)
    away = rows.assign(value=(rows.value - 1).abs(), se=np.nan)
    points += _lines(right, away, looks=looks)[0]
    left.axhline(1, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 1.5)), zorder=0)
    right.axhline(0.03, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 1.5)), zorder=0)
    left.set(xlabel="N", ylabel="N$^α$ (L$_{CT}$ − L$_{CD}$) over its limit")
    right.set(xlabel="N", ylabel="distance from 1", ylim=(0.3 * max(float(away.value.min()), 1e-5), None))
    for axes in (left, right):
        style.log_scale(axes, "x")
    style.log_scale(right)
    legend(canvas, left)
    caption = f"equation (7); the limit is C T^(alpha-1) R(theta), so 1 is the truth; dashed on the right: 3 %; {BARS}"
    return Figure(name, title, caption, canvas, data, points=points)


def _distance_looks(rows: pd.DataFrame) -> dict[str, style.Look]:
    """A colour for each distance, lines broken and hollow for the second and further range of levels."""
    kinds = {"squared": (style.BLACK, "o"), "norm": (style.VERMILLION, "^"), "pseudo-Huber": (style.BLUE, "s")}
    found: dict[str, style.Look] = {}
    for key in _keys(rows):
        color, marker = next((look for kind, look in kinds.items() if kind in key), (style.GREY, "D"))
        times = sum(look.color == color for look in found.values())
        found[key] = style.Look(color, marker, ("-", *_BROKEN)[times % (len(_BROKEN) + 1)], hollow=times > 0)
    return found


def theorem2(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Theorem 2: Rtil_t of IC and of GC with the ideal flow (theorem2-rtil), and power laws of the slopes found (theorem2)."""
    canvas, (axes,) = style.new()
    found, slopes = rows[rows.quantity == "theorem2-rtil"], rows[rows.quantity == "theorem2"]
    names = found.coupling.str.partition("-")[0].map(_NAMES)
    found = found.assign(label=names.where(found.case == "", names + ", " + found.case))
    points, _ = _lines(axes, found, line=False)
    looks = style.looks(_keys(found))
    for row in slopes.itertuples():
        part = found[(found.coupling == row.coupling) & (found.case == "")]
        x, level = np.log(part.x), np.log(part.value)
        fit = np.exp(level.mean() + row.value * (x - x.mean()))
        told = f"slope {row.value:.2f} ± {1.96 * row.se:.2g}"
        axes.plot(part.x, fit, color=looks[row.coupling].color, linewidth=1, label=told)
    axes.set(xlabel="t", ylabel="$\\tilde{R}_t$")
    style.log_scale(axes, "x")
    style.log_scale(axes)
    legend(canvas, axes)
    caption = f"GC: with the ideal flow; lines: least squares on both logarithms, 95 % interval; {BARS}"
    return Figure(name, title, caption, canvas, _tidy(rows), points=points)


def lemma1(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Lemma 1: finite differences of c(t) as points, the right-hand side as a line; -c'(t) on a logarithmic axis where c only falls."""
    canvas, (axes,) = style.new()
    falls = bool((rows.value < 0).all() and not (rows.truth >= 0).any())
    shown = rows.assign(value=-rows.value, truth=-rows.truth) if falls else rows
    shown = shown.assign(label=shown.label.where(shown.label != "", "finite differences" if shown.coupling.nunique() == 1 else ""))
    points, _ = _lines(axes, shown, line=False)
    names = style.looks(_keys(shown))
    for (coupling, case), part in shown.groupby(["coupling", "case"]):
        truth = part.dropna(subset=["truth"]).groupby("x").truth.mean()
        axes.plot(truth.index, truth, color=names[_key(coupling, case)].color, label="by Lemma 1", linewidth=1)
    axes.set(xlabel="t", ylabel="−c'(t)" if falls else "c'(t)")
    positive = rows.x[rows.x > 0]
    if len(positive) and positive.max() > 5 * positive.min():
        style.log_scale(axes, "x")
    if falls:
        style.log_scale(axes)
    legend(canvas, axes)
    caption = f"points: finite differences; line: −2 sigmadot E⟨(df/dx) w, w⟩; {BARS}"
    return Figure(name, title, caption, canvas, _tidy(rows), points=points)


def paths(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Figure 1: sample paths in the plane around the data, one panel a coupling."""
    order = {"pf-ode": 0, "ic": 1, "ot": 2, "gc": 3}

    def place(item: tuple) -> tuple:
        (coupling, case), _ = item
        return order.get("pf-ode" if coupling == "pf-ode" else coupling.partition("-")[0], 9), coupling != "gc-ideal", coupling, case

    groups = sorted(rows.groupby(["coupling", "case"]), key=place)
    canvas, axes = style.new(PAGE if len(groups) > 1 else COLUMN, PAGE / max(len(groups), 2) + 0.3, len(groups), sharex=True, sharey=True)
    ends = rows[rows.t == rows.t.min()]
    reach = 2.5 * float(ends[["x", "value"]].abs().quantile(0.98).max())
    for box, ((coupling, case), part) in zip(axes, groups, strict=True):
        color = style.looks([coupling])[coupling].color
        for _, path in part.groupby("path"):
            path = path.sort_values("t")
            box.plot(path.x, path.value, color=color, linewidth=0.6, alpha=0.6)
            box.plot(path.x.iloc[0], path.value.iloc[0], "o", color=style.BLACK, markersize=1.8, zorder=3)
        box.set_title(_label(part, coupling, case), pad=3)
        box.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$")
        box.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        box.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes[0].set_ylabel("$x_2$")
    caption = "one line a sample, from its noise, outside the axes, to its end (black)"
    return Figure(name, title, caption, canvas, _tidy(rows))


TOGETHER = {"theorem2-rtil": "theorem2"}
"""Quantities drawn in the figure of another."""
DRAWN: dict[str, tuple[str, str, Callable[[pd.DataFrame, str, str], Figure]]] = {
    "path": ("figure1", "sample paths (Figure 1)", paths),
    "rtil": ("figure2", "the proxy of the discrepancy (Figure 2)", proxy),
    "cost": ("figure3", "quadratic transport cost (Figure 3)", transport),
    "cost-data": ("figure3-data", "transport cost from the nearest data", transport),
    "theorem1": ("theorem1", "Theorem 1, the ratio of equation (7)", theorem1),
    "theorem2": ("theorem2", "Theorem 2, how fast the proxy falls with t", theorem2),
    "lemma1": ("lemma1", "Lemma 1", lemma1),
}


def _key(coupling: str, case: str) -> str:
    return f"{coupling} {case}".strip()


def _keys(rows: pd.DataFrame) -> list[str]:
    """Coupling and case of each line, IC and batch-OT before GC."""
    order = {"ic": 0, "ot": 1, "gc": 2}
    found = {(row.coupling, row.case) for row in rows[["coupling", "case"]].drop_duplicates().itertuples()}
    by_size = {one: re.sub(r"\d+", lambda digits: digits[0].zfill(9), one[0]) for one in found}  # batch-OT (64) before (512)
    return [_key(*one) for one in sorted(found, key=lambda one: (order.get(one[0].partition("-")[0], 3), by_size[one], one[1]))]


def _label(part: pd.DataFrame, coupling: str, case: str) -> str:
    told = part.label[part.label != ""]
    if len(told):
        return style.pretty(told.iloc[0])
    kind, _, rest = coupling.partition("-")
    name = _NAMES.get(coupling) or f"{_NAMES.get(kind, kind)} ({'μ = ' if kind == 'gc' and rest[:1].isdigit() else ''}{rest})"
    return ", ".join(text for text in (name, case) if text)


def _lines(
    axes: Axes, rows: pd.DataFrame, line: bool = True, looks: Mapping[str, style.Look] | None = None
) -> tuple[list[tuple[Axes, float, float, str]], pd.DataFrame]:
    """One line a coupling and case, of one protocol; rows without x are levels. Returns the hover points and the numbers."""
    keys = _keys(rows)
    looks = looks or style.looks(keys)
    points = []
    for key in keys:
        part = rows[(rows.coupling + " " + rows.case).str.strip() == key]
        part = part[part.protocol == part.protocol.mode().iloc[0]]
        coupling, case = part.coupling.iloc[0], part.case.iloc[0]
        label, look = _label(part, coupling, case), looks[key]
        level = part[part.x.isna()]
        if len(level):
            mean, half = _mean(level)
            axes.axhline(mean, color=look.color, linestyle=look.line, label=label)
            if half:
                axes.axhspan(mean - half, mean + half, color=look.color, alpha=0.15, linewidth=0)
        curve = part[part.x.notna()]
        if len(curve):
            found = [(x, *_mean(one)) for x, one in curve.groupby("x")]
            x, mean, half = (np.array(values, dtype=float) for values in zip(*found, strict=True))
            options = look.options() | ({} if line else {"linestyle": "none"})
            axes.errorbar(x, mean, half, label=label, elinewidth=0.8, capsize=1.2, markevery=max(1, len(x) // 12), **options)
            points += [
                (axes, row.x, row.value, f"{label}\nat {row.x:g}: {row.value:.5g}" + ("" if np.isnan(row.se) else f" +- {row.se:.2g}"))
                for row in curve.itertuples()
            ]
    return points, _tidy(rows)


def _mean(rows: pd.DataFrame) -> tuple[float, float]:
    """Mean, and half of its 95 % interval: over seeds where there are several, else by the row's own error (0 where there is none)."""
    if len(rows) > 1 and rows.seed.nunique() == len(rows):
        made = interval(list(rows.value))
        return made.mean, made.high - made.mean
    se = float((rows.se**2).sum() ** 0.5 / len(rows))
    return float(rows.value.mean()), 1.96 * se


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """The numbers without columns that are empty throughout."""
    return rows.loc[:, [column for column in rows.columns if not rows[column].isna().all() and not (rows[column] == "").all()]]
