"""ECT: its loss against plain float64 arithmetic, the rows whose lower time is 0, GC inside it, and its settings in the identity."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from train_support import copied, data_of, difference, fresh, stop_after, tiny_run, trained

from harness.config.identity import LATER, identity_digest
from harness.config.overrides import override
from harness.config.parts import ConsistencyTraining, Data, EasyConsistencyTuning, Evaluation, GeneratorAugmented, Network, Training
from harness.core.consistency import Preconditioned
from harness.data import datasets
from harness.errors import HarnessError
from harness.training import user_couplings
from harness.training.batches import Batches, Processes, Step, draw_levels
from harness.training.loop import Hooks, couple, losses

IMAGENET = {"p_mean": -0.8, "p_std": 1.6, "q": 4.0, "c": 0.06, "weighting": "edm"}
"""ECT's setting for ImageNet-64, but for the length of a stage."""
EDM2 = Network(
    kind="edm2", base_channels=8, channel_mult=(1, 2), num_blocks=(1, 1), attention=(4,), dropout=(0.0, 0.2), channels_per_head=8
)  # fmt: skip


def edm2_run(coupling="ic", steps=6, **objective):
    """A conditional EDM2 on the digits under ECT's setting for ImageNet-64, with stages of two steps."""
    train = Training(steps=steps, batch=16, lr=5e-3, lr_decay_from=2, optimizer="adam", zero_nonfinite=True, threads=1)
    law = EasyConsistencyTuning(**IMAGENET | {"double": 2} | objective)
    evaluation = Evaluation(every=10, samples=32, resamplings=1, grid=0)
    return tiny_run(
        coupling, scale="digits", data=Data(name="digits", labels=True), network=EDM2, objective=law, train=train, evaluation=evaluation
    )


def coupled(run, number: int, network: Preconditioned) -> tuple[Step, Step]:
    """Step `number` of a run as drawn and as coupled."""
    batches = Batches(run, datasets.load(run.data.name), Processes(), user_couplings.build(run))
    drawn = batches(number)
    return drawn, couple(batches, number, drawn, network, rows=run.train.batch)


def shaken(run) -> Preconditioned:
    """The EMA network of a new model with gains of 0.5, so that no part of it is invisible."""
    network = fresh(run).ema
    for parameter in network.parameters():
        parameter.data += 0.5 * (parameter.ndim == 0)
    return network


# --- the loss


def rate(t: np.ndarray, sd: float) -> np.ndarray:
    """Factor of the ideal consistency function of Gaussian data of standard deviation sd."""
    return sd / np.sqrt(sd**2 + t**2)


