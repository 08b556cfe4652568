"""The page's section on runs: what all share once, then for each run its config, curve, samples, final values, machine and versions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from harness.reporting import style
from harness.reporting.cells import slug
from harness.reporting.load import Book, Entry
from harness.reporting.values import METRICS, Numbers

_MACHINE = ("host", "device", "system", "python", "commit", "dirty", "command", "user", "processes", "job_id")


def runs_section(book: Book, numbers: Numbers, budget: int) -> str:
    """All runs, scale by scale. budget: characters that the section may take; sample grids fill what the rest leaves."""
    parts = ["<h2 id='runs'>Runs</h2><p><input type='search' id='find' placeholder='Find runs by name or hash'></p>"]
    described: list[tuple[Entry, int]] = []
    most = max(12, min(60, 12_000 // max(1, len(book.entries))))
    for scale in book.scales:
        entries = sorted((entry for entry in book.entries.values() if entry.run.scale == scale), key=lambda entry: entry.id)
        configs = {entry.id: _flat(entry.run.to_dict()) for entry in entries}
        machines = {entry.id: _machine(entry) for entry in entries}
        common, common_machine = _common(list(configs.values())), _common(list(machines.values()))
        parts.append(f"<h3>{escape(scale)} scale, {len(entries)} runs</h3>")
        shared = _facts({**common, **common_machine})
        parts.append(f"<details><summary>What all of them share ({len(common) + len(common_machine)} entries)</summary>{shared}</details>")
        for entry in entries:
            own = {key: value for key, value in configs[entry.id].items() if key not in common}
            own |= {key: value for key, value in machines[entry.id].items() if key not in common_machine}
            described.append((entry, len(parts)))
            parts.append(_run(entry, own, numbers, most))
    left = _shortened(parts, described, budget - sum(map(len, parts)))
    pictures = _pictures([entry for entry, _ in described], left)
    for entry, place in described:
        parts[place] = parts[place].replace("\x01", pictures.get(entry.id, ""))
    return "".join(parts)


def _shortened(parts: list[str], described: Sequence[tuple[Entry, int]], left: int) -> int:
    """Cuts the last runs down to a line, in `parts`, as long as the budget is overdrawn; returns what is left of it."""
    for entry, place in reversed(described):
        if left >= 0:
            break
        told = f"too many runs for one page: {escape(str(entry.path))}"
        line = f"<details class='run' id='{entry.id}'><summary><code>{entry.id}</code></summary>{told}</details>"
        left += len(parts[place]) - len(line)
        parts[place] = line
    return left


def _pictures(entries: Sequence[Entry], budget: int) -> dict[str, str]:
    """Embedded sample grids by run, the lowest seeds first, as far as the budget lasts."""
    found = {}
    for entry in sorted(entries, key=lambda entry: (entry.run.seed, entry.id)):
        if entry.samples and (text := _picture(entry.samples[-1], entry)) and len(text) <= budget:
            budget -= len(text)
            found[entry.id] = text
    return found


def _picture(path: Path, entry: Entry) -> str:
    """A PNG as it is; points as a small drawing. "" where the file is damaged, which the figures have told already."""
    try:
        if path.suffix == ".png":
            data = path.read_bytes()
            return f"<img class='grid' alt='samples of {entry.id}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return ""
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        return ""
    reach = max(1.0, float(np.quantile(np.abs(points), 0.99))) * 1.1
    color = style.looks([slug(entry.run)])[slug(entry.run)].color
    dots = "".join(f"<circle cx='{100 + 100 * x / reach:.0f}' cy='{100 - 100 * y / reach:.0f}' r='2'/>" for x, y in points[:64])
    return f"<svg class='grid' viewBox='0 0 200 200' role='img' aria-label='samples of {entry.id}' fill='{color}'>{dots}</svg>"


def _run(entry: Entry, own: Mapping[str, Any], numbers: Numbers, most: int) -> str:
    """One run, with at most so many points of its curve; \\x01 marks where its samples go."""
    metric = numbers.main_of(entry.run)
    final = numbers.final(entry.id, metric)
    told = f"{METRICS[metric].title} {final.value:.4g}" if final is not None else escape(entry.state)
    values = {}
    for name in METRICS:
        row = numbers.final(entry.id, name)
        if row is not None:
            noise = "" if row.sd is None or np.isnan(row.sd) else f" (sd {row.sd:.2g} over {int(row.resamplings)} evaluations)"
            values[METRICS[name].title if METRICS[name].factor == 1 else name] = f"{row.value:.5g}{noise}"
    if entry.error:
        values["error"] = f"{entry.error.get('kind')}: {entry.error.get('message')}"
    return (
        f"<details class='run' id='{entry.id}'><summary><code>{entry.id}</code> {told}"
        f"{' <span class=soft>published</span>' if entry.source == 'published' else ''}</summary><div><div class='facts'>"
        f"{_facts(values)}{_facts(own)}</div>{_curve(entry, metric, numbers, most)}\x01</div></details>"
    )


def _curve(entry: Entry, metric: str, numbers: Numbers, most: int) -> str:
    """The main metric over training, as a small drawing with the numbers as titles."""
    curve = numbers.curve(entry.id, metric)
    if len(curve) < 2:
        return ""
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, most).round().astype(int))]
    steps, values = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    y = np.log(np.maximum(values, 1e-12)) if (values > 0).all() else values
    across = 20 + 230 * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    down = 105 - 88 * (y - y.min()) / max(float(np.ptp(y)), 1e-9)
    color = style.looks([slug(entry.run)])[slug(entry.run)].color
    color = "currentColor" if color == style.BLACK else color
    line = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(across, down, strict=True))
    dots = "".join(
        f"<circle cx='{a:.0f}' cy='{b:.0f}' r='2.5'><title>step {step:,.0f}: {value:.4g}</title></circle>"
        for a, b, step, value in zip(across, down, steps, values, strict=True)
    )
    title = f"{METRICS[metric].title} {values.max():.3g} to {values.min():.3g}, steps {steps[0]:,.0f} to {steps[-1]:,.0f}"
    return (
        f"<svg class='mini' viewBox='0 0 270 120' role='img' aria-label='{title}' fill='{color}'>"
        f"<polyline points='{line}' fill='none' stroke='{color}' stroke-width='1.3'/>{dots}"
        f"<text x='6' y='12' font-size='10' fill='currentColor'>{title}</text></svg>"
    )


def _machine(entry: Entry) -> dict[str, Any]:
    """Where and with what the last attempt ran; how many there were, when, and how long training took."""
    last = dict(entry.attempts[-1]) if entry.attempts else {}
    found = {name: last[name] for name in _MACHINE if last.get(name) is not None}
    found |= {f"version of {name}": version for name, version in (last.get("versions") or {}).items() if version}
    if "time" in last:
        found["started"] = datetime.fromtimestamp(last["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    found["attempts"] = len(entry.attempts)
    if entry.result and isinstance(entry.result.get("seconds"), (int, float)):
        found["training"] = f"{entry.result['seconds']:.0f} s"
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _common(described: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not described:
        return {}
    first = described[0]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in described)}


def _facts(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(key))}</td><td><code>{escape(_shown(value))}</code></td></tr>" for key, value in values.items())
    return f"<table class='words'>{rows}</table>" if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_shown, value)) + ")"
    return "none" if value is None else str(value)
