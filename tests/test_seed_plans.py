"""How many seeds would decide an inconclusive claim, on records whose differences are known by seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_support import make_run, records
from scipy import stats

from harness.config.experiments import expand
from harness.config.selection import Selection
from harness.reporting import claims, load, paper_values
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.values import CellValues
from harness.reporting.verdicts import Evidence, Outcome, Verdict
from harness.store import measurements
from harness.store.measurements import MeasurementRow

PAPER = 5.95 / 7.42 - 1
"""C1 in the paper, on CIFAR-10."""
SECONDS = 90.0
"""Training time of every run here."""


def verdict(root: Path, gaps: list[float], level: float = 1.0, first: int = 0, shown_with: str | None = None) -> Verdict:
    """C1's verdict when FID is `level` for IC and batch-OT and `level` + gap for GC, by seed from `first`.

    shown_with: the experiment in whose report it stands; None for the report of all runs.
    """
    for run in expand("table1", "digits", range(first, first + len(gaps))):
        fid = level + (gaps[run.seed - first] if run.coupling.kind == "gc" else 0.0)
        rows = [{**row, "value": fid if row["metric"] == "fid" else row["value"]} for row in records(run)]
        folder = make_run(root, run, rows=rows, done=True)
        folder.write_result({**folder.result(), "seconds": SECONDS})
    loaded = load.read(root, "own")
    cells = experiment_cells(Selection(shown_with, results=root), loaded) if shown_with else all_cells("digits", loaded)
    evidence = Evidence(cells, CellValues(loaded), measurements.read(root, [], "own"))
    return next(judged for judged in claims.judge(evidence) if judged.id == "C1")


def needed(effect: float, sd: float, power: float = 0.8) -> int:
    """The least n with which a paired t test at 5 % finds the effect, by the noncentral t distribution."""
    for n in range(2, 10_000):
        critical, shift = stats.t.ppf(0.975, n - 1), effect / sd * math.sqrt(n)
        if stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= power:
            return n
    raise AssertionError("more than 10,000 seeds")


@pytest.mark.parametrize("level", [1.0, 20.0])
def test_seeds_for_the_papers_effect_and_their_cost(tmp_path, level):
    sd = 0.2
    judged = verdict(tmp_path, [level * (-0.05 + sd * step) for step in (-1, 0, 1)], level=level)
    assert judged.outcome is Outcome.INCONCLUSIVE
    plan, seeds = judged.plan, needed(abs(PAPER), sd)
    assert plan.seeds == seeds
    assert plan.more == seeds - 3
    assert plan.runs == 3 * (seeds - 3)  # IC, batch-OT and GC
    assert plan.hours == pytest.approx(plan.runs * SECONDS / 3600)
    assert plan.command == Selection("table1", seeds=tuple(range(seeds)), results=tmp_path).command("harness sweep")
    text = judged.evidence()[-1]
    assert all(part in text for part in ("-20%", "CIFAR-10", "80%", f"{seeds} seeds", f"{plan.more} more", plan.command))


def test_a_claim_in_the_report_of_another_experiment_is_planned_with_the_runs_of_its_own(tmp_path):
    """`longer` has Table 1's models and twelve more for every seed, which say nothing about Table 1."""
    plan = verdict(tmp_path, [-0.25, -0.05, 0.15], shown_with="longer").plan
    assert plan.command == Selection("table1", seeds=tuple(range(plan.seeds)), results=tmp_path).command("harness sweep")
    assert plan.runs == 3 * plan.more


def test_seeds_at_hand_are_kept(tmp_path):
    plan = verdict(tmp_path, [0.2 * step for step in (-1, 0, 1)], first=20).plan
    assert (plan.seeds, plan.more, plan.runs) == (needed(abs(PAPER), 0.2), plan.seeds - 3, 3 * (plan.seeds - 3))
    assert "20,21,22" in plan.command


def test_an_experiment_that_is_gone_has_no_price(tmp_path, monkeypatch):
    monkeypatch.setattr(Selection, "runs", lambda self: expand("no_such_experiment", self.scale))
    plan = verdict(tmp_path, [0.2 * step for step in (-1, 0, 1)]).plan
    assert (plan.seeds, plan.command) == (needed(abs(PAPER), 0.2), "")
    assert str(plan).startswith(f"{plan.seeds} seeds would decide") and "run" not in str(plan)


