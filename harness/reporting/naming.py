"""Names of cells: objective and coupling, and in a few words other differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from harness.config.parts import GeneratorAugmented, coupling_label, coupling_slug
from harness.config.run import Run

OBJECTIVES = {"ict": "iCT-", "ect": "ECT-", "denoiser": "Denoiser, "}
NETWORKS = {"ddpmpp": "DDPM++", "ncsnpp": "NCSN++", "edm2": "EDM2", "mlp": "MLP"}
ARITHMETIC = {
    "train.channels_last": ("channels first", "channels last"),
    "train.compile": ("not compiled", "compiled"),
    "train.static_rows": ("rows as they are", "padded rows"),
}
"""Settings of the arithmetic that are off or on, in words."""
FOLLOWS = ("evaluation.", "ema.", "objective.q", "objective.double", "coupling.frozen")
"""Beginnings of keys whose values follow from the training length or the predictor; shown only where nothing else differs."""


def slug(run: Run) -> str:
    """Objective, unless it is iCT's, and coupling: ic, ot, gc-0.5, ect-ic."""
    kind = "" if run.objective.kind == "ict" else f"{run.objective.kind}-"
    return kind + coupling_slug(run.coupling)


def label(run: Run, known: Mapping[str, Run]) -> str:
    """Objective and coupling, as "iCT-GC (mu=0.5)", with the steps of ECT and the model of a frozen predictor. known: runs by id."""
    name = OBJECTIVES[run.objective.kind] + coupling_label(run.coupling)
    if isinstance(run.coupling, GeneratorAugmented) and run.coupling.frozen and run.coupling.frozen in known:
        need, step = known[run.coupling.frozen], run.coupling.frozen_step
        when = f"at step {step:,}" if step else f"of {need.train.steps:,} steps"
        name = name.replace("frozen", f"frozen {OBJECTIVES[need.objective.kind]}{coupling_label(need.coupling)} {when}")
    return f"{name}, {run.train.steps:,} steps" if run.objective.kind == "ect" else name


def phrases(differs: Sequence[str], run: Run) -> tuple[list[str], list[str]]:
    """The differences of a cell (KEY=VALUE) in words: first those that distinguish it, then those of FOLLOWS."""
    distinct: list[str] = []
    follows: list[str] = []
    for text in differs:
        key, _, value = text.partition("=")
        if key == "train.steps" and run.objective.kind == "ect":
            continue
        (follows if key.startswith(FOLLOWS) else distinct).append(_phrase(key, value))
    return distinct, follows


def _phrase(key: str, value: str) -> str:
    match key:
        case "train.steps":
            return f"{int(value):,} steps"
        case "ema.rate":
            return f"EMA rate {float(value):g}"
        case "data.limit":
            return "all rows" if value == "None" else f"{int(value):,} rows"
        case "network.kind":
            return NETWORKS.get(value, value)
        case "data.labels":
            return "conditional" if value == "True" else "unconditional"
        case "network.base_channels" | "network.width":
            return f"width {value}"
        case "network.dropout":
            rates = json.loads(value)
            return "no dropout" if not any(rates) else f"dropout {', '.join(f'{rate:g}' for rate in dict.fromkeys(rates))}"
        case "train.precision":
            return value
        case "train.channels_last" | "train.compile" | "train.static_rows":
            return ARITHMETIC[key][value == "True"]
        case "objective.n0" | "objective.n1" | "noise.rho":
            return f"{key.partition('.')[2]}={float(value):g}"
    return f"{key}={value}"