def gaussian_f(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    return x * (0.4 / (0.4**2 + t.to(x) ** 2).sqrt())[:, None]


@pytest.mark.parametrize("c", [0.0, 0.06])
@pytest.mark.parametrize("weighting", ["inverse-gap", "edm"])
@pytest.mark.parametrize("number", [0, 7])
def test_the_loss_equals_plain_float64_arithmetic(c, weighting, number):
    """The trainer in float32, with f known in closed form, against the formulas of ECT in numpy's float64.

    A row may also err by the rounding of the two outputs, whose values of order 1 are subtracted from each other.
    """
    objective = EasyConsistencyTuning(p_mean=0.0, p_std=0.7, q=4, double=7, c=c, weighting=weighting)
    run = tiny_run(batch=200, objective=objective, dropout=0.0)
    step = Batches(run, data_of(run), Processes(), user_couplings.build(run))(number)
    found = losses(run, gaussian_f, step, dropout=0)
    assert found.dtype == torch.float32

    t, x, z = (values.double().numpy() for values in (step.high, step.x, step.z))
    gap = 4.0 ** -(number // 7 + 1) * (1 + 8 / (1 + np.exp(t)))
    r = np.maximum(0, t * (1 - gap))
    np.testing.assert_allclose(step.low.numpy(), r, rtol=1e-12, atol=1e-15)
    student = rate(t, 0.4)[:, None] * (x + t[:, None] * z)
    teacher = rate(r, 0.4)[:, None] * (x + r[:, None] * z)
    squared = ((student - teacher) ** 2).sum(1)
    distance = np.sqrt(squared + c**2) - c if c else np.sqrt(squared)
    weight = 1 / (t - r) if weighting == "inverse-gap" else (t**2 + 0.25) / (t * 0.5) ** 2
    errors = np.abs(found.double().numpy() - weight * distance)
    assert (errors < 1e-5 * weight * distance + 3e-7 * weight).all()
    assert float(found.double().mean()) == pytest.approx((weight * distance).mean(), rel=1e-5)


@pytest.mark.parametrize("objective", [{}, {"c": 0.0, "weighting": "inverse-gap"}])
def test_the_loss_of_an_edm2_equals_float64_arithmetic(objective):
    """Network and preconditioning in float32 against a float64 copy, in the mean over the batch, with labels and without dropout."""
    run = edm2_run(p_mean=0.0, p_std=0.7, **objective)
    f = shaken(run)
    _, step = coupled(run, 1, f)
    found = losses(run, f, step, dropout=0).double().mean()
    exact = copy.deepcopy(f.model).double()
    x, z, labels = step.x.double(), step.z.double(), step.labels.double()

    def plain(t: Tensor) -> Tensor:
        s = t.reshape(-1, 1, 1, 1)
        x_t, scale = x + s * z, (s**2 + 0.25).sqrt()
        inside = exact(x_t / scale, t.clamp(min=1e-8).log() / 4, labels)
        return 0.25 / (s**2 + 0.25) * x_t + 0.5 * s / scale * inside

    c = run.objective.c
    norms = (plain(step.high) - plain(step.low)).flatten(1).norm(dim=1)
    weights = 1 / (step.high - step.low) if not c else (step.high**2 + 0.25) / (step.high * 0.5) ** 2
    expected = (weights * ((norms**2 + c**2).sqrt() - c)).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_gradient_of_the_pseudo_huber_distance_is_bounded_and_vanishes_at_zero():
    run = tiny_run(batch=4, objective=EasyConsistencyTuning(c=0.06), dropout=0.0)
    x = torch.zeros(4, 2)
    step = Step(x, torch.tensor([[0.0, 0], [1, 0], [3, 4], [0, 1e-6]]), None, torch.zeros(4), torch.ones(4), torch.ones(4))
    scale = torch.ones((), requires_grad=True)
    found = losses(run, lambda y, t, _: y * scale, step, dropout=0)
    expected = [math.sqrt(r**2 + 0.06**2) - 0.06 for r in (0, 1, 5)]
    assert found[:3].tolist() == pytest.approx(expected, rel=1e-6)
    found.sum().backward()
    slope = sum(r**2 / math.sqrt(r**2 + 0.06**2) for r in (0, 1, 5, 1e-6))
    assert float(scale.grad) == pytest.approx(slope, rel=1e-5)


def test_the_weight_is_that_of_each_rows_own_time():
    run = tiny_run(objective=EasyConsistencyTuning(weighting="edm"), noise={"sigma_data": 0.3})
    low, high, weight = draw_levels(run, 3, 50)
    assert torch.equal(weight, (high**2 + 0.3**2) / (high * 0.3) ** 2)
    plain = draw_levels(override(run, ["objective.weighting=inverse-gap"]), 3, 50)
    assert torch.equal(plain[0], low) and torch.equal(plain[1], high) and torch.equal(plain[2], 1 / (high - low))


# --- rows whose lower time is 0


@pytest.mark.parametrize("coupling", ["ic", "gc-all"])
def test_rows_at_time_zero_are_supervised_by_clean_images(coupling):
    """In the first stage with q = 4, r = 0 where t < about 5.6 k: the target is the image itself, and GC leaves the pair as it is."""
    run = edm2_run(GeneratorAugmented(mu=1.0) if coupling == "gc-all" else coupling)
    f = shaken(run)
    drawn, step = coupled(run, 0, f)
    at_zero = step.low == 0
    assert 0.2 < at_zero.float().mean() < 1
    assert torch.equal(step.z, drawn.z) and torch.equal(step.x[at_zero], drawn.x[at_zero])
    changed = (step.x != drawn.x).flatten(1).any(1)
    assert torch.equal(changed, ~at_zero) or coupling == "ic"
    found = losses(run, f, step, dropout=0)[at_zero]
    t = step.high[at_zero]
    student = f(drawn.x[at_zero] + t.float().reshape(-1, 1, 1, 1) * drawn.z[at_zero], t, step.labels[at_zero])
    norms = (student - drawn.x[at_zero]).flatten(1).norm(dim=1).double()
    expected = (t**2 + 0.25) / (t * 0.5) ** 2 * ((norms**2 + 0.06**2).sqrt() - 0.06)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.isfinite().all()


# --- GC inside ECT


def test_endpoints_of_gc_are_predicted_for_each_rows_class_at_the_lower_time():
    """x' = f_EMA(x_r, r, class), the same noise; without it, or with another class, the endpoint is another."""
    run = edm2_run(GeneratorAugmented(mu=1.0), q=64)
    f = shaken(run)
    drawn, step = coupled(run, 0, f)
    x_r = drawn.x + drawn.low.float().reshape(-1, 1, 1, 1) * drawn.z
    with torch.no_grad():
        expected, other = f(x_r, drawn.low, drawn.labels), f(x_r, drawn.low, drawn.labels.roll(1, 1))
    torch.testing.assert_close(step.x, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(step.z, drawn.z) and torch.equal(step.low, drawn.low) and torch.equal(step.weight, drawn.weight)
    away = (other - expected).flatten(1).norm(dim=1)
    assert (away[drawn.low > 0.1] > 1e-3).all()


def test_the_share_of_gc_rows_is_mu():
    run = edm2_run(GeneratorAugmented(mu=0.3), q=64)
    run = run.model_copy(update={"train": run.train.model_copy(update={"batch": 400})})
    f = shaken(run)
    drawn, step = coupled(run, 0, f)
    moved = (step.x != drawn.x).flatten(1).any(1)[drawn.low > 0]
    assert moved.float().mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / len(moved)))


@pytest.mark.parametrize("stop", [1, 3])
def test_the_recipe_of_imagenet_resumes_bit_for_bit(stop):
    run = edm2_run(GeneratorAugmented(mu=0.3))
    model = fresh(run)
    trained(run, Hooks(stop=stop_after(model, stop)), start=model)
    assert difference(trained(run, start=copied(run, model)).state(), trained(run).state()) == []


def test_parts_of_a_batch_have_the_gradient_of_the_whole():
    """Weights and times go with their rows when memory allows only some of them at once; dropout masks differ, so there is none."""
    run = edm2_run(GeneratorAugmented(mu=0.3), steps=1)
    run = run.model_copy(update={"network": EDM2.model_copy(update={"dropout": (0.0, 0.0)})})
    whole, in_parts = trained(run).state()["online"], trained(run, micro_batch=5).state()["online"]
    assert all(torch.allclose(whole[name], in_parts[name], rtol=1e-4, atol=1e-5) for name in whole)


# --- settings


def test_the_new_settings_are_no_part_of_older_identities():
    run = tiny_run(objective=EasyConsistencyTuning())
    older = run.to_dict()
    for key in ("c", "weighting"):
        assert older["objective"].pop(key) == LATER["objective", key]
    assert identity_digest(older) == run.digest
    other = [override(run, [pair]).digest for pair in ("objective.c=0.06", "objective.weighting=edm")]
    assert len({run.digest, *other}) == 3
    ict = tiny_run(objective=ConsistencyTraining(distance="norm", huber=0.0))  # its own keys stay part of the identity
    assert ict.digest != tiny_run(objective=ConsistencyTraining()).digest
    without = ict.to_dict()
    del without["objective"]["distance"]
    assert identity_digest(without) != ict.digest


@pytest.mark.parametrize(
    ("pair", "key"),
    [
        ("objective.c=-0.1", "objective.c"),
        ("objective.c=nan", "objective.c"),
        ("objective.c=true", "objective.c"),
        ("objective.weighting=edm2", "objective.weighting"),
        ("objective.huber=0.1", "objective.huber"),
    ],
)
def test_values_out_of_range_are_named(pair, key):
    with pytest.raises(HarnessError) as caught:
        override(tiny_run(objective=EasyConsistencyTuning()), [pair])
    assert key in str(caught.value)
    assert caught.value.exit_code == 2


def test_default_settings_are_bit_for_bit_those_of_before():
    """The plain norm over t - r, as a formula of torch in the order of the earlier code."""
    run = tiny_run(objective=EasyConsistencyTuning(q=2, double=3), dropout=0.0)
    model = fresh(run)
    step = Batches(run, data_of(run), Processes(), user_couplings.build(run))(4)
    found = losses(run, model.online, step, dropout=1)
    student = model.online(step.x + step.high.to(step.x).reshape(-1, 1) * step.z, step.high)
    with torch.no_grad():
        teacher = model.online(step.x + step.low.to(step.x).reshape(-1, 1) * step.z, step.low)
    expected = (1 / (step.high - step.low)).to(student) * (student - teacher).flatten(1).norm(dim=1)
    assert torch.equal(found, expected)
    assert torch.equal(found, losses(run, model.online, replace(step), dropout=1))
