"""Re-runs, measures and judges 'Improving Consistency Models with Generator-Augmented Flows' (ICML 2025, arXiv 2406.09570).

For notebooks and scripts; the command `harness` does the same and more from a terminal, and docs/tutorial.ipynb shows each of these:

    import harness

    model = harness.load("digits-gc-0.5-s0")                  # a trained model: by name, folder, or file of exported weights
    x = model.sample(16)                                      # samples; model.pixels(x) are uint8 images
    model.denoise(x, sigma=1.0)                               # the consistency function f(x, sigma); model(x, sigma) with gradients
    model.trajectory(model.noise(16))                         # x along the noise levels, as Figure 1 draws it

    harness.records(scale="digits")                           # every measurement, a tidy data frame
    harness.table("table1", scale="digits")                   # a table of the report, a data frame with intervals and tests
    harness.verdicts(scale="digits")                          # the verdicts on the paper's claims
    harness.figure("convergence", scale="digits")             # a figure of the report, a matplotlib figure

    run = harness.preset("toy", coupling="gc-0.5", changes={"train.steps": 400})
    model = harness.run(run)                                  # trains it here, or loads it if it is finished
    harness.experiment("table1", scale="toy", seeds=2)        # the runs of an experiment

`harness.Run` is the configuration of a run. Wrong input raises `harness.HarnessError`, whose message says what was found and what was
expected. Importing this package imports nothing else; torch and matplotlib are loaded by the functions that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.models import load as load
    from harness.api.models import run as run
    from harness.api.results import figure as figure
    from harness.api.results import records as records
    from harness.api.results import table as table
    from harness.api.results import verdicts as verdicts
    from harness.api.runs import experiment as experiment
    from harness.api.runs import preset as preset
    from harness.config.run import Run as Run
    from harness.errors import HarnessError as HarnessError
    from harness.sharing.model import TrainedModel as TrainedModel
    from harness.sharing.model import Trajectory as Trajectory

_PLACES = {
    **dict.fromkeys(("load", "run"), "harness.api.models"),
    **dict.fromkeys(("preset", "experiment"), "harness.api.runs"),
    **dict.fromkeys(("records", "table", "verdicts", "figure"), "harness.api.results"),
    **dict.fromkeys(("TrainedModel", "Trajectory"), "harness.sharing.model"),
    "Run": "harness.config.run",
    "HarnessError": "harness.errors",
}
"""Where each public name is defined; its module is imported when the name is first used (PEP 562)."""

__all__ = [
    "TrainedModel",
    "Trajectory",
    "experiment",
    "figure",
    "load",
    "preset",
    "records",
    "run",
    "table",
    "verdicts",
]
"""What help(harness) describes; harness.Run and harness.HarnessError have much that they inherit, and a help of their own."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_PLACES)}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
