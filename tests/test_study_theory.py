"""The study `theory`: each part agrees with known values, and reports a difference where a value is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from theory_support import assert_refused

from harness.config.experiments import expand
from harness.config.parts import Network
from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.core.networks import build
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.reporting import drawing, figures_measured
from harness.store import measurements
from harness.store.measurements import MeasurementRow
from harness.store.runs import Store
from harness.theory.discrepancy import Distance, Times, theorem_1
from harness.theory.estimate import Estimate
from harness.theory.gaussian import Gaussian
from harness.theory.oracle import Oracle
from harness.theory.studies import theorems
from harness.theory.studies.common import StudyContext, StudyPart, measure_parts, measured_row, verdict
from harness.theory.studies.theorems import closed_forms, lemma1, oracle_checks, subjects, theorem1, theorem2
from harness.training.trained_runs import TrainedRun


@pytest.fixture
def context(tmp_path) -> StudyContext:
    return StudyContext("toy", Store(tmp_path))


def subject_of(points: torch.Tensor, images: bool = False) -> subjects.Subject:
    """A small data set, with one untrained network of width 16 in place of a trained one."""
    name = "digits" if images else "eight-gaussians"
    data = Dataset(name, "train", "0" * 64, rows=points)
    net = build(Network(kind="mlp", width=16, depth=2, dropout=(0.0,)), data.shape, generator=generator(1, "init"))
    with torch.no_grad():
        # the untrained output layer is almost zero, which would leave f = c_skip x
        net.outputs.weight.normal_(generator=generator(2, "init"))
    network = Preconditioned(net).double().requires_grad_(False).eval()
    run: Run = next(run for run in expand("theory", "toy", [0]) if run.coupling.kind == "independent")
    trained = TrainedRun(run, None, network, data)
    return subjects.Subject(name, data, Oracle(data.rows, torch.float64), Oracle(data.rows), (trained,))


@pytest.fixture(scope="module")
def points() -> subjects.Subject:
    return subject_of(0.5 * torch.randn(60, 2, generator=generator(0, "measure")))


def differing(rows: list[MeasurementRow]) -> list[MeasurementRow]:
    return [row for row in rows if verdict(row).startswith(("DIFFERS", "ABOVE"))]


def test_the_experiment_is_table_1s_ic_and_gc():
    runs = expand("theory", "digits", [0])
    assert {run.id for run in runs} < {run.id for run in expand("table1", "digits")}
    assert sorted((run.coupling.kind, run.seed) for run in runs) == [("gc", 0), ("independent", 0)]
    assert len(expand("theory", "digits")) == 6


def test_closed_forms_agree(context, monkeypatch):
    monkeypatch.setattr(closed_forms, "NUMBERS", 2**15)
    rows = closed_forms.measure(context)
    judged = [row for row in rows if verdict(row)]
    assert len(judged) > 60
    assert not differing(rows)
    # the cost of exact OT decreases towards W2^2 as its batches grow
    trend = [row.value for row in rows if row.quantity == "exact-ot" and row.data == "gaussian-64d" and row.x]
    assert trend == sorted(trend, reverse=True)
    assert trend[-1] > 64 * (1 - subjects.S) ** 2


@pytest.mark.parametrize("wrong", ["proxy_ic", "proxy_gc", "cost", "cost_derivative", "optimal_cost"])
def test_a_wrong_formula_is_reported_as_different(context, monkeypatch, wrong):
    monkeypatch.setattr(closed_forms, "NUMBERS", 2**15)
    right = getattr(Gaussian, wrong)
    monkeypatch.setattr(Gaussian, wrong, lambda self, *args: 1.2 * right(self, *args))
    assert differing(closed_forms.measure(context))


def test_given_levels_may_be_the_limits_of_their_range(tmp_path, monkeypatch):
    monkeypatch.setattr(closed_forms, "NUMBERS", 2**15)
    context = StudyContext("toy", Store(tmp_path), levels=(0.002, 80.0))
    rows = closed_forms.measure(context)
    assert {row.x for row in rows if row.quantity == "exact-cost"} == {0.0, 0.002, 80.0}
    # a central difference would leave the range
    assert not any(row.case == "finite difference" for row in rows if row.quantity == "exact-slope")


def test_brute_force_is_the_double_sum(points):
    x = torch.randn(5, 2, generator=generator(3, "measure"), dtype=torch.float64)
    data = points.data.rows.double().numpy()
    weights = softmax(-((x.numpy()[:, None] - data[None]) ** 2).sum(2) / (2 * 0.7**2), axis=1)
    np.testing.assert_allclose(oracle_checks.brute(points.exact, x, 0.7, size=7), weights @ data, atol=1e-12)


def test_the_oracle_meets_its_tolerance_and_an_inexact_one_does_not(points):
    rows = oracle_checks.errors(points)
    assert len(rows) == 4
    assert not differing(rows)

    class Inexact(Oracle):
        def denoise(self, x, t):
            return super().denoise(x, t) + 2 * oracle_checks.TOLERANCE

    inexact = subjects.Subject(points.name, points.data, points.exact, Inexact(points.data.rows), ())
    assert len(differing(oracle_checks.errors(inexact))) == 4


def test_all_digits_have_the_known_proxy():
    rows = oracle_checks.all_digits()
    assert [row.truth for row in rows] == [4.810, 0.7085, 0.04677]
    assert all(abs(row.errors_away) <= 3 for row in rows)


def test_both_forms_of_the_discrepancy_agree_and_have_the_closed_form():
    law, times = Gaussian(2, 0.5), Times(closed_forms.T)
    for alpha in (1.0, 2.0):
        args = closed_forms.linear, law.velocity, partial(subjects.draw_pairs, law), times, generator(0, "measure"), alpha
        estimate = theorem1.as_defined(*args, batches=32, rows=2048)
        assert estimate.agrees(closed_forms.exact_discrepancy(law, alpha))
        assert estimate.se < 0.05 * estimate.value


def test_theorem_1_on_a_network(points):
    rows = theorem1.discrepancies(points, points.networks[0], 12, 128)
    rows += theorem1.ratios(points, points.networks[0], subjects.Effort(8, 64, 8, 0))
    positive = [row for row in rows if row.quantity == "discrepancy"]
    assert len(positive) == 4
    assert all(row.value > 3 * row.se and abs(row.errors_away) <= 3 for row in positive)
    last = [row for row in rows if row.quantity == "theorem1" and row.truth]
    assert [row.x for row in last] == [4096, 4096, 4096, 65536, 65536]
    assert all(abs(row.value - 1) < 0.03 for row in last)
    assert all("T = 10" in row.case or "T = 80" in row.case for row in last)


def test_a_ratio_that_stays_away_from_1_differs():
    law = Gaussian(2, 0.5)
    args = closed_forms.linear, law.velocity, partial(subjects.draw_pairs, law), Times(4.0), Distance("squared"), (1024, 4096)
    results = theorem_1(*args, generator(0, "measure"), batches=8, rows=128)
    new_row = partial(measured_row, data="x")
    assert not differing(theorem1.ratio_rows(results, {}, new_row))
    moved = [replace(result, ratio=result.ratio + Estimate(0.02, 0.0, 1)) for result in results]
    assert len(differing(theorem1.ratio_rows(moved, {}, new_row))) == 1


def test_gradients_decrease_and_differ_only_for_alpha_1(context, points, monkeypatch):
    rows = theorem1.gradients(points, points.networks[0], subjects.Effort(8, 256, 8, 0))
    changes = [row for row in rows if "change" in row.case]
    assert len(changes) == 4
    assert all(verdict(row).startswith("below 0") for row in changes)
    monkeypatch.setattr(theorem1, "INTERVALS", (8, 64))
    rows += theorem1.known(context)
    between = [row for row in rows if "between" in row.case]
    assert len(between) == 6
    assert all(verdict(row).startswith("agrees") for row in between if "alpha = 2" in row.case)
    differ = [row for row in between if "alpha = 1" in row.case and row.data.startswith("gaussian")]
    assert len(differ) == 2
    assert all(row.value > 10 * row.se and row.truth is None for row in differ)


def test_slopes_are_fitted_to_the_reliable_levels():
    levels = (1.0, 10.0, 20.0, 40.0)
    ic = {t: Estimate(t**-2.0, 1e-3 * t**-2.0, 9) for t in levels}
    gc = {1.0: (Estimate(99.0, 1.0, 9), False), **{t: (Estimate(t**-4.0, 1e-3 * t**-4.0, 9), True) for t in levels[1:]}}
    rows = theorem2.rows_of("x", ic, gc, {})
    slopes = {row.coupling: row for row in rows if row.quantity == "theorem2"}
    assert slopes["ic"].value == pytest.approx(-2)
    assert slopes["gc-ideal"].value == pytest.approx(-4)
    assert slopes["gc-ideal"].case == "t from 10 to 40"
    assert [row.x for row in rows if row.case == "not fitted"] == [1.0]
    # half of a 95 % interval over 1.96: here that of Monte-Carlo errors, 1e-3 over the spread of ln t
    spread = math.sqrt(2) * math.log(2)
    assert slopes["gc-ideal"].se == pytest.approx(1e-3 / spread, rel=1e-2)


def test_too_few_reliable_levels_have_no_slope():
    value = Estimate(1.0, 0.1, 9)
    rows = theorem2.rows_of("x", {1.0: value, 2.0: value}, {1.0: (value, True), 2.0: (value, False)}, {})
    assert {row.quantity for row in rows} == {"theorem2-rtil"}


def test_theorem_2_on_laws_with_a_density(context, monkeypatch):
    monkeypatch.setattr(theorem2, "LEVELS", (10.0, 20.0, 40.0, 80.0))
    monkeypatch.setattr(theorem2, "ROWS", 96)
    rows = [row for row in theorem2.known(context) if row.quantity == "theorem2"]
    assert len(rows) == 8
    assert not differing(rows)
    by_data = {(row.data, row.coupling): row for row in rows}
    for data in ("gaussian-2d", "gaussian-64d", "mixture-of-2", "mixture-of-8"):
        ic, gc = by_data[data, "ic"], by_data[data, "gc-ideal"]
        assert ic.value == pytest.approx(-2, abs=0.02)
        assert gc.value < -3
        assert gc.value + 2 * gc.se < ic.value
    assert by_data["gaussian-64d", "gc-ideal"].truth == pytest.approx(-3.96, abs=0.02)


def test_theorem_2_leaves_out_points_in_the_plane(context, points):
    assert theorem2.measure(context, points) == []


def test_both_sides_of_lemma_1_agree_where_it_holds_and_not_elsewhere():
    law = Gaussian(4, 0.5)
    args = partial(subjects.draw_pairs, law), [0.5, 1.0], 2**15, {}, 2**13
    rows = lemma1.lemma("x", law.flow, law.velocity, *args)
    assert not differing(rows)
    for row in rows:
        assert row.value == pytest.approx(law.cost_derivative(row.x), rel=0.03)
    # x/2 at every t is not constant along the flow: c(t) = |x*/2 + (t/2 - 1) z|^2, c' = d (t/2 - 1); the lemma would say -d s^2/(s^2 + t^2)
    still = lemma1.lemma("x", lambda x, t: x / 2, law.velocity, *args)
    assert len(differing(still)) == 2
    assert [row.value for row in still] == pytest.approx([4 * (t / 2 - 1) for t in (0.5, 1.0)], rel=0.03)
    assert [row.truth for row in still] == pytest.approx([-4 * 0.25 / (0.25 + t**2) for t in (0.5, 1.0)], rel=0.03)


def test_lemma_1_and_corollaries_of_known_laws(tmp_path, monkeypatch):
    monkeypatch.setattr(lemma1, "sides", partial(lemma1.sides, within=0.03))
    monkeypatch.setattr(lemma1, "MIXED_STEPS", 16)
    rows = lemma1.known(StudyContext("toy", Store(tmp_path), levels=(0.3,)))
    assert {row.quantity for row in rows} == {"lemma1", "corollary1", "corollary2"}
    assert not differing(rows)
    assert any(verdict(row).startswith("below 0") for row in rows)
    distances = [row.value for row in rows if "distance" in row.case]
    assert max(distances) < 1e-3


def test_the_scaling_distance_is_relative_and_large_where_f_is_not_a_scaling():
    law = Gaussian(3, 1.0, 0.5)
    x, z = subjects.draw_pairs(law, 20_000, generator(5, "measure"))
    row = lemma1.scaling_distance("x", law.flow, x, z, 2.0, 0.5)
    a = math.sqrt(1.25 / 5)
    assert row.value == pytest.approx((a - 0.25) ** 2 / a**2, rel=0.02)


def test_smoothing_is_half_of_the_nearest_distance():
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    assert lemma1.smoothing(Oracle(2 * grid)) == pytest.approx(1.0)
    assert lemma1.smoothing(Oracle(0.01 * grid)) == pytest.approx(0.1)


def test_drawing_ends_at_the_given_error_or_the_largest_number():
    asked = []

    def make(draws: torch.Generator) -> Estimate:
        asked.append(float(torch.rand(1, generator=draws)))
        return Estimate(1.0, 0.1, 100)

    estimate = subjects.until(make, ("x",), 0.05, 10**6)
    assert estimate.n == 400
    assert estimate.se == pytest.approx(0.05)
    assert len(set(asked)) == 4
    assert subjects.until(make, ("x",), 1e-9, 250).n == 300


def test_the_address_determines_the_draws():
    first, again, other = (subjects.address(*place).initial_seed() for place in (("a", 1.0), ("a", 1.0), ("a", 2.0)))
    assert first == again
    assert first != other


def test_missing_runs_are_refused(tmp_path):
    with assert_refused(where="theory", found="no run"):
        theorems.measure(StudyContext("toy", Store(tmp_path)))
    with assert_refused(where=tmp_path):
        theorems.measure(StudyContext("toy", Store(tmp_path), expand("theory", "toy", [0])))


def test_the_parts_of_the_study_cover_laws_and_data(context, points, monkeypatch):
    monkeypatch.setattr(theorems, "load_subjects", lambda _: [points])
    titles = [part.title for part in theorems.parts(context)]
    assert len(titles) == len(set(titles)) == 8 and sum(title.startswith("eight-gaussians") for title in titles) == 4


def test_each_part_reports_that_it_begins(context):
    row, events = measured_row("q", 2.0, data="d"), []
    reporting = replace(context, progress=lambda *event: events.append(event))
    parts = [StudyPart("first", lambda: [row, row]), StudyPart("second", list)]
    assert measure_parts(parts, reporting) == [row, row] and measure_parts(parts, context) == [row, row]
    assert events == [("first", 1, 2), ("second", 2, 2)]


def test_figures_of_the_theorems(tmp_path):
    rows = [{"quantity": "theorem2-rtil", "data": "digits", "coupling": c, "value": v * t**-p, "se": 0.1 * t**-p, "x": t}
            for c, v, p in (("ic", 1.0, 2), ("gc-ideal", 0.5, 4)) for t in (5.0, 10.0, 20.0)]  # fmt: skip
    rows += [{"quantity": "theorem2", "data": "digits", "coupling": c, "value": -p, "se": 0.1, "case": "t from 5 to 20"}
             for c, p in (("ic", 2.0), ("gc-ideal", 4.0))]  # fmt: skip
    ratio = {"quantity": "theorem1", "data": "digits", "coupling": "ic", "case": "alpha = 2", "label": "squared"}
    rows += [ratio | {"x": n, "value": 1 + 1 / n} for n in (8.0, 64.0)]
    slope = {"quantity": "lemma1", "data": "digits", "coupling": "gc-ideal", "se": 0.1}
    rows += [slope | {"x": t, "value": -t, "truth": -t} for t in (1.0, 2.0)]
    measurements.write(tmp_path, "digits", "theory", [MeasurementRow(**row) for row in rows])
    figures = {figure.name: figure for figure in figures_measured.measured_figures(measurements.read(tmp_path, []), "digits")}
    assert set(figures) == {"theorem1-digits", "theorem2-digits", "lemma1-digits"}
    for figure in figures.values():
        drawing.save(figure, tmp_path / "figures")
    # all points lie on the fitted line here
    (axes,) = figures["theorem2-digits"].canvas.axes
    fits = [line for line in axes.get_lines() if "slope" in str(line.get_label())]
    assert len(fits) == 2
    assert fits[0].get_ydata() == pytest.approx([t**-2.0 for t in (5.0, 10.0, 20.0)])
    # -c'(t) is drawn, c'(t) is written
    assert [y for _, _, y, _ in figures["lemma1-digits"].points] == [1.0, 2.0]
    assert pd.read_csv(tmp_path / "figures" / "lemma1-digits.csv").value.tolist() == [-1.0, -2.0]
