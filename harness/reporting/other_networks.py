"""What feature networks beside that of the data set have measured (--features), among loaded results: own runs as they are now.

Metrics are named with their network, fid@MyFeatures; where files of one name differ, with its hash as well, so that values of different
networks never share a column. Published records have no such measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.reporting.load import Baselines, LoadedResults
from harness.store import feature_measurements
from harness.store.feature_measurements import FeatureMeasurement, MeasuringNetwork
from harness.store.records import Record, parted_name

METRICS_SHOWN = ("fid", "kid", "is", "precision", "recall", "class_tv", "classes_missing")
"""What tables show of another network, the Frechet distance first."""


@dataclass(frozen=True)
class OtherNetwork:
    """A network that has measured some of the loaded runs."""

    measuring: MeasuringNetwork
    label: str
    """Its name, with the beginning of its hash where other networks have the same name."""
    folder: Path
    """Where its measurements are."""

    def metric(self, name: str) -> str:
        """The name of one of its metrics: fid@MyFeatures for fid."""
        return f"{name}@{self.label}"


def own_metric(name: str) -> tuple[str, str]:
    """The metric and the label of the network in a name of `OtherNetwork.metric`; the label is "" for the network of the data set."""
    metric, _, label = name.partition("@")
    return metric, label


@dataclass
class OtherNetworks:
    """All such measurements. finals: final records by run id and metric. baselines: those of real images, by the label of the network."""

    networks: list[OtherNetwork] = field(default_factory=list)
    finals: dict[str, dict[str, Record]] = field(default_factory=dict)
    baselines: dict[str, list[Baselines]] = field(default_factory=dict)

    def of(self, runs: Iterable[str]) -> list[OtherNetwork]:
        """The networks that have measured one of these runs."""
        measured = {own_metric(name)[1] for run in runs for name in self.finals.get(run, ())}
        return [network for network in self.networks if network.label in measured]

    def metrics(self, network: OtherNetwork, runs: Iterable[str]) -> list[str]:
        """The names of the metrics that a network has measured of these runs, those of several steps after that of one step."""
        available = {name for run in runs for name in self.finals.get(run, ()) if own_metric(name)[1] == network.label}
        parted = {name: parted_name(own_metric(name)[0]) for name in available}
        shown = [name for name in available if parted[name][0] in METRICS_SHOWN]
        return sorted(shown, key=lambda name: (METRICS_SHOWN.index(parted[name][0]), parted[name][1]))


def read(loaded: LoadedResults) -> OtherNetworks:
    """The measurements of the loaded own runs at their last step.

    Damaged files, and measurements of a run that was trained again since, are left out and named in `loaded.damage`.
    """
    others = OtherNetworks()
    if loaded.records == "published":
        return others
    own = {entry.name: entry for entry in loaded.runs.values() if entry.source == "own" and entry.done}
    found: list[FeatureMeasurement] = []
    for scale in loaded.scales:
        for measurement in feature_measurements.read(loaded.root, scale, loaded.damage):
            entry = own.get(measurement.of)
            if entry and measurement.seal != str((entry.result or {}).get("check") or ""):
                what = f"{measurement.path(loaded.root)}: measured before {entry.name} was trained again"
                loaded.damage.append(f"{what}; left out until the run is measured again")
            elif measurement.is_real or (entry and measurement.step is None):
                found.append(measurement)
    labels = _labels(measurement.network for measurement in found if not measurement.is_real)
    for measurement in found:
        network = measurement.network
        if network.folder not in labels:
            continue  # real images alone
        other = OtherNetwork(network, labels[network.folder], measurement.path(loaded.root).parent)
        if measurement.is_real:
            others.baselines.setdefault(other.label, []).append(_baselines(measurement, other, loaded.root))
            continue
        if other.label not in {known.label for known in others.networks}:
            others.networks.append(other)
        run = own[measurement.of].id
        records = [replace(Record.from_json(row), run=run, metric=other.metric(row["metric"])) for row in measurement.rows]
        others.finals.setdefault(run, {}).update({record.metric: record for record in records})
    others.networks.sort(key=lambda network: network.label)
    return others


def _labels(networks: Iterable[MeasuringNetwork]) -> Mapping[str, str]:
    """The label of each network by its folder."""
    by_folder = {network.folder: network for network in networks}
    names = [network.name for network in by_folder.values()]
    return {
        folder: network.name if names.count(network.name) == 1 else f"{network.name} {network.hash[:8]}"
        for folder, network in by_folder.items()
    }


def _baselines(measurement: FeatureMeasurement, network: OtherNetwork, root: Path) -> Baselines:
    rows: tuple[Mapping[str, Any], ...] = tuple({**row, "metric": network.metric(row["metric"])} for row in measurement.rows)
    return Baselines(measurement.scale, measurement.data, rows, measurement.protocols, measurement.path(root), "own")
