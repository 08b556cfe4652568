"""Measurements by feature networks beside that of the data set (--features): one JSON file per network and run. No torch.

    results/measured/<scale>/features/<network>-<hash>/<run>.json               the samples of a finished run
    results/measured/<scale>/features/<network>-<hash>/<run>-step-<N>.json      those of a kept checkpoint
    results/measured/<scale>/features/<network>-<hash>/real-<baselines>.json    real images, with the n of the runs of a baselines job

The hash is that of the network's code or weights, so files of different networks never replace each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import FOREIGN, DamagedFile, HarnessError
from harness.store.fields import is_count, is_number, is_text
from harness.store.files import disk_errors, read_json, write_json
from harness.store.records import valid

FORMAT = 1
FOLDER = "features"
REAL = "real-"
"""The beginning of the names of files about real images."""


@dataclass(frozen=True)
class MeasuringNetwork:
    """A feature network. name: as the command line names it. protocol: what a value measured with it depends on, with its sha256."""

    name: str
    protocol: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """The first 12 digits of the SHA-256 of its code or weights."""
        return str(self.protocol["sha256"])[:12]

    @property
    def folder(self) -> str:
        """Where its measurements are, below the folder of a scale."""
        return f"{self.name}-{self.hash}"


@dataclass(frozen=True)
class FeatureMeasurement:
    """What one network measured of the samples of one run, or of real images."""

    network: MeasuringNetwork
    scale: str
    data: str
    """Data set."""
    of: str
    """The run id; of real images, the id of the baselines job that has their n."""
    rows: tuple[Mapping[str, Any], ...]
    """Of a run, final records (harness.store.records); of real images, rows as in baselines.json. Metrics have no network in their name."""
    protocols: Mapping[str, Mapping[str, Any]]
    """What the protocol hashes of the rows stand for."""
    step: int | None = None
    """The training step of a kept checkpoint; None for the last one, and for real images."""
    seal: str = ""
    """The checksum at the end of the run's records (`check` in result.json): a run that is trained again has another one."""
    is_real: bool = False
    """Whether these are real images."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def path(self, root: Path) -> Path:
        """Its file below a results folder."""
        return path_of(root, self.scale, self.network, self.of, self.step, self.is_real)


def path_of(root: Path, scale: str, network: MeasuringNetwork, of: str, step: int | None = None, is_real: bool = False) -> Path:
    """The file of a measurement below a results folder; the arguments are fields of FeatureMeasurement."""
    name = f"{REAL if is_real else ''}{of}" + ("" if step is None else f"-step-{step}")
    return root / "measured" / scale / FOLDER / network.folder / f"{name}.json"


def write(root: Path, measurement: FeatureMeasurement) -> Path:
    """Writes a measurement atomically and returns its path."""
    path = measurement.path(root)
    with disk_errors(path.parent, "create a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "network": {"name": measurement.network.name, "protocol": dict(measurement.network.protocol)},
        "scale": measurement.scale,
        "data": measurement.data,
        "real" if measurement.is_real else "run": measurement.of,
        **({} if measurement.step is None else {"step": measurement.step}),
        **({} if measurement.is_real else {"check": measurement.seal}),
        "rows": list(measurement.rows),
        "protocols": measurement.protocols,
        "provenance": measurement.provenance,
    }
    write_json(path, content, durable=False)
    return path


def read_file(path: Path) -> FeatureMeasurement:
    """The measurement in a file. Raises MissingFile or DamagedFile, or HarnessError if it cannot be read."""
    content = read_json(path)
    try:
        stated, is_real, step = content["network"], "real" in content, content.get("step")
        network = MeasuringNetwork(stated["name"], dict(stated["protocol"]))
        texts = (network.name, network.protocol["sha256"], content["scale"], content["data"], content["real" if is_real else "run"])
        good = content["format"] == FORMAT and all(map(is_text, texts)) and (step is None or is_count(step))
        rows = tuple(content["rows"])
        good = good and bool(re.fullmatch(r"[\w-]+", network.name)) and all(map(_valid_real if is_real else valid, rows))
        protocols = {str(key): dict(value) for key, value in content["protocols"].items()}
        seal = str(content.get("check", ""))
        measurement = FeatureMeasurement(network, texts[2], texts[3], texts[4], rows, protocols, step, seal, is_real)
    except FOREIGN as error:
        raise DamagedFile("damaged measurements", where=path, found=f"{type(error).__name__}: {error}") from error
    if not good:
        raise DamagedFile("damaged measurements", where=path, found="fields of another kind", expected=f"those of format {FORMAT}")
    return measurement


def _valid_real(row: Mapping[str, Any]) -> bool:
    """Whether an object is a row of real images: as a record, with the name of the baseline instead of run and step."""
    texts = all(is_text(row.get(name)) for name in ("row", "metric", "protocol"))
    numbers = all(row.get(name) is None or is_number(row[name]) for name in ("sd", "se"))
    return texts and numbers and is_number(row.get("value")) and is_count(row.get("n")) and is_count(row.get("resamplings"))


def find(
    root: Path, scale: str, network: MeasuringNetwork, of: str, *, step: int | None = None, seal: str | None = None
) -> FeatureMeasurement | None:
    """The undamaged measurement by exactly this network; None if there is none.

    seal: that of the run's records as they are now; None for real images.
    """
    try:
        stored = read_file(path_of(root, scale, network, of, step, seal is None))
    except HarnessError:
        return None
    return stored if (stored.network, stored.of) == (network, of) and (seal is None or stored.seal == seal) else None


def read(root: Path, scale: str, damage: list[str]) -> list[FeatureMeasurement]:
    """All measurements of a scale. Damaged files are left out and reported in `damage`."""
    measurements = []
    for path in sorted((root / "measured" / scale / FOLDER).glob("*/*.json")):
        try:
            measurement = read_file(path)
            if measurement.path(root) != path:
                raise DamagedFile("measurements in the place of others", where=path, expected=measurement.path(root))
            measurements.append(measurement)
        except FOREIGN as error:
            reason = f"{error.what} {path}" if isinstance(error, HarnessError) else f"damaged measurements {path} ({type(error).__name__})"
            damage.append(f"{reason}; left out")
    return measurements
