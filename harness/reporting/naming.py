"""What a cell is called: objective and coupling, and in few words what else tells it from the other cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness.config.run import GeneratorAugmented, Run, coupling_label, coupling_slug

OBJECTIVES = {"ict": "iCT-", "ect": "ECT-", "denoiser": "Denoiser, "}
FOLLOWS = ("evaluation.", "ema.", "objective.q", "objective.double", "coupling.frozen")
"""Keys that follow from what is named already (the length of a training, the predictor); told only where nothing else differs."""


def slug(run: Run) -> str:
    """ic, ot, gc-0.5, ect-ic: the objective unless it is iCT's, and the coupling."""
    kind = "" if run.objective.kind == "ict" else f"{run.objective.kind}-"
    return kind + coupling_slug(run.coupling)


def label(run: Run, known: Mapping[str, Run]) -> str:
    """iCT-GC (mu=0.5); of ECT with its steps, of a frozen predictor with what it is. known: runs by id."""
    name = OBJECTIVES[run.objective.kind] + coupling_label(run.coupling)
    if isinstance(run.coupling, GeneratorAugmented) and run.coupling.frozen in known:
        need, step = known[run.coupling.frozen], run.coupling.frozen_step
        when = f"at step {step:,}" if step else f"of {need.train.steps:,} steps"
        name = name.replace("frozen", f"frozen {OBJECTIVES[need.objective.kind]}{coupling_label(need.coupling)} {when}")
    return f"{name}, {run.train.steps:,} steps" if run.objective.kind == "ect" else name


def phrases(differs: Sequence[str], run: Run) -> tuple[list[str], list[str]]:
    """What differs, as KEY=VALUE, in words: what tells, and what follows from it."""
    tells, follows = [], []
    for text in differs:
        key, _, value = text.partition("=")
        if key == "train.steps" and run.objective.kind == "ect":
            continue
        (follows if key.startswith(FOLLOWS) else tells).append(_phrase(key, value))
    return tells, follows


def _phrase(key: str, value: str) -> str:
    match key:
        case "train.steps":
            return f"{int(value):,} steps"
        case "data.limit":
            return "all rows" if value == "None" else f"{int(value):,} rows"
        case "network.base_channels" | "network.width":
            return f"width {value}"
        case "network.dropout":
            rates = json.loads(value)
            return "no dropout" if not any(rates) else f"dropout {', '.join(f'{rate:g}' for rate in dict.fromkeys(rates))}"
        case "objective.n0" | "objective.n1" | "noise.rho":
            return f"{key.partition('.')[2]}={float(value):g}"
    return f"{key}={value}"
