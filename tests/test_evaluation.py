"""Figure 7's measurement: endpoints that a model predicts from IC points, over training."""

from __future__ import annotations

import pytest
import torch
from train_support import tiny_run

from harness.core.consistency import per_row
from harness.core.optimal_transport import wasserstein2
from harness.data.datasets import load
from harness.metrics.sampling import noise
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder
from harness.training import evaluation, job
from harness.training.batches import draw_levels


class Recorder(torch.nn.Module):
    """Predicts its input, and keeps the arguments of the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, labels=None):
        self.x, self.sigma = x, sigma
        return x


def test_the_predictor_gets_noised_data_at_the_trainers_levels():
    run = tiny_run("gc")
    data, network, n = load(run.data.name, limit=50), Recorder(), run.evaluation.samples
    evaluation.endpoints(run, data, network)(0, range(n))
    low = draw_levels(run, run.train.steps - 1, n)[0].float()
    assert torch.equal(network.sigma, low) and 0.002 <= low.min() < low.max() < run.noise.sigma_max
    x = network.x - per_row(low, network.x) * noise(data.shape, 0, range(n), part=15)
    nearest = torch.cdist(x.double(), data.rows.double())
    assert nearest.min(1).values[low < 10].max() < 1e-4
    counts = nearest.argmin(1)[low < 1].bincount(minlength=len(data))
    assert counts.max() <= -(-n // len(data)), "data rows come equally often, up to one"


def test_rows_do_not_depend_on_the_chunks():
    run = tiny_run("ic")
    generate = evaluation.endpoints(run, load(run.data.name), Recorder())
    together = generate(0, range(20))
    assert torch.equal(torch.cat([generate(0, range(7)), generate(0, range(7, 20))]), together)
    assert not torch.equal(generate(1, range(20)), together)


@pytest.mark.parametrize("coupling", ["ic", "gc"])
def test_every_evaluation_records_it_once_and_the_final_one_does_not(tmp_path, coupling):
    run = tiny_run(coupling)
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    assert job.run_job(folder.path, "cpu") == ExitCode.DONE
    rows = [row for row in folder.records() if row["metric"] == "endpoint_w2"]
    others = [row for row in folder.records() if row["metric"] == "w2" and not row["final"]]
    assert [row["step"] for row in rows] == [row["step"] for row in others] and not any(row["final"] for row in rows)
    assert {row["protocol"] for row in rows}.isdisjoint(row["protocol"] for row in others)
    assert all(row["value"] > 0 for row in rows)


def test_perfect_endpoints_are_as_good_as_data():
    """Exact endpoints are the data, which are as far from other data as data are."""
    run = tiny_run("ic")
    data, n = load(run.data.name), 400
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"samples": n})})
    network = Recorder()
    predicted = evaluation.endpoints(run, data, network)(0, range(n))
    clean = predicted - per_row(network.sigma, predicted) * noise(data.shape, 0, range(n), part=15)
    fresh = data.rows[torch.arange(n) + 1000]
    assert wasserstein2(clean, fresh) < 0.3 * wasserstein2(predicted, fresh)
