"""Pairs within classes: for conditional models, the noise of a class stays as it was drawn, and over all classes it does not."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from train_support import data_of, fresh, tiny_run

from harness.cli import main
from harness.config.overrides import from_dict
from harness.config.parts import BatchOT, Data, GeneratorAugmented
from harness.config.run import Run, skewed_classes
from harness.core.couplings import batch_ot, generator_augmented
from harness.core.randomness import generator
from harness.store.runs import RunFolder, Store
from harness.sweep.plan import make_plan, print_plan
from harness.training import job, user_couplings
from harness.training.batches import ALONE, Batches, Processes
from harness.training.loop import train

LABELLED = Data(name="eight-gaussians", labels=True)
WITHIN = BatchOT(within_classes=True)


def conditional(coupling=WITHIN, **changes) -> Run:
    return tiny_run(coupling, data=LABELLED, **changes)


def rows_of(values: torch.Tensor) -> list[list[float]]:
    return sorted(values.tolist())


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_the_assignment_is_the_optimal_one_of_each_class(n, kinds, seed):
    draws = torch.Generator().manual_seed(seed)
    x, z = torch.randn(n, 3, generator=draws), torch.randn(n, 3, generator=draws)
    classes = torch.randint(kinds, (n,), generator=draws)
    same, noise = batch_ot()(x, z, classes=classes)
    assert torch.equal(same, x)
    for label in classes.unique():
        of_class = classes == label
        assert rows_of(noise[of_class]) == rows_of(z[of_class]), "the noise of a class is the one that was drawn for it"
        cost = cdist(x[of_class].double(), z[of_class].double(), "sqeuclidean")
        expected = cost[linear_sum_assignment(cost)].sum()
        assert (x - noise)[of_class].double().square().sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("variant", ["shuffled", "batch-ot"])
def test_variants_of_gc_mix_the_rows_of_a_class_only(variant):
    draws = torch.Generator().manual_seed(0)
    x, z, classes = torch.randn(300, 2, generator=draws), torch.randn(300, 2, generator=draws), torch.arange(300) % 3
    arguments = (x, z, torch.ones(300), lambda x, sigma, rows: 10 * x)
    plain, _ = generator_augmented(0.5)(*arguments, generator(0, "mask", 0))
    chosen = (plain != x).any(1)
    endpoint, noise = generator_augmented(0.5, variant)(*arguments, generator(0, "mask", 0), classes=classes)
    mixed, kept, drawn = (endpoint, noise, plain) if variant == "shuffled" else (noise, endpoint, z)
    assert torch.equal(kept, z if variant == "shuffled" else plain) and not torch.equal(mixed, drawn)
    assert torch.equal(mixed[~chosen], (x if variant == "shuffled" else z)[~chosen])
    for label in range(3):
        of_class = chosen & (classes == label)
        assert rows_of(mixed[of_class]) == rows_of(drawn[of_class])


def means_of_noise(run: Run, steps: int) -> torch.Tensor:
    """|mean of the noise of each class| in standard errors of a mean of N(0, 1), (classes, 2)."""
    batches = Batches(run, data_of(run), ALONE, user_couplings.build(run))
    drawn = [batches(number) for number in range(steps)]
    z, labels = torch.cat([step.z for step in drawn]).double(), torch.cat([step.labels for step in drawn]).double()
    return (labels.T @ z).abs() / labels.sum(0)[:, None].sqrt()


def test_the_noise_of_a_class_is_skewed_over_all_classes_and_standard_normal_within():
    """Eight modes on a circle: over all classes, the noise of a mode points to it, by tens of standard errors."""
    over_all, within = (means_of_noise(conditional(coupling, batch=64), steps=40) for coupling in (BatchOT(), WITHIN))
    assert over_all.max(1).values.min() > 8
    assert within.max() < 4.5
    independent = means_of_noise(conditional("ic", batch=64), steps=40)
    assert torch.allclose(within, independent), "the mean of each class is that of the noise drawn for it"


@pytest.mark.parametrize(
    "coupling", [WITHIN, BatchOT(scope="global", within_classes=True), BatchOT(scope="global", size=32, within_classes=True)]
)
def test_batches_keep_the_noise_of_each_class_in_every_scope(coupling):
    run, plain = conditional(coupling), conditional("ic")
    for rank in range(2):
        own, theirs = (Batches(r, data_of(r), Processes(rank, 2), user_couplings.build(r)) for r in (run, plain))
        numbers = (0, 1)
        steps, drawn = [own(number) for number in numbers], [theirs(number) for number in numbers]
        assert all(torch.equal(a.x, b.x) and torch.equal(a.labels, b.labels) for a, b in zip(steps, drawn, strict=True))
        assert not torch.equal(torch.cat([step.z for step in steps]), torch.cat([step.z for step in drawn]))
    both = [Batches(r, data_of(r), ALONE, user_couplings.build(r)) for r in (run, plain)]
    ours, plain_steps = ([batches(number) for number in (0, 1)] for batches in both)
    labels = torch.cat([step.labels for step in ours]).argmax(1)
    z, drawn_z = (torch.cat([step.z for step in steps]) for steps in (ours, plain_steps))
    assert all(rows_of(z[labels == label]) == rows_of(drawn_z[labels == label]) for label in labels.unique())


@pytest.mark.parametrize("coupling", [WITHIN, GeneratorAugmented(mu=0.5, variant="batch-ot", within_classes=True)])
def test_it_trains(coupling):
    run = conditional(coupling, steps=3)
    model = fresh(run)
    assert train(run, data_of(run), model, job.Hooks()) and model.step == 3


def test_it_is_another_run_and_all_earlier_ones_keep_their_identity():
    for coupling in (BatchOT(), GeneratorAugmented(mu=0.5, variant="shuffled")):
        run = conditional(coupling)
        stored = run.to_dict()
        del stored["coupling"]["within_classes"]
        within = conditional(coupling.model_copy(update={"within_classes": True}))
        assert from_dict(stored).id == run.id != within.id and "within-classes" in within.id
    assert GeneratorAugmented(mu=0.5, within_classes=True) == GeneratorAugmented(mu=0.5), "plain GC mixes no rows"
    with pytest.raises(ValueError, match="labels"):
        tiny_run(WITHIN)


@pytest.mark.parametrize(
    ("coupling", "warned"),
    [
        ("ic", False), ("ot", True), ("gc", False), (WITHIN, False),
        (GeneratorAugmented(mu=0.5, variant="batch-ot"), True), (GeneratorAugmented(mu=0.5, variant="shuffled"), True),
        (GeneratorAugmented(mu=0.5, variant="shuffled", within_classes=True), False),
    ],
)  # fmt: skip
def test_plan_and_job_warn_of_pairs_over_all_classes(tmp_path, capsys, coupling, warned):
    run, out = conditional(coupling, steps=1), io.StringIO()
    assert bool(skewed_classes(run)) is warned and not skewed_classes(tiny_run(run.coupling) if warned else tiny_run())
    store = Store(tmp_path)
    print_plan(make_plan([run], store), Console(file=out, width=300))
    assert ("within_classes" in out.getvalue()) is warned
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    assert job.main([str(folder.path), "--device", "cpu"]) == 0
    assert ("warning" in capsys.readouterr().out) is warned


def test_doctor_warns_and_a_table_can_be_planned_within_classes(tmp_path, capsys):
    options = ["table1", "--scale", "toy", "--seeds", "1", "--results", str(tmp_path), "--set", "data.labels=true"]
    main(["doctor", *options])
    assert "within_classes" in capsys.readouterr().out
    assert main(["plan", *options, "--set", "coupling.within_classes=true"]) == 0
    text = capsys.readouterr().out
    assert "warning:" not in text and "-ot-within-classes-" in text


def test_labels_of_a_set_without_classes_are_refused(tmp_path, capsys):
    options = ["table1", "--scale", "paper", "--seeds", "1", "--results", str(tmp_path), "--set", "data.labels=true"]
    assert main(["plan", *options]) == 2
    assert "data.labels" in capsys.readouterr().err
