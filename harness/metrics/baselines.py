"""Floor and ceiling of a table's metrics, measured once a protocol and kept where the report reads them without torch.

    python -m harness.metrics.baselines table1 --scale digits

One file a data set and protocol: results/cache/floors/<data>-<protocol hash of the main metric>.json with the protocols in plain words
and one row a measurement, with the fields of a run's records and `row`: heldout, heldout-at-n, train-resampled, gaussian-fit, noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from harness.config.experiments import expand
from harness.config.run import Run, short_hash
from harness.data import datasets
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.locations import results_root
from harness.metrics.known_quality import floor
from harness.metrics.reference_statistics import PointReference, reference_of
from harness.metrics.sample_metrics import Measurement, protocol
from harness.store.files import read_json, write_json
from harness.store.machine import device_kind
from harness.store.provenance import provenance

FORMAT = 1


def measure_floor(run: Run, store_root: Path, device: torch.device | None = None) -> Path:
    """The floor file of a run's data set and evaluation protocol, measured now if it is absent or damaged.

    Raises HarnessError when the data set or the feature extractor is missing.
    """
    device = device or torch.device("cpu")
    against = reference_of(run, Path(store_root) / "cache", device)
    main = "w2" if isinstance(against, PointReference) else "fid"
    key = short_hash(dict(protocol(against, run.evaluation.samples)(main)))
    path = Path(store_root) / "cache" / "floors" / f"{run.data.name}-{key}.json"
    if _is_whole(path):
        return path
    heldout = datasets.load(run.data.name, "heldout", device=device) if main == "fid" and info(run.data.name).heldout else None
    rows = floor(against, heldout, n=run.evaluation.samples, seed=0, resamplings=run.evaluation.resamplings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "format": FORMAT,
            "scale": run.scale,
            "data": run.data.name,
            "protocols": {short_hash(dict(one.protocol)): dict(one.protocol) for found in rows.values() for one in found},
            "rows": [_row(name, one) for name, found in rows.items() for one in found],
            "provenance": provenance(device_kind(device.type)),
        },
    )
    return path


def measure_floors(runs: Iterable[Run], store_root: Path, device: torch.device | None = None) -> list[Path]:
    """The floor files that a report on these runs needs, one a data set and protocol."""
    distinct = {
        short_hash([run.data.name, run.evaluation.samples, run.protocol.sample_range, run.protocol.quantisation]): run for run in runs
    }
    return [measure_floor(run, store_root, device) for run in distinct.values()]


def _row(name: str, found: Measurement) -> dict[str, object]:
    fields = ("metric", "value", "sd", "se", "n", "resamplings")
    return {"row": name, **{field: getattr(found, field) for field in fields}, "protocol": short_hash(dict(found.protocol))}


def _is_whole(path: Path) -> bool:
    try:
        found = read_json(path)
    except HarnessError:
        return False  # absent, or from a broken disk: measured anew
    return found.get("format") == FORMAT and bool(found.get("rows"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.metrics.baselines", description="Measure floor and ceiling of an experiment's metrics."
    )
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--scale", default="digits")
    parser.add_argument("--seeds", help="floors do not depend on it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--coupling", action="append", default=[], metavar="FILE.py:FUNCTION", help="floors do not depend on it")
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    chosen = parser.parse_args(argv)
    device = torch.device("cuda" if chosen.device != "cpu" and torch.cuda.is_available() else "cpu")
    try:
        for path in measure_floors(expand(chosen.experiment, chosen.scale, settings=chosen.set), chosen.results or results_root(), device):
            print(f"floor: {path}")
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
