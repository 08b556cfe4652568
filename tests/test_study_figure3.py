"""Figure 3: estimates against closed forms, SciPy and plain sums; the rows of a study; and the claim that is judged by them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.datasets import load_digits
from test_claims import judge
from test_job import finish
from theory_support import assert_refused
from train_support import tiny_run

from harness.config.experiments import expand
from harness.config.parts import Data
from harness.core.randomness import generator
from harness.data import datasets
from harness.reporting.verdicts import Outcome
from harness.store import measurements
from harness.store.measurements import MeasurementRow
from harness.store.runs import Store
from harness.theory.oracle import Oracle, draw_rows
from harness.theory.studies import figure3
from harness.theory.studies.common import StudyContext, measured_row
from harness.theory.studies.figure3 import SharedDraws, curve_rows, endpoints, ideal_rows, shared_draws

NEW_ROW = partial(measured_row, data="digits", coupling="gc")


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("digits")
    return data, Oracle(data.rows), shared_draws(data)


def by(rows, quantity: str, **keys) -> dict[float | None, MeasurementRow]:
    """The rows of a quantity by x."""
    return {row.x: row for row in rows if row.quantity == quantity and all(getattr(row, k) == v for k, v in keys.items())}


def linear(x, t):
    return x / (1 + t).reshape(-1, *[1] * (x.dim() - 1))


def test_c_of_a_linear_f_is_exact_on_any_data(digits):
    """c(t) = a^2 E|x|^2 + (a t - 1)^2 d for f = a x, which is linear in the controls, so that no error remains."""
    data, oracle, draws = digits
    pixels = data.rows.double() / 127.5 - 1
    square, levels = float(pixels.square().flatten(1).sum(1).mean()), [0.0, 0.5, 3.0, 80.0]
    assert draws.ic == pytest.approx(square + 64, rel=1e-6)
    rows = curve_rows(linear, oracle, draws, levels, NEW_ROW)
    for t in levels:
        a = 1 / (1 + t)
        row = by(rows, "cost")[t]
        assert row.value == pytest.approx(a**2 * square + (a * t - 1) ** 2 * 64, rel=1e-4)
        assert (row.se or 0.0) < 1e-3


def test_changes_add_up_to_the_costs(digits):
    _, oracle, draws = digits
    rows = curve_rows(lambda x, t: torch.tanh(x), oracle, draws.first(200), [0.0, 0.3, 2.0, 9.0], NEW_ROW)
    cost, change = by(rows, "cost"), by(rows, "cost-change")
    assert sum(row.value for row in change.values()) == pytest.approx(cost[9.0].value - cost[0.0].value, rel=1e-6)
    assert change[9.0].se < cost[9.0].se


def test_expectations_are_unbiased_and_their_errors_correct():
    rng = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(300):
        z = torch.randn(80, 4, generator=rng, dtype=torch.float64)
        controls = torch.stack([z[:, 0], z[:, 1] ** 2 - 1, z[:, 2]], 1)
        values = 3 + 2 * z[:, 0] + z[:, 1] ** 2 + 0.5 * z[:, 3] ** 3
        estimates.append(SharedDraws(z, z, controls, 0.0).expectation(values))
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean() - 4) < 4 * values.std() / 300**0.5
    assert np.mean([estimate.se for estimate in estimates]) == pytest.approx(values.std(), rel=0.15)
    assert values.std() < 0.6 * (4 + 2 + 0.25 * 15) ** 0.5 / 80**0.5 * 1.2, "the controls take the noise of the first three away"


def test_the_ideal_flow_of_few_points_against_an_independent_solver():
    data = datasets.load("eight-gaussians", limit=12)
    oracle, draws = Oracle(data.rows), shared_draws(data)
    points = data.rows.numpy().astype(float)

    def velocity(t, x):
        d = softmax(-((x - points) ** 2).sum(1) / (2 * t**2)) @ points
        return (x - d) / t

    t = 1.5
    exact = np.array(
        [
            solve_ivp(velocity, (t, 0.002), (x + t * z).numpy().astype(float), rtol=1e-8, atol=1e-10).y[:, -1]
            for x, z in zip(draws.x, draws.z, strict=True)
        ]
    )
    np.testing.assert_allclose(endpoints(oracle.flow, draws.x, draws.z, t).numpy(), exact, atol=5e-3)
    rows = ideal_rows(StudyContext("toy", None), oracle, "eight-gaussians", draws, [0.0, t])
    costs = torch.from_numpy(((exact - draws.z.numpy()) ** 2).sum(1))
    row = by(rows, "cost")[t]
    assert row.value == pytest.approx(draws.expectation(costs).value, abs=0.02) and row.coupling == "gc-ideal"
    assert abs(by(rows, "flow-change")[t].value) < 0.01


def test_the_nearest_data_by_a_plain_search(digits):
    data, oracle, draws = digits
    mine = draws.first(50)
    rows = curve_rows(linear, oracle, mine, [0.7], NEW_ROW)
    ends = endpoints(linear, mine.x, mine.z, 0.7).flatten(1).double()
    pixels = load_digits().data  # an independent reading: all digits, of which the training set is a part
    apart = torch.cdist(ends, (data.rows.double() / 127.5 - 1).flatten(1))
    nearest = (data.rows.double() / 127.5 - 1).flatten(1)[apart.argmin(1)]
    expected = (nearest - mine.z.flatten(1).double()).square().sum(1)
    assert by(rows, "cost-data")[0.7].value == pytest.approx(mine.expectation(expected).value, rel=1e-5)
    assert by(rows, "data-distance")[0.7].value == pytest.approx(mine.expectation(apart.min(1).values ** 2).value, rel=1e-4)
    assert len(data) < len(pixels)


@pytest.mark.parametrize("size", [1, 64])
def test_levels_of_batch_ot_against_scipy(digits, size):
    data = digits[0]
    draws, values = generator(0, "measure", 7), []
    for _ in range(3):
        rows = data.batch(draw_rows(len(data), size, draws))
        rows = rows[draw_rows(size, size, draws)]
        noise = torch.randn(rows.shape, generator=draws)
        matrix = torch.cdist(rows.flatten(1).double(), noise.flatten(1).double()).square().numpy()
        values.append(matrix[linear_sum_assignment(matrix)].mean())
    cost = figure3.assignment_batches(data, size, 3, generator(0, "measure", 7))
    assert cost.value == pytest.approx(np.mean(values), rel=1e-6) and cost.se == pytest.approx(np.std(values, ddof=1) / 3**0.5, rel=1e-5)


def test_the_study_on_trained_models(tmp_path, monkeypatch):
    monkeypatch.setattr(figure3, "PAIR_BATCHES", 4)
    small = {"data": Data(name="eight-gaussians", limit=150), "steps": 20}
    runs = [tiny_run(name, **small) for name in ("ic", "ot", "gc")]
    store = Store(tmp_path)
    with assert_refused(where=runs[0].id):
        figure3.measure(StudyContext("toy", store, runs))
    for run in runs:
        finish(tmp_path, run)
    notes: list[str] = []
    rows = figure3.measure(StudyContext("toy", store, runs, levels=(2.0, 20.0), note=notes.append))
    assert all(any(f"of {size}" in text and "150" in text for text in notes) for size in ("512", "2,048"))
    flat = {row.coupling: row.value for row in rows if row.quantity == "cost" and row.x is None}
    assert set(flat) == {"ic", "ot-128", "exact-ot"} and flat["ic"] > 2 * flat["ot-128"]
    assert {row.coupling: row.value for row in rows if row.quantity == "cost-data" and row.x is None} == flat
    curves = {(row.coupling, row.case) for row in rows if row.quantity == "cost" and row.x is not None}
    assert curves == {("gc-ideal", ""), ("gc", "by ic"), ("gc", "by ot"), ("gc-0.5", "")}
    ideal = by(rows, "cost", coupling="gc-ideal")
    assert list(ideal) == [0.0, 2.0, 20.0] and ideal[0.0].value > ideal[2.0].value >= ideal[20.0].value
    pairs = {row.coupling: row for row in rows if row.quantity == "pair-cost"}
    assert set(pairs) == {"ic", "ot", "gc-0.5"} and pairs["ot"].value < pairs["ic"].value
    assert abs(pairs["ic"].value - ideal[0.0].value) < 5 * pairs["ic"].se
    measurements.write(tmp_path, "toy", "figure3", rows)
    titles = [check.what for check in judge(tmp_path, "C6", "toy").tests]
    assert any("ideal flow" in title for title in titles) and any("ideal flow" not in title for title in titles)


def test_models_with_labels_are_refused(tmp_path):
    run = tiny_run("ic", data=Data(name="two-moons", labels=True))
    with assert_refused(where=run.id, found="data.labels = true"):
        figure3.measure(StudyContext("toy", Store(tmp_path), [run]))


@pytest.mark.parametrize("scale", ["toy", "digits", "fashion", "paper"])
def test_the_experiment_shares_table_1_s_runs(scale):
    assert [run.id for run in expand("figure3", scale)] == [run.id for run in expand("table1", scale)]


class TestC6:
    """Falling curves whose relation to batch-OT (90) is known."""

    def write(self, root, trained: float = 80.0, ideal: float = 85.0, moved: float | None = 88.0, rise: float = 0.0) -> Outcome:
        def curve(quantity: str, coupling: str, end: float) -> list[MeasurementRow]:
            values = {0.0: 110.0, 1.0: 95.0, 10.0: end - rise, 80.0: end}
            return [row(quantity, coupling, value, x=x) for x, value in values.items()]

        def row(quantity: str, coupling: str, value: float, **more: float) -> MeasurementRow:
            return MeasurementRow(quantity, "digits", value, coupling, se=0.02, **more)

        rows = curve("cost", "gc-0.5", trained) + curve("cost", "gc-ideal", ideal)
        rows += curve("cost-data", "gc-0.5", moved) if moved is not None else []
        rows += [row("cost", name, value) for name, value in (("ot-128", 92.0), ("ot-512", 90.0), ("exact-ot", 70.0))]
        measurements.write(root, "digits", "figure3", rows)
        return judge(root, "C6").outcome

    def test_supported_by_both_curves(self, tmp_path):
        assert self.write(tmp_path) is Outcome.SUPPORTED

    def test_exact_ot_is_not_compared(self, tmp_path):
        assert self.write(tmp_path, trained=75.0) is Outcome.SUPPORTED

    @pytest.mark.parametrize("above", [{"trained": 91.0}, {"ideal": 91.0}])
    def test_one_of_them_above_the_lowest_batch_ot_contradicts(self, tmp_path, above):
        assert self.write(tmp_path, **above) is Outcome.CONTRADICTED

    @pytest.mark.parametrize("moved", [None, 91.0])
    def test_endpoints_moved_to_the_data_are_not_part_of_the_claim(self, tmp_path, moved):
        assert self.write(tmp_path, moved=moved) is Outcome.SUPPORTED

    @pytest.mark.parametrize(("rise", "outcome"), [(0.15, Outcome.SUPPORTED), (2.0, Outcome.CONTRADICTED)])
    def test_a_rise_counts_from_a_share_of_the_fall(self, tmp_path, rise, outcome):
        assert self.write(tmp_path, rise=rise) is outcome
