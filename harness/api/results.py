"""What the runs of a results folder measured: records, tables and verdicts as data frames, figures. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from harness.api.runs import selection
from harness.config import presets
from harness.config.selection import DEFAULT_SCALE
from harness.errors import HarnessError, unknown
from harness.locations import results_root, user_folder
from harness.reporting import load, overview, produce
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.figure_requests import Request, suffix_of
from harness.reporting.load import LoadedResults
from harness.reporting.values import CellValues
from harness.store.records import RECORD_SETS, RecordSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.reporting.style import Figure as Drawing

RECORD_COLUMNS = (
    *("run", "source", "scale", "data", "model", "label", "seed", "steps", "step", "images", "seconds", "metric", "value", "sd", "se", "n"),
    *("resamplings", "final", "protocol"),
)
"""The columns of `records`."""
DPI = 160
"""Of figures that are looked at in a notebook."""


def records(
    results: str | Path | None = None, scale: str | None = None, source: RecordSet | None = None, metric: str | None = None
) -> pd.DataFrame:
    """All measurements during and after training, one per row.

    results: the results folder; by default $HARNESS_RESULTS, else results/. scale: one scale, by default all. source: "own" (runs made
    here), "published" (results/published) or "both"; by default own, and published ones if there are none. metric: one metric alone.

    Columns: run (its id), source ("own" or "published"), scale, data, model (a key such as "gc-0.5", with what differs from the preset),
    label (the model in words), seed (of training), steps (of the whole training), step, images (seen up to this step), seconds (of training
    up to this step), metric ("fid", "kid", "is", "w2", ...), value (in the metric's own unit, so KID is not times 100), sd and se (over
    resamplings of the samples, not over training seeds), n (samples of one resampling, or of "loss" training steps; "loss" is the mean loss
    per row over the training steps since the evaluation before), resamplings, final (True: a measurement of the last
    model for the tables; False: a point of the curve), protocol (a hash: values of different protocols must not be compared).

    A warning names what is damaged and left out. Raises HarnessError for an unknown scale or source, and a folder that cannot be read.

        fid = harness.records(scale="digits", metric="fid").query("final")
        fid.groupby("model")["value"].agg(["mean", "std", "count"])
    """
    loaded = _loaded(results, scale, source)
    models = {
        run_id: (cell.key, cell.label) for name in loaded.scales for cell in all_cells(name, loaded).cells for run_id in cell.runs.values()
    }
    columns = ("source", "scale", "data", "model", "label", "seed", "steps")
    facts = {
        run_id: (entry.source, entry.run.scale, entry.run.data.name, *models[run_id], entry.run.seed, entry.run.train.steps)
        for run_id, entry in loaded.runs.items()
    }
    rows = loaded.frame if metric is None else loaded.frame[loaded.frame.metric == metric]
    about = pd.DataFrame.from_dict(facts, orient="index", columns=list(columns))
    frame = rows.astype({"run": object, "metric": object, "protocol": object}).join(about, on="run")
    return frame.reindex(columns=list(RECORD_COLUMNS)).reset_index(drop=True)


def table(
    name: str,
    scale: str = DEFAULT_SCALE,
    results: str | Path | None = None,
    source: RecordSet | None = None,
    seeds: int | Sequence[int] | None = None,
    changes: Mapping[str, object] | None = None,
    couplings: Sequence[str] = (),
    data: str | Sequence[str] = (),
) -> pd.DataFrame:
    """The table of an experiment: one row per metric of each model and baseline.

    name, scale, seeds, changes, couplings, data: as for `harness.experiment`; results, source: as for `harness.records`. Values are means
    over training seeds with a 95 % interval (low, high; Student's t). For models that are compared with another one (against): difference
    with its interval, and p, of a paired t test over the training seeds. The columns are those of the CSV files of `harness report`, which
    are listed in harness.reporting.experiment_frame. Raises HarnessError for unknown names.

        harness.table("table1", "digits").query("metric == 'fid'")[["model", "mean", "low", "high", "difference", "p"]]
    """
    chosen = selection(name, scale, seeds, changes, couplings, data)
    loaded = _loaded(results, scale, source)
    return experiment_table(experiment_cells(replace(chosen, results=loaded.root), loaded), CellValues(loaded)).data


def verdicts(scale: str = DEFAULT_SCALE, results: str | Path | None = None, source: RecordSet | None = None) -> pd.DataFrame:
    """The verdicts on the paper's claims at a scale, one claim per row. results, source: as for `harness.records`.

    Columns: claim (C1 to C13), text, figure (or table of the paper), scale, outcome ("supported", "contradicted", "equivalent",
    "inconclusive", "not run"), verdict (the outcome with its qualifications), tests (how many), evidence (each test in words), then of the
    test that decides: test, margin, n, unit, effect, low, high, p; then what would decide an inconclusive claim: seeds_needed, runs_needed,
    hours, command.
    """
    loaded = _loaded(results, scale, source)
    return overview.claims_table(produce.verdicts_of_scale(loaded, scale)).data


def figure(
    name: str, scale: str = DEFAULT_SCALE, data: str | None = None, results: str | Path | None = None, source: RecordSet | None = None
) -> Figure:
    """A figure of the report as a new matplotlib figure, which `savefig` writes to a file.

    name: as the report names its file, without the scale: "convergence", "mu", "figure1" to "figure8", "table3", "why-mu", ... data: which
    data set, where the scale has several. results, source: as for `harness.records`. Raises HarnessError, with the names that there are,
    for a figure that the records do not give.

        harness.figure("convergence", scale="digits").savefig("convergence.pdf")
    """
    loaded = _loaded(results, scale, source)
    requests = {request.name: request for request in produce.figures_of_scale(loaded, scale) if _is_about_something(request)}
    main = presets.scale(scale).table1
    groups = [[data]] if data else [main, [other for other in _data_of(loaded, scale) if other not in main]]
    for group in groups:
        asked = [(of, requests[f"{name}{suffix_of(scale, of)}"]) for of in group if f"{name}{suffix_of(scale, of)}" in requests]
        drawn = {of: figure for of, request in asked if (figure := request.figure()) is not None}
        if len(drawn) > 1:
            sets = ", ".join(drawn)
            raise HarnessError("several data sets have this figure", where="data", found=name, expected=f"data=..., one of {sets}")
        for figure in drawn.values():
            return _shown(figure)
    names = dict.fromkeys(_without_end(one, scale, loaded) for one in requests)
    raise unknown("figure", name, names or ["none: there are no records for any"], where=f"{loaded.label}, {scale} scale")


def _shown(figure: Drawing) -> Figure:
    """A drawn figure as a notebook shows it and `savefig` writes it."""
    from harness.reporting.drawing import fix_layout

    fix_layout(figure)
    for heading in (*figure.canvas.texts, *figure.canvas.legends):
        heading.set_in_layout(True)  # a notebook cuts off what is not
    figure.canvas.set_dpi(DPI)
    return figure.canvas


def _is_about_something(request: Request) -> bool:
    """False for a figure of no models."""
    about = request.arguments[0]
    return not isinstance(about, Sequence) or len(about) > 0


def _data_of(loaded: LoadedResults, scale: str) -> list[str]:
    """The data sets of a scale: those of its runs, then the others of its presets."""
    return list(dict.fromkeys([*(entry.run.data.name for entry in loaded.of_scale(scale)), *presets.scale(scale).presets]))


def _without_end(name: str, scale: str, loaded: LoadedResults) -> str:
    """The name of a figure without scale and data set."""
    ends = [suffix_of(scale, data) for data in _data_of(loaded, scale)]
    return next((name.removesuffix(end) for end in sorted(ends, key=len, reverse=True) if name.endswith(end)), name)


def _loaded(results: str | Path | None, scale: str | None, source: RecordSet | None) -> LoadedResults:
    """The records of a folder; a warning names what was left out. Raises HarnessError for an unknown scale or source."""
    if scale is not None:
        presets.scale(scale)
    if source is not None and source not in RECORD_SETS:
        raise unknown("set of records", source, RECORD_SETS, where="source")
    loaded = load.read(results_root() if results is None else user_folder(results, "results"), source, scale)
    if loaded.damage:
        warnings.warn("left out: " + "; ".join(loaded.damage), stacklevel=3)
    return loaded
