"""The thirteen claims, each judged on records for which the right verdict is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from report_support import make_results, make_run, records

from harness.config.experiments import expand
from harness.config.overrides import from_dict
from harness.config.parts import GeneratorAugmented
from harness.config.run import Run
from harness.reporting import claims, paper_values
from harness.reporting import load as reader
from harness.reporting.cells import all_cells
from harness.reporting.values import CellValues
from harness.reporting.verdicts import Evidence, Outcome, Verdict
from harness.store import measurements
from harness.store.measurements import MeasurementRow

SEEDS = [0, 1, 2]


def judge(root: Path, claim: str, scale: str = "digits") -> Verdict:
    return judge_all(root, scale)[claim]


def judge_all(root: Path, scale: str) -> dict[str, Verdict]:
    """The verdicts by claim."""
    loaded = reader.read(root)
    measured = measurements.read(root, [])
    verdicts = claims.judge(Evidence(all_cells(scale, loaded), CellValues(loaded), measured[measured.scale == scale]))
    return {verdict.id: verdict for verdict in verdicts}


def changed(run: Run, **changes) -> Run:
    """A run with other values of top-level parts, given as dictionaries."""
    values = run.to_dict()
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) and isinstance(values[key], dict) else value
    return from_dict(values)


def add(root: Path, runs: list[Run], level: float) -> None:
    """Runs whose final FID and curve are `level` times those invented for IC, and a little more or less by seed."""
    for run in runs:
        plain = run.model_copy(update={"coupling": expand("table1", "digits", [0])[0].coupling})
        factor = level * (1 + 0.01 * level * math.sin(run.seed + 1))  # equal differences on all seeds would allow no test
        rows = [
            {**row, "run": run.id, "value": row["value"] * (factor if row["metric"].startswith("fid") else 1)} for row in records(plain)
        ]
        make_run(root, run, rows=[{**row, "step": min(row["step"], run.train.steps)} for row in rows])


def plain(coupling: str) -> list[Run]:
    return [run for run in expand("table1", "digits", SEEDS) if run.slug.startswith(f"digits-{coupling}-s")]


def test_every_claim_of_the_paper_has_a_judge():
    known = {claim["id"]: claim for claim in paper_values.paper()["claims"]}
    assert list(known) == [f"C{i}" for i in range(1, 14)]
    assert all(claim["judge"] in claims.JUDGES and claim["text"] and claim["figure"] for claim in known.values())


@pytest.mark.parametrize(("strength", "outcome"), [(1.0, "supported"), (-1.0, "contradicted")])
def test_c1_follows_the_sign_of_the_difference(tmp_path, strength, outcome):
    make_results(tmp_path, "table1", "digits", SEEDS, strength=strength)
    verdict = judge(tmp_path, "C1")
    assert verdict.outcome == outcome
    assert verdict.tests[0].difference.n == 3
    assert "p = " in verdict.evidence()[0]


@pytest.mark.parametrize("couplings", [("ic",), ("ic", "ot", "gc-0.3", "gc-0.5", "gc-0.7", "gc-1")])
def test_an_unfinished_run_is_in_no_test(tmp_path, couplings):
    """Its curve is that of the first half of the training, which has other means."""
    runs = [*expand("table1", "digits", SEEDS), *expand("sweep_mu", "digits", SEEDS)]
    unfinished = {run.id for run in runs if run.seed == 2 and any(run.slug.startswith(f"digits-{name}-s") for name in couplings)}
    for name in ("without", "with"):
        for run in {run.id: run for run in runs}.values():
            if run.id not in unfinished or name == "with":
                make_run(tmp_path / name, run, done=run.id not in unfinished)
    judged = [judge_all(tmp_path / name, "digits") for name in ("without", "with")]
    for claim in ("C1", "C3", "C4"):
        before, after = ([test.difference for test in each[claim].tests] for each in judged)
        assert before == after and {difference.n for difference in before if difference} <= {2, 3}


def test_no_difference_is_inconclusive(tmp_path):
    for level, coupling in ((1.0, "ic"), (1.0, "gc-0.5")):
        runs = plain(coupling)
        for run in runs:
            noise = level * math.exp(0.05 * (-1) ** (run.seed + (coupling == "ic")))
            add(tmp_path, [run], noise)
    assert judge(tmp_path, "C1").outcome is Outcome.INCONCLUSIVE


def test_one_seed_is_never_enough(tmp_path):
    make_results(tmp_path, "table1", "digits", [0])
    verdict = judge(tmp_path, "C1")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary == "inconclusive (one seed)"
    assert "p = " not in " ".join(verdict.evidence())


def test_without_runs_a_claim_is_not_run(tmp_path):
    add(tmp_path, plain("ic"), 1.0)
    verdict = judge(tmp_path, "C1")
    assert verdict.outcome is Outcome.NOT_RUN
    assert "gc-0.5 not run" in verdict.evidence()[0]


def test_c2_is_about_every_data_set_but_church(tmp_path):
    make_results(tmp_path, "table1", "paper", SEEDS)
    verdict = judge(tmp_path, "C2", "paper")
    assert len(verdict.tests) == 3
    assert not any("Church" in test.what for test in verdict.tests)
    assert len(judge(tmp_path, "C1", "paper").tests) == 4


def test_c3_and_c4_from_the_mu_sweep(tmp_path):
    make_results(tmp_path, "sweep_mu", "digits", SEEDS)
    c3, c4 = judge(tmp_path, "C3"), judge(tmp_path, "C4")
    assert c3.outcome is Outcome.SUPPORTED
    assert len(c3.tests) == 5 * 4  # mu = 0.3 ... 0.7 by 0.1, final and convergence, against IC and OT
    assert c4.outcomes[-1] is Outcome.SUPPORTED
    assert "last quarter" in c4.tests[-1].what
    assert c4.outcome is not Outcome.CONTRADICTED


def test_c7_frozen_predictors(tmp_path):
    teachers = plain("ic")
    add(tmp_path, teachers, 1.0)
    weak = [changed(run, train={"steps": 520}) for run in teachers]
    add(tmp_path, weak, 3.0)
    for level, needed in ((0.6, teachers), (0.8, weak)):
        gc = [changed(run, coupling={"kind": "gc", "mu": 0.5, "predictor": "frozen", "frozen": need.id})
              for run, need in zip(teachers, needed, strict=True)]  # fmt: skip
        add(tmp_path, gc, level)
    verdict = judge(tmp_path, "C7")
    assert verdict.outcome is Outcome.SUPPORTED, verdict.evidence()
    assert len(verdict.tests) == 3


def test_c8_ect(tmp_path):
    base = plain("ic")
    ect = [changed(run, objective={"kind": "ect"}) for run in base_without_objective(base)]
    add(tmp_path, ect, 1.0)
    for mu, level in ((0.3, 0.5), (0.9, 0.7)):
        add(tmp_path, [changed(run, coupling=GeneratorAugmented(mu=mu).model_dump()) for run in ect], level)
    verdict = judge(tmp_path, "C8")
    assert verdict.outcome is Outcome.SUPPORTED, verdict.evidence()
    assert len(verdict.tests) == 2


def base_without_objective(runs: list[Run]) -> list[Run]:
    from harness.config.parts import EasyConsistencyTuning

    return [run.model_copy(update={"objective": EasyConsistencyTuning()}) for run in runs]


def test_c8_compares_runs_of_one_length(tmp_path):
    """IC and mu = 0.3 at each training length, mu = 0.7 at the short one only, which must not be compared with the long mu = 0.3; and
    EDM2 with itself alone."""
    for run in expand("table2", "digits", SEEDS):
        mu = getattr(run.coupling, "mu", 0.0)
        level = {0.0: 1.0, 0.3: 0.5}.get(mu, 0.8) / (1 if run.train.steps == 600 else 4)
        if run.objective.kind == "ect":
            add(tmp_path, [run], level)
    verdict = judge(tmp_path, "C8")
    assert verdict.outcome is Outcome.SUPPORTED, verdict.evidence()
    assert len(verdict.tests) == 8, "with one and with two sampling steps: two of the short runs, one of the long ones, one of EDM2"
    lengths = [{part for part in ("600 steps", "2,400 steps", "2,000 steps") if part in test.what} for test in verdict.tests]
    assert all(len(length) == 1 for length in lengths)
    assert [test.what.count("EDM2") for test in verdict.tests] == [2 if length == {"2,000 steps"} else 0 for length in lengths]
    assert [test.difference.mean < 0 for test in verdict.tests] == [True] * 8


def test_c7_from_figure_4_leaves_denoisers_and_equal_strengths_out(tmp_path):
    make_results(tmp_path, "figure2", "digits", SEEDS)
    assert "no frozen predictor was run" in judge(tmp_path, "C7").evidence()[0]
    make_results(tmp_path, "figure4", "digits", SEEDS)
    tests = judge(tmp_path, "C7").tests
    assert len(tests) == 5
    assert sum("mean ln of the curve" in test.what and test.what.endswith("- iCT-IC") for test in tests) == 3
    finals = [test.what for test in tests if "mean ln" not in test.what]
    assert all("of 2,400 steps) - iCT-GC" in what for what in finals) and len(finals) == 2


def test_runs_of_other_questions_enter_no_verdict_on_the_paper(tmp_path):
    """Other couplings, settings, lengths and pairs share models with the paper's experiments, and are none of its claims."""
    for name in ("table1", "sweep_mu", "table2", "table3", "figure4"):
        make_results(tmp_path, name, "digits", SEEDS[:2])
    before = {claim: [test.what for test in verdict.tests] for claim, verdict in judge_all(tmp_path, "digits").items()}
    for name in ("couplings", "mechanism", "speed_profiles", "longer", "schedule", "scaling"):
        make_results(tmp_path, name, "digits", SEEDS[:2])
    assert {claim: [test.what for test in verdict.tests] for claim, verdict in judge_all(tmp_path, "digits").items()} == before


