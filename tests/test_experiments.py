"""The files in experiments/: what they declare at every scale, which runs they share, and that a first part equals the full run so far."""

from __future__ import annotations

import io
import math
from math import prod

import pytest
import torch
from rich.console import Console
from train_support import fresh, stop_after, tiny_run, trained

from harness.config import ablations, experiments, presets
from harness.config.curriculum import grid_points
from harness.config.edm2 import edm2_network
from harness.config.experiments import expand
from harness.config.parts import SCALE_NAMES, ConsistencyTraining, Data, Ema, GeneratorAugmented, Independent
from harness.config.run import varied
from harness.core.networks import build
from harness.core.schedules import ect_lower_times
from harness.data.catalogue import REGISTRY
from harness.reporting.naming import slug
from harness.reporting.paper_values import paper
from harness.store.runs import Store
from harness.sweep.network_size import network_size
from harness.sweep.plan import make_plan, print_plan
from harness.training.loop import Hooks

MINE = ("table2", "table3", "figure4", "schedule", "scaling", "mechanism")


@pytest.mark.parametrize("name", experiments.names())
@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_every_experiment_can_be_planned_at_every_scale(tmp_path, name, scale):
    runs = expand(name, scale)
    known = {run.id for run in runs}
    assert len(known) == len(runs) > 0
    assert all(set(run.needs) <= known for run in runs)
    assert all(run.data.name in REGISTRY for run in runs)
    console = Console(file=io.StringIO(), width=250)
    print_plan(make_plan(runs, Store(tmp_path)), console)
    assert all(run.id in console.file.getvalue() for run in runs)


@pytest.mark.parametrize("name", MINE)
def test_an_ablation_at_the_digits_scale_is_at_most_eight_runs_a_seed(name):
    """Table 2 has three more, those of EDM2."""
    runs = expand(name, "digits", [0])
    assert len(runs) <= (11 if name == "table2" else 8)
    assert {run.seed for run in runs} == {0}
    assert len(expand(name, "digits")) == 3 * len(runs)


@pytest.mark.parametrize(("text", "seeds"), [("", (0, 1, 2)), ("SEEDS = 2\n", (0, 1))])
def test_an_experiment_may_declare_its_number_of_seeds(tmp_path, monkeypatch, text, seeds):
    monkeypatch.setenv("HARNESS_EXPERIMENTS", str(tmp_path))
    body = "from harness.config import presets\n\n\ndef runs(scale, seeds):\n    return presets.grid(scale, presets.MAIN, seeds)\n"
    (tmp_path / "mine.py").write_text(text + body)
    assert [run.seed for run in expand("mine", "toy")[::3]] == list(seeds)
    assert {run.seed for run in expand("mine", "toy", [7])} == {7}


def test_no_experiment_takes_one_seed_below_the_paper_scale():
    for scale in ("toy", "digits", "fashion"):
        assert {experiments.load(name).default_seeds(scale) for name in experiments.names()} == {(0, 1, 2)}


@pytest.mark.parametrize(("name", "shared"), [("table3", 2), ("figure4", 1), ("schedule", 2), ("scaling", 2), ("mechanism", 3)])
@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_ablations_share_table_1s_runs(name, shared, scale):
    assert len({run.id for run in expand(name, scale)} & {run.id for run in expand("table1", scale, [0])}) == shared


def test_ablations_differ_from_table_1_in_what_they_vary_alone():
    from harness.config.identity import differences

    allowed = {
        "table3": {"network.dropout", "coupling.predictor"},
        "schedule": {"objective.n0", "objective.n1", "noise.rho"},
        "scaling": {"data.limit", "network.base_channels", "train.steps"},
        "mechanism": {"coupling.predictor", "coupling.variant"},
    }
    plain = {run.coupling.kind: run for run in expand("table1", "digits", [0])}
    for name, keys in allowed.items():
        seen = set()
        for run in expand(name, "digits", [0]):
            changed = set(differences(plain[run.coupling.kind].to_dict(), run.to_dict()))
            assert len(changed) <= 1, (name, run.id)
            seen |= changed
        assert seen == keys


def split_by_network(runs):
    """The runs with DDPM++ (or, for points, an MLP), and those with EDM2."""
    return [run for run in runs if run.network.kind != "edm2"], [run for run in runs if run.network.kind == "edm2"]


