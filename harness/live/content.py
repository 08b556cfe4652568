"""What the live pages show: the state of the runs, curves of what they recorded so far, and their latest samples, as HTML.

Everything is read from the results folder. A reading is kept for a while that grows with the time that it took, so that a page that
refreshes itself does not keep a core busy.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from markupsafe import Markup

from harness.config.selection import Selection
from harness.errors import FOREIGN, HarnessError, MissingFile, printable
from harness.locations import open_regular, read_regular
from harness.reporting import load
from harness.reporting.cells import ExperimentCells, all_cells, experiment_cells
from harness.reporting.drawing import fix_layout, svg
from harness.reporting.figure_cache import Content as FigureContent
from harness.reporting.figure_requests import Request, live
from harness.reporting.load import LoadedResults
from harness.reporting.page_runs import one_run
from harness.reporting.rendering import asset, render, served_policy
from harness.reporting.values import CellValues
from harness.store.runs import RunFolder, State, Store
from harness.sweep.plan import wanted_jobs
from harness.sweep.status import StatusTable, status, status_table
from harness.sweep.summary import Summary, summary

REFRESH = 5
"""Seconds between two refreshes of a page."""
PATIENCE, LEAST = 4.0, 2.0
"""A reading that took s seconds is kept for PATIENCE * s seconds, and for LEAST seconds at least."""
ORDER = [
    *(State.RUNNING, State.FAILED, State.STALLED, State.BLOCKED, State.STOPPED),
    *(State.QUEUED, State.NEW, State.DONE),
]
"""Runs that need attention come first."""
FIGURES, GRIDS = 6, 8
"""The largest numbers of figures and of sample grids on the first page."""
TAIL = 32 << 10
"""Bytes that are shown of the end of a log."""
LARGEST_GRID = 64 << 20
"""Bytes of a sample grid."""
POLICY = served_policy()
T = TypeVar("T")


class Kept(Generic[T]):
    """The last result of a function; the first caller after its time computes it again, and the others wait for it."""

    def __init__(self, compute: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._compute, self._clock, self._lock = compute, clock, threading.Lock()
        self._until = float("-inf")
        self._value: T | None = None

    def __call__(self) -> T:
        """The result, not older than its time."""
        with self._lock:
            began = self._clock()
            if self._value is None or began >= self._until:
                self._value = self._compute()
                ended = self._clock()
                self._until = ended + max(LEAST, PATIENCE * (ended - began))
            return self._value


@dataclass(frozen=True)
class Reading:
    """The results at one moment. figures: SVG elements with their titles. time: of the day, by this machine's clock."""

    summaries: list[Summary]
    loaded: LoadedResults
    cell_values: CellValues
    figures: list[tuple[str, Markup]]
    time: str