@pytest.mark.parametrize("scale", ["toy", "digits", "fashion", "paper"])
def test_c7_to_c10_are_judged_from_the_experiments(tmp_path, scale):
    for name in ("table2", "table3", "figure4"):
        make_results(tmp_path, name, scale, SEEDS)
    judged = judge_all(tmp_path, scale)
    for verdict in (judged[claim] for claim in ("C7", "C8", "C9", "C10")):
        assert verdict.outcome is not Outcome.NOT_RUN, verdict.evidence()
        assert all(test.difference and test.difference.n == 3 for test in verdict.tests)


@pytest.mark.parametrize(("level", "outcome"), [(1.5, "supported"), (0.2, "contradicted")])
def test_c9_online_predictor(tmp_path, level, outcome):
    add(tmp_path, plain("gc-0.5"), 0.6)
    add(tmp_path, [changed(run, coupling={"predictor": "online"}) for run in plain("gc-0.5")], level)
    assert judge(tmp_path, "C9").outcome == outcome


def test_c10_dropout_hurts_gc_and_helps_ic(tmp_path):
    rates = [0.3] * len(plain("ic")[0].network.dropout)
    add(tmp_path, plain("gc-0.5"), 0.6)
    add(tmp_path, plain("ic"), 1.0)
    add(tmp_path, [changed(run, network={"dropout": rates}) for run in plain("gc-0.5")], 0.9)
    assert judge(tmp_path, "C10").outcome is Outcome.NOT_RUN
    add(tmp_path, [changed(run, network={"dropout": rates}) for run in plain("ic")], 0.7)
    verdict = judge(tmp_path, "C10")
    assert verdict.outcome is Outcome.SUPPORTED, verdict.evidence()


