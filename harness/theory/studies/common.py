"""What all studies share: the context they run in, the rows they return, and the verdict on a number whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.config.identity import short_hash
from harness.config.own_classes import Named
from harness.config.parts import Coupling, coupling_slug
from harness.config.run import Run
from harness.config.selection import Selection
from harness.errors import HarnessError
from harness.stats.uncertainty import AGREEMENT
from harness.store.feature_measurements import FeatureMeasurement
from harness.store.measurements import MeasurementRow
from harness.store.runs import Store
from harness.theory.estimate import Estimate
from harness.theory.flow import SIGMA_MAX, SIGMA_MIN
from harness.training import trained_runs
from harness.training.trained_runs import TrainedRun


def check_levels(levels: Sequence[float], low: float, high: float) -> None:
    """Raises HarnessError for a noise level outside [low, high]."""
    for t in levels:
        if not low <= t <= high:
            close = min(max(low, t), high)
            raise HarnessError("noise level out of range", where="--t", found=t, expected=f"{low:g} <= t <= {high:g}", nearest=close)


@dataclass(frozen=True)
class StudyContext:
    """The input of a study. Raises HarnessError for an empty sequence of levels, and for a level outside [0.002, 80]."""

    scale: str
    store: Store
    runs: Sequence[Run] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    levels: tuple[float, ...] | None = None
    """Noise levels; None for the study's own."""
    selection: Selection | None = None
    """The selection of `runs` on the command line."""
    features: tuple[Named, ...] = ()
    """Feature networks that measure samples beside that of the data set."""
    progress: Callable[[str, int, int], None] = lambda *_: None
    """Called as (title, number, total) when part `number` of `total`, counted from 1, begins."""
    note: Callable[[str], None] = lambda _: None
    """Called with each line about what was measured or left out."""
    keep: Callable[[FeatureMeasurement], object] = lambda _: None
    """Called with what each of `features` measured of a run, to be stored."""

    def __post_init__(self) -> None:
        if self.levels is not None and not self.levels:
            raise HarnessError("no noise level is given", where="--t", found="nothing", expected="1,5,20")
        check_levels(self.levels or (), SIGMA_MIN, SIGMA_MAX)

    @property
    def sweep_command(self) -> str | None:
        """The command that trains `runs`, where their selection is known."""
        return self.selection.command("harness sweep") if self.selection else None

    def trained(self, run: Run, dtype: torch.dtype = torch.float32) -> TrainedRun:
        """A run of the study with its final network. Raises HarnessError when the run is not done."""
        return trained_runs.load(self.store.folder(run.id), self.device, dtype)


@dataclass(frozen=True)
class StudyPart:
    """A part of a study, for which progress is reported."""

    title: str
    measure: Callable[[], list[MeasurementRow]]


def measure_parts(parts: Sequence[StudyPart], context: StudyContext) -> list[MeasurementRow]:
    """The rows of all parts, in order."""
    rows: list[MeasurementRow] = []
    for number, part in enumerate(parts, 1):
        context.progress(part.title, number, len(parts))
        rows += part.measure()
    return rows


NewRow = Callable[..., MeasurementRow]
"""`measured_row` with the arguments bound that several rows share."""


def measured_row(
    quantity: str,
    estimate: Estimate | float,
    *,
    coupling: Coupling | str = "",
    truth: Estimate | float | None = None,
    protocol: Mapping[str, Any] | None = None,
    run: Run | None = None,
    **columns: Any,
) -> MeasurementRow:
    """A row of the measurements file with the given `columns`; `data` is required, and an unknown error (NaN) is left empty.

    protocol: how the number was measured, in plain values; the row keeps its hash.
    """
    for name, number in (("value", estimate), ("truth", truth)):
        if isinstance(number, Estimate):
            columns |= {name: number.value, "se" if name == "value" else "truth_se": None if math.isnan(number.se) else number.se}
        elif number is not None:
            columns[name] = float(number)
    if isinstance(estimate, Estimate):
        columns["n"] = estimate.n
    if protocol is not None:
        columns["protocol"] = short_hash(dict(protocol))
    if run is not None:
        columns |= {"run": run.id, "seed": run.seed}
    return MeasurementRow(quantity, coupling=coupling if isinstance(coupling, str) else coupling_slug(coupling), **columns)


def verdict(row: MeasurementRow) -> str:
    """Whether a row "agrees" with its truth or "DIFFERS", and by how many standard errors; empty without a truth.

    For a number that the paper states to be negative: "below 0", "ABOVE 0" or "undecided".
    """
    return judged(row.errors_away, row.stated_negative)


def judged(away: float | None, stated_negative: bool = False) -> str:
    """`verdict` on a number that lies `away` standard errors from its truth, or from 0 if it is stated to be negative.

    "undecided" where the error is unknown (NaN).
    """
    if away is None:
        return ""
    if math.isnan(away):
        return "undecided (error unknown)"
    distance = f"({away:+.1f} se)" if abs(away) < 1000 else "(far)"
    if stated_negative:
        return f"{'below 0' if away < -AGREEMENT else 'ABOVE 0' if away > AGREEMENT else 'undecided'} {distance}"
    return f"agrees {distance}" if abs(away) <= AGREEMENT else f"DIFFERS {distance}"


def runs_by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each data set, in the order in which the data sets first occur. Raises HarnessError as `check_unconditional` does."""
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run in runs:
        check_unconditional(run)
        groups.setdefault((run.data.name, run.data.limit), []).append(run)
    return list(groups.values())


def check_unconditional(run: Run) -> None:
    """Raises HarnessError for a model that is conditioned on class labels, which the studies do not support."""
    if run.data.labels:
        what = "a model with labels cannot be measured: v_t, f and the couplings are those of the entire data set, not of one class"
        raise HarnessError(what, where=run.id, found="data.labels = true", expected="a run without labels")