class TestTable2:
    def test_at_the_paper_scale_it_starts_from_public_weights(self):
        runs, conditional = split_by_network(expand("table2", "paper"))
        assert {(run.data.name, run.init.kind, run.init.ref) for run in runs} == {
            ("cifar10", "edm", "edm-cifar10-32x32-uncond-vp.pkl"), ("ffhq64", "edm", "edm-ffhq-64x64-uncond-vp.pkl"),
        }  # fmt: skip
        assert {(run.data.name, run.init.kind, run.init.ref) for run in conditional} == {
            ("imagenet64", "edm", "edm2-img64-s-1073741-0.075.pkl")
        }
        assert {run.train.steps for run in runs} == {4000, 100_000}
        for run in runs:
            assert (run.train.optimizer, run.train.lr, run.train.batch, set(run.network.dropout)) == ("radam", 1e-4, 128, {0.2})
            assert (run.objective.kind, run.ema.rate) == ("ect", 0.9993 if run.train.steps == 4000 else 0.9999)
            assert (run.objective.q, run.objective.double) == ((256, 0) if run.train.steps == 4000 else (2, 10_000))
            assert (run.objective.p_mean, run.objective.p_std, run.objective.k, run.objective.b) == (-1.1, 2.0, 8.0, 1.0)
            assert (run.objective.c, run.objective.weighting, run.evaluation.times) == (0.0, "inverse-gap", (0.821,))

    def test_every_row_of_the_papers_table_has_its_runs(self):
        """No row of Table 2 is missing; ECT's own values, model ecm, are no rows of the paper."""
        lengths = {4000: "short", 100_000: "long"}
        planned = {(run.data.name, slug(run), lengths[run.train.steps]) for run in expand("table2", "paper")}
        table = paper()["table2"]["rows"]
        of_paper = {
            (row["data"], row["model"], name) for row in table for name in ("short", "long") if name in row and row["source"] != "E"
        }
        assert len(of_paper) == 12 and of_paper <= planned
        assert "absent" not in experiments.load("table2").report

    def test_imagenet_64_has_ects_public_setting(self):
        conditional = split_by_network(expand("table2", "paper"))[1]
        assert [(run.coupling.kind, run.train.steps) for run in conditional] == [
            ("independent", 4000), ("gc", 4000), ("independent", 100_000), ("gc", 100_000)
        ]  # fmt: skip
        for run in conditional:
            assert run.data == Data(name="imagenet64", labels=True) and getattr(run.coupling, "mu", 0.3) == 0.3
            assert run.network == edm2_network("s", dropout=0.4) and run.network.dropout == (0.0, 0.0, 0.4, 0.4)
            assert network_size(run).parameters == 280_209_253
            law, train = run.objective, run.train
            assert (law.p_mean, law.p_std, law.k, law.b, law.c, law.weighting) == (-0.8, 1.6, 8.0, 1.0, 0.06, "edm")
            assert (law.q, law.double) == ((4, 25_000) if train.steps == 100_000 else (256, 0))
            assert (train.optimizer, train.betas, train.lr, train.lr_decay_from) == ("adam", (0.9, 0.99), 1e-3, 2000)
            assert (train.batch, train.zero_nonfinite, train.precision) == (128, True, "fp32")
            assert run.ema == Ema(rate=0.9999 if train.steps == 100_000 else 0.9993)
            assert run.evaluation.times == (1.526,) and run.evaluation.samples == 50_000

    def test_the_short_run_has_the_last_stage_of_the_long_one(self):
        """q = 4 in its fourth stage shrinks the gap as much as q = 256 in its first."""
        t = torch.logspace(-3, 1.9, 20, dtype=torch.float64)
        assert torch.allclose(ect_lower_times(t, 3, 4, 8, 1), ect_lower_times(t, 0, 256, 8, 1), rtol=1e-12, atol=0)

    def test_the_network_is_the_one_that_edm_published(self):
        with torch.device("meta"):
            network = build(ablations.EDM_NETWORKS["cifar10"], (3, 32, 32))
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 55.7

    @pytest.mark.parametrize("scale", ["toy", "digits", "fashion"])
    def test_elsewhere_it_starts_from_a_denoiser_of_its_own(self, scale):
        runs, _ = split_by_network(expand("table2", scale, [0]))
        first, *others = runs
        assert first.objective.kind == "denoiser" and first.init is None
        assert all(run.init.kind == "run" and run.needs == (first.id,) for run in others)
        assert all(run.network == first.network for run in others)
        assert {run.coupling.mu for run in others if run.coupling.kind == "gc"} == {0.1, 0.3, 0.5, 0.7}
        assert {run.evaluation.times for run in others} == {(0.821,)}

    @pytest.mark.parametrize("scale", ["digits", "fashion"])
    def test_a_small_conditional_edm2_has_the_recipe_of_imagenet_in_proportion(self, scale):
        denoiser, independent, augmented = split_by_network(expand("table2", scale, [0]))[1]
        assert denoiser.objective.kind == "denoiser" and denoiser.init is None
        assert augmented.coupling == GeneratorAugmented(mu=0.3) and independent.coupling == Independent()
        large = split_by_network(expand("table2", "paper"))[1][2]
        dim = prod(REGISTRY[denoiser.data.name].shape)
        for run in (independent, augmented):
            assert run.needs == (denoiser.id,) and run.network == denoiser.network and run.data == denoiser.data
            assert run.data.labels and network_size(run).parameters < 500_000
            law, train, steps = run.objective, run.train, run.train.steps
            assert (denoiser.objective.p_mean, denoiser.objective.p_std) == (-0.8, 1.6)
            imagenet = {"double": 25_000, "c": 0.06}
            assert varied(run, objective=imagenet).objective == large.objective
            assert law.double / steps == large.objective.double / large.train.steps
            assert law.c == pytest.approx(0.06 * math.sqrt(dim / (3 * 64 * 64)), rel=0.02)
            assert (train.optimizer, train.betas, train.zero_nonfinite) == ("adam", (0.9, 0.99), True)
            assert train.lr_decay_from / steps == large.train.lr_decay_from / large.train.steps
            assert run.evaluation.times == (0.821,) and run.evaluation.every * 10 == steps

    def test_points_have_no_edm2(self):
        assert split_by_network(expand("table2", "toy"))[1] == []


