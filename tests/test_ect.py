"""ECT (arXiv 2406.14548) inside the trainer: times, weights, clean targets, and GC on top of it."""

from __future__ import annotations

import math

import pytest
import scipy.special
import scipy.stats
import torch
from train_support import copied, difference, fresh, tiny_run, trained

from harness.config.parts import EasyConsistencyTuning, GeneratorAugmented, Init
from harness.core.couplings import generator_augmented
from harness.core.randomness import generator
from harness.errors import HarnessError
from harness.training import model
from harness.training.batches import Step, draw_levels
from harness.training.loop import endpoint_predictor, losses

ECT = EasyConsistencyTuning(double=6)


def ect_run(coupling="ic", **changes):
    return tiny_run(coupling, objective=changes.pop("objective", ECT), **changes)


def test_times_and_weights_of_a_step():
    run = ect_run(objective=EasyConsistencyTuning(double=100))
    for step, stage in ((0, 0), (99, 0), (100, 1), (550, 5)):
        r, t, weight = draw_levels(run, step, 4000)
        law = t.numpy() * (1 - (1 + 8 * scipy.special.expit(-t.numpy())) / 2 ** (stage + 1))
        assert r.tolist() == pytest.approx(law.clip(min=0).tolist(), rel=1e-9, abs=1e-12)
        assert weight.tolist() == pytest.approx([1 / (b - a) for a, b in zip(r.tolist(), t.tolist(), strict=True)])
        assert scipy.stats.kstest(t.numpy(), scipy.stats.lognorm(s=2.0, scale=math.exp(-1.1)).cdf).pvalue > 1e-4


def test_loss_by_hand_and_clean_targets_where_r_is_0():
    """With f(x, t) = x/2 for t > 0: the row of r = 0 is compared with the clean x, the other with its teacher; plain norm over t - r."""

    def f(x, sigma, labels=None):
        return torch.where(sigma[:, None] == 0, x, x / 2)

    x, z = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.zeros(2, 2)
    r, t = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])
    step = Step(x, z, None, low=r, high=t, weight=1 / (t - r))
    assert losses(ect_run(), f, step, dropout=0).tolist() == pytest.approx([2.5 / 2, 0.0])


def test_the_network_itself_keeps_the_target_clean():
    """f of ECT has sigma_0 = 0, so the teacher at r = 0 is the data, bit for bit."""
    f = fresh(ect_run()).online
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(f(x, torch.zeros(5)), x)
    assert not torch.equal(f(x, torch.full((5,), 0.002)), x)


def test_gc_leaves_the_rows_of_r_0_unchanged():
    start = fresh(ect_run())
    x, z = (torch.randn(64, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    r = torch.linspace(-1, 1, 64).clamp(min=0)
    new_x, new_z = generator_augmented(1.0)(x, z, r, endpoint_predictor(start.ema, None), generator(0, "mask"))
    assert torch.equal(new_x[r == 0], x[r == 0]) and torch.equal(new_z, z)
    assert (new_x[r > 0] != x[r > 0]).any(1).all()
    expected = start.ema(x + r[:, None] * z, r)
    assert torch.allclose(new_x, expected)


@pytest.mark.parametrize("coupling", ["ic", "ot", "gc"])
def test_tuning_runs_and_resumes(coupling):
    run = ect_run(coupling, optimizer="radam")
    full = trained(run)
    assert all(p.isfinite().all() for p in full.online.parameters())
    half = trained(run.model_copy(update={"train": run.train.model_copy(update={"steps": 13})}))
    assert difference(trained(run, start=copied(run, half)).state(), full.state()) == []


def test_a_late_stage_stays_finite():
    """At stage 60 with q = 2 a bare 1 - q^-61 would round to 1 and the weight to infinity."""
    run = ect_run(steps=6, objective=EasyConsistencyTuning(double=1, q=2.0**20))
    assert all(p.isfinite().all() for p in trained(run).online.parameters())


def test_tuning_starts_from_the_weights_it_is_given():
    other = trained(tiny_run())
    run = ect_run(init=Init(kind="run", ref="some-run"))
    started = model.create(run, start=other.ema.state_dict())
    for part in (started.online, started.ema):
        assert difference(part.state_dict(), other.ema.state_dict()) == []
    with pytest.raises(HarnessError) as caught:
        model.create(run.model_copy(update={"network": run.network.model_copy(update={"width": 8})}), start=other.ema.state_dict())
    assert caught.value.details["where"] == "init: some-run"


def test_gc_inside_tuning_trains_on_other_pairs_than_ic():
    assert difference(trained(ect_run(GeneratorAugmented(mu=1.0))).state(), trained(ect_run()).state()) != []
