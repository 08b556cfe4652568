"""The study `why_mu`: what is generated against the ideal flow, the closed form's rows, and a small study on trained models."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_job import finish
from theory_support import assert_refused, generator
from train_support import data_of, tiny_run

from harness.config.parts import BatchOT, Data, Denoising, GeneratorAugmented
from harness.config.run import varied
from harness.data import datasets
from harness.reporting import load, why_mu, why_mu_table
from harness.reporting.figures_why_mu import why_mu_figures
from harness.reporting.values import CellValues
from harness.store import measurements
from harness.store.measurements import case_of_grid, grid_of_case
from harness.store.runs import Store
from harness.theory import joint_learning
from harness.theory.studies import linear_models
from harness.theory.studies import why_mu as study
from harness.theory.studies.common import StudyContext, measured_row
from harness.training.model import last_levels
from harness.training.trained_runs import TrainedRun

NEW_ROW = partial(measured_row, data="eight-gaussians", case="N=10", x=0.0)


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "GENERATED", 100)
        return study.shared_inputs(datasets.load("eight-gaussians", limit=64), 80.0)


def model(f) -> TrainedRun:
    """A model with the given function instead of a network."""
    run = tiny_run()
    return TrainedRun(run, None, f, data_of(run))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.2, 0.3)])
def test_bias_and_spread_of_a_function_of_the_ideal_flow(shared, scale, shift):
    """f = scale f_ideal + shift: its bias and spread are known from the ends of the flow alone."""
    f = model(lambda x, sigma: scale * shared.oracle.flow(x, sigma) + shift)
    bias, spread = study.generated_rows(f, shared, NEW_ROW)
    assert spread.value == pytest.approx(scale, rel=1e-5) and spread.se == pytest.approx(0, abs=1e-6)
    expected = ((scale - 1) * shared.ideal + shift).double().square().sum(1).mean() / 2
    assert bias.value == pytest.approx(float(expected), abs=1e-9, rel=1e-5)


def test_the_ideal_ends_are_the_data(shared):
    apart = torch.cdist(shared.ideal.double(), shared.oracle.data().double()).min(1).values
    assert float(apart.median()) < 0.01


def test_the_error_of_the_spread():
    draws = generator(0)
    pairs = [[torch.randn(200, 3, generator=draws) * size for size in (0.7, 1.0)] for _ in range(200)]
    estimates = [study.spread_ratio(*pair) for pair in pairs]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean() - 0.7) < 4 * values.std() / 200**0.5 + 0.002
    assert np.mean([estimate.se for estimate in estimates]) == pytest.approx(values.std(), rel=0.2)


def test_the_rows_of_the_closed_form():
    run = varied(tiny_run(), objective={"n0": 10, "n1": 40})
    rows = study.closed_form_rows(run, 40, 0.4, 7)
    levels = last_levels(run).numpy()
    assert len(levels) == 41 and {row.case for row in rows} == {"N=40"}
    by = {(row.quantity, row.x): row.value for row in rows}
    for mu in (0.0, 0.35, 1.0):
        spread = joint_learning.generated_spread(levels, 0.4, mu)
        assert by["mu-spread", mu] == pytest.approx(spread)
        assert by["mu-bias", mu] == pytest.approx(0.4**2 * (spread - 1) ** 2)
        assert by["mu-gradient", mu] == pytest.approx(sum(by[f"mu-gradient-{part}", mu] for part in ("ic", "gc", "between")))
        ic, gc, _ = linear_models.exact_gradients(run, 0.4, 7, mu).values.tolist()
        assert by["mu-gradient-ratio", mu] == pytest.approx(gc / ic)
    assert grid_of_case(case_of_grid(160)) == 160
    with pytest.raises(ValueError, match="alpha"):
        grid_of_case("alpha = 1")


def test_the_closed_form_over_several_levels_against_a_simulation():
    """Rows drawn one by one: level, data, noise, endpoint; their gradient with respect to each level's parameter."""
    run, s, mu, n = linear_models.linear_run(0.3, 4), 0.5, 0.3, 400_000
    levels, rng = last_levels(run).numpy(), np.random.default_rng(0)
    slopes = joint_learning.learned_slopes(levels, s, mu)
    cdf = np.array([torch.erf(torch.tensor(np.log(level) / (3 * 2**0.5))).item() for level in levels])
    probabilities = np.diff(cdf) / np.diff(cdf).sum()
    i = rng.choice(4, n, p=probabilities)
    low, high = levels[i], levels[i + 1]
    x, z = s * rng.standard_normal(n), rng.standard_normal(n)
    factor = 0.5 * (high - 0.002) / (0.25 + high**2) / (high - low)
    means, variances = [], []
    for endpoint in (x, slopes[i] * (x + low * z)):
        u, w = endpoint + high * z, endpoint + low * z
        gradient = factor * 2 * u * (slopes[i + 1] * u - slopes[i] * w)
        by_level = np.array([(gradient * (i == level)).mean() for level in range(4)])
        means.append(by_level)
        variances.append((gradient**2).mean() - (by_level**2).sum())
    exact = linear_models.exact_gradients(run, s, 1, mu).values.tolist()
    assert variances == pytest.approx(exact[:2], rel=0.1)
    assert ((means[0] - means[1]) ** 2).sum() == pytest.approx(exact[2], rel=0.1)


