"""The notes below a table with columns of other feature networks: which network, how many samples, what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.config.own_classes import FEATURE_NETWORKS
from harness.reporting import paper_values
from harness.reporting.cells import ExperimentCells
from harness.reporting.experiment_frame import networks_of, runs_of
from harness.reporting.other_networks import OtherNetwork, own_metric
from harness.reporting.values import METRICS, CellValues
from harness.store.records import parted_name


def other_network_notes(experiment: ExperimentCells, cell_values: CellValues, frame: pd.DataFrame) -> list[str]:
    """For each network beside that of the data set: what it is, its samples and protocols, which runs it has not measured or are left out.

    frame: that of the table (experiment_frame).
    """
    notes: list[str] = []
    for network in networks_of(experiment, cell_values):
        metrics = cell_values.others.metrics(network, runs_of(experiment))
        notes += [_what(experiment, data, network, metrics, frame) for data in experiment.data]
        notes += _left_out(experiment, cell_values, network, metrics)
        notes += _not_measured(experiment, cell_values, network)
    return list(filter(None, notes))


def _what(experiment: ExperimentCells, data: str, network: OtherNetwork, metrics: Sequence[str], frame: pd.DataFrame) -> str:
    rows = frame[(frame.data == data) & frame.metric.isin(metrics) & (frame.kind == "model") & frame["mean"].notna()]
    if rows.empty:
        return ""
    prefix = f"{paper_values.data_name(data)}: " if len(experiment.data) > 1 else ""
    of = "weights" if network.measuring.name in FEATURE_NETWORKS else "code"
    distances = rows[rows.metric.map(lambda name: parted_name(own_metric(name)[0])[0] == "fid")]
    hashes = distances.groupby("metric", sort=False).protocol.first()
    protocols = "; ".join(f"{METRICS[str(name)].title} {protocol}" for name, protocol in hashes.items())
    return (
        f"{prefix}{METRICS[metrics[0]].title}: Frechet distance of the features of {network.measuring.name} (SHA-256 of its {of}: "
        f"{network.measuring.hash}) between {int(rows.samples.iloc[0]):,} samples and the training set, measured after the training; mean, "
        f"interval and sd as those of the other columns, n: training seeds that it has measured; of the baselines, it has measured real "
        f"images alone; protocols: {protocols}; of own runs only, since such measurements are not published: {network.folder}"
    )


def _left_out(experiment: ExperimentCells, cell_values: CellValues, network: OtherNetwork, metrics: Sequence[str]) -> list[str]:
    """Values of another protocol, such as another number of samples, than most."""
    columns = (cell_values.column(experiment.of(data), metric) for data in experiment.data for metric in metrics)
    return list(dict.fromkeys(f"left out: {text}" for column in columns for text in column.left_out))


def _not_measured(experiment: ExperimentCells, cell_values: CellValues, network: OtherNetwork) -> list[str]:
    """How many finished own runs the network has not measured, and how to measure them."""
    finals = cell_values.others.finals
    done = [entry for entry in cell_values.loaded.find(runs_of(experiment)) if entry.done and entry.source == "own"]
    missing = [entry for entry in done if network.metric("fid") not in finals.get(entry.id, {})]
    if not missing or experiment.selection is None:
        return []
    name = network.measuring.name
    features = name if name in FEATURE_NETWORKS else f"FILE.py:{name}"
    seeds = ", ".join(map(str, sorted({entry.run.seed for entry in missing})))
    command = experiment.selection.command("harness measure", "--what", "metrics", "--features", features)
    return [f"not measured by {network.label}: {len(missing)} of {len(done)} finished runs (seeds {seeds}); to measure them: {command}"]
