"""Baselines: measured under the protocol that a run's own records carry."""

from __future__ import annotations

import json

import pytest
import torch

from harness.config.baselines import baseline_jobs
from harness.config.experiments import expand
from harness.config.identity import short_hash
from harness.errors import HarnessError
from harness.metrics.baselines import measure_baselines
from harness.metrics.reference_statistics import MetricOptions, reference_of
from harness.metrics.sample_metrics import measure_samples

CPU = torch.device("cpu")


def small_job(**changes):
    (job,) = baseline_jobs(expand("table1", "toy", [0]))
    return job.model_copy(update={"samples": 60, "resamplings": 2, **changes})


def test_baselines_carry_the_protocol_of_the_records(tmp_path):
    baselines = measure_baselines(small_job(), tmp_path, CPU)
    reference = reference_of("eight-gaussians", MetricOptions(), tmp_path, CPU)
    measured = measure_samples(lambda k, rows: torch.randn(len(rows), 2), reference, n=60, seed=0, resamplings=1)
    assert (baselines["scale"], baselines["data"]) == ("toy", "eight-gaussians")
    assert {row["row"] for row in baselines["rows"]} == {"heldout", "gaussian-fit", "noise"}
    assert {row["metric"] for row in baselines["rows"]} == {value.metric for value in measured}
    protocol = dict(measured[0].protocol)
    assert baselines["protocols"] == {short_hash(protocol): protocol}
    assert {row["protocol"] for row in baselines["rows"]} == {short_hash(protocol)}
    values = {row["row"]: row["value"] for row in baselines["rows"] if row["metric"] == "w2"}
    assert values["heldout"] < values["gaussian-fit"] < values["noise"]


def test_baselines_are_plain_json_and_the_same_every_time(tmp_path):
    baselines = measure_baselines(small_job(), tmp_path, CPU)
    assert json.loads(json.dumps(baselines)) == baselines
    assert measure_baselines(small_job(), tmp_path, CPU)["rows"] == baselines["rows"]


def test_a_missing_data_set_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    with pytest.raises(HarnessError, match="cifar10"):
        measure_baselines(small_job(data="cifar10"), tmp_path, CPU)
