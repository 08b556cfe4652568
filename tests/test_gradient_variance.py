"""The variance of the gradient and its parts: unbiased, with errors of the right size, and equal to what single rows give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_support import assert_refused, generator
from train_support import create, data_of, tiny_run

from harness.config.parts import Denoising
from harness.core.consistency import per_row, pseudo_huber
from harness.theory import gradient_variance
from harness.theory.gradient_variance import row_gradients, shares
from harness.training.model import last_levels


def simulated(mean_ic: torch.Tensor, mean_gc: torch.Tensor, batches: int, rows: int, draws: torch.Generator):
    """Moments of batch means whose rows have variances 1 (IC) and 4 (GC) in each of p parameters, correlated between the two."""
    p = len(mean_ic)
    shared = torch.randn(batches, rows, p, generator=draws, dtype=torch.float64)
    own = torch.randn(batches, rows, p, generator=draws, dtype=torch.float64)
    return row_gradients((mean_ic + shared).mean(1), (mean_gc + 1.2 * shared + 1.6 * own).mean(1), rows)


def test_the_three_moments_are_unbiased_and_their_errors_have_the_right_size():
    draws, p = generator(1), 5
    mean_ic, mean_gc = torch.zeros(p).double(), torch.full((p,), 0.1).double()
    results = [simulated(mean_ic, mean_gc, 12, 4, draws) for _ in range(400)]
    truth = torch.tensor([p * 1.0, p * 4.0, p * 0.01])
    values = torch.stack([result.values for result in results])
    assert bool(((values.mean(0) - truth).abs() < 4 * values.std(0) / 400**0.5).all()), values.mean(0)
    for mu in (0.0, 0.3, 1.0):
        totals = [result.total(mu) for result in results]
        spread = torch.tensor([total.value for total in totals]).std().item()
        assert sum(total.se for total in totals) / 400 == pytest.approx(spread, rel=0.15)
        expected = (1 - mu) * p + mu * 4 * p + mu * (1 - mu) * 0.01 * p
        assert abs(sum(total.value for total in totals) / 400 - expected) < 4 * spread / 400**0.5


def test_the_parts_add_up_to_the_variance_of_the_mixture():
    """Rows drawn from the mixture itself, each of which is GC with probability mu."""
    draws, mu, p = generator(2), 0.4, 3
    mean_ic, mean_gc = torch.zeros(p).double(), torch.full((p,), 2.0).double()
    is_gc = torch.rand(200_000, 1, generator=draws) < mu
    noise = torch.randn(200_000, p, generator=draws, dtype=torch.float64)
    mixture = torch.where(is_gc, mean_gc + 2 * noise, mean_ic + noise).var(0).sum().item()
    result = simulated(mean_ic, mean_gc, 400, 8, draws)
    assert sum(part.value for part in result.parts(mu)) == pytest.approx(result.total(mu).value)
    assert abs(result.total(mu).value - mixture) < 4 * result.total(mu).se + 0.01 * mixture


@settings(max_examples=50)
@given(st.floats(0, 1), st.integers(3, 8), st.integers(1, 50), st.floats(0.1, 10))
def test_invariants(mu, batches, rows, factor):
    draws = generator(rows)
    ic, gc = (torch.randn(batches, 4, generator=draws, dtype=torch.float64) for _ in range(2))
    result, scaled = row_gradients(ic, gc, rows), row_gradients(factor * ic, factor * gc, rows)
    assert scaled.total(mu).value == pytest.approx(factor**2 * result.total(mu).value, rel=1e-9, abs=1e-12)
    swapped = row_gradients(gc, ic, rows)
    assert swapped.total(1 - mu).value == pytest.approx(result.total(mu).value, rel=1e-9, abs=1e-12)
    assert float(shares(mu)[:2].sum()) == pytest.approx(1)


def test_ic_rows_against_gradients_of_single_rows():
    """The loss is written out here, and each row is differentiated alone by torch.func."""
    run = tiny_run("gc", dropout=0.0)
    data, f = data_of(run), create(run).ema
    with torch.no_grad():
        for p in f.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator(5)))
    parameters = {name: p.detach() for name, p in f.named_parameters()}
    levels, draws = last_levels(run), generator(6)
    mass = torch.erf((levels.log() + 1.1) / (2 * 2**0.5)).diff()
    i = torch.multinomial(mass / mass.sum(), 4000, replacement=True, generator=draws)
    x, z = data.batch(torch.randint(len(data), (4000,), generator=draws)), torch.randn(4000, 2, generator=draws)

    def loss(values, x, z, low, high):
        def at(sigma):
            return torch.func.functional_call(f, values, ((x + per_row(sigma, x[None]) * z), sigma[None].float()))

        return (pseudo_huber(at(high), at(low).detach(), run.objective.huber * 2**0.5) / (high - low)).sum()

    single = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0, 0))(parameters, x, z, levels[i], levels[i + 1])
    gradients = torch.cat([g.flatten(1) for g in single.values()], 1).double()
    squares = (gradients - gradients.mean(0)).square().sum(1)
    measured = gradient_variance.measure(run, f, data, generator(7), 60, 64).estimate(lambda v: v[..., 0])
    assert abs(measured.value - float(squares.mean())) < 4 * (measured.se**2 + float(squares.var() / 4000)) ** 0.5
    assert all(p.grad is None and not p.requires_grad for p in f.parameters())


def test_a_denoiser_has_no_grid():
    run = tiny_run("ic", objective=Denoising())
    with assert_refused(where=run.id, found="denoiser"):
        gradient_variance.measure(run, create(run).ema, data_of(run), generator(0), 3, 4)
