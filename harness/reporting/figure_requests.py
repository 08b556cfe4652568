"""Which figures a report has: what draws each of them, and everything that it is drawn from. No matplotlib.

So a figure whose inputs have not changed need not be drawn again (harness.reporting.figure_cache), nor matplotlib be imported for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.config.parts import GeneratorAugmented
from harness.config.presets import PRESETS_BY_SCALE
from harness.data.catalogue import main_metric
from harness.data.examples import MOST, real_rows
from harness.reporting.cells import Cell, ExperimentCells
from harness.reporting.values import METRICS, CellValues
from harness.reporting.why_mu import Models
from harness.store.records import RecordSet

if TYPE_CHECKING:
    from harness.reporting.style import Figure

ABLATIONS = {
    "table2": "fine-tuning a diffusion model by ECT (Table 2)",
    "table3": "ablations of iCT-GC (Table 3)",
    "schedule": "other noise schedules",
    "scaling": "less data, another width, fewer or more steps",
    "mechanism": "other pairs from the same endpoint predictor",
    "couplings": "couplings compared",
    "speed_profiles": "speed profiles",
}
"""Experiments whose figure shows final values, and its title."""
FIGURES_OF_THEIR_OWN = frozenset(
    ("table1", "sweep_mu", "figure1", "figure2", "figure3", "figure4", "theory", "longer", "rare_class", "why_mu")
)
"""Experiments whose figures are others. Every further one is a user's: its figure shows final values, under the title of its table."""
CURVES_TOO = ("mechanism", "couplings")
"""Experiments that also have a figure of their models during training; those of users have one if it is not too full."""
MOST_CELLS = 8
"""Models in one figure of runs at work."""
MEASURED = {
    "path": ("figure1", "sample paths (Figure 1)"),
    "rtil": ("figure2", "discrepancy proxy R̃_t (Figure 2)"),
    "cost": ("figure3", "quadratic transport cost c(t) (Figure 3)"),
    "cost-data": ("figure3-data", "transport cost c(t) from the nearest data points"),
    "theorem1": ("theorem1", "Theorem 1, the ratio of equation (7)"),
    "theorem2": ("theorem2", "Theorem 2, decay of R̃_t with the noise level"),
    "lemma1": ("lemma1", "Lemma 1, the derivative of c(t)"),
}
"""Measured quantities that have a figure, its name and title."""


