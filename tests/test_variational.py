"""The learned coupling of variational consistency training: the encoder, its divergence, its gradient, and what it learns."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from train_support import copied, data_of, difference, fresh, stop_after, tiny_run, trained

from harness.config import presets
from harness.config.parts import Network, Variational
from harness.config.run import varied
from harness.core.networks.encoder import NoiseEncoder
from harness.store.runs import RunFolder
from harness.theory.studies.run_pairs import pairs_of
from harness.training import job, trained_runs
from harness.training.batches import Step
from harness.training.loop import Hooks, encoded, gradients, train
from harness.training.model import create


class Fixed(torch.nn.Module):
    """An encoder's network with a known output."""

    def __init__(self, mean: torch.Tensor, log_sd: torch.Tensor) -> None:
        super().__init__()
        self.output = torch.nn.Parameter(torch.cat([mean, log_sd], 1))

    def forward(self, x, level, labels):
        return self.output[: len(x)]


def test_the_noise_and_its_divergence_are_those_of_the_law():
    draws = torch.Generator().manual_seed(0)
    mean, log_sd, z = (torch.randn(6, 3, generator=draws) for _ in range(3))
    noise, divergence = NoiseEncoder(Fixed(mean, log_sd), gain=1.0)(torch.ones(6, 3), z)
    assert torch.allclose(noise, mean + log_sd.exp() * z)
    law, standard = Normal(mean.double(), log_sd.double().exp()), Normal(torch.zeros(6, 3).double(), 1.0)
    assert torch.allclose(divergence.double(), kl_divergence(law, standard).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("scale", "data"), [("toy", "eight-gaussians"), ("digits", "digits")])
def test_the_first_pairs_are_those_of_ic(scale, data):
    run = presets.make(scale, data, Variational(), 0)
    encoder = create(run).online.encoder
    shape = data_of(run).shape
    x, z = torch.randn(5, *shape), torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    noise, divergence = encoder(x, z)
    assert torch.allclose(noise, z, atol=1e-3) and divergence.max() < 1e-3


def test_the_encoder_of_edm2_learns():
    """Its output starts at zero, and a factor of zero before it would leave both without a gradient."""
    network = Network(kind="edm2", base_channels=8, channel_mult=(1,), num_blocks=(1,), dropout=(0.0,), channels_per_head=8)
    run = varied(presets.DIGITS, network=network.model_dump()).model_copy(update={"coupling": Variational()})
    model = create(run)
    step = Step(torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), None, *(torch.full((4,), value) for value in (0.5, 1.0, 2.0)))
    gradients(run, model.online, step, 0, 1.0, 0, 4)
    assert model.online.encoder.network.out_gain.grad.abs() > 0


def test_the_gradient_is_that_of_loss_and_divergence_with_a_fixed_teacher():
    run = tiny_run(Variational(kl_weight=0.3), dropout=0.0)
    model = create(run)
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    draws = torch.Generator().manual_seed(1)
    x, z = torch.randn(8, 2, generator=draws), torch.randn(8, 2, generator=draws)
    low, high, weight = torch.full((8,), 0.7).double(), torch.full((8,), 1.1).double(), torch.full((8,), 2.5).double()
    gradients(run, model.online, Step(x, z, None, low, high, weight), 0, 0.125, 0, rows=3)
    found = torch.cat([parameter.grad.flatten() for parameter in model.online.parameters()])

    exact = create(run).online.double()
    exact.load_state_dict(model.online.state_dict())
    x, z = x.double(), z.double()
    out = exact.encoder.gain * exact.encoder.network(torch.cat([x, 0 * x], 1), torch.zeros(8).double(), None)
    mean, log_sd = out.chunk(2, 1)
    noise = mean + log_sd.exp() * z
    gap = exact(x + 1.1 * noise, high) - exact((x + 0.7 * noise).detach(), low).detach()
    c = run.objective.huber * 2**0.5
    divergence = kl_divergence(Normal(mean, log_sd.exp()), Normal(torch.zeros(8, 2).double(), 1.0)).sum(1)
    loss = (2.5 * ((gap.square().sum(1) + c**2).sqrt() - c) + 0.3 * divergence).mean()
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(exact.parameters()))])
    assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("at", [1, 13])
def test_it_resumes_bit_for_bit(at):
    run, model = tiny_run(Variational()), None
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, at)))
    assert difference(trained(run, start=copied(run, model)).state(), trained(run).state()) == []


def test_other_couplings_have_no_encoder_and_keep_their_step():
    run = tiny_run("ic")
    model = create(run)
    step = Step(torch.zeros(2, 2), torch.ones(2, 2), None, *(torch.ones(2) for _ in range(3)))
    assert encoded(run, model.online, step) == (step, None)
    assert not any("encoder" in name for name in model.state()["online"])


def test_it_shortens_the_pairs_the_more_the_smaller_its_weight(tmp_path):
    """Measured on finished runs as any coupling is. Training records the pairs of the encoder at work, not of its average."""
    costs = {}
    for weight in (1.0, 10.0, 1e4):
        run = tiny_run(Variational(kl_weight=weight), steps=240, batch=64, dropout=0.0)
        run = varied(run, train={"lr": 3e-3}, evaluation={"every": 240})
        folder = RunFolder.create(tmp_path, run.id, run.to_dict())
        assert job.run_job(folder.path, "cpu") == 0
        costs[weight] = pairs_of(trained_runs.load(folder), None).cost(40)
        (recorded,) = [row["value"] for row in folder.records() if row["metric"] == "pair_cost"]
        assert recorded == pytest.approx(costs[weight].value, abs=0.1 + 6 * costs[weight].se * 40**0.5)
    exact_ic = 2 + data_of(tiny_run()).rows.square().sum(1).mean().item()
    assert costs[1e4].value == pytest.approx(exact_ic, abs=5 * costs[1e4].se + 0.01)
    assert 3 * costs[1.0].value < costs[10.0].value < 0.5 * exact_ic