def test_an_interval_that_excludes_the_papers_effect_says_so_and_plans_for_the_margin(tmp_path):
    judged = verdict(tmp_path, [0.02 + 0.025 * step for step in (-1, 0, 1)])
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert judged.plan.seeds == needed(0.05, 0.025)
    assert "excludes the paper's -20%" in str(judged.plan)
    assert "5%" in str(judged.plan)


def test_within_the_margin_is_equivalent_and_needs_no_seeds(tmp_path):
    judged = verdict(tmp_path, [0.001 + 0.005 * step for step in (-1, 0, 1)])
    assert judged.outcome is Outcome.EQUIVALENT
    assert judged.plan is None


@pytest.mark.parametrize(("mean", "outcome"), [(-0.1, Outcome.SUPPORTED), (0.1, Outcome.CONTRADICTED)])
def test_a_decided_claim_has_no_plan(tmp_path, mean, outcome):
    judged = verdict(tmp_path, [mean + 0.005 * step for step in (-1, 0, 1)])
    assert judged.outcome is outcome
    assert judged.plan is None


def test_one_seed_needs_more_before_anything_can_be_said(tmp_path):
    judged = verdict(tmp_path, [-0.3])
    assert judged.summary == "inconclusive (one seed)"
    assert (judged.plan.seeds, judged.plan.more, judged.plan.runs) == (3, 2, 6)
    assert judged.plan.hours == pytest.approx(6 * SECONDS / 3600)


def test_too_many_seeds_are_not_planned(tmp_path):
    judged = verdict(tmp_path, [-90.0, 0.0, 200.0], level=100.0)
    assert judged.plan.command == ""
    assert "more than 200 seeds" in str(judged.plan)


def test_seeds_that_would_find_the_margin_plan_for_the_effect_seen_here(tmp_path):
    steps = [-1.5, -1.2, -0.9, -0.5, -0.1, 0.1, 0.5, 0.9, 1.2, 1.5]
    sd = 0.05
    scale = sd / math.sqrt(sum(step**2 for step in steps) / 9)
    assert needed(0.05, sd) == 10
    judged = verdict(tmp_path, [-0.03 + scale * step for step in steps])
    assert judged.outcome is Outcome.INCONCLUSIVE
    assert judged.plan.seeds == needed(0.03, sd)


def test_a_measured_claim_is_measured_and_reported_with_the_same_seeds(tmp_path):
    """Measurements of other seeds than the default have a name of their own, which only a report with these seeds reads."""
    rows = [MeasurementRow("cost-change", "digits", -1.0, "gc-0.5", x=x, se=0.1, n=100, seed=0) for x in (1.0, 2.0)]
    rows += [
        MeasurementRow("cost", "digits", value, coupling, x=x, se=0.1, n=100, seed=0)
        for coupling, values in (("gc-0.5", (9.0, 8.0, 7.0)), ("ot-128", (8.5, 8.5, 8.5)))
        for x, value in zip((0.0, 1.0, 2.0), values, strict=True)
    ]
    measurements.write(tmp_path, "digits", "figure3", rows)
    loaded = load.read(tmp_path, "own")
    judged = claims.judge(Evidence(all_cells("digits", loaded), CellValues(loaded), measurements.read(tmp_path, [], "own")))
    plan = next(verdict.plan for verdict in judged if verdict.id == "C6")
    selection = Selection("figure3", seeds=(0, 1, 2), results=tmp_path)
    assert plan.command.split(" && ") == [selection.command(f"harness {command}") for command in ("sweep", "measure", "report")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [("cifar10", (PAPER, "cifar10")), ("celeba64", (11.74 / 15.82 - 1, "celeba64")), ("digits", (PAPER, "cifar10"))],
)
def test_the_papers_effect_is_of_the_data_set_or_else_of_cifar10(data, expected):
    assert paper_values.effect("table1", data, "gc-0.5", "ic") == pytest.approx(expected)


def test_the_paper_gives_no_effect_without_numbers():
    assert paper_values.effect("table1", "digits", "gc-0.3", "ic") is None
