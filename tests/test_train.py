"""The training loop: what goes through the predictor, averages, optimizers, resuming bit for bit, divergence, and that it learns."""

from __future__ import annotations

import math
import shutil
from functools import cache

import lion_pytorch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from train_support import COUPLINGS, copied, data_of, difference, fresh, stop_after, tiny_run, trained

from harness.config.parts import ConsistencyTraining, Data, Denoising, Ema, Evaluation, GeneratorAugmented, Network, Protocol, Training
from harness.config.run import Run
from harness.core.randomness import generator
from harness.data.datasets import Dataset
from harness.errors import HarnessError
from harness.metrics.sampling import Steps, noise, sampler
from harness.training.batches import Processes, batch_indices
from harness.training.flat import FlatParameters
from harness.training.loop import Diverged, Hooks, endpoint_predictor, evaluation_steps, train
from harness.training.model import ForeachLion, ema_decay, update_ema


def forced(coupling, **changes) -> Run:
    """A run with exactly this coupling; the config would make GC with mu = 0 the independent one."""
    return tiny_run(**changes).model_copy(update={"coupling": coupling})


@cache
def complete(coupling: str, optimizer: str = "adam") -> dict:
    return trained(tiny_run(coupling, optimizer=optimizer)).state()


# --- couplings in the loop


def test_gc_with_mu_0_is_ic_bit_for_bit():
    assert forced(GeneratorAugmented(mu=0.0)).coupling.kind == "gc"
    assert difference(trained(forced(GeneratorAugmented(mu=0.0))).state(), complete("ic")) == []


def test_the_couplings_differ():
    states = [complete("ic"), complete("ot"), complete("gc"), trained(tiny_run(GeneratorAugmented(mu=1.0))).state()]
    assert all(difference(a, b) for i, a in enumerate(states) for b in states[:i])


@pytest.mark.parametrize("predictor", ["ema", "online", "frozen"])
def test_only_the_gc_rows_go_through_the_predictor(predictor):
    run = tiny_run(GeneratorAugmented(mu=0.3, predictor=predictor, frozen="x" if predictor == "frozen" else None), dropout=0.0)
    model, frozen = fresh(run), fresh(run).ema
    network = {"ema": model.ema, "online": model.online, "frozen": frozen}[predictor]
    counted: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: counted.append(len(output)) if not module.training else None)
    trained(run, start=model, frozen=frozen)
    masks = [int((torch.rand(16, generator=generator(run.seed, "mask", step)) < 0.3).sum()) for step in range(24)]
    assert counted == [rows for rows in masks if rows]


@pytest.mark.parametrize("training", [True, False])
def test_the_predictor_has_no_dropout_and_no_gradient(training):
    network = fresh(tiny_run(dropout=0.9)).online.train(training)
    for p in network.parameters():  # large enough that a mask would show
        nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    x, sigma, rows = torch.randn(8, 2, generator=torch.Generator().manual_seed(1)), torch.full((8,), 3.0), torch.arange(8)
    prediction = endpoint_predictor(network, None)(x, sigma, rows)
    assert network.training == training and not prediction.requires_grad
    assert torch.equal(prediction, network.eval()(x, sigma))


def test_the_predictor_gets_the_labels_of_its_rows():
    run = tiny_run(data=Data(name="eight-gaussians", labels=True))
    network, labels = fresh(run).ema, torch.eye(8)
    for p in network.parameters():
        nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    x, sigma, rows = torch.ones(2, 2), torch.ones(2), torch.tensor([5, 1])
    assert torch.equal(endpoint_predictor(network, labels)(x, sigma, rows), network(x, sigma, labels[rows]))


# --- averages and optimizers


def test_the_papers_average_has_a_constant_rate_and_may_start_late():
    run = tiny_run(ema=Ema(rate=0.9999, copy_steps=10))
    assert [ema_decay(run, step) for step in (0, 9, 10, 10**6)] == [0.0, 0.0, 0.9999, 0.9999]


@pytest.mark.parametrize(("step", "per_step"), [(10_000, 0.99957), (50_000, 0.99985), (100_000, 0.99991)])
def test_the_released_average_per_step(step, per_step):
    run = tiny_run(ema=Ema(rate=0.9999), protocol=Protocol(ema="released"))
    decays = [ema_decay(run, step + i) for i in range(5)]
    assert decays[1:] == [None] * 4
    assert decays[0] ** (1 / 5) == pytest.approx(per_step, abs=6e-6)


