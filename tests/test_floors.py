"""Floor files: measured once a protocol, and of the protocol that a run's own records carry."""

from __future__ import annotations

import json

import torch

from harness.config.experiments import expand
from harness.config.run import short_hash
from harness.metrics import baselines
from harness.metrics.reference_statistics import reference_of
from harness.metrics.sample_metrics import evaluate
from harness.reporting import load


def small_run():
    run = expand("table1", "toy", [0])[0]
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"samples": 60, "resamplings": 2})})


def test_measured_once_under_the_protocol_of_the_records(tmp_path):
    run = small_run()
    path = baselines.measure_floor(run, tmp_path)
    against = reference_of(run, tmp_path / "cache", torch.device("cpu"))
    mine = evaluate(lambda k, rows: torch.randn(len(rows), 2), against, n=60, seed=0, resamplings=1)
    assert path.name == f"eight-gaussians-{short_hash(dict(mine[0].protocol))}.json"
    found = json.loads(path.read_text())
    assert {row["row"] for row in found["rows"]} == {"heldout", "gaussian-fit", "noise"}
    assert {row["metric"] for row in found["rows"]} == {one.metric for one in mine}
    values = {row["row"]: row["value"] for row in found["rows"] if row["metric"] == "w2"}
    assert values["heldout"] < values["gaussian-fit"] < values["noise"]
    stamp = path.stat().st_mtime_ns
    assert baselines.measure_floor(run, tmp_path) == path
    assert path.stat().st_mtime_ns == stamp
    (floor,) = load.read(tmp_path).floors
    assert floor.protocols[short_hash(dict(mine[0].protocol))] == json.loads(json.dumps(dict(mine[0].protocol)))


def test_a_damaged_floor_is_measured_anew(tmp_path):
    path = baselines.measure_floor(small_run(), tmp_path)
    whole = json.loads(path.read_text())["rows"]
    path.write_text("{")
    assert json.loads(baselines.measure_floor(small_run(), tmp_path).read_text())["rows"] == whole


def test_one_floor_for_all_runs_of_a_protocol(tmp_path):
    runs = [run.model_copy(update={"evaluation": small_run().evaluation}) for run in expand("table1", "toy")]
    assert len(baselines.measure_floors(runs, tmp_path)) == 1


def test_the_command_tells_bad_input_once(tmp_path, capsys):
    assert baselines.main(["tabel1", "--results", str(tmp_path)]) == 2
    assert "unknown experiment" in capsys.readouterr().err
