"""Preconditioning, distances, losses and sampling, against hand-computed values and the Gaussian closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from train_support import tiny_run

from harness.config.parts import Network
from harness.core import consistency, schedules
from harness.core.consistency import Preconditioned
from harness.core.networks import build
from harness.core.randomness import generator
from harness.training.batches import Step
from harness.training.loop import losses

IMAGES = Network(kind="ddpmpp", base_channels=4, channel_mult=(1, 1), num_blocks=(1, 1), dropout=(0.5, 0.5))
POINTS = Network(kind="mlp", width=32, depth=2, dropout=(0.5,))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).flatten(1).square().sum(1)


class Recorder(nn.Module):
    """F = 3; records its arguments."""

    def forward(self, x, c_noise, labels=None):
        self.seen = x, c_noise
        return torch.full_like(x, 3.0)


class Mask(nn.Module):
    """F returns its own dropout mask."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, x, c_noise, labels=None):
        out = nn.functional.dropout(torch.ones_like(x), 0.5, self.training) * self.scale
        self.seen.append(out.detach())
        return out


def test_preconditioning_by_hand():
    """At s = 1.002 with sd = 0.5, s0 = 0.002: c_skip = 0.25/1.25, c_out = 0.5/1.119823, c_in = 1/1.119823, c_noise = ln(1.002)/4."""
    f = Preconditioned(Recorder())
    out = f(torch.tensor([[2.0]]), torch.tensor([1.002]))
    given_x, given_c = f.model.seen
    assert out.item() == pytest.approx(0.2 * 2 + 3 * 0.5 / math.sqrt(0.25 + 1.002**2), rel=1e-6) == pytest.approx(1.739498, abs=1e-5)
    assert given_x.item() == pytest.approx(2 / 1.119823, rel=1e-6)
    assert given_c.item() == pytest.approx(math.log(1.002) / 4, rel=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("network", "shape"), [(IMAGES, (2, 8, 8)), (POINTS, (3,))])
def test_f_at_sigma_0_is_the_identity_bit_for_bit(network, shape, bf16):
    f = Preconditioned(build(network, shape, generator=generator(0, "init")), bf16=bf16)
    x = randn(5, *shape)
    assert torch.equal(f(x, torch.full((5,), 0.002, dtype=torch.float64)), x)
    assert not torch.equal(f(x, torch.full((5,), 0.1)), x)


@given(st.floats(0.05, 3), st.floats(1e-4, 1))
def test_f_at_sigma_0_is_the_identity_for_every_scale(sigma_data, sigma_0):
    f = Preconditioned(Recorder(), sigma_data, sigma_0)
    x = randn(4, 3)
    assert torch.equal(f(x, torch.full((4,), sigma_0)), x)


def test_the_denoiser_at_zero_noise_is_the_identity():
    f = Preconditioned(build(POINTS, (3,)), sigma_0=0.0)
    x = randn(4, 3)
    assert torch.equal(f(x, torch.zeros(4)), x)


def test_bf16_applies_to_the_network_alone():
    network = build(IMAGES, (1, 8, 8), generator=generator(0, "init"))
    full, half = Preconditioned(network).eval(), Preconditioned(network, bf16=True).eval()
    inside = []
    network.enc["8x8_conv"].register_forward_hook(lambda module, inputs, output: inside.append(output.dtype))
    x, sigma = randn(4, 1, 8, 8), torch.tensor([0.01, 0.5, 5.0, 80.0])
    a, b = full(x, sigma), half(x, sigma)
    assert inside == [torch.float32, torch.bfloat16]
    assert b.dtype == torch.float32 and torch.allclose(a, b, rtol=0.02, atol=0.02)
    b.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_pseudo_huber_of_the_norm_over_all_pixels_and_channels():
    x = torch.zeros(1, 2, 1, 2)
    y = torch.tensor([3.0, 0.0, 0.0, 4.0]).reshape(1, 2, 1, 2)
    assert consistency.pseudo_huber(x, y, 12.0).tolist() == [1.0]  # sqrt(25 + 144) - 12
    assert consistency.distance("squared", x, y, 12.0).tolist() == [25.0]
    assert consistency.distance("norm", x, y, 12.0).tolist() == [5.0]


def test_pseudo_huber_constant_of_the_paper():
    def f(x, sigma, labels=None):
        return x

    run = tiny_run()
    x, z, ones = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), torch.ones(1)
    z[0, 0, 0, 0] = 1.0
    c = 0.00054 * math.sqrt(3072)
    step = Step(x, z, None, low=ones, high=1.04 * ones, weight=7 * ones)
    loss = losses(run, f, step, dropout=0)
    assert loss.item() == pytest.approx(7 * (math.sqrt(0.04**2 + c**2) - c), rel=1e-4)