class TestMeasured:
    """Closed forms on Gaussian data N(0, s^2 I_d): Rtil_IC = d s^2/(s^2+t^2), Rtil_GC and c(t) of the ideal flow."""

    d, s = 64, 0.5
    t = np.geomspace(0.5, 40, 6)

    def write(self, root: Path, rows: list[dict]) -> None:
        measurements.write(root, "digits", "theory", [MeasurementRow(data="digits", **row) for row in rows])

    def proxies(self) -> list[dict]:
        a = self.s / np.hypot(self.s, self.t)
        ic = self.d * self.s**2 / (self.s**2 + self.t**2)
        gc = self.d * a**2 * self.s**2 / (a**2 * self.s**2 + self.t**2 * (1 + a) ** 2)
        return [
            {"quantity": "rtil", "coupling": name, "x": t, "value": value, "se": 0.005 * value}
            for name, values in (("ic", ic), ("ot-512", 0.8 * ic), ("gc-ideal", gc))
            for t, value in zip(self.t, values, strict=True)
        ]

    def test_c5(self, tmp_path):
        self.write(tmp_path, self.proxies())
        assert judge(tmp_path, "C5").outcome is Outcome.SUPPORTED

    def test_c5_reversed_at_one_t(self, tmp_path):
        rows = self.proxies()
        rows[-1]["value"] *= 1e4
        self.write(tmp_path, rows)
        assert judge(tmp_path, "C5").outcome is Outcome.CONTRADICTED

    def test_c5_without_batch_ot(self, tmp_path):
        self.write(tmp_path, [row for row in self.proxies() if not row["coupling"].startswith("ot")])
        assert judge(tmp_path, "C5").outcome is Outcome.NOT_RUN

    def costs(self) -> list[dict]:
        c = self.d * (1 + self.s**2 - 2 * self.s * self.t / np.hypot(self.s, self.t))
        rows = [{"quantity": "cost", "coupling": "gc-ideal", "x": t, "value": value, "se": 0.2} for t, value in zip(self.t, c, strict=True)]
        return [*rows, {"quantity": "cost", "coupling": "ot-512", "value": 70.0, "se": 0.2}]

    def test_c6(self, tmp_path):
        self.write(tmp_path, self.costs())
        assert judge(tmp_path, "C6").outcome is Outcome.SUPPORTED

    def test_c6_rising_between(self, tmp_path):
        rows = self.costs()
        rows[3]["value"] += 10
        self.write(tmp_path, rows)
        assert judge(tmp_path, "C6").outcome is Outcome.CONTRADICTED

    def test_c6_uses_the_error_of_the_change_where_it_is_measured(self, tmp_path):
        rows = self.costs()
        rows[4]["value"] += 0.3  # not significant by the errors of the two levels, but by that of their change
        rows.append({"quantity": "cost-change", "coupling": "gc-ideal", "x": self.t[4], "value": 0.25, "se": 0.01})
        self.write(tmp_path, rows)
        assert judge(tmp_path, "C6").outcome is Outcome.CONTRADICTED

    @pytest.mark.parametrize(("ratio", "outcome"), [(1.004, "supported"), (1.2, "contradicted")])
    def test_c11(self, tmp_path, ratio, outcome):
        rows = [{"quantity": "theorem1", "coupling": "ic", "case": "alpha = 2", "x": n, "value": 1 + 9 / n, "se": 0.004, "truth": 1}
                for n in (8, 64)]  # fmt: skip
        rows += [{**rows[0], "x": 4096, "value": ratio}, {"quantity": "discrepancy", "coupling": "ic", "value": 2.0, "se": 0.1}]
        self.write(tmp_path, rows)
        assert judge(tmp_path, "C11").outcome == outcome

    @pytest.mark.parametrize(
        ("slope", "outcome"), [(-4.0, "supported"), (-1.0, "contradicted"), (-2.01, "equivalent"), (-2.08, "inconclusive")]
    )
    def test_c12(self, tmp_path, slope, outcome):
        slopes = (("ic", -2.0), ("gc-ideal", slope))
        self.write(tmp_path, [{"quantity": "theorem2", "coupling": name, "value": value, "se": 0.03} for name, value in slopes])
        assert judge(tmp_path, "C12").outcome == outcome

    @pytest.mark.parametrize(("factor", "outcome"), [(1.005, "supported"), (0.5, "contradicted")])
    def test_c13(self, tmp_path, factor, outcome):
        truth = -2 * self.d * self.s**3 / (self.s**2 + self.t**2) ** 1.5
        rows = [{"quantity": "lemma1", "coupling": "ic", "x": t, "value": factor * value, "se": 0.003 * abs(value), "truth": value}
                for t, value in zip(self.t, truth, strict=True)]  # fmt: skip
        self.write(tmp_path, rows)
        assert judge(tmp_path, "C13").outcome == outcome
