"""harness bench: that it runs and prints ratios; their values depend on the load of the machine and are not tested."""

from __future__ import annotations

import random
import re
from statistics import median

import pytest
import torch
from train_support import data_of, difference, tiny_run, trained

from harness import bench, cli
from harness.config.parts import BatchOT
from harness.training import batches


def test_it_prints_ratios_with_intervals_at_the_toy_scale(capsys):
    assert cli.main(["bench", "--scale", "toy", "--device", "cpu", "--seconds", "0"]) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^\s*(\S.*?)\s+(\d+\.\d+)\s+\[(\d+\.\d+), (\d+\.\d+)\]", printed, re.MULTILINE)
    assert len(rows) == 6
    assert {"GC step / IC step", "EMA forward, GC rows only / whole batch"} <= {row[0] for row in rows}
    for _, middle, low, high in rows:
        assert 0 <= float(low) <= float(middle) <= float(high)
    assert "rounds of alternating calls" in printed


@pytest.mark.parametrize("n", [6, 9, 20, 41])
def test_the_interval_covers_the_median_as_often_as_it_says(n):
    """Simulation: 4,000 samples of a skewed law with median 1."""
    draw = random.Random(n)
    hits = 0
    for _ in range(4000):
        low, high = bench.interval([2 ** draw.gauss(0, 2) for _ in range(n)])
        hits += low <= 1 <= high
    assert hits / 4000 > 0.94
    values = [draw.random() for _ in range(n)]
    low, high = bench.interval(values)
    assert low <= median(values) <= high
    assert n < 9 or (low, high) != (min(values), max(values))


def test_without_the_thread_the_training_is_the_same(monkeypatch):
    run = tiny_run(BatchOT(scope="global", size=48), steps=7)
    states = [trained(run).state()]
    monkeypatch.setattr(batches, "ThreadPoolExecutor", lambda *_: pytest.fail("a thread was started"))
    states.append(trained(run, assign_ahead=False).state())
    assert difference(*states) == []


def test_a_call_trains_the_given_number_of_steps_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    run = tiny_run("gc")
    steps = bench.Steps(run, data_of(run), torch.device("cpu"))
    steps.per_call = 5
    steps()
    steps()
    assert steps.model.step == 10
    assert not list(tmp_path.iterdir())
