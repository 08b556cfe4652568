"""The page's section on runs: what they share, then the config, curve, samples, final values, machine and versions of each run."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from markupsafe import Markup

from harness.config.selection import DEFAULT_SCALE
from harness.data.catalogue import main_metric
from harness.errors import FOREIGN
from harness.locations import read_regular
from harness.reporting.load import LoadedRun
from harness.reporting.looks import look
from harness.reporting.naming import slug
from harness.reporting.rendering import render
from harness.reporting.sample_points import read_points
from harness.reporting.values import METRICS, CellValues
from harness.store.records import few_step_name

MOST_POINTS = 60
"""Points of a small curve."""
_MACHINE = ("host", "device", "system", "python", "commit", "dirty", "fingerprint", "command", "user", "processes", "job_id")


def default_first(scales: Iterable[str]) -> list[str]:
    """The scales without duplicates, in their order, except that the default scale comes first."""
    return sorted(dict.fromkeys(scales), key=lambda scale: scale != DEFAULT_SCALE)


@dataclass
class RunView:
    """One run as the template shows it."""

    entry: LoadedRun
    headline: str
    details: str
    samples: str = ""
    left_out: bool = False
    """The page is full, so it names only the folder of the run."""


def runs_section(cell_values: CellValues, budget: int) -> Markup:
    """All runs, scale by scale, in at most `budget` bytes; sample grids take what the rest leaves."""
    sections = [_section(cell_values, scale) for scale in default_first(cell_values.loaded.scales)]
    views = [view for _, _, runs in sections for view in runs]
    spare = budget - len(render("runs.html", sections=sections).encode())
    for view in reversed(views):
        if spare >= 0:
            break
        view.left_out = True
        spare += len(view.details.encode()) - len(str(view.entry.path)) - 50
    for view in sorted(views, key=lambda view: (view.entry.run.seed, view.entry.id)):
        samples = "" if view.left_out else _samples(view.entry)
        if len(samples) <= spare:
            spare -= len(samples)
            view.samples = samples
    return render("runs.html", sections=sections)


def one_run(entry: LoadedRun, cell_values: CellValues) -> tuple[Markup, dict[str, str]]:
    """One run as its own page shows it: its last sample grid, values and curve; and its config and machine as text, by key."""
    metric, facts = METRICS[main_metric(entry.run.data.name)].name, _flat(entry.run.to_dict()) | _machine(entry)
    curve = _curve(entry, metric, cell_values, MOST_POINTS)
    shown = render("run.html", values=_values(entry, cell_values), own={}, curve=curve)
    return Markup(_samples(entry)) + shown, {key: _text(value) for key, value in facts.items()}


def _section(cell_values: CellValues, scale: str) -> tuple[str, Mapping[str, str], Sequence[RunView]]:
    """A scale, what the configs and machines of its runs have in common, and its runs."""
    entries = sorted(cell_values.loaded.of_scale(scale), key=lambda entry: entry.id)
    points = max(12, min(MOST_POINTS, 12_000 // len(cell_values.loaded.runs)))  # of each run's curve
    facts = [_flat(entry.run.to_dict()) | _machine(entry) for entry in entries]
    common = {key: value for key, value in facts[0].items() if all(other.get(key) == value for other in facts)}
    runs = []
    for entry, values in zip(entries, facts, strict=True):
        own = {key: _text(value) for key, value in values.items() if key not in common}
        metric = METRICS[main_metric(entry.run.data.name)]
        final = cell_values.final(entry.id, metric.name)
        headline = entry.state if final is None else f"{metric.title} {final.value:.4g}"
        details = render("run.html", values=_values(entry, cell_values), own=own, curve=_curve(entry, metric.name, cell_values, points))
        runs.append(RunView(entry, headline, details))
    return scale, {key: _text(value) for key, value in common.items()}, runs


def _values(entry: LoadedRun, cell_values: CellValues) -> dict[str, str]:
    """The final values of a run, and its error."""
    values = {}
    steps = range(1, len(entry.run.evaluation.times) + 2)
    for metric in (METRICS[few_step_name(name, count)] for name in METRICS for count in steps):
        if record := cell_values.final(entry.id, metric.name):
            noise = "" if record.sd is None else f" (sd {record.sd:.2g} over {record.resamplings} evaluations)"
            values[metric.title if metric.factor == 1 else metric.name] = f"{record.value:.5g}{noise}"
    if entry.error:
        values["error"] = f"{entry.error.get('kind')}: {entry.error.get('message')}"
    return values


def _samples(entry: LoadedRun) -> str:
    """The last sample grid: a PNG as it is, points as a small drawing. Empty without one, or for a damaged file."""
    try:
        path = entry.samples[-1]
        if path.suffix == ".png":
            return render("samples.html", run=entry.id, png=base64.b64encode(read_regular(path)).decode())
        points = read_points(path)
    except FOREIGN:
        return ""
    reach = max(1.0, float(np.quantile(np.abs(points), 0.99))) * 1.1
    dots = (100 + 100 * points[:64] * (1, -1) / reach).round().astype(int).tolist()
    return render("samples.html", run=entry.id, png="", dots=dots, color=_color(entry))


def _curve(entry: LoadedRun, metric: str, cell_values: CellValues, most: int) -> dict[str, object] | None:
    """A metric over training in at most `most` points, as fractions of a drawing of 270 x 120 pixels; None for less than two points."""
    curve = cell_values.curve(entry.id, metric)
    if len(curve) < 2:
        return None
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, most).round().astype(int))]
    steps, values = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    heights = np.log(np.maximum(values, 1e-12)) if (values > 0).all() else values
    across = (20 + 230 * (steps - steps[0]) / max(steps[-1] - steps[0], 1)) / 270
    down = (105 - 88 * (heights - heights.min()) / max(float(np.ptp(heights)), 1e-9)) / 120
    name = METRICS[metric].title
    texts = [f"step {step:,.0f}: {name} {value:.4g}" for step, value in zip(steps, values, strict=True)]
    title = f"{name} {values.max():.3g} to {values.min():.3g}, steps {steps[0]:,.0f} to {steps[-1]:,.0f}"
    points = list(zip(across.round(3).tolist(), down.round(3).tolist(), texts, strict=True))
    return {"title": title, "color": _color(entry), "points": points}


def _color(entry: LoadedRun) -> str:
    return look(slug(entry.run)).color.lower()


def _machine(entry: LoadedRun) -> dict[str, Any]:
    """Machine and versions of the last attempt, its start, the number of attempts, and the seconds of training."""
    last = dict(entry.attempts[-1]) if entry.attempts else {}
    facts = {name: last[name] for name in _MACHINE if last.get(name) is not None}
    facts |= {f"version of {name}": version for name, version in (last.get("versions") or {}).items() if version}
    if "time" in last:
        facts["started"] = datetime.fromtimestamp(last["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts["attempts"] = len(entry.attempts)
    if entry.training_seconds is not None:
        facts["training"] = f"{entry.training_seconds:.0f} s"
    return facts


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_text, value)) + ")"
    return "none" if value is None else str(value)
