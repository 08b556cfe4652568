"""`harness measure` of a finished run and of a study: numbers against quadrature, files, the table, progress, and bad input."""

from __future__ import annotations

import io
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy import stats
from scipy.integrate import quad
from test_job import finish
from torch import nn
from train_support import tiny_run

from harness import cli
from harness.commands import measure
from harness.config.parts import Data, Denoising, GeneratorAugmented, Noise
from harness.config.selection import Selection
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.reporting import produce, publish
from harness.stats.measured import measured_difference, measured_mean
from harness.store import measurements
from harness.store.measurements import MeasurementRow
from harness.store.runs import RunFolder, Store
from harness.theory import oracle
from harness.theory.estimate import Estimate
from harness.theory.studies import figure3, single_run
from harness.theory.studies.common import StudyContext, measured_row, verdict
from harness.training.trained_runs import TrainedRun

SMALL = {"data": Data(name="eight-gaussians", limit=100), "steps": 20}
RUNS = {name: tiny_run(name, **SMALL) for name in ("ic", "ot", "gc")}
FROZEN = GeneratorAugmented(mu=1, predictor="frozen", frozen=RUNS["gc"].id)
DENOISERS = {name: tiny_run(coupling, objective=Denoising(), **SMALL) for name, coupling in (("ic", "ic"), ("gc", FROZEN))}


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """A results folder with IC, batch-OT and GC, and denoisers of the pairs of IC and GC; tests copy it."""
    root = tmp_path_factory.mktemp("finished")
    for run in (*RUNS.values(), *DENOISERS.values()):
        finish(root, run)
    return root


@pytest.fixture
def store(finished_runs, tmp_path, monkeypatch) -> Store:
    shutil.copytree(finished_runs, tmp_path / "results")
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(figure3, "PAIR_BATCHES", 8)
    return Store()


def read(store: Store, run) -> pd.DataFrame:
    return measurements.read_file(store.root / "measured" / "toy" / "runs" / f"{run.id}.csv", "toy")


# ------------------------------------------------------------------------------------------------------------- what is measured


class Shrinking(nn.Module):
    """f(x, t) = x/(1 + t)"""

    bf16 = False

    def forward(self, x, sigma, labels=None):
        return x / (1 + sigma)[:, None]


@pytest.fixture
def two_points(tmp_path) -> tuple[TrainedRun, StudyContext]:
    """The linear f on two data points in one dimension, -0.6 and 0.6 (400 times each), for which expectations are integrals."""
    run = tiny_run("ic", noise=Noise(sigma_max=4.0))
    data = Dataset("eight-gaussians", "train", "", rows=torch.tensor([[-0.6], [0.6]], dtype=torch.float64).repeat(400, 1))
    return TrainedRun(run, RunFolder(tmp_path), Shrinking(), data), StudyContext("toy", Store(tmp_path), levels=(0.5, 2.0))


def integrand(t: float, alpha: float) -> float:
    """E|d_CT f|^alpha - E|d_CD f|^alpha at t by quadrature; by symmetry over the pairs of the point 0.6."""

    def at(z: float) -> float:
        x = 0.6 + t * z
        v = (x - 0.6 * np.tanh(0.6 * x / t**2)) / t
        ct, cd = -x / (1 + t) ** 2 + z / (1 + t), -x / (1 + t) ** 2 + v / (1 + t)
        return (abs(ct) ** alpha - abs(cd) ** alpha) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    return quad(at, -9, 9, limit=400, points=[-0.6 / t])[0]


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_discrepancy_of_a_linear_f_against_quadrature(two_points, alpha):
    rows = single_run.measure(two_points[0], ["discrepancy"], two_points[1])
    mine = {(row.quantity, row.x): row for row in rows if row.case == f"alpha = {alpha:g}"}
    whole = mine["discrepancy", None]
    truth = quad(lambda u: np.exp(u) * integrand(np.exp(u), alpha), np.log(0.03), np.log(4.0), limit=60, epsabs=1e-4)[0]
    assert abs(whole.value - truth) < 4 * whole.se and 0 < whole.se < 0.2 * truth
    for t in (0.5, 2.0):
        at = mine["discrepancy-at", t]
        assert abs(at.value - integrand(t, alpha)) < 4 * at.se < integrand(t, alpha)


