"""Figure 2: its runs, batch-OT over more rows than a batch, the study's numbers against closed forms, and the verdict on C5."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from test_claims import judge
from theory_support import assert_refused
from train_support import copied, data_of, difference, fresh, stop_after, tiny_run, trained

from harness import cli
from harness.config import presets
from harness.config.experiments import expand
from harness.config.overrides import from_dict, override
from harness.config.parts import BatchOT, Data, Denoising, GeneratorAugmented, Independent, Protocol, coupling_label, coupling_slug
from harness.data import datasets
from harness.errors import HarnessError
from harness.reporting.figures_measured import measured_figures
from harness.reporting.verdicts import Outcome
from harness.store import measurements
from harness.store.measurements import MeasurementRow
from harness.store.runs import RunFolder, Store
from harness.theory.gaussian import Gaussian
from harness.theory.oracle import Oracle
from harness.theory.studies import figure2
from harness.theory.studies.common import StudyContext
from harness.training import user_couplings
from harness.training.batches import Batches, Processes
from harness.training.job import run_job
from harness.training.loop import Hooks, train

ROOT = Path(__file__).parents[1]


def pooled(size: int) -> BatchOT:
    return BatchOT(scope="global", size=size)


def batches_of(run, processes=Processes(), assign_ahead=False) -> Batches:  # noqa: B008 - frozen
    data = datasets.load(run.data.name, limit=run.data.limit)
    return Batches(run, data, processes, user_couplings.build(run), assign_ahead=assign_ahead)


# --- the runs


def test_ids_of_published_runs_are_what_they_were():
    published = json.loads((ROOT / "results/published/digits/runs.json").read_text())["runs"]
    ids = {run.id for name in ("table1", "sweep_mu") for run in expand(name, "digits")}
    assert len(ids) == 36 and ids <= set(published)
    assert all(from_dict(entry["config"]).id == name for name, entry in published.items())


def test_size_is_part_of_the_identity_only_where_it_is_set():
    plain = tiny_run(BatchOT(scope="global"))
    stored = plain.to_dict()
    assert stored["coupling"].pop("size") is None and from_dict(stored).id == plain.id
    assert len({plain.id, tiny_run(pooled(16)).id, tiny_run(pooled(48)).id}) == 3
    assert override(plain, ["coupling.size=48"]) == tiny_run(pooled(48))
    assert (coupling_slug(pooled(48)), coupling_label(pooled(48))) == ("ot-48", "OT (48)")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(["coupling.size=32"], "scope = 'global'"), (["coupling.scope=global", "coupling.size=24"], "multiple"), (["coupling.size=0"], "1")],
)
def test_a_size_that_does_not_fit_is_refused(settings, expected):
    with pytest.raises(HarnessError) as caught:
        override(tiny_run("ot", batch=16), settings)
    assert expected in caught.value.details["expected"]


@pytest.mark.parametrize("scale", list(presets.PRESETS_BY_SCALE))
def test_every_coupling_has_a_denoiser_that_differs_in_nothing_else(scale):
    runs = expand("figure2", scale, [0])
    table1 = {run.id for run in expand("table1", scale, [0])}
    (gc,) = [run for run in runs if run.id in table1]
    denoisers = [run for run in runs if run is not gc]
    assert gc.coupling == GeneratorAugmented(mu=0.5) and runs.index(gc) < len(runs) - 1
    frozen = GeneratorAugmented(mu=1, predictor="frozen", frozen=gc.id)
    assert [run.coupling for run in denoisers if run.coupling.kind != "batch-ot"] == [Independent(), frozen]
    sizes = [run.coupling.size for run in denoisers if run.coupling.kind == "batch-ot"]
    assert gc.train.batch in sizes and 512 in sizes
    assert len({json.dumps(figure2.protocol_of(run, 1)) for run in denoisers}) == 1
    assert {run.objective.kind for run in denoisers} == {"denoiser"} and set(denoisers[0].network.dropout) == {0.0}
    assert denoisers[-1].needs == (gc.id,)
    assert len({run.id for run in expand("figure2", scale, [0, 1])}) == 2 * len(runs)


# --- batch-OT over more rows than a batch, or fewer


@given(st.sampled_from([2, 3, 8]), st.sampled_from([1, 2, 3, 5]), st.booleans(), st.integers(0, 4), st.integers(0, 3))
def test_each_pool_is_the_optimal_assignment_of_its_rows(part, times, larger, number, seed):
    batch, size = (part, part * times) if larger else (part * times, part)
    run = tiny_run(pooled(size), batch=batch, seed=seed)
    coupled, drawn = batches_of(run), batches_of(run.model_copy(update={"coupling": Independent()}))
    steps = range(number * max(1, size // batch), (number + 1) * max(1, size // batch))
    x, z = (torch.cat([getattr(coupled(step), name) for step in steps]) for name in "xz")
    same_x, plain = (torch.cat([getattr(drawn(step), name) for step in steps]) for name in "xz")
    assert torch.equal(x, same_x)
    for a, b, c in zip(x.split(size), z.split(size), plain.split(size), strict=True):
        assert sorted(b.tolist()) == sorted(c.tolist())
        cost = cdist(a.double(), c.double(), "sqeuclidean")
        assert (a - b).double().square().sum().item() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-6)


@given(st.sampled_from([4, 16, 48]), st.integers(1, 5), st.integers(0, 7))
def test_the_number_of_processes_changes_no_pair(size, count, step):
    run = tiny_run(pooled(size), batch=16)
    whole = batches_of(run)(step)
    parts = [batches_of(run, Processes(rank, count))(step) for rank in range(count)]
    assert all(torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)) for name in "xz")


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(last_batch="released")])
def test_the_thread_ahead_changes_no_pair_from_wherever_it_starts(protocol):
    data = Data(name="eight-gaussians", limit=100)  # an epoch ends within a pool
    run = tiny_run(pooled(90), batch=30, steps=10, protocol=protocol, data=data)
    plain = [batches_of(run)(step) for step in range(10)]
    for first in (0, 4, 9):
        with closing(batches_of(run, assign_ahead=True)) as ahead:
            for number in range(first, 10):
                step = ahead(number)
                assert torch.equal(plain[number].x, step.x) and torch.equal(plain[number].z, step.z)


@pytest.mark.parametrize("stops", [(5,), (1, 2, 23), (12,)])
def test_a_run_stopped_within_a_pool_continues_bit_for_bit(stops):
    run = tiny_run(pooled(80), steps=24)  # pools of 5 steps, the last one cut short
    whole, model = trained(run), fresh(run)
    for at in stops:
        assert not train(run, data_of(run), model, Hooks(stop=stop_after(model, at)))
        model = copied(run, model)
    assert difference(trained(run, start=model).state(), whole.state()) == []


# --- the numbers


class Known:
    """A denoiser or a predictor that is a formula."""

    def __init__(self, function, run=None):
        self.function, self.run = function, run

    def __call__(self, x, sigma):
        return self.function(x, sigma)


def gaussian(d: int, s: float, n: int) -> figure2.CommonPairs:
    draw = torch.Generator().manual_seed(d)
    x = s * torch.randn(n, d, generator=draw)
    return figure2.CommonPairs(SimpleNamespace(name="gaussian"), x, torch.randn(n, d, generator=draw), Oracle(x[:10]))


def context(**changes) -> StudyContext:
    return StudyContext("toy", changes.pop("store", None), **changes)


def exactly(law: Gaussian, levels) -> dict:
    return {t: figure2.Estimate(law.proxy_ic(t), 0.0, 1) for t in levels}


@pytest.mark.parametrize("d", [2, 64])
def test_gaussian_data_under_ic_and_gc(d, monkeypatch):
    law, levels = Gaussian(d, 0.5), (0.1, 1.0, 20.0)
    common, truth = gaussian(d, 0.5, 20_000), exactly(law, levels)
    common = figure2.CommonPairs(common.data, common.x, common.z, SimpleNamespace(denoise=law.denoise))
    rows = figure2.by_denoiser(context(), tiny_run(objective=Denoising()), Known(law.denoise), common, truth)
    rtil, above = ([row for row in rows if row.quantity == name] for name in ("rtil", "rtil-bias"))
    assert [row.x for row in rtil] == [*levels] and {row.coupling for row in rows} == {"ic"}
    assert all(abs(row.errors_away) < 3 and row.truth == law.proxy_ic(row.x) for row in rtil)
    assert all(row.value == 0 for row in above)

    source = tiny_run("gc")
    run = tiny_run(GeneratorAugmented(mu=1, predictor="frozen", frozen=source.id), objective=Denoising())
    monkeypatch.setattr(figure2, "frozen_predictor_run", lambda run, store, device: Known(law.flow, source))
    rows = figure2.by_denoiser(context(), run, Known(lambda x, s: law.denoise_gc(x, float(s[0]))), common, truth)
    assert {(row.quantity, row.coupling, row.label) for row in rows} == {("rtil", "gc-0.5", "GC (mu=0.5)")}
    for row in rows:
        assert row.truth is None and abs(row.value - law.proxy_gc(row.x)) < 3 * row.se < 0.1 * row.value


def test_large_assignments_in_one_dimension_pair_by_rank():
    """Data N(0, s^2): the optimal map is z = x*/s, so with D(x_t) = s/(s + t) x_t only the error of a finite batch remains."""
    law, t, s = Gaussian(1, 0.5), 1.0, 0.5
    values = {}
    for size in (16, 512):
        run = tiny_run(pooled(size), objective=Denoising())
        (row,) = figure2.by_denoiser(context(), run, Known(lambda x, level: s / (s + t) * x), gaussian(1, s, 8192), exactly(law, [t]))
        assert row.n == 8192 // size and row.coupling == f"ot-{size}" and row.truth is None
        values[size] = row.value
    assert values[512] < 0.2 * values[16] < 0.2 * law.proxy_ic(t)
    assert values[512] < 0.01 * law.proxy_ic(t)


@pytest.mark.parametrize(("t", "value", "error"), [(1.0, 4.810, 0.014), (5.0, 0.7085, 0.0006), (20.0, 0.04677, 0.00003)])
def test_all_digits_under_ic(t, value, error):
    data = datasets.load("digits", "all")
    assert len(data) == 1797
    estimate = figure2.exact_ic(figure2.CommonPairs(data, None, None, Oracle(data.rows)), t, 0)
    assert abs(estimate.value - value) < 3 * math.hypot(estimate.se, error) and estimate.se < 2 * error


def test_the_bias_of_a_denoiser_that_is_off_by_a_known_amount():
    common = figure2.common_pairs(datasets.load("digits"), [tiny_run()])
    for t in (0.5, 20.0):
        off = Known(lambda x, s: common.oracle.denoise(x, s) + 0.03)
        above, difference_ = figure2.bias(off, common, t)
        assert above.value == pytest.approx(64 * 0.03**2 / t**2, rel=1e-3)
        assert abs(difference_.value - above.value) < 3 * difference_.se
    assert len(common.x) == figure2.ROWS


def test_pairs_are_enough_for_the_largest_assignment():
    data = datasets.load("two-moons")
    assert len(figure2.common_pairs(data, [tiny_run("ot"), tiny_run(pooled(1024))]).x) == 16 * 1024
    again = [figure2.common_pairs(data, [tiny_run()]) for _ in range(2)]
    assert torch.equal(again[0].x, again[1].x) and torch.equal(again[0].z, again[1].z)


# --- the whole study, and what is refused


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory):
    """All runs of a tiny Figure 2, done."""
    root = tmp_path_factory.mktemp("figure2")
    gc = tiny_run("gc", data=Data(name="two-moons", limit=200))
    frozen = GeneratorAugmented(mu=1, predictor="frozen", frozen=gc.id)
    denoisers = [tiny_run(coupling, data=gc.data, objective=Denoising()) for coupling in (Independent(), pooled(32), frozen)]
    for run in (gc, *denoisers):
        assert run_job(RunFolder.create(root, run.id, run.to_dict()).path, "cpu") == 0
    return Store(root), [gc, *denoisers]


def test_the_study(trained_runs, monkeypatch):
    monkeypatch.setattr(figure2, "ROWS", 512)
    monkeypatch.setattr(figure2, "IDEAL_ROWS", 64)
    store, runs = trained_runs
    rows = figure2.measure(context(store=store, runs=runs, levels=(20.0, 1.0)))
    of = {(row.quantity, row.coupling, row.case, row.x): row for row in rows}
    lines = {("rtil", "ic", ""), ("rtil", "ic", "exact"), ("rtil", "ot-32", ""), ("rtil", "gc-0.5", ""), ("rtil-bias", "ic", "")}
    assert {(*line, t) for line in lines for t in (1.0, 20.0)} <= of.keys() and len(of) == len(rows)
    assert {key[1] for key in of} - {line[1] for line in lines} <= {"gc-ideal"}
    alike = {row.protocol for row in rows if row.quantity == "rtil" and not row.case and row.coupling != "gc-ideal"}
    assert len(alike) == 1 and of["rtil", "ic", "exact", 1.0].protocol not in alike
    for t in (1.0, 20.0):
        by_denoiser, above = of["rtil", "ic", "", t], of["rtil-bias", "ic", "", t]
        assert by_denoiser.truth == of["rtil", "ic", "exact", t].value
        assert above.value > 0 and abs(above.errors_away) < 4
        assert abs(by_denoiser.value - above.value - by_denoiser.truth) < 4 * by_denoiser.se
    assert rows == figure2.measure(context(store=store, runs=runs, levels=(1.0, 20.0)))


def test_levels_of_the_ideal_flow_without_a_certain_value_are_left_out(monkeypatch):
    """There are enough draws down to t = 5, but no certain value at 80; if a level costs too much, nothing is computed."""
    results = {80.0: (1.0, 0.9, 30), 20.0: (2.0, 0.5, 20), 5.0: (3.0, 0.5, 6), 1.0: (4.0, 0.1, 2)}
    asked = []

    def proxy_gc(oracle, rows, t, draws, proposals):
        asked.append((t, len(rows)))
        value, se, size = results[t]
        return SimpleNamespace(value=figure2.Estimate(value, se, len(rows)), draws=size)

    monkeypatch.setattr(figure2, "proxy_gc", proxy_gc)
    common = gaussian(2, 0.5, 100)
    rows = figure2.ideal(context(), common, list(results))
    measured = [(row.coupling, row.x, row.value, row.se) for row in rows]
    assert measured == [("gc-ideal", 20.0, 2.0, 0.5), ("gc-ideal", 5.0, 3.0, 0.5)]
    pilot, whole = figure2.PILOT_ROWS, figure2.IDEAL_ROWS
    assert asked == [(80.0, pilot), (80.0, whole), (20.0, pilot), (20.0, whole), (5.0, pilot), (5.0, whole), (1.0, pilot)]
    asked.clear()
    expensive = figure2.CommonPairs(common.data, common.x, common.z, SimpleNamespace(points=torch.empty(60_000, 784)))
    assert figure2.ideal(StudyContext("fashion", None, note=asked.append), expensive, list(results)) == []
    assert len(asked) == 1 and "cost too much" in asked[0]


def test_what_cannot_be_measured_is_refused(trained_runs, tmp_path):
    store, runs = trained_runs
    with assert_refused(where=tmp_path):
        figure2.measure(context(store=Store(tmp_path), runs=runs))
    with assert_refused(where="figure2", found="no denoiser", expected="objective.kind = denoiser"):
        figure2.measure(context(store=store, runs=runs[:1]))
    with assert_refused(where="--t", found="0.001", nearest="0.002"):
        context(store=store, runs=runs, levels=(0.001,))


@pytest.mark.parametrize(("more", "fact"), [([], "not done"), (["--t", "0.001"], "0.002 <= t <= 80"), (["--t", "81"], "nearest:  80")])
def test_the_command_line_reports_it_with_exit_code_2(more, fact, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    assert cli.main(["measure", "figure2", "--scale", "toy", *more]) == 2
    assert fact in capsys.readouterr().err


# --- the figure


def drawn(root: Path, rows: list[dict]):
    path = measurements.write(root, "digits", "figure2", [MeasurementRow(**row) for row in rows])
    (figure,) = measured_figures(measurements.read_file(path, "digits"), "digits")
    return figure


def test_the_figure_is_cut_where_the_exact_value_vanishes_and_shows_shares_of_ic(tmp_path):
    lines = {("ic", ""): (4.0, 2.0), ("ic", "exact"): (1e-12, 1.9), ("ot-512", ""): (3.0, 1.0), ("ot-64", ""): (3.5, 1.5)}
    rows = [
        {"quantity": "rtil", "data": "digits", "coupling": coupling, "case": case, "x": t, "value": value, "se": 0.01 * value}
        for (coupling, case), values in lines.items() for t, value in zip((1.0, 5.0), values, strict=True)
    ]  # fmt: skip
    figure = drawn(tmp_path, rows)
    left, right = figure.canvas.axes
    assert left.get_ylim()[0] == pytest.approx(0.5) and left.get_yscale() == "log" and right.get_ylim()[0] == 0
    labels = [box.get_legend_handles_labels()[1] for box in (left, right)]
    assert labels[0] == ["IC", "IC, exact", "batch-OT (64)", "batch-OT (512)"]
    assert labels[1].pop(0) == "equal to IC" and labels[1] == labels[0][1:]
    shares = {label: list(line[0].get_ydata()) for label, line in zip(labels[1], right.containers, strict=True)}
    assert shares["batch-OT (512)"] == pytest.approx([0.75, 0.5]) and shares["IC, exact"] == pytest.approx([0, 0.95], abs=1e-9)
    low, high = right.containers[-1][2][0].get_segments()[1]
    assert high[1] - low[1] == pytest.approx(2 * stats.norm.ppf(0.975) * 0.5 * 0.01 * math.sqrt(2))
    looks = [{label: (line[0].get_linestyle(), line[0].get_marker()) for label, line in zip(names, box.containers, strict=True)}
             for names, box in zip(labels, (left, right), strict=True)]  # fmt: skip
    assert looks[1].items() <= looks[0].items() and looks[0]["IC"] != looks[0]["IC, exact"]
    assert len(figure.points) == 8 + 6 and len(figure.data) == 8


def test_a_coupling_alone_has_one_panel(tmp_path):
    rows = [{"quantity": "rtil", "data": "digits", "coupling": "ic", "case": "", "x": t, "value": 1 / t, "se": 0.1} for t in (1.0, 5.0)]
    exact = [{**row, "case": "exact"} for row in rows]
    assert len(drawn(tmp_path, rows + exact).canvas.axes) == 1
    assert len(drawn(tmp_path, exact).canvas.axes) == 1


# --- the verdict


class TestC5:
    """IC falls like t^-2 and GC like t^-4, with batch-OT between them; other rows of the file must not affect the verdict."""

    t = np.geomspace(0.5, 40, 6)

    def rows(self, data: str = "digits", **of) -> list[dict]:
        values = {"ic": 1 / self.t**2, "ot-64": 0.9 / self.t**2, "ot-512": 0.7 / self.t**2, "gc-0.5": 0.3 / self.t**2 / (1 + self.t**2)}
        values |= {name.replace("_", "-").replace("0-5", "0.5"): values_of for name, values_of in of.items()}
        return [
            {"quantity": "rtil", "data": data, "coupling": name, "x": t, "value": value, "se": 0.005 * value, "protocol": "denoisers"}
            for name, values_of in values.items() for t, value in zip(self.t, values_of, strict=True)
        ]  # fmt: skip

    def others(self) -> list[dict]:
        """Exact IC below every denoiser, an ideal GC above, a denoiser of another kind, and Gaussian data without batch-OT."""
        ic, gc = ([row for row in self.rows() if row["coupling"] == name] for name in ("ic", "gc-0.5"))
        exact = [{**row, "case": "exact", "value": row["value"] / 1e3, "protocol": "oracle"} for row in ic]
        ideal = [{**row, "coupling": "gc-ideal", "value": 1e3, "protocol": "flow"} for row in exact]
        other = [{**row, "value": 2e3, "protocol": "short training"} for row in gc]
        return [*exact, *ideal, *other, *({**row, "data": "gaussian"} for row in exact)]

    def judged(self, root: Path, rows: list[dict]):
        measurements.write(root, "digits", "figure2", [MeasurementRow(**row) for row in rows])
        return judge(root, "C5")

    def test_only_rows_of_one_protocol_are_compared(self, tmp_path):
        verdict = self.judged(tmp_path, self.others() + self.rows())
        assert verdict.outcome is Outcome.SUPPORTED, verdict.evidence()
        assert len(verdict.tests) == 2 * 2 * 6 + 1
        assert {test.what.partition(" at")[0] for test in verdict.tests[:-1]} == {
            f"Digits (8x8), Rtil {order}" for order in ("GC - OT 64", "GC - OT 512", "OT 64 - IC", "OT 512 - IC")
        }

    @pytest.mark.parametrize("size", [64, 512])
    def test_every_size_counts(self, tmp_path, size):
        verdict = self.judged(tmp_path, self.rows(**{f"ot_{size}": 1.1 / self.t**2}) + self.others())
        assert verdict.outcome is Outcome.CONTRADICTED

    def test_the_gap_has_to_grow(self, tmp_path):
        verdict = self.judged(tmp_path, self.rows(gc_0_5=0.3 / self.t**1.5))
        assert verdict.outcome is Outcome.CONTRADICTED and "ln(" in verdict.tests[-1].what

    def test_rows_of_different_protocols_are_not_compared(self, tmp_path):
        rows = [{**row, "protocol": row["coupling"]} for row in self.rows()]
        assert self.judged(tmp_path, rows).outcome is Outcome.NOT_RUN
