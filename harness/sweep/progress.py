"""The progress of a sweep: bars in a terminal, one plain line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.sweep.table import duration, emit

PLAIN_EVERY = 10.0
PLAIN_RUNS = 4
"""Runs shown in one plain line; a cluster may have hundreds at work."""
LIVE_EVERY = 0.5
"""Seconds between two reads of the heartbeats."""


@dataclass(frozen=True)
class Running:
    """One run that is being worked on, and the heartbeat it wrote last."""

    id: str
    heartbeat: dict[str, Any]
    metric: str = "FID"
    """What the heartbeat's `fid` is."""
    elsewhere: bool = False
    """Started by another launcher."""

    @property
    def left(self) -> float | None:
        """Seconds to its end at its present rate."""
        rate, total = self.heartbeat.get("rate"), self.heartbeat.get("total")
        return (total - self.heartbeat.get("step", 0)) / rate if rate and total else None


class Progress:
    """Shows the progress when `due`; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.every = LIVE_EVERY if self._live else PLAIN_EVERY
        self._next = time.monotonic() + self.every

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def wait(self) -> float:
        """Seconds until the progress is due again."""
        return max(0.0, self._next - time.monotonic())

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        emit(self.console, text)

    def show(self, headline: str, running: Sequence[Running]) -> None:
        """Shows the state of the sweep in one line, and the runs at work as far as there is room."""
        self._next = time.monotonic() + self.every
        if self._live:
            shown = running[: max(1, self.console.height - 2)]
            self._live.update(Group(_bars(shown), Text(headline, style="bold")), refresh=True)
        else:
            rest = len(running) - PLAIN_RUNS
            more = [f"{rest} more: harness status"] if rest > 0 else []
            emit(self.console, " | ".join([headline, *map(line, running[:PLAIN_RUNS]), *more]))


def line(run: Running) -> str:
    """One run as text: digits-ic-s0 1200/4000, 31.2 steps/s, 1:30 left, loss 0.123, FID 45.6."""
    beat = run.heartbeat
    parts = [f"{run.id} {beat['step']}/{beat.get('total', '?')}" if "step" in beat else f"{run.id} starting"]
    parts += [f"{beat['rate']:.3g} steps/s"] if beat.get("rate") else []
    parts += [time_left(run.left)] if run.left is not None else []
    parts += [f"loss {beat['loss']:.4g}"] if _number(beat.get("loss")) else []
    parts += [f"{run.metric} {beat['fid']:.4g}"] if _number(beat.get("fid")) else []
    parts += [str(beat["phase"])] if beat.get("phase") else []
    parts += ["elsewhere"] if run.elsewhere else []
    return ", ".join(parts)


def time_left(seconds: float | None) -> str:
    """The time left in words."""
    return "time left unknown" if seconds is None else f"{duration(seconds)} left"


def _bars(running: Sequence[Running]) -> Table:
    table = Table.grid(padding=(0, 1))
    for run in running:
        bar = ProgressBar(total=run.heartbeat.get("total") or 1, completed=run.heartbeat.get("step") or 0, width=20)
        table.add_row(bar, Text(line(run), overflow="ellipsis", no_wrap=True))
    return table


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and value == value