def test_the_study_on_trained_models(tmp_path, monkeypatch):
    for name, value in {"GENERATED": 64, "PAIRS": 64, "GRADIENTS": (4, 16), "BATCHES": 3, "NUMBERS": 64}.items():
        monkeypatch.setattr(study, name, value)
    for name, value in {"INTERVALS": (4,), "MU": (0.5,), "SEEDS": (0, 1), "GRADIENTS": (4, 16)}.items():
        monkeypatch.setattr(linear_models, name, value)
    monkeypatch.setattr(linear_models, "linear_run", partial(linear_models.linear_run, steps=5))
    small = {"data": Data(name="eight-gaussians", limit=100), "steps": 20}
    runs = [tiny_run(GeneratorAugmented(mu=mu), seed=seed, **small) for seed in (0, 1) for mu in (0.0, 1.0)]
    context = StudyContext("toy", Store(tmp_path), runs, levels=(2.0, 20.0))
    with assert_refused(where=runs[0].id):
        study.measure(context)
    for run in runs:
        finish(tmp_path, run)
    rows = study.measure(context)
    quantities = {row.quantity for row in rows if row.run}
    assert quantities == {
        "mu-bias", "mu-spread", "mu-gradient", "mu-gradient-ic", "mu-gradient-gc", "mu-gradient-between", "mu-gradient-ratio",
        "mu-discrepancy", "mu-cost",
    }  # fmt: skip
    assert {row.x for row in rows if row.run} == {0.0, 1.0} and {row.t for row in rows if row.quantity == "mu-cost"} == {2.0, 20.0}
    assert {row.quantity for row in rows if row.truth is not None} == {"linear-spread", "linear-gradient"}
    (ic,) = [row for row in rows if row.quantity == "mu-gradient" and row.run == runs[0].id]
    (within,) = [row for row in rows if row.quantity == "mu-gradient-ic" and row.run == runs[0].id]
    assert ic.coupling == "ic" and ic.value == within.value > 0
    measurements.write(tmp_path, "toy", "why_mu", rows)
    loaded = load.read(tmp_path)
    (models,) = why_mu.models(measurements.read(tmp_path, []), CellValues(loaded))
    assert models.data == "eight-gaussians" and models.t == 20.0 and models.seeds() == [0, 1]
    assert models.criteria == ["quality", "bias", "uneven", "gradient", "discrepancy", "cost"]
    table = why_mu_table.table(models, "toy")
    assert table.rows[0][0] == "W2" and len(table.more) == 2
    assert {figure.name for figure in why_mu_figures([models], "toy")} == {f"why-mu{part}-toy" for part in ("", "-parts", "-endpoints")}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"coupling": BatchOT()}, "OT"),
        ({"coupling": GeneratorAugmented(mu=0.5, predictor="online")}, "online"),
        ({"objective": Denoising()}, "denoiser"),
        ({"data": Data(name="eight-gaussians", labels=True)}, "data.labels"),
    ],
)
def test_what_the_study_is_not_about_is_refused_before_it_starts(tmp_path, changes, found):
    run = tiny_run(**changes)
    with assert_refused(where=run.id, found=found):
        study.measure(StudyContext("toy", Store(tmp_path), [tiny_run(), run]))