def test_the_released_average_is_that_of_ema_pytorch():
    """As version 0.2.3 computes it: the counter grows before the decay is computed, and up to update_after_step it copies."""
    run = tiny_run(ema=Ema(rate=0.9999, copy_steps=20), protocol=Protocol(ema="released"))
    for step in range(60):
        expected = None
        if step % 5 == 0:
            counter = step + 1
            epoch = max(counter - 20 - 1, 0)
            expected = 0.0 if step <= 20 or epoch <= 0 else min(max(1 - (1 + epoch) ** (-2 / 3), 0.0), 0.9999)
        assert ema_decay(run, step) == (expected if expected is None else pytest.approx(expected))


def test_one_update_of_the_average():
    online, ema = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for p, q in zip(online.parameters(), ema.parameters(), strict=True):
            p.fill_(2.0)
            q.fill_(1.0)
    average, weights = FlatParameters(ema.parameters()), FlatParameters(online.parameters())
    update_ema(average, weights, None)
    assert ema.weight.item() == 1.0
    update_ema(average, weights, 0.75)
    assert ema.weight.item() == ema.bias.item() == 1.25
    update_ema(average, weights, 0.0)
    assert ema.weight.item() == 2.0


def test_the_ema_network_is_the_average_of_the_trained_weights():
    run = tiny_run(steps=12, ema=Ema(rate=0.8))
    model = fresh(run)
    expected = [p.clone() for p in model.online.parameters()]

    def average() -> bool:
        for mean, p in zip(expected, model.online.parameters(), strict=True):
            mean.mul_(0.8).add_(0.2 * p.detach())
        return False

    trained(run, Hooks(stop=average), model)
    assert all(torch.allclose(mean, p, atol=1e-6) for mean, p in zip(expected, model.ema.parameters(), strict=True))


def test_lion_is_lion_pytorchs_bit_for_bit():
    def run_with(kind):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 2))
        optimizer = kind(net.parameters(), lr=1e-2, betas=(0.9, 0.99))
        for _ in range(20):
            optimizer.zero_grad()
            net(torch.randn(8, 3)).square().sum().backward()
            optimizer.step()
        return net.state_dict(), optimizer.state_dict()["state"]

    ours, theirs = run_with(ForeachLion), run_with(lion_pytorch.Lion)
    assert difference(ours[0], theirs[0]) == [] and difference(ours[1], theirs[1]) == []


# --- stopping and resuming


@settings(max_examples=12)
@given(st.sampled_from(sorted(COUPLINGS)), st.integers(1, 23), st.integers(1, 23))
def test_a_run_stopped_anywhere_resumes_bit_for_bit(coupling, first, second):
    run = tiny_run(coupling)
    model = fresh(run)
    for at in sorted({first, second}):
        assert not train(run, data_of(run), model, Hooks(stop=stop_after(model, at)))
        assert model.step == at
        model = copied(run, model)
        torch.manual_seed(at)  # a new process has another global state
    assert train(run, data_of(run), model, Hooks())
    assert difference(model.state(), complete(coupling)) == []


@pytest.mark.parametrize("optimizer", ["lion", "radam", "adam"])
def test_every_optimizer_resumes_bit_for_bit(optimizer):
    run = tiny_run("gc", optimizer=optimizer)
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 11)))
    model = copied(run, model)
    group = model.optimizer.param_groups[0]
    assert group["lr"] == 1e-3 and tuple(group["betas"]) == (0.9, 0.99)
    assert difference(trained(run, start=model).state(), complete("gc", optimizer)) == []


IMAGES = Network(kind="ddpmpp", base_channels=4, channel_mult=(1, 1), num_blocks=(1, 1), dropout=(0.1, 0.1))


def image_run(precision: str, channels_last: bool) -> Run:
    return Run(
        scale="digits", data=Data(name="digits"), network=IMAGES, coupling=GeneratorAugmented(mu=0.5),
        train=Training(steps=4, batch=8, lr=1e-3, optimizer="lion", precision=precision, channels_last=channels_last, threads=1),
        evaluation=Evaluation(every=4, samples=8),
    )  # fmt: skip


