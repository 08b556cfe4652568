"""What all studies share: what they are asked for, rows of numbers, and the verdict on a number whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.config.identity import short_hash
from harness.config.run import Coupling, Run, coupling_slug
from harness.errors import HarnessError
from harness.store.runs import Store
from harness.theory.estimate import Estimate
from harness.theory.flow import check_levels
from harness.training import trained_runs
from harness.training.trained_runs import TrainedRun

Row = dict[str, Any]
ERRORS = 3.0
"""Standard errors within which an estimate agrees with the truth."""


@dataclass(frozen=True)
class Setting:
    """What a study is asked for. runs: those of its experiment. levels: noise levels t, or None for the study's own."""

    scale: str
    store: Store
    runs: Sequence[Run] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    levels: tuple[float, ...] | None = None
    tell: Callable[[str], None] = print
    """Told what is being done, a line at a time."""
    mend: str = ""
    """The command that makes missing runs."""

    def __post_init__(self) -> None:
        if self.levels is not None and not self.levels:
            raise HarnessError("no noise level is given", where="--t", found="nothing", expected="1,5,20")
        check_levels(*(self.levels or ()))

    def finished(self, run: Run, dtype: torch.dtype = torch.float32) -> TrainedRun:
        """A run of the study at its end. Raises HarnessError when it is not done."""
        folder = self.store.folder(run.id)
        if folder.result() is None:
            raise HarnessError(
                "a run that this study measures is not finished",
                where=folder.path,
                found=folder.state(),
                expected="done",
                nearest=self.mend or None,
            )
        return trained_runs.load(folder, self.device, dtype)


def row(
    quantity: str,
    data: str,
    found: Estimate | float,
    *,
    coupling: Coupling | str = "",
    truth: Estimate | float | None = None,
    protocol: Mapping[str, Any] | None = None,
    run: Run | None = None,
    **more: object,
) -> Row:
    """A row of the measurements' file; more: label, case, x, t, path. `protocol` says how it was measured, in plain values."""
    made: Row = {"quantity": quantity, "data": data}
    if coupling:
        made["coupling"] = coupling if isinstance(coupling, str) else coupling_slug(coupling)
    if isinstance(found, Estimate):
        made |= {"value": found.value, "se": found.se, "n": found.n}
    else:
        made["value"] = float(found)
    if isinstance(truth, Estimate):
        made |= {"truth": truth.value, "truth_se": truth.se}
    elif truth is not None:
        made["truth"] = float(truth)
    if protocol is not None:
        made["protocol"] = short_hash(dict(protocol))
    if run is not None:
        made |= {"run": run.id, "seed": run.seed}
    return made | more


def errors_away(found: Row) -> float | None:
    """(value - truth) in standard errors of both; None without a truth, infinite for exact numbers that differ."""
    truth = 0.0 if found.get("says") == "negative" else found.get("truth")
    if truth is None or math.isnan(truth):
        return None
    if math.isclose(found["value"], truth, rel_tol=1e-9):
        return 0.0
    gap = found["value"] - truth
    parts = [found.get(name) for name in ("se", "truth_se")]
    se = math.hypot(*(part for part in parts if part is not None and not math.isnan(part)))
    return gap / se if se else math.copysign(math.inf, gap)


def said_negative(found: Row) -> Row:
    """A row whose number the paper says is below zero; `verdict` judges it so. (The key `says` is for the terminal: no file keeps it.)"""
    return found | {"says": "negative"}


def verdict(found: Row) -> str:
    """agrees (within 3 standard errors), or how many errors away; empty without a truth. Of what is said to be negative: whether it is."""
    away = errors_away(found)
    if away is None:
        return ""
    told = f"({away:+.1f} se)" if abs(away) < 1000 else "(far)"
    if found.get("says") == "negative":
        return f"{'below 0' if away < -ERRORS else 'ABOVE 0' if away > ERRORS else 'undecided'} {told}"
    return f"agrees {told}" if abs(away) <= ERRORS else f"DIFFERS {told}"


def check_unconditional(run: Run) -> None:
    """Raises HarnessError for a model that is conditioned on the class: what is measured here knows no labels."""
    if run.data.labels:
        raise HarnessError(
            "a model with labels cannot be measured: v_t, f and the couplings here are those of the whole data set, not of a class",
            where=run.id,
            found="data.labels = true",
            expected="a run without labels",
        )