@dataclass(frozen=True)
class Request:
    """A figure that the report has unless there is nothing to show.

    name: that of its files. draw: the module of harness.reporting and the function in it that draws it, as "figures:curves". arguments:
    of that function. also: what else it reads (paths of files, arrays).
    """

    name: str
    draw: str
    arguments: tuple[Any, ...]
    also: tuple[Any, ...] = ()

    def figure(self) -> Figure | None:
        """Draws it; None where there is nothing to show."""
        from harness.reporting import style

        module, _, function = self.draw.partition(":")
        with style.context():
            figure: Figure | None = getattr(importlib.import_module(f"harness.reporting.{module}"), function)(*self.arguments)
        return figure


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it. svg: an element for an HTML page. points: tooltips, at fractions of width and height."""

    name: str
    title: str
    caption: str
    scale: str
    wide: bool
    svg: str
    points: tuple[tuple[float, float, str], ...]


def figures_of(requests: Sequence[Request]) -> list[Figure]:
    """The figures that have something to show."""
    return [figure for request in requests if (figure := request.figure())]


def suffix_of(scale: str, data: str) -> str:
    """-digits, or -paper-cifar10 where a scale has more than one data set."""
    usual = PRESETS_BY_SCALE[scale].table1 if scale in PRESETS_BY_SCALE else ()
    return f"-{scale}" if usual == (data,) else f"-{scale}-{data}"


def training(experiment: ExperimentCells, cell_values: CellValues) -> list[Request]:
    """All figures that the runs of a scale allow, data set by data set."""
    return [request for data in experiment.data for request in _of_data(experiment, cell_values, data)]


def _of_data(experiment: ExperimentCells, cell_values: CellValues, data: str) -> Iterator[Request]:
    cells = sorted((cell for cell in experiment.of(data) if cell.run.objective.kind == "ict"), key=_rank)
    if not cells:
        return
    presets_only = [cell for cell in cells if not cell.differs and not cell.key.endswith("*")]
    plain = [cell for cell in presets_only if _is_plain(cell)]
    main = [cell for cell in presets_only if cell.key in ("ic", "ot", "gc-0.5") or cell.run.coupling.kind == "custom"]
    by_mu = [cell for cell in plain if cell.key in ("ic", "ot", *(f"gc-{mu}" for mu in (0.1, 0.3, 0.5, 0.7, 1)))]
    frozen = [cell for cell in cells if getattr(cell.run.coupling, "predictor", "") == "frozen"]
    frozen.sort(key=lambda cell: -(cell_values.predictor_steps(cell.run) or 0))
    suffix, metric = suffix_of(experiment.scale, data), main_metric(data)
    title = METRICS[metric].title

    def curves(shown: Sequence[Cell], metric: str, name: str, title: str, log: bool = True) -> Request:
        return Request(f"{name}{suffix}", "figures:curves", (shown, cell_values, metric, f"{name}{suffix}", title, log))

    yield curves(main, metric, "convergence", f"{title} during training, the models of Table 1")
    yield curves(by_mu if len(by_mu) > 3 else [], metric, "figure5", f"{title} during training, by μ (Figure 5)")
    yield Request(f"mu{suffix}", "figures:over_mu", (plain, cell_values, metric, f"mu{suffix}", f"final {title} against μ"))
    figure4 = [*plain[:1], *frozen] if frozen else []
    yield curves(figure4, metric, "figure4", f"{title} of GC with a frozen endpoint predictor (Figure 4)")
    yield curves(main, "pair_cost", "transport-training", "transport cost of the training pairs", log=False)
    arguments = (main, cell_values, f"loss{suffix}", "training loss, mean since the evaluation before")
    yield Request(f"loss{suffix}", "figures_loss:training_loss", arguments)
    yield curves(by_mu, f"endpoint_{metric}", "figure7", f"{title} of endpoints from IC points (Figure 7)")
    name = f"figure8{suffix}"
    entries = cell_values.loaded.find(run for cell in main for run in cell.runs.values())
    grids = tuple(entry.samples[-1] for entry in entries if entry.samples)
    reads = (*grids, real_rows(data, MOST) if grids else None)
    yield Request(name, "figures_samples:samples", (main, cell_values, name, "samples at the last step (Figure 8)"), reads)


def _rank(cell: Cell) -> tuple[int, float, str]:
    """IC, batch-OT, GC by mu, then the rest."""
    order = {"independent": 0, "batch-ot": 1, "entropic-ot": 2, "gc": 3}
    return order.get(cell.run.coupling.kind, 4), getattr(cell.run.coupling, "mu", 0.0), cell.key


def _is_plain(cell: Cell) -> bool:
    coupling = cell.run.coupling
    return coupling == GeneratorAugmented(mu=coupling.mu) if isinstance(coupling, GeneratorAugmented) else coupling.kind != "custom"


def ablations(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Request]:
    """The figures of the ablations."""
    requests = []
    for experiment in map(ExperimentCells.samplers, experiments):
        for data in experiment.data if experiment.name not in FIGURES_OF_THEIR_OWN else ():
            of_user = experiment.name not in ABLATIONS
            title = experiment.title.rstrip(".") if of_user else ABLATIONS[experiment.name]
            metric, suffix = main_metric(data), suffix_of(experiment.scale, data)
            cells, quality = replace(experiment, selection=None, variant=None), METRICS[metric].title
            arguments: tuple[Any, ...] = (cells, data, cell_values, f"{title}, final {quality}")
            requests.append(Request(f"{experiment.name}{suffix}", "figures_ablations:final_values", arguments))
            if experiment.name in CURVES_TOO or (of_user and len(experiment.of(data)) <= MOST_CELLS):
                name = f"{experiment.name}-training{suffix}"
                arguments = (experiment.of(data), cell_values, metric, name, f"{title}, {quality}")
                requests.append(Request(name, "figures:curves", arguments))
                arguments = (experiment.of(data), cell_values, f"{experiment.name}-loss{suffix}", f"{title}, training loss")
                requests.append(Request(f"{experiment.name}-loss{suffix}", "figures_loss:training_loss", arguments))
    return requests


def longer(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Request]:
    """The figure of each data set of the longer runs."""
    named = [
        (experiment.of(data), f"longer{suffix_of(experiment.scale, data)}")
        for experiment in experiments
        if experiment.name == "longer"
        for data in experiment.data
    ]
    return [Request(name, "figures_longer:longer_training", (cells, cell_values, name)) for cells, name in named]


def rare(experiments: Sequence[ExperimentCells], cell_values: CellValues) -> list[Request]:
    """The figure of each data set with a rare class."""
    named = [
        (experiment.of(data), data, f"rare-class{suffix_of(experiment.scale, data)}")
        for experiment in experiments
        if experiment.name == "rare_class"
        for data in experiment.data
    ]
    return [Request(name, "figures_rare:share_over_training", (cells, data, cell_values, name)) for cells, data, name in named]


def few_steps(experiment: ExperimentCells, cell_values: CellValues) -> list[Request]:
    """The figure of quality against the number of function evaluations of each data set, of iCT and of ECT models that have several."""
    requests = []
    for data in experiment.data:
        for kind, part in (("ict", ""), ("ect", "-ect")):
            cells = [cell for cell in experiment.of(data) if cell.run.objective.kind == kind and cell.run.evaluation.times]
            name = f"few-steps{part}{suffix_of(experiment.scale, data)}"
            title = f"{METRICS[main_metric(data)].title} against the number of function evaluations"
            if cells:
                arguments = (sorted(cells, key=_rank), cell_values, name, title)
                requests.append(Request(name, "figures_steps:against_steps", arguments))
    return requests


def live(experiment: ExperimentCells, cell_values: CellValues, most: int) -> list[Request]:
    """The main metric of single runs during training, then the loss of those whose losses are defined in the same way: for runs at work.

    At most eight cells in a figure and `most` figures.
    """
    requests = []
    sets = experiment.samplers().data
    for data, metric in [*((data, main_metric(data)) for data in sets), *((data, "loss") for data in sets)]:
        every = experiment.samplers().of(data)
        protocol = cell_values.curve_protocol(every, metric) if metric == "loss" else None
        cells = [cell for cell in every if not cell_values.curves(cell, metric, protocol).empty]
        for number in range(0, len(cells), MOST_CELLS):
            name = f"live{'-loss' if metric == 'loss' else ''}{suffix_of(experiment.scale, data)}-{number // MOST_CELLS + 1}"
            arguments = (cells[number : number + MOST_CELLS], cell_values, metric, name, f"{METRICS[metric].title} during training")
            requests.append(Request(name, "figures_live:single_runs", arguments))
    return requests[:most]


def measured(rows: pd.DataFrame, scale: str, records: RecordSet = "own") -> list[Request]:
    """All figures that the measurements of a scale allow, data set by data set. records: the set that the rows are from."""
    rows = rows[rows.scale == scale]
    rows = rows.assign(key=(rows.coupling + " " + rows.case).str.strip())
    requests = []
    for (quantity, data), part in rows.groupby([rows.quantity.replace("theorem2-rtil", "theorem2"), "data"]):
        if quantity in MEASURED:
            name = f"{MEASURED[quantity][0]}{suffix_of(scale, data)}"
            requests.append(Request(name, "figures_measured:measured_figure", (part, quantity, data, name, scale, records)))
    return requests


def why_mu(all_models: Sequence[Models], scale: str) -> list[Request]:
    """The figures of each data set that `why_mu` measured."""
    drawn = {"": "criteria", "-parts": "parts", "-endpoints": "endpoints"}
    return [
        Request(f"why-mu{part}{suffix_of(scale, models.data)}", f"figures_why_mu:{function}", (models, scale))
        for models in all_models
        for part, function in drawn.items()
    ]