@pytest.mark.parametrize(("precision", "channels_last"), [("fp32", False), ("fp32", True), ("bf16", True)])
def test_images_in_every_layout_and_precision_resume_bit_for_bit(precision, channels_last):
    run = image_run(precision, channels_last)
    undisturbed = trained(run)
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 2)))
    assert difference(trained(run, start=copied(run, model)).state(), undisturbed.state()) == []
    weight = undisturbed.online.model.enc["8x8_block0"].conv0.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in undisturbed.online.parameters())
    first = [trained(variant, Hooks(stop=lambda: True)).loss for variant in (run, image_run("fp32", False))]
    assert first[0] == pytest.approx(first[1], rel=0.05 if precision == "bf16" else 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_training_is_the_same_training():
    """GC rows vary in number from step to step; the fashion scale compiles."""

    def run(dropout: float, compiled: bool) -> Run:
        plain = tiny_run("gc", steps=6, dropout=dropout)
        return plain.model_copy(update={"train": plain.train.model_copy(update={"compile": compiled})})

    plain, compiled = trained(run(0.0, False)), trained(run(0.0, True))
    assert plain.state()["online"].keys() == compiled.state()["online"].keys()
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(plain.online.parameters(), compiled.online.parameters(), strict=True))
    again = fresh(run(0.2, True))
    train(run(0.2, True), data_of(run(0.2, True)), again, Hooks(stop=stop_after(again, 3)))
    resumed = trained(run(0.2, True), start=copied(run(0.2, True), again))
    assert difference(resumed.state(), trained(run(0.2, True)).state()) == []


# --- evaluation and hooks


def test_evaluations_leave_the_training_untouched():
    run = tiny_run("gc")

    def evaluate(model) -> None:
        torch.manual_seed(0)
        torch.rand(17)
        sampler(model.ema, (2,), Steps(80.0))(0, range(40))
        assert not model.ema.training

    many = run.model_copy(update={"evaluation": Evaluation(every=1, samples=8)})
    state = trained(many, Hooks(evaluate=evaluate, progress=evaluate, pairs=lambda number, step: torch.rand(3))).state()
    assert difference(state, complete("gc")) == []


def test_what_happens_at_which_step():
    run = tiny_run("gc", steps=60, keep_steps=(33,), evaluation=Evaluation(every=25, samples=8), checkpoint_every=20)
    seen: dict[str, list[int]] = {"save": [], "evaluate": [], "progress": [], "pairs": []}
    hooks = Hooks(
        save=lambda m: seen["save"].append(m.step),
        evaluate=lambda m: seen["evaluate"].append(m.step),
        progress=lambda m: seen["progress"].append(m.step),
        pairs=lambda number, step: seen["pairs"].append(number),
    )
    model = trained(run, hooks)
    assert seen["save"] == [20, 33, 40, 60]
    assert seen["evaluate"] == seen["pairs"] == sorted(evaluation_steps(run)) == [25, 50, 60]
    assert {20, 25, 33, 40, 50, 60} <= set(seen["progress"])
    assert math.isfinite(model.loss)


def test_a_stop_saves_once_and_before_it_the_evaluation():
    run = tiny_run(steps=40, evaluation=Evaluation(every=10, samples=8), checkpoint_every=100)
    model, events = fresh(run), []
    hooks = Hooks(
        save=lambda m: events.append(("save", m.step)), evaluate=lambda m: events.append(("evaluate", m.step)), stop=stop_after(model, 10)
    )
    assert not train(run, data_of(run), model, hooks)
    assert events == [("evaluate", 10), ("save", 10)]


def test_the_pairs_shown_are_those_trained_on():
    run = tiny_run("ot", steps=10)
    shown = []
    trained(run, Hooks(pairs=lambda number, step: shown.append((number, step.x, step.z))))
    ((number, x, z),) = shown
    rows = batch_indices(4096, 16, number - 1, run.seed)
    assert torch.equal(x, data_of(run).rows[rows])
    plain = torch.randn(16, 2, generator=generator(run.seed, "noise", number - 1))
    assert sorted(z.tolist()) == sorted(plain.tolist()) and (x - z).square().sum() < (x - plain).square().sum()


# --- divergence


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_spoilt():
    run = tiny_run(steps=200, checkpoint_every=10)
    points = data_of(run).rows.clone()
    bad = batch_indices(4096, 16, 33, run.seed)[0]
    points[bad] = math.nan
    saved = []
    with pytest.raises(Diverged, match="0 and 40"):
        model = fresh(run)
        train(run, Dataset("eight-gaussians", "train", "x", rows=points), model, Hooks(
            save=lambda m: saved.append((m.step, all(p.isfinite().all() for p in m.online.parameters())))))  # fmt: skip
    assert saved == [(10, True), (20, True), (30, True)]