def test_the_proxy_of_ic_against_quadrature(two_points):
    rows = {row.x: row for row in single_run.measure(two_points[0], ["proxy"], two_points[1])}
    for t, row in rows.items():

        def at(z, t=t):
            return 0.36 * (1 - np.tanh(0.6 * (0.6 + t * z) / t**2) ** 2) / t**2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

        assert abs(row.value - quad(at, -9, 9)[0]) < 4 * row.se < 0.3 * row.value and row.coupling == "ic"
    assert rows[0.5].value > rows[2.0].value


def test_all_three_measurements_of_a_run_of_ic_by_a_part_of_its_name(store, capsys):
    assert cli.main(["measure", RUNS["ic"].id[:-4], "--what", "discrepancy,transport,proxy", "--t", "1,20", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "lambda = 1 over t = 0.002 ... 80" in printed.out and "v exact on 100 data" in printed.out and not printed.err
    rows = read(store, RUNS["ic"])
    assert set(rows.quantity) == {"discrepancy", "discrepancy-at", "cost", "cost-change", "cost-data", "data-distance", "pair-cost", "rtil"}
    assert set(rows[rows.quantity == "rtil"].x) == {1.0, 20.0} and (rows[rows.quantity == "discrepancy"].value > 0).all()
    costs = rows[(rows.quantity == "cost") & (rows.coupling == "gc")]
    assert list(costs.x) == [0.0, 1.0, 20.0] and set(costs.case) == {"by ic"}


def test_the_files_of_a_run_are_separate_from_those_of_the_studies(store):
    """The report reads what studies measured; measuring one run must not change its claims or its figures."""
    assert cli.main(["measure", str(store.folder(RUNS["gc"].id).path), "--what", "transport", "--t", "1,5", "--device", "cpu"]) == 0
    assert measurements.read(store.root, []).empty
    folder = store.root / "figures" / "runs" / RUNS["gc"].id
    assert {path.suffix for path in folder.iterdir()} == {".pdf", ".png", ".csv"} and list((store.root / "figures").glob("*.*")) == []


@pytest.fixture
def measure_toy(store, monkeypatch, capsys):
    """Measures figure3 at the toy scale, whose only number is the one given, with these options."""

    def measure_with(value: float, *options: str) -> None:
        monkeypatch.setattr(measure, "check_done", lambda name, context: None)
        monkeypatch.setattr(figure3, "measure", lambda context: [MeasurementRow("cost", "eight-gaussians", value, coupling="ic")])
        assert cli.main(["measure", "figure3", "--scale", "toy", "--device", "cpu", *options]) == 0
        capsys.readouterr()

    return measure_with


VARIANTS = (["--set", "train.steps=7"], ["--seeds", "7,"], ["--coupling", "mine.py:swapped"], ["--set", "train.steps=7", "--seeds", "7,"])


def test_measurements_of_other_runs_or_levels_leave_those_of_the_study(store, measure_toy, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def swapped(x, z, sigma, predict, generator):\n    return x, z\n")
    measure_toy(0.0)
    plain = store.root / "measured" / "toy" / "figure3.csv"
    before = plain.read_bytes(), sorted(path.name for path in (store.root / "figures").glob("*.*"))
    for value, options in enumerate((*VARIANTS, ["--t", "1,5"], ["--t", ",".join(map(str, range(1, 80)))]), 1):
        measure_toy(value, *options)
    assert (plain.read_bytes(), sorted(path.name for path in (store.root / "figures").glob("*.*"))) == before
    assert len(list((plain.parent / "variants").glob("figure3-*.csv"))) == len(VARIANTS) + 2
    assert list(measurements.read(store.root, []).value) == [0.0]
    judged = []
    monkeypatch.setattr(produce.claims, "judge", lambda evidence: judged.append(list(evidence.measured.value)) or [])
    for options in ([], *VARIANTS, ["--seeds", "9,"]):
        assert cli.main(["report", "figure3", "--scale", "toy", "--records", "own", *options]) == 0
    assert judged == [[0.0], *([value] for value in range(1, len(VARIANTS) + 1)), []]
    capsys.readouterr()
    assert cli.main(["report"]) == 0
    assert "toy/figure3-train.steps=7" in capsys.readouterr().out and judged[-1] == [0.0]


def test_the_default_seeds_are_those_of_the_study_however_they_are_asked_for(store, measure_toy):
    measure_toy(1.0)
    measure_toy(2.0, "--seeds", str(len(Selection("figure3", "toy").runs()) // len(Selection("figure3", "toy", seeds=(0,)).runs())))
    assert list(measurements.read(store.root, []).value) == [2.0]
    assert not (store.root / "measured" / "toy" / "variants").exists()


def test_what_is_published_are_the_studys_measurements_or_those_of_the_seeds_asked_for(tmp_path):
    more, changed = Selection("figure2", "toy", seeds=(0, 1, 2, 3)), Selection("figure2", "toy", overrides=("train.steps=7",))
    for selection in (None, more, changed):
        name = measurements.variant("figure2", selection.suffix() if selection else "")
        measurements.write(tmp_path, "toy", name, [MeasurementRow("rtil", "eight-gaussians", 1.0)])
    folder = tmp_path / "measured" / "toy"
    for selection, path in (
        (Selection("figure2", "toy"), folder / "figure2.csv"),
        (more, folder / f"{measurements.variant('figure2', more.suffix())}.csv"),
        (changed, folder / "figure2.csv"),
        (Selection("table1", "toy", seeds=(0, 1, 2)), folder / "figure2.csv"),
    ):
        assert publish.measured_files(selection, tmp_path) == {"figure2": path}


@pytest.mark.parametrize("name", list(RUNS))
def test_the_pairs_cost_what_training_recorded(store, name):
    assert cli.main(["measure", RUNS[name].id, "--what", "transport", "--t", "1", "--device", "cpu"]) == 0
    rows = read(store, RUNS[name])
    (pairs,) = rows[rows.quantity == "pair-cost"].itertuples()
    assert pairs.coupling == {"ic": "ic", "ot": "ot", "gc": "gc-0.5"}[name]
    assert abs(pairs.value - pairs.truth) < 4 * np.hypot(pairs.se, pairs.truth_se)


def test_gc_with_the_denoiser_of_its_pairs(store, capsys):
    assert cli.main(["measure", RUNS["gc"].id, "--what", "discrepancy,proxy", "--t", "1", "--device", "cpu"]) == 0
    assert f"pairs of {DENOISERS['gc'].id}, v by that denoiser" in capsys.readouterr().out
    rows = read(store, RUNS["gc"])
    assert (rows[rows.quantity == "discrepancy"].value > 0).all() and (rows[rows.quantity == "rtil"].value > 0).all()


def test_a_denoiser_of_ic_is_compared_with_the_exact_proxy(store):
    """The proxy by any denoiser is too large, never too small."""
    assert cli.main(["measure", DENOISERS["ic"].id, "--what", "proxy", "--t", "1,5", "--device", "cpu"]) == 0
    rows = read(store, DENOISERS["ic"])
    trained, exact = rows[rows.case != "exact"], rows[rows.case == "exact"]
    assert list(trained.truth) == pytest.approx(list(exact.value)) and (trained.value > trained.truth).all()


# ---------------------------------------------------------------------------------------------------------------------- bad input


def assert_refused(capsys, *arguments: str, **facts: object) -> str:
    """The message of the command, which must exit with 2, without traceback and table, and state these details."""
    assert cli.main(["measure", *arguments, "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "estimate" not in printed.out
    for key, text in facts.items():
        assert re.search(rf"^  {key}: +.*{re.escape(str(text))}", printed.err, re.MULTILINE), (key, text, printed.err)
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--t", "0.001"], {"found": "0.001", "expected": "0.002 <= t <= 80", "nearest": "0.002"}),
        (["--t", "1,81"], {"found": "81.0", "nearest": "80"}),
        (["--t", "nan"], {"found": "nan"}),
        (["--t", "one"], {"found": "one"}),
        (["--t", ","], {"where": "--t"}),
        (["--what", "transprt"], {"where": "--what", "expected": "discrepancy, transport, proxy, ema", "nearest": "transport"}),
        (["--what", ","], {"where": "--what", "expected": "discrepancy, transport, proxy, ema"}),
    ],
)
def test_bad_options(store, capsys, arguments, facts):
    assert_refused(capsys, RUNS["ic"].id, *arguments, **facts)


def test_a_level_outside_those_of_the_run(two_points):
    with pytest.raises(HarnessError) as caught:
        single_run.measure(two_points[0], ["proxy"], StudyContext("toy", two_points[1].store, levels=(5.0,)))
    assert caught.value.details == {"where": "--t", "found": "5.0", "expected": "0.002 <= t <= 4", "nearest": "4.0"}


def test_a_run_that_is_unknown_or_not_finished(store, capsys):
    assert "two-mons" in assert_refused(capsys, "two-mons")
    begun = tiny_run("ic", **{**SMALL, "seed": 7})
    RunFolder.create(store.root, begun.id, begun.to_dict())
    assert_refused(capsys, begun.id, found="new", nearest=f"harness run {begun.id}")


def test_a_coupling_without_a_denoiser(store, capsys):
    for what in ("discrepancy", "proxy"):
        assert_refused(capsys, RUNS["ot"].id, "--what", what, where=RUNS["ot"].id, nearest="harness sweep figure2 --scale toy --seeds 1")


def test_a_denoiser_is_not_a_consistency_function(store, capsys):
    for what in ("discrepancy", "transport"):
        assert_refused(capsys, DENOISERS["ic"].id, "--what", what, found="objective.kind = denoiser", nearest="--what proxy")


def test_a_model_with_labels(store, capsys):
    run = tiny_run("ic", data=Data(name="two-moons", labels=True), steps=5)
    finish(store.root, run)
    capsys.readouterr()
    assert_refused(capsys, run.id, found="data.labels = true")


@pytest.mark.parametrize("what", ["discrepancy", "transport", "proxy"])
def test_data_too_large_for_the_memory(store, capsys, monkeypatch, what):
    monkeypatch.setattr(oracle, "available_memory", lambda device="cpu": 500)
    assert_refused(capsys, RUNS["ic"].id, "--what", what, found="GiB needed")


def test_missing_runs_name_the_command_that_trains_them(store, capsys):
    options = ["--scale", "toy", "--seeds", "5,", "--set", "train.steps=7", "--results", str(store.root)]
    assert "9 of the 9" in assert_refused(capsys, "figure3", "--scale", "toy", found="is new", nearest="harness sweep figure3 --scale toy")
    assert_refused(capsys, "figure3", *options, nearest=f"harness sweep figure3 {' '.join(options)}")


# ------------------------------------------------------------------------------------------------------------------------ progress


def reported(terminal: bool, width: int = 100) -> str:
    """What `shown_progress` prints for two parts with a note in between."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=True)
    with measure.shown_progress(console, StudyContext("toy", None)) as context:
        context.progress("digits: first [part]", 1, 2)
        context.note("a note")
        context.progress("digits: second part", 2, 2)
    return out.getvalue()


def test_progress_is_one_line_per_part_where_the_output_is_not_a_terminal():
    assert reported(terminal=False).splitlines() == ["[1/2] digits: first [part]", "a note", "[2/2] digits: second part"]


def test_progress_is_a_bar_with_the_elapsed_time_on_a_terminal():
    text = reported(terminal=True)
    for part in ("0/2", "1/2", "0:00:0", "digits: first [part]", "digits: second part", "a note"):
        assert part in text, text
    assert "[1/2]" not in text


def test_a_narrow_terminal_cuts_the_title_of_a_part_and_nothing_else():
    lines = [line for line in re.split(r"[\r\n]", reported(terminal=True, width=50)) if "1/2" in line]
    assert lines and all("0:00:0" in line and "…" in line for line in lines)


def test_a_context_is_silent_by_default(two_points, capsys):
    single_run.measure(two_points[0], ["proxy"], two_points[1])
    assert capsys.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------------------- the table


def shown(rows, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, no_color=True)
    measure.show(rows, console, "a study")
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_and_cuts_no_number(width):
    numbers = {"value": 123.456789, "se": 0.0123, "truth": 123.4, "truth_se": 0.001, "x": 0.002}
    rows = [
        MeasurementRow("endpoint-of-sorts", "digits", coupling="gc-0.5", case="by a model with a long name", **numbers),
        MeasurementRow("cost-change", "two-moons", -2.5, coupling="gc", se=0.5, stated_negative=True),
    ]
    text = shown(rows, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for part in ("123.46 ± 0.012", "123.4 ± 0.001", "DIFFERS (+4.6 se)", "Digits (8x8)", "Two moons", "below 0 (-5.0 se)"):
        assert part in text, text


def test_many_rows_are_shown_as_their_number():
    text = shown([MeasurementRow("path", "digits", float(i), x=1.0) for i in range(measure.MOST_ROWS + 1)], 80)
    assert "path: 61 rows, in the file" in text and len(text.splitlines()) < 10


def test_seeds_are_one_row_with_the_interval_of_tables_and_verdicts():
    values = np.random.default_rng(0).standard_normal(3) + 5
    row = MeasurementRow("cost", "digits", 0.0, coupling="gc", x=1.0, se=0.1, n=1000, truth=5.0)
    rows = [replace(row, value=value, seed=seed) for seed, value in enumerate(values)]
    other = MeasurementRow("cost", "digits", 1.0, coupling="ic")
    merged, unchanged = measure.over_seeds([*rows, other])
    assert unchanged.row is other and unchanged.over_seeds is None
    assert (merged.row.case, merged.row.truth, merged.row.value) == ("(3 seeds)", 5.0, pytest.approx(values.mean()))
    assert merged.over_seeds == measured_mean(rows) and merged.over_seeds.n == 3
    p = measured_difference(rows, [replace(other, value=5.0, se=0.0)]).p
    assert abs(merged.away) == pytest.approx(stats.norm.isf(p / 2))
    assert [line.row for line in measure.over_seeds(rows[:1])] == rows[:1]
    text = shown([*rows, other], 100)
    assert f"[{merged.over_seeds.low:.5g}, {merged.over_seeds.high:.5g}]" in text and "95 % interval" in text and "agrees" in text


def test_three_standard_errors_of_three_seeds_are_no_difference():
    rows = [
        MeasurementRow("pair-cost", "digits", value, coupling="gc", se=0.1, n=99, truth=0.0, seed=i) for i, value in enumerate((4, 5, 9))
    ]
    (merged,) = measure.over_seeds(rows)
    assert 6 / (7**0.5 / 3**0.5) > 3 > merged.away > 1.5
    same = [replace(row, value=1.0) for row in rows]
    assert math.isnan(measure.over_seeds(same)[0].away) and "undecided" in shown(same, 100)
    assert measure.over_seeds([replace(row, truth=1.0) for row in same])[0].away == 0


@pytest.mark.parametrize(
    ("value", "se", "truth", "expected"),
    [(1.0, 0.1, 1.2, "agrees (-2.0 se)"), (1.0, 0.1, 1.4, "DIFFERS (-4.0 se)"), (1.0, None, 1.0, "agrees (+0.0 se)"),
     (1.0, None, 2.0, "DIFFERS (far)"), (1.0, 0.1, None, "")],
)  # fmt: skip
def test_verdicts(value, se, truth, expected):
    assert verdict(MeasurementRow("cost", "digits", value, se=se, truth=truth)) == expected


@pytest.mark.parametrize(("value", "expected"), [(-1.0, "below 0 (-10.0 se)"), (1.0, "ABOVE 0 (+10.0 se)"), (-0.1, "undecided (-1.0 se)")])
def test_verdicts_on_what_is_stated_to_be_negative(value, expected):
    assert verdict(MeasurementRow("cost-change", "digits", value, se=0.1, stated_negative=True)) == expected


def test_an_estimate_of_one_draw_has_no_error():
    assert measured_row("cost", Estimate(1.0, float("nan"), 1), data="digits").se is None


# --- the metrics of samples, measured again


def test_metrics_measured_again_are_those_that_the_run_recorded(store):
    assert cli.main(["measure", RUNS["gc"].id, "--what", "metrics", "--device", "cpu"]) == 0
    rows = measurements.read_file(next(store.root.rglob(f"{RUNS['gc'].id}.csv")), "toy")
    recorded = {row["metric"] for row in store.folder(RUNS["gc"].id).records() if row["final"]}
    assert set(rows.quantity) == recorded - {"pair_cost"} and "w2" in recorded
    assert rows.value.to_numpy() == pytest.approx(rows.truth.to_numpy(), rel=1e-9)


def test_metrics_of_a_kept_checkpoint(store, capsys):
    assert store.folder(RUNS["ic"].id).stored_steps() == [14, 20]
    arguments = ["measure", RUNS["ic"].id, "--what", "metrics", "--device", "cpu"]
    assert cli.main([*arguments, "--step", "14"]) == 0
    rows = measurements.read_file(next(store.root.rglob(f"{RUNS['ic'].id}-step-14.csv")), "toy")
    assert (rows.x == 14).all() and rows.truth.isna().all()
    final = next(row["value"] for row in store.folder(RUNS["ic"].id).records() if row["final"] and row["metric"] == "w2")
    assert rows[rows.quantity == "w2"].value.item() != final
    capsys.readouterr()
    assert cli.main([*arguments, "--step", "7"]) == 2
    assert "14, 20" in capsys.readouterr().err
    assert cli.main(["measure", DENOISERS["ic"].id, "--what", "metrics", "--device", "cpu"]) == 2
    assert "denoiser" in capsys.readouterr().err