def test_the_plain_norm_has_a_gradient_where_student_and_teacher_agree():
    x = torch.ones(2, 3, requires_grad=True)
    consistency.pseudo_huber(x, torch.ones(2, 3), 0.0).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_pair_loss_and_its_gradient_by_hand():
    """f = a s x at a = 1, x = z = 1: student 2 * 3 at s = 2, teacher 1 * 2 at s = 1; w |6a - 2|^2 has the slope 12 w (6a - 2)."""
    a = torch.ones((), requires_grad=True)

    def f(x, sigma, labels=None):
        return a * sigma[:, None] * x

    ones = torch.ones(1)
    loss = consistency.pair_losses(f, ones[None], ones[None], ones, 2 * ones, 0.5 * ones, squared, dropout=0)
    loss.sum().backward()
    assert loss.item() == 0.5 * 16
    assert a.grad.item() == 0.5 * 12 * 4  # no part of it through the teacher


def test_denoising_loss_by_hand():
    """D = 0: weight (s^2 + sd^2)/(s sd)^2 = 1.25/0.25 at s = 1, sd = 0.5, times |x|^2 = 25."""
    x = torch.tensor([[3.0, 4.0]])
    loss = consistency.denoising_losses(lambda x, s, labels=None: 0 * x, x, x, torch.ones(1), 0.5, dropout=0)
    assert loss.item() == pytest.approx(125.0)


def losses_of(f, rows: int = 6, seed: int = 3, shape: tuple[int, ...] = (50,)) -> torch.Tensor:
    x, z = randn(rows, *shape), randn(rows, *shape, seed=1)
    level = torch.full((rows,), 0.5)
    return consistency.pair_losses(f, x, z, level, 2 * level, level, squared, seed)


def test_student_and_teacher_share_the_dropout_mask():
    net = Mask()

    def f(x, sigma, labels=None):
        return net(x, sigma)

    assert losses_of(f).tolist() == [0.0] * 6  # with two masks about half of the 50 entries would differ by 2
    student, teacher = net.seen
    assert torch.equal(student, teacher) and set(student.unique().tolist()) == {0.0, 2.0}
    losses_of(f, seed=4)
    assert not torch.equal(net.seen[2], student)
    torch.manual_seed(99)
    losses_of(f, seed=3)
    assert torch.equal(net.seen[4], student)


@pytest.mark.parametrize(("network", "shape"), [(IMAGES, (2, 8, 8)), (POINTS, (3,))])
def test_the_networks_masks_are_shared_too(network, shape):
    """At equal levels student and teacher compute the same, so any difference comes from the masks."""
    f = Preconditioned(build(network, shape, generator=generator(0, "init")))
    for p in f.parameters():  # the last layer starts near zero and would hide what comes before
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(0))
    x, z, level = randn(6, *shape), randn(6, *shape, seed=1), torch.full((6,), 0.5)
    row_losses = consistency.pair_losses(f, x, z, level, level, level, squared, 5)
    assert row_losses.tolist() == [0.0] * 6
    torch.manual_seed(0)
    assert not torch.equal(f(x, level), f(x, level))


@pytest.mark.parametrize("s", [0.5, 1.3])
def test_consistency_training_on_gaussian_data_ends_at_the_closed_form(s):
    """Data N(0, s^2 I), f = a(t) x, squared distance. Each level's minimiser of the training loss, minimisers by Newton's step on the
    loss itself from the level below, must follow a(t) = s / sqrt(s^2 + t^2) up to the grid's and the sample's error."""
    levels = schedules.noise_levels(200, 0.002, 80.0, 7.0)
    rows = 10_000
    x, z = s * randn(rows, 2).double(), randn(rows, 2, seed=1).double()
    a, minimisers = torch.ones((), dtype=torch.float64), [1.0]
    for low, high in itertools.pairwise(levels):
        b = a.clone().requires_grad_()

        def f(x, sigma, labels=None, low=low, a=a, b=b):
            return torch.where(sigma[:, None] == low, a, b) * x

        each = (level.expand(rows) for level in (low, high, 1 / (high - low)))
        loss = consistency.pair_losses(f, x, z, *each, squared, dropout=0).mean()
        (slope,) = torch.autograd.grad(loss, b)
        curvature = 2 * (x + high * z).square().sum(1).mean() / (high - low)
        a = (b - slope / curvature).detach()
        minimisers.append(a.item())
    truth = s / (s**2 + levels**2).sqrt()
    assert minimisers == pytest.approx(truth.tolist(), rel=0.05)
