"""What became of each step of each rehearsed run, read from its folder. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from harness.data.catalogue import info_of, main_metric
from harness.errors import FOREIGN, HarnessError
from harness.locations import read_regular
from harness.rehearsal.kinds import Kind
from harness.store.runs import RunFolder, State, Store

STEPS = ("prepare", "doctor", "train", "checkpoint", "resume", "evaluate", "report")
OK, NONE = "ok", "-"
"""A step that worked, and one that this kind of run does not have."""


@dataclass
class Outcome:
    """One rehearsed run. steps: what became of each of STEPS, OK, NONE, or why it failed. seconds: of one training step, None if unknown.

    peak: bytes of the process on the host. gpu_peak: bytes of the GPU that torch used, 0 without one.
    """

    kind: Kind
    steps: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    peak: int = 0
    gpu_peak: int = 0

    @property
    def passed(self) -> bool:
        """Whether every step worked that this run has."""
        return all(self.steps.get(step) in (OK, NONE) for step in STEPS)

    @property
    def faults(self) -> dict[str, str]:
        """The steps that failed, and why."""
        return {step: self.steps.get(step, "not reached") for step in STEPS if self.steps.get(step) not in (OK, NONE)}


def outcomes(
    kinds: Sequence[Kind], store: Store, data_faults: Mapping[str, str], findings: Mapping[str, str], reported: Mapping[str, str]
) -> list[Outcome]:
    """The outcome of every kind.

    data_faults: data set or weights file -> why it was not built. findings: the same, of what `harness doctor` found missing. reported: run
    id -> why it is in no report; all others are.
    """
    return [_outcome(kind, store.folder(kind.run.id), data_faults, findings, reported) for kind in kinds]


def _outcome(
    kind: Kind, folder: RunFolder, data_faults: Mapping[str, str], findings: Mapping[str, str], reported: Mapping[str, str]
) -> Outcome:
    result, wanted = Outcome(kind), _wanted(kind)
    result.steps["prepare"] = next((f"{name}: {data_faults[name]}" for name in wanted if name in data_faults), OK)
    result.steps["doctor"] = next((f"{name}: {findings[name]}" for name in [*wanted, ""] if name in findings), OK)
    try:
        starts = [json.loads(read_regular(path)) for path in facts_of(folder)]
        attempts = folder.attempts()
        state = folder.state()
        why = f"{state}" if state in (State.NEW, State.DONE) else _why(folder, state)
    except FOREIGN as error:
        starts, attempts, state, why = [], [], State.FAILED, f"{type(error).__name__}: {error}"
    done = state is State.DONE
    trained = sorted({step for start in starts for step in start["steps"]})
    times = [seconds for start in starts for seconds in start["seconds"]]
    result.seconds = median(times) if times else None
    result.peak = max((int(start["peak"]) for start in starts), default=0)
    result.gpu_peak = max((int(start["gpu_peak"]) for start in starts), default=0)
    stop, steps = kind.length.stop, kind.length.steps
    first = starts[0] if starts else {}
    train = trained == list(range(1, steps + 1))
    result.steps["train"] = OK if train else f"steps {trained or 'none'} of {steps}; {why}"
    result.steps["checkpoint"] = OK if stop in first.get("checkpoints", ()) else f"none of step {stop}; {why}"
    resumed = [attempt.get("step") for attempt in attempts[1:]]
    result.steps["resume"] = OK if stop in resumed and done else f"starts at {resumed or 'no step'} instead of {stop}; {why}"
    result.steps["evaluate"] = NONE if kind.run.objective.kind == "denoiser" else _evaluated(kind, folder, why)
    result.steps["report"] = reported.get(kind.run.id, OK)
    return result


def facts_of(folder: RunFolder) -> list[Path]:
    """The files that the starts of a run left (harness.rehearsal.job), in their order."""
    return sorted(folder.path.glob("rehearsal-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))


def _wanted(kind: Kind) -> list[str]:
    """The data set, and the files, that a run needs: the names under which faults are kept."""
    run = kind.run
    names = [run.data.name]
    if info_of(run.data).needs_inception:
        names.append("the Inception network")
    return names + ([run.init.ref] if run.init and run.init.kind == "edm" else [])


def _why(folder: RunFolder, state: State) -> str:
    """Why a run is not done, with its log."""
    error = folder.error() or {}
    text = f"{error.get('kind', state)}: {' '.join(str(error.get('message', 'no error is recorded')).split())}"
    return f"{text} (log: {folder.log})"


def _evaluated(kind: Kind, folder: RunFolder, why: str) -> str:
    """Whether the main metric of the curve and of the last model, with as many samples as asked for, are recorded and finite."""
    main, run = main_metric(kind.run.data.name), kind.run
    try:
        rows = [row for row in folder.records() if row.get("metric") == main]
    except HarnessError as error:
        return " ".join(str(error).split())
    for final in (False, True):
        values = [row for row in rows if row.get("final") is final and row.get("n") == run.evaluation.samples]
        if not values:
            return f"no {'final ' * final}{main} of {run.evaluation.samples} samples; {why}"
        if not all(math.isfinite(row["value"]) for row in values):
            return f"a {main} that is not finite"
    return OK