@pytest.mark.parametrize("step", [10, 14])
def test_an_update_that_spoils_the_weights_is_seen_before_they_are_saved_or_measured(step):
    """The loss of that step itself is finite."""
    run = tiny_run(steps=30, checkpoint_every=7, evaluation=Evaluation(every=10, samples=8))
    model = fresh(run)
    update = model.optimizer.step

    def spoil(*args):
        update(*args)
        if model.step == step - 1:
            next(model.online.parameters()).data[0] = math.inf

    model.optimizer.step = spoil
    seen = []
    hooks = Hooks(save=lambda m: seen.append(m.step), evaluate=lambda m: seen.append(m.step))
    with pytest.raises(Diverged):
        train(run, data_of(run), model, hooks)
    assert seen == [s for s in (7, 10) if s < step]


def test_fewer_rows_than_processes_is_refused():
    run = tiny_run(batch=2)
    with pytest.raises(HarnessError, match=r"train\.batch"):
        train(run, data_of(run), fresh(run), Hooks(), processes=Processes(0, 3))


# --- sampling and learning


@given(st.integers(0, 600), st.integers(0, 600), st.integers(1, 300), st.integers(0, 3))
def test_a_rows_noise_does_not_depend_on_the_chunk(start, length, chunk, k):
    together = noise((2,), k, range(start, start + length))
    parts = [noise((2,), k, range(a, min(a + chunk, start + length))) for a in range(start, start + length, chunk)]
    assert together.shape == (length, 2) and torch.equal(together, torch.cat([*parts, torch.empty(0, 2)]))


def test_noise_is_new_for_every_resampling_and_part():
    draws = torch.cat([noise((2,), k, range(300), part).flatten() for k in range(3) for part in range(2)])
    assert len(draws.unique()) == len(draws)
    assert abs(draws.mean()) < 0.1 and abs(draws.std() - 1) < 0.05


def test_conditional_samples_get_addressed_labels():
    seen = []

    def f(x, sigma, labels):
        assert torch.equal(sigma, torch.full((len(x),), 80.0))
        seen.append(labels)
        return x

    labels = torch.tensor([0, 0, 2, 2, 2, 2, 2, 2, 2, 2])
    generate = sampler(f, (2,), Steps(80.0), labels=labels, classes=3)
    together = generate(0, range(600))
    parts = [generate(0, range(a, a + 200)) for a in (0, 200, 400)]
    assert torch.equal(together, torch.cat(parts)) and torch.equal(seen[0], torch.cat(seen[1:]))
    assert seen[0].shape == (600, 3) and (seen[0].sum(1) == 1).all()
    counts = seen[0].sum(0)
    assert counts[1] == 0 and abs(counts[0] - 120) < 5 * 9.8, "classes occur as often as in the data"


def test_training_on_gaussian_data_learns_the_closed_form():
    """Data N(0, s^2 I): the flow from noise is f(x, t) = a x, a = s/sqrt(s^2 + t^2), at every t."""
    s = 0.5
    points = s * torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    run = tiny_run(steps=700, batch=128, dropout=0.0, ema=Ema(rate=0.98), objective=ConsistencyTraining(n0=10, n1=80)).model_copy(
        update={"network": Network(kind="mlp", width=48, depth=2, dropout=(0.0,))}
    )
    model = fresh(run)
    train(run, Dataset("eight-gaussians", "train", "gaussian", rows=points), model, Hooks())
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    for t in (0.3, 1.0, 5.0, 80.0):
        x = math.sqrt(s**2 + t**2) * z
        with torch.no_grad():
            out = model.ema(x, torch.full((2000,), t))
        assert ((out - s * z).square().mean().sqrt() / s).item() < 0.25, f"at t = {t}"


def test_a_denoiser_learns_the_posterior_mean_of_gaussian_data():
    """D(x, t) = s^2/(s^2 + t^2) x."""
    s = 0.5
    points = s * torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    run = tiny_run(steps=300, batch=128, dropout=0.0, ema=Ema(rate=0.95), objective=Denoising())
    model = fresh(run)
    train(run, Dataset("eight-gaussians", "train", "gaussian", rows=points), model, Hooks())
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    for t in (0.2, 0.5, 1.0):
        x = math.sqrt(s**2 + t**2) * z
        with torch.no_grad():
            out = model.ema(x, torch.full((2000,), t))
        truth = s**2 / (s**2 + t**2) * x
        assert ((out - truth).square().mean() / truth.square().mean()).sqrt().item() < 0.2, f"at t = {t}"
