"""Results folders for the tests of the report: real run folders, made through the store, with invented but plausible records."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from harness.config.baselines import BaselineJob
from harness.config.experiments import expand
from harness.config.identity import short_hash
from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.config.selection import Selection
from harness.reporting import load
from harness.reporting.cells import experiment_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.values import CellValues
from harness.store.provenance import code
from harness.store.records import few_step_name
from harness.store.runs import RunFolder

PROTOCOL = {"fid": "aaaaaaaaaaaa", "kid": "bbbbbbbbbbbb", "is": "cccccccccccc"}
MAIN = ("fid", "w2")
POINTS = ("w2", "in_mode", "mode_tv", "modes_missing")


def quality(run: Run, share: float, rng: np.random.Generator, strength: float = 1.0) -> float:
    """An invented FID (or W2) at a share of the training: exponential decay, better for mu near 0.5, rising again for mu = 1."""
    mu = run.coupling.mu if isinstance(run.coupling, GeneratorAugmented) else 0.0
    gain = {"batch-ot": 0.9, "custom": 0.95}.get(run.coupling.kind, 1 - strength * 0.3 * (1 - (2 * mu - 1) ** 2))
    speed = 6 + 4 * mu
    late = 2.5 * max(0.0, share - 0.4) if mu == 1 else 0.0
    base = 1.6 * gain + 11 * np.exp(-speed * share) + late
    return float(base * (0.1 if run.network.kind == "mlp" else 1.0) * np.exp(0.03 * rng.standard_normal()))


def records(run: Run, strength: float = 1.0, protocol: str | None = None) -> list[dict]:
    """The records that a run of this config would leave: a curve, and the final values."""
    rng = np.random.default_rng([run.seed, int(short_hash(run.to_dict()["coupling"], 6), 16)])
    points, run_id = run.network.kind == "mlp", run.id
    rows = []
    steps = [*range(run.evaluation.every, run.train.steps, run.evaluation.every), run.train.steps]
    for final in (False, True):
        for step in steps if not final else steps[-1:]:
            fid = quality(run, step / run.train.steps, rng, strength)
            values = {"fid": fid, "kid": fid / 30, "is": 9.9 - fid, "precision": 0.9 - fid / 20, "recall": 0.88 - fid / 15}
            values |= {"class_tv": fid / 30, "classes_missing": 0.0} | {f"class_share/{i}": 0.1 + 0.01 * (i % 2) - 0.005 for i in range(10)}
            if points:
                values = {"w2": fid, "in_mode": max(0.0, 1 - fid), "mode_tv": fid / 10, "modes_missing": 0.0}
            if not final:
                fall = 0.2 * getattr(run.coupling, "mu", 0) * step / run.train.steps
                values["pair_cost"] = 109.5 * (0.85 if run.coupling.kind == "batch-ot" else 1 - fall)
            rows += [_record(run, run_id, step, metric, value, final, protocol) for metric, value in values.items()]
            for count in range(2, len(run.evaluation.times) + 2) if final else ():  # each further step takes a fifth off
                few = {few_step_name(metric, count): value * 0.8 ** (count - 1) for metric, value in values.items() if metric in MAIN}
                rows += [_record(run, run_id, step, metric, value, final, f"{count}" * 12) for metric, value in few.items()]
    return rows


def _record(run: Run, run_id: str, step: int, metric: str, value: float, final: bool, protocol: str | None) -> dict:
    sd = abs(value) * 0.01 if final else None
    return {
        "run": run_id,
        "step": step,
        "images": step * run.train.batch,
        "seconds": round(step * 0.0125 * (1.2 if run.coupling.kind == "gc" else 1.0), 3),
        "metric": metric,
        "value": value,
        "sd": sd,
        "se": sd and sd / 5**0.5,
        "n": run.evaluation.samples,
        "resamplings": run.evaluation.resamplings if final else 1,
        "final": final,
        "protocol": protocol or PROTOCOL.get(metric, "dddddddddddd"),
    }


def make_run(root: Path, run: Run, done: bool = True, rows: Sequence[dict] | None = None, **options) -> RunFolder:
    """A run folder with records, an attempt, a sample grid and, when done, a result."""
    folder = RunFolder.create(root, run.id, run.to_dict())
    rows = records(run, **options) if rows is None else rows
    folder.append_records(rows if done else [row for row in rows if not row["final"]][: len(rows) // 2])
    attempt = {"time": 1.75e9, "host": "node1", "user": "ada", "command": f"job {folder.path}", "python": "3.11.7", "system": "Linux"}
    attempt |= {"device": "AMD EPYC", "job_id": None, "versions": {"torch": "2.11.0", "numpy": "2.0.0"}, "step": 0, "processes": 1}
    folder.add_attempt(attempt | {"commit": code()["commit"], "dirty": None})
    (folder.path / "samples").mkdir(exist_ok=True)
    rng = np.random.default_rng(run.seed)
    if run.network.kind == "mlp":
        np.save(folder.path / "samples" / f"step-{run.train.steps:08d}.npy", rng.standard_normal((64, 2)).astype(np.float32))
    else:
        (folder.path / "samples" / f"step-{run.train.steps:08d}.png").write_bytes(picture(rng))
    if done:
        folder.write_result({"step": run.train.steps, "seconds": run.train.steps * 0.0125, "rate": 80.0, "device": "AMD EPYC", "fid": 1.0})
    return folder


def picture(rng: np.random.Generator, size: int = 292) -> bytes:
    """A small grey PNG."""
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size // 4, size // 4), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def make_baselines(root: Path, scale: str = "digits", data: str = "digits") -> Path:
    """A finished baselines job whose numbers fit the records; returns its baselines.json."""
    values = {"heldout": 0.096, "heldout-at-n": 0.047, "gaussian-fit": 1.34, "noise": 13.05}
    points = scale == "toy"
    main = "w2" if points else "fid"
    rows = [
        {"row": name, "metric": main, "value": value, "sd": 0.01, "se": 0.005, "n": 360 if name == "heldout" else 1437, "resamplings": 5}
        | {"protocol": PROTOCOL.get(main, "dddddddddddd") if name != "heldout" else "eeeeeeeeeeee"}
        for name, value in values.items()
    ]
    job = BaselineJob(scale=scale, data=data, samples=1437, resamplings=5, sample_range="paper", quantisation="paper")
    folder = RunFolder.create(root, job.id, job.to_dict())
    folder.write_result({"step": 1, "seconds": 2.0})
    path = folder.path / "baselines.json"
    protocols = {rows[-1]["protocol"]: {"reference": data, "n": 1437}, "eeeeeeeeeeee": {"reference": data, "n": 360}}
    origin = {"host": "node1", "user": "ada", "pid": 7, "commit": code()["commit"], "dirty": None, "command": f"job {folder.path}"}
    path.write_text(json.dumps({"format": 1, "scale": scale, "data": data, "protocols": protocols, "rows": rows, "provenance": origin}))
    return path


def make_results(root: Path, experiment: str = "table1", scale: str = "digits", seeds: Sequence[int] | None = None, **options) -> list[Run]:
    """All runs of an experiment, done, with their baselines."""
    runs = expand(experiment, scale, seeds)
    for run in runs:
        make_run(root, run, **options)
    for data in {run.data.name for run in runs}:
        make_baselines(root, scale, data)
    return runs


def table(root: Path, name: str = "table1", scale: str = "digits") -> pd.DataFrame:
    """The numbers of an experiment's table."""
    loaded = load.read(root)
    return experiment_table(experiment_cells(Selection(name, scale), loaded), CellValues(loaded)).data


def row_of(frame: pd.DataFrame, key: str, metric: str = "fid") -> pd.Series:
    """The only row of that model and metric."""
    rows = frame[(frame.key == key) & (frame.metric == metric)]
    assert len(rows) == 1
    return rows.iloc[0]