class TestFirstPart:
    """Figure 4's checkpoint at 20 % of a schedule, from a run that is the first part of that schedule."""

    def test_its_checkpoint_is_that_of_the_full_run_bit_for_bit(self):
        full = tiny_run(steps=100, objective=ConsistencyTraining(n0=2, n1=128))
        part, step = ablations.first_part(full), ablations.weak_step(full)
        assert (step, part.train.steps, part.objective.n1) == (20, 28, 4)
        models = [trained(run, Hooks(stop=stop_after(start, step)), start) for run in (full, part) for start in [fresh(run)]]
        assert [model.step for model in models] == [20, 20]
        for name in ("online", "ema"):
            states = [getattr(model, name).state_dict() for model in models]
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    @pytest.mark.parametrize("scale", SCALE_NAMES)
    def test_the_grid_is_that_of_the_full_run_up_to_the_checkpoint_and_it_is_kept(self, scale):
        full = presets.make(scale, presets.scale(scale).table1[0], GeneratorAugmented(mu=0.0), 0)
        part, step = ablations.first_part(full), ablations.weak_step(full)
        for k in {0, step // 3, step // 2, *range(step - 3, step)}:
            grids = [grid_points(k, run.train.steps, run.objective.n0, run.objective.n1) for run in (full, part)]
            assert grids[0] == grids[1]
        assert part.keep_steps == (step,)
        assert step <= part.train.steps <= 0.3 * full.train.steps

    @pytest.mark.parametrize("scale", SCALE_NAMES)
    def test_both_readings_of_the_weak_predictor_and_the_full_one(self, scale):
        runs = {run.id: run for run in expand("figure4", scale, [0])}
        frozen = [run.coupling for run in runs.values() if run.needs]
        steps = [coupling.frozen_step or runs[coupling.frozen].train.steps for coupling in frozen]
        full = max(run.train.steps for run in runs.values())
        assert sorted(steps) == [full // 5, full // 5, full]
        assert {coupling.mu for coupling in frozen} == {1.0}
