"""The plain baseline of the benchmark does the work of the harness's step: the same loss and weights after one step on the same pairs.

Tolerances, for fp32: 1e-5 of the loss, and 1e-5 of the largest gradient of each tensor. Lion moves every weight by the learning rate times
the sign of a momentum, so weights whose gradient is rounding may move the other way: at most one in a thousand.
"""

from __future__ import annotations

import pytest
import torch
from train_support import data_of, tiny_run

from harness.bench.plain import PlainBatch, PlainTrainer, Rows
from harness.bench.plain_network import PlainUNet
from harness.bench.shapes import SHAPES
from harness.bench.trainers import COUPLINGS
from harness.config import presets
from harness.config.parts import Network
from harness.config.run import varied
from harness.core.networks import build
from harness.core.randomness import address, generator
from harness.data import datasets
from harness.training import model, user_couplings
from harness.training.batches import ALONE, Batches
from harness.training.loop import couple, ema_decay, gradients, update_ema

CPU = torch.device("cpu")


def small_digits(coupling: str):
    """The digits preset with dropout, four rows and an EMA that keeps little, so that a step changes it visibly."""
    run = presets.make("digits", "digits", COUPLINGS[coupling], 0)
    network = {"dropout": (0.0, 0.0) if coupling == "GC" else (0.2, 0.2)}
    return varied(run, train={"batch": 6}, ema={"rate": 0.5, "copy_steps": 0}, network=network)


def with_other_average(trained: model.Model, averages) -> None:
    """Last layers that are not nearly zero, as they are before training, and an EMA network that is not the online network."""
    with torch.no_grad():
        for number, pair in enumerate(zip(trained.online.parameters(), trained.ema.parameters(), strict=True)):
            for which, parameter in enumerate(pair):
                draw = torch.randn(parameter.shape, generator=generator(5, "init", number, which))
                parameter.add_(0.02 * draw)
    averages(trained)


def both(run, data):
    """The harness's model and the plain trainer with the same weights, and the same step 0 for both: coupled, and as drawn."""
    trained, plain = model.create(run), PlainTrainer(run, data, CPU)

    def copied(source: model.Model) -> None:
        plain.online.load_state_dict(source.online.state_dict())
        plain.ema.load_state_dict(source.ema.state_dict())

    with_other_average(trained, copied)
    batches = Batches(run, data, ALONE, user_couplings.build(run))
    drawn = batches(0)
    step = couple(batches, 0, drawn, trained.ema if run.coupling.kind == "gc" else None, len(drawn.x))
    low, high = drawn.low.float(), drawn.high.float()
    gc = None
    if run.coupling.kind == "gc":
        gc = torch.rand(len(drawn.x), generator=generator(run.seed, "mask", 0)) < run.coupling.mu
        assert 0 < gc.sum() < len(gc)
    return trained, plain, step, PlainBatch(drawn.x, drawn.z, low, high, gc, dropout=address(run.seed, "dropout", 0))


def assert_equal_step(run, data) -> None:
    trained, plain, step, batch = both(run, data)
    before = [p.detach().clone() for p in trained.online.parameters()]
    loss = gradients(run, trained.online, step, 0, 1 / len(step.x), 0, len(step.x))
    wanted = [p.grad.clone() for p in trained.online.parameters()]
    trained.optimizer.step()
    update_ema(trained.average, trained.weights, ema_decay(run, 0))

    torch.testing.assert_close(plain.step(batch), loss, rtol=1e-5, atol=0)
    weights = trained.online.parameters(), plain.online.parameters(), trained.ema.parameters(), plain.ema.parameters()
    moved = others = 0
    for start, gradient, ours, theirs, average, other in zip(before, wanted, *weights, strict=True):
        torch.testing.assert_close(theirs.grad, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())
        equal = (ours - theirs).abs() <= 1e-6
        moved, others = moved + int((ours != start).sum()), others + int((~equal).sum())
        torch.testing.assert_close(other[equal], average[equal], rtol=1e-5, atol=1e-6)
    assert moved and others <= moved / 1000


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_one_step_on_images_is_the_harness_step(coupling):
    run = small_digits(coupling)
    assert_equal_step(run, datasets.load("digits"))


@pytest.mark.parametrize("optimizer", ["adam", "radam"])
def test_one_step_on_points_is_the_harness_step(optimizer):
    run = tiny_run("gc", dropout=0.0, optimizer=optimizer)
    assert_equal_step(run, data_of(run))


def test_the_plain_network_is_ddpmpp():
    """Two levels with resampling, attention at one resolution and at the bottleneck, unequal widths and blocks."""
    network = Network(kind="ddpmpp", base_channels=8, channel_mult=(1, 2, 3), num_blocks=(1, 2, 1), dropout=(0.0,) * 3, attention=(8,))
    ours = build(network, (3, 16, 16), 0, generator(1, "init")).eval()
    with torch.no_grad():
        for parameter in ours.parameters():  # blocks whose last convolution is nearly zero would compute nothing
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(2, "init")))
    plain = PlainUNet(network, 3, 16).eval()
    plain.load_state_dict(ours.state_dict())
    x, c_noise = torch.randn(2, 3, 16, 16, generator=generator(3, "init")), torch.tensor([-1.0, 0.7])
    torch.testing.assert_close(plain(x, c_noise), ours(x, c_noise, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", ["fashion", "cifar10"])
def test_the_plain_network_takes_the_weights_of_the_presets(shape):
    run = SHAPES[shape].run(COUPLINGS["IC"], CPU)
    with torch.device("meta"):
        size = {"fashion": (1, 32), "cifar10": (3, 32)}[shape]
        ours, plain = build(run.network, (size[0], size[1], size[1])), PlainUNet(run.network, *size)
    assert {name: value.shape for name, value in plain.state_dict().items()} == {n: v.shape for n, v in ours.state_dict().items()}
    assert shape != "cifar10" or sum(p.numel() for p in plain.parameters()) == 34_711_811, "the paper's CIFAR-10 network"


def test_what_it_draws_trains_each_coupling():
    """The loader's rows are those of the data set, noise and levels have the laws of the run, and batch-OT's pairs are an assignment."""
    data = datasets.load("digits")
    torch.testing.assert_close(torch.stack([Rows(data)[i] for i in (0, 700)]), data.batch([0, 700]))
    for name in COUPLINGS:
        torch.manual_seed(0)
        plain = PlainTrainer(small_digits(name), data, CPU)
        batch = plain.draw()
        assert batch.x.shape == batch.z.shape == (6, 1, 8, 8) and (batch.gc is None) == (name != "GC")
        assert (batch.low < batch.high).all() and batch.low.min() >= 0.002 - 1e-9 and batch.high.max() <= 80
        torch.manual_seed(0)
        independent = PlainTrainer(small_digits("IC"), data, CPU).draw()
        costs = [(pairs.x - pairs.z).square().sum() for pairs in (batch, independent)]
        assert costs[0] < costs[1] if name == "OT" else costs[0] == costs[1]
        plain.train(2)
        assert plain.step_number == 2
        plain.close()
