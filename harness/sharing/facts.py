"""What is known about a trained model, as plain JSON values, and as a model card in words.

The facts go with exported weights and samples. They name code, versions and numbers, but no person, machine or path.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.config.custom_data import FEATURES_IN_WORDS
from harness.config.parts import coupling_label
from harness.config.run import Run
from harness.data.catalogue import info_of
from harness.errors import HarnessError
from harness.metrics.classifier import RECIPES
from harness.reporting.values import METRICS, bounds_of
from harness.stats.intervals import Bounds, degrees, t_interval
from harness.store import fingerprint, record_file
from harness.store.provenance import code
from harness.store.records import parted_name, valid
from harness.store.runs import RunFolder
from harness.training.trained_runs import Which

FORMAT = 1
WHICH = {"ema": "the moving average (EMA) of the weights", "online": "the weights in training, without the moving average"}
MADE_WITH = ("torch", "torchvision", "numpy")
"""Packages whose versions are named."""
KINDS = {"ict": "consistency model (iCT)", "ect": "consistency model (ECT)", "denoiser": "denoiser"}


def facts_of(folder: RunFolder, run: Run, which: Which) -> dict[str, Any]:
    """The facts about the model of a finished run: config, final metrics, and by which code it was made.

    The metrics are the records at the last step that fit their checksums, without the shares of single classes.
    """
    result, attempts = folder.result() or {}, folder.attempts()
    rows = record_file.trusted(folder.path / record_file.NAME, folder.id, result, lambda text: None)
    final = [row for row in rows if row.get("final") is True and not str(row.get("metric")).startswith("class_share/")]
    made, dataset = attempts[-1] if attempts else {}, info_of(run.data)
    versions = made.get("versions") or {}
    return {
        "format": FORMAT,
        "run": folder.id,
        "config": folder.config(),
        "weights": which,
        "step": run.train.steps,
        "shape": list(dataset.shape),
        "classes": dataset.classes if run.data.labels else 0,
        "metrics": [_metric(row, run.data.name) for row in final if valid(row)],
        "made": {
            "commit": made.get("commit"),
            "uncommitted_changes": bool(made.get("dirty")),
            "fingerprint": result.get("fingerprint") or made.get("fingerprint"),
            "device": made.get("device"),
            "python": made.get("python"),
            "versions": {name: versions[name] for name in MADE_WITH if versions.get(name)},
            "training_seconds": result.get("seconds"),
        },
    }


def exported_by() -> dict[str, Any]:
    """The code that exports: version of the package, commit, fingerprint."""
    state = code()
    facts = {"version": metadata.version("consistency-harness"), "fingerprint": fingerprint.current()}
    return facts | {"commit": state["commit"], "uncommitted_changes": bool(state["dirty"])}


def _metric(row: Mapping[str, Any], data: str) -> dict[str, Any]:
    """A final metric with its 95 % interval over the resamplings of this one model (Student's t, cut at the metric's bounds); None where
    there is none."""
    kept = {name: row.get(name) for name in ("metric", "value", "sd", "n", "resamplings", "protocol")}
    count, se = row.get("resamplings") or 1, row.get("se")
    if count < 2 or not se:
        return kept | {"low": None, "high": None, "interval": "none: one resampling" if count < 2 else "none: equal values"}
    name, _ = parted_name(row["metric"])
    bounds: Bounds = (None, None)
    with contextlib.suppress(HarnessError):  # a set of the user's own that is not here any more
        bounds = bounds_of(name, data) if name in METRICS else bounds
    limits = t_interval(row["value"], se, count - 1, count, f"Student's t over resamplings, {degrees(count - 1)}", bounds)
    return kept | {"low": limits.low, "high": limits.high, "interval": limits.method}


def card(facts: Mapping[str, Any], run: Run, file: str) -> str:
    """The model card, Markdown: what the model is, how to load it, its metrics with n and interval, protocol, code, config.

    facts: those of `facts_of`, and under "exported" those of `exported_by`. file: the name of the file of weights.
    """
    environment = Environment(loader=PackageLoader("harness.sharing", ""), undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("card.md.jinja").render(
        facts=facts,
        run=run,
        file=file,
        kind=KINDS[run.objective.kind],
        coupling=coupling_label(run.coupling),
        which=WHICH[facts["weights"]],
        features=_features(run),
        trained_by=_commit(facts["made"]),
        exported_by=_commit(facts["exported"]),
        config=json.dumps(facts["config"], indent=1),
    )


def _features(run: Run) -> str:
    """What FID, KID and IS are measured with, where it is not Inception."""
    dataset = info_of(run.data)
    if dataset.base in RECIPES:
        return "a classifier of this data set, not Inception: the values are not comparable with the paper's"
    return "" if dataset.custom is None or dataset.features == "inception" else FEATURES_IN_WORDS[dataset.features]


def _commit(of: Mapping[str, Any]) -> str:
    if not of.get("commit"):
        return "a commit that is not known"
    return f"commit {of['commit']}{', with uncommitted changes' if of['uncommitted_changes'] else ''}"