class Pages:
    """The pages of one results folder. selection: the runs to show; None for all that have a folder."""

    def __init__(self, store: Store, selection: Selection | None = None) -> None:
        self.store, self.selection = store, selection
        self.jobs = wanted_jobs(selection) if selection else None
        self.reading = Kept(self._read)
        self._drawn: dict[str, tuple[str, Markup | None]] = {}
        """Figures by name: the key of what each was drawn from, and its element, None where it had nothing to show."""

    def overview(self) -> Markup:
        """The first page: every run with its state, figures, and the samples of the runs that were at work last."""
        reading = self.reading()
        name = self.selection.experiment if self.selection else ""
        table = status_table(sorted(reading.summaries, key=lambda row: ORDER.index(row.state)), name)
        grids = list(self._grids(reading.summaries))
        return self._page("live.html", name or "All runs", reading=reading, table=_safe(table), grids=grids, ids=self._ids(reading))

    def run(self, run_id: str) -> Markup:
        """The page of one run: its progress, config, curve, samples and the end of its log. Raises HarnessError for an unknown run."""
        reading, folder = self.reading(), self.folder(run_id)
        entry = next((entry for entry in reading.loaded.runs.values() if entry.name == run_id), None)
        shown, facts = one_run(entry, reading.cell_values) if entry else (Markup(), {})
        table, log = _safe(status_table([summary(folder, self.store.now())])), tail(folder.log)
        return self._page("live_run.html", run_id, reading=reading, table=table, shown=shown, facts=facts, log=log)

    def grid(self, run_id: str, name: str) -> bytes:
        """A sample grid as PNG. Raises HarnessError for an unknown one."""
        path = self.folder(run_id).path / "samples" / name
        if not re.fullmatch(r"step-\d{1,12}\.png", name):
            raise MissingFile("no such sample grid", where=run_id, found=printable(name, 60))
        try:
            return read_regular(path, LARGEST_GRID)
        except OSError as error:
            raise MissingFile("no such sample grid", where=run_id, found=f"{name}: {error.strerror}") from error

    def folder(self, run_id: str) -> RunFolder:
        """The folder of that very name. Raises HarnessError if there is none."""
        for folder in self.store.folders():
            if folder.id == run_id:
                return folder
        raise MissingFile("no such run", where=self.store.runs, found=printable(run_id, 100))

    def _page(self, template: str, title: str, **values: object) -> Markup:
        frame = {"css": asset("page.css") + asset("live.css"), "script": asset("live.js"), "refresh": REFRESH}
        return render(template, title=title, root=str(self.store.root), **frame, **values)

    def _ids(self, reading: Reading) -> set[str]:
        """The runs that have a folder, and with it a page."""
        return {row.id for row in reading.summaries if row.state is not State.NEW}

    def _read(self) -> Reading:
        summaries = status(self.store, self.jobs)
        loaded = load.read(self.store.root, "own", self.selection.scale if self.selection else None)
        cell_values = CellValues(loaded)
        experiments = [self._cells(loaded)] if self.selection else [all_cells(scale, loaded) for scale in loaded.scales]
        requests = [request for cells in experiments for request in live(cells, cell_values, FIGURES)][:FIGURES]
        return Reading(summaries, loaded, cell_values, self._figures(requests, cell_values), time.strftime("%H:%M:%S"))

    def _cells(self, loaded: LoadedResults) -> ExperimentCells:
        assert self.selection
        return experiment_cells(self.selection, loaded)

    def _figures(self, requests: Iterable[Request], cell_values: CellValues) -> list[tuple[str, Markup]]:
        """Draws those whose numbers have changed since the last reading."""
        content, shown = FigureContent(cell_values), []
        for request in requests:
            key = content.key(request)
            if self._drawn.get(request.name, ("", None))[0] != key:
                figure = request.figure()
                if figure:
                    fix_layout(figure)
                self._drawn[request.name] = key, Markup(svg(figure)) if figure else None
            if element := self._drawn[request.name][1]:
                shown.append((str(request.arguments[-1]), element))
        return shown

    def _grids(self, summaries: Iterable[Summary]) -> Iterable[tuple[str, str]]:
        """Run and file of the newest sample grids, those of runs at work first."""
        newest: list[tuple[bool, float, str, str]] = []
        for row in summaries:
            folder = self.store.folder(row.id).path / "samples"
            try:
                names = [name for name in os.listdir(folder) if re.fullmatch(r"step-\d{1,12}\.png", name)]  # noqa: PTH208
                if names:
                    last = max(names)
                    newest.append((row.state is State.RUNNING, (folder / last).stat().st_mtime, row.id, last))
            except OSError:  # none yet
                continue
        return [(run_id, name) for _, _, run_id, name in sorted(newest, reverse=True)[:GRIDS]]


def _safe(table: StatusTable) -> StatusTable:
    """The table without control characters, which a browser would show as boxes."""
    rows = [[printable(cell) for cell in row] for row in table.rows]
    return replace(table, title=printable(table.title), common=printable(table.common), rows=rows)


def tail(path: Path) -> str:
    """The last complete lines of a log, at most TAIL bytes; "" without one."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            text = file.read(TAIL).decode(errors="replace")
    except FOREIGN:
        return ""
    if size > TAIL:
        text = text.partition("\n")[2]
    return "\n".join(printable(line) for line in text.splitlines())


def error_page(error: HarnessError) -> Markup:
    """A page that says what went wrong."""
    frame = {"css": asset("page.css") + asset("live.css"), "script": asset("live.js"), "refresh": REFRESH}
    return render("live_error.html", title="Nothing to show", root="", **frame, message=str(error))
