"""The learning rate's decay, gradients without NaN and infinity, and the power-function average in the trainer."""

from __future__ import annotations

import math

import pytest
import torch
from train_support import copied, difference, fresh, stop_after, tiny_run, trained

from harness.config.identity import identity_digest
from harness.config.overrides import override
from harness.config.parts import Ema, Protocol, Training
from harness.core.power_ema import gamma_of
from harness.errors import HarnessError
from harness.training import loop
from harness.training.loop import Diverged, Hooks
from harness.training.optimisation import ZeroedGradients, learning_rate

BASE = {"steps": 24, "batch": 16, "lr": 1e-2, "optimizer": "adam", "threads": 1}


def run_with(ema=None, **train):
    return tiny_run(train=Training(**BASE | train), ema=ema or Ema(rate=0.9), dropout=0.0)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.online.parameters()])


# --- learning rate


def test_the_rate_is_constant_and_then_falls_as_the_root_of_the_step():
    settings = Training(steps=100_000, batch=128, lr=1e-3, lr_decay_from=2000)  # ECT's on ImageNet-64
    rates = [learning_rate(settings, step) for step in (0, 1, 2000, 8000, 50_000, 99_999)]
    expected = [1e-3, 1e-3, 1e-3, 5e-4, 2e-4, 1e-3 / math.sqrt(99_999 / 2000)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert learning_rate(Training(**BASE), 10**6) == 1e-2


@pytest.mark.parametrize("optimizer", ["adam", "radam", "lion"])
def test_each_step_of_the_trainer_has_its_rate(optimizer):
    """An update is proportional to the rate; before the decay begins it is that of a constant one, and Lion's has the rate's size."""
    constant, falling = run_with(optimizer=optimizer), run_with(optimizer=optimizer, lr_decay_from=3)
    paths = []
    for run in (constant, falling):
        model = fresh(run)
        path = [weights_of(model)]
        trained(run, Hooks(stop=lambda path=path, model=model: bool(path.append(weights_of(model)))), start=model)
        paths.append(path)
        assert [group["lr"] for group in model.optimizer.param_groups] == [learning_rate(run.train, 23)]
    assert all(torch.equal(a, b) for a, b in zip(paths[0][:5], paths[1][:5], strict=True))  # steps 0 to 3
    assert not torch.equal(paths[0][5], paths[1][5])
    if optimizer == "lion":
        for step in (3, 4, 12, 23):
            sizes = (paths[1][step + 1] - paths[1][step]).abs()
            assert sizes[sizes > 0].median() == pytest.approx(1e-2 / math.sqrt(max(step / 3, 1)), rel=1e-3)
    else:  # the first update that differs: same moments, another rate
        updates = [path[5] - path[4] for path in paths]
        torch.testing.assert_close(updates[1], updates[0] * math.sqrt(3 / 4), rtol=1e-3, atol=1e-6)


def test_a_falling_rate_resumes_bit_for_bit():
    run = run_with(lr_decay_from=3, optimizer="radam")
    model = fresh(run)
    trained(run, Hooks(stop=stop_after(model, 11)), start=model)
    assert difference(trained(run, start=copied(run, model)).state(), trained(run).state()) == []


def test_new_keys_at_their_defaults_are_no_part_of_the_identity():
    run = run_with()
    older = run.to_dict()
    for part, key in (("train", "lr_decay_from"), ("train", "zero_nonfinite"), ("ema", "sigma_rel"), ("network", "channels_per_head")):
        del older[part][key]
    assert identity_digest(older) == run.digest
    pairs = ("train.lr_decay_from=2000", "train.zero_nonfinite=true", "ema.sigma_rel=0.1")
    assert len({run.digest, *(override(run, [pair]).digest for pair in pairs)}) == 4


@pytest.mark.parametrize("pair", ["train.lr_decay_from=0", "train.lr_decay_from=1.5", "train.zero_nonfinite=1e3", "ema.sigma_rel=0.3"])
def test_values_out_of_range_are_named(pair):
    with pytest.raises(HarnessError) as caught:
        override(run_with(), [pair])
    assert pair.partition("=")[0] in caught.value.details["where"]


# --- gradients that are not finite


def spoil(model, steps, value):
    """Puts `value` into one entry of the first layer's gradient at these 1-based steps."""
    parameter = next(p for name, p in model.online.named_parameters() if name.endswith("inputs.weight"))

    def hook(gradient):
        if model.step + 1 in steps:
            gradient = gradient.clone()
            gradient[3, 1] = value
        return gradient

    parameter.register_hook(hook)
    return parameter


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_zero_counted_and_reported(value, capsys):
    run = run_with(zero_nonfinite=True)
    models = []
    for bad in (value, 0.0):
        models.append(fresh(run))
        spoil(models[-1], (2, 5, 6), bad)
        trained(run, start=models[-1])
    assert difference(models[0].state(), models[1].state()) == []
    lines = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert lines == ["step 7: 3 entries of the gradients of 3 of 6 steps were not finite and were set to 0"]


def test_a_loss_that_is_not_finite_ends_a_run_only_without_the_switch(monkeypatch, capsys):
    real, calls = loop.losses, []

    def losses(*arguments, **options):
        calls.append(None)
        return real(*arguments, **options) * (math.nan if len(calls) % 24 == 10 else 1.0)

    monkeypatch.setattr(loop, "losses", losses)
    with pytest.raises(Diverged, match="not finite"):
        trained(run_with())
    calls.clear()
    model = trained(run_with(zero_nonfinite=True))
    assert model.step == 24 and weights_of(model).isfinite().all() and math.isfinite(model.loss)
    assert f"step 10: {len(weights_of(model)):,} entries of the gradients of 1 of 3 steps" in capsys.readouterr().out


def test_by_default_such_a_run_ends():
    run = run_with()
    model = fresh(run)
    spoil(model, (2,), math.nan)
    with pytest.raises(Diverged, match="not finite"):
        trained(run, start=model)


def test_the_switch_changes_nothing_where_all_is_finite(capsys):
    assert difference(trained(run_with(zero_nonfinite=True)).state(), trained(run_with()).state()) == []
    assert "not finite" not in capsys.readouterr().out


def test_a_run_without_any_finite_gradient_ends():
    run = run_with(zero_nonfinite=True, steps=120).model_copy(update={"checkpoint_every": 1000})
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every": 1000})})
    model = fresh(run)
    spoil(model, range(1, 121), math.nan)
    with pytest.raises(Diverged, match="not finite in any of the 50 steps up to 100"):
        trained(run, start=model)


def test_the_count_is_of_entries_and_of_steps():
    zeroed, parameter, unused = ZeroedGradients(torch.device("cpu")), torch.zeros(4, requires_grad=True), torch.zeros(2, requires_grad=True)
    for values in ([1.0, math.nan, math.inf, 2.0], [1.0, 2.0, 3.0, 4.0], [-math.inf, 0.0, 0.0, 0.0]):
        parameter.grad = torch.tensor(values)
        zeroed.zero([parameter, unused])
        assert parameter.grad.tolist() == [value if math.isfinite(value) else 0.0 for value in values]
    assert zeroed.take() == (3, 2, 3) and zeroed.take() == (0, 0, 0)


# --- the average


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_the_average_of_the_trainer_follows_the_power_function(sigma_rel):
    run = run_with(ema=Ema(sigma_rel=sigma_rel))
    model = fresh(run)
    path: list[torch.Tensor] = []
    trained(run, Hooks(stop=lambda: bool(path.append(weights_of(model).double()))), start=model)
    tau, power = torch.arange(1, 25, dtype=torch.float64), gamma_of(sigma_rel) + 1
    shares = (tau / 24) ** power - ((tau - 1) / 24) ** power
    expected = (shares[:, None] * torch.stack(path)).sum(0)
    average = torch.cat([p.flatten() for p in model.ema.parameters()])
    torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    half = fresh(run)
    trained(run, Hooks(stop=stop_after(half, 11)), start=half)
    assert difference(trained(run, start=copied(run, half)).state(), model.state()) == []


def test_a_power_function_average_excludes_the_other_laws():
    with pytest.raises(ValueError, match="copy_steps = 0"):
        Ema(sigma_rel=0.1, copy_steps=5)
    with pytest.raises(ValueError, match=r"protocol\.ema = 'released' has a decay of its own"):
        tiny_run(ema=Ema(sigma_rel=0.1), protocol=Protocol(ema="released"))
