"""Couplings: the rows that become GC, closed forms on Gaussian data, a user's own in ten lines."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from train_support import tiny_run

from harness.config.parts import BatchOT, Custom, GeneratorAugmented, Protocol
from harness.core import couplings
from harness.core.couplings import batch_ot, entropic_ot, generator_augmented, independent
from harness.core.optimal_transport import entropic_plan
from harness.core.randomness import generator
from harness.errors import HarnessError
from harness.training import user_couplings


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask(step: int = 0) -> torch.Generator:
    return generator(0, "mask", step)


class Predictor:
    """Predicts the endpoint 10 x + sigma and records its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, x, sigma, rows):
        self.calls.append((x, sigma, rows))
        return 10 * x + sigma.reshape(-1, *[1] * (x.dim() - 1))


def test_batch_ot_moves_the_noise_only_and_lowers_the_cost():
    x, z = randn(64, 3), randn(64, 3, seed=1)
    new_x, new_z = batch_ot()(x, z, None, None, None)
    assert torch.equal(new_x, x)
    assert sorted(new_z.tolist()) == sorted(z.tolist())
    assert (new_x - new_z).square().sum() < (x - z).square().sum()


def test_entropic_ot_draws_the_noise_from_the_plan(monkeypatch):
    x, z = randn(5, 2), randn(5, 2, seed=1)
    plan, couple, counts = entropic_plan(x, z, 0.3), entropic_ot(0.3), torch.zeros(5, 5)
    assert torch.equal(couple(x, z, generator=mask(3))[1], couple(x, z, generator=mask(3))[1])
    monkeypatch.setattr(couplings.optimal_transport, "entropic_plan", lambda *_: plan)  # the same each time, and slow
    repeats = 4000
    for step in range(repeats):
        new_x, new_z = couple(x, z, generator=mask(step))
        assert new_x is x
        counts[torch.arange(5), torch.cdist(new_z, z).argmin(1)] += 1
    expected = plan * 5
    sd = (expected * (1 - expected) / repeats).sqrt().clamp_min(1e-3)
    assert ((counts / repeats - expected).abs() < 5 * sd).all()


def test_entropic_ot_within_classes_draws_the_noise_of_the_same_class():
    x, z, classes = randn(30, 2), randn(30, 2, seed=1), torch.arange(30) % 3
    for step in range(20):
        drawn = torch.cdist(entropic_ot(0.5)(x, z, generator=mask(step), classes=classes)[1], z).argmin(1)
        assert torch.equal(classes[drawn], classes)


def test_independent_returns_the_pair_as_drawn():
    x, z = randn(4, 2), randn(4, 2, seed=1)
    assert independent(x, z, None, None, None) == (x, z)


def test_gc_with_mu_0_is_the_pair_as_drawn_and_calls_no_predictor():
    x, z, predict = randn(64, 2), randn(64, 2, seed=1), Predictor()
    pair = generator_augmented(0.0)(x, z, torch.ones(64), predict, mask())
    assert pair[0] is x and pair[1] is z and predict.calls == []


@pytest.mark.parametrize("whole_batch", [False, True])
def test_gc_replaces_its_rows_by_endpoints_and_keeps_the_noise(whole_batch):
    x, z, sigma, predict = randn(500, 1, 2, 2), randn(500, 1, 2, 2, seed=1), torch.rand(500, generator=mask(7)) + 0.1, Predictor()
    new_x, new_z = generator_augmented(0.3, whole_batch=whole_batch)(x, z, sigma, predict, mask())
    chosen = (new_x != x).flatten(1).any(1)
    assert torch.equal(chosen, torch.rand(500, generator=mask()) < 0.3)
    assert torch.equal(new_z, z)
    level = sigma[:, None, None, None]
    assert torch.equal(new_x[chosen], (10 * (x + level * z) + level)[chosen])
    ((given_x, given_sigma, given_rows),) = predict.calls
    expected = torch.arange(500) if whole_batch else chosen.nonzero().squeeze(1)
    assert torch.equal(given_rows, expected), "only the GC rows may go through the predictor"
    assert len(given_x) == len(given_sigma) == len(expected)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_the_share_of_gc_rows_is_mu(mu, step):
    predict = Predictor()
    new_x, _ = generator_augmented(mu)(torch.zeros(2000, 1), torch.ones(2000, 1), torch.ones(2000), predict, mask(step))
    share = (new_x != 0).float().mean().item()
    assert abs(share - mu) <= 5 * math.sqrt(mu * (1 - mu) / 2000) + 1e-3
    assert sum(len(rows) for _, _, rows in predict.calls) == round(2000 * share)


def test_gc_with_mu_1_replaces_every_row():
    predict = Predictor()
    new_x, _ = generator_augmented(1.0)(torch.zeros(50, 1), torch.ones(50, 1), torch.ones(50), predict, mask())
    assert new_x.tolist() == [[11.0]] * 50


def test_variants_keep_the_endpoints_and_change_their_noise():
    x, z, sigma = randn(200, 2), randn(200, 2, seed=1), torch.ones(200)
    plain_x, _ = generator_augmented(0.5)(x, z, sigma, Predictor(), mask())
    rows = (plain_x != x).any(1)

    fresh_x, fresh_z = generator_augmented(0.5, "fresh-noise")(x, z, sigma, Predictor(), mask())
    assert torch.equal(fresh_x, plain_x) and torch.equal(fresh_z[~rows], z[~rows])
    assert not (fresh_z[rows] == z[rows]).any() and 0.8 < fresh_z[rows].std() < 1.2

    shuffled_x, shuffled_z = generator_augmented(0.5, "shuffled")(x, z, sigma, Predictor(), mask())
    assert torch.equal(shuffled_z, z) and torch.equal(shuffled_x[~rows], x[~rows])
    assert sorted(shuffled_x[rows].tolist()) == sorted(plain_x[rows].tolist()) and not torch.equal(shuffled_x, plain_x)

    ot_x, ot_z = generator_augmented(0.5, "batch-ot")(x, z, sigma, Predictor(), mask())
    assert torch.equal(ot_x, plain_x) and torch.equal(ot_z[~rows], z[~rows])
    cost = cdist(plain_x[rows].double(), z[rows].double(), "sqeuclidean")
    assert (ot_x - ot_z)[rows].double().square().sum().item() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-5)

    predict = Predictor()
    reflow_x, reflow_z = generator_augmented(0.5, "reflow", sigma_max=80.0)(x, z, sigma, predict, mask())
    assert torch.equal(reflow_z, z) and torch.allclose(reflow_x[rows], 800 * z[rows] + 80.0)
    assert predict.calls[0][1].tolist() == [80.0] * int(rows.sum())


@pytest.mark.parametrize("t", [0.05, 0.5, 3.0, 20.0])
def test_gc_of_the_ideal_flow_on_gaussian_data(t):
    """Data N(0, s^2 I_d), predictor f = a x, a = s/sqrt(s^2 + t^2): transport cost c(t)/d = 1 + s^2 - 2 s t/sqrt(s^2 + t^2), and the proxy
    E|endpoint - E[endpoint | x_t]|^2 / t^2 = d a^2 s^2 / (a^2 s^2 + t^2 (1 + a)^2); all is jointly Gaussian, so E[.|.] is a regression."""
    s, d, n = 0.7, 2, 200_000
    x, z = s * randn(n, d).double(), randn(n, d, seed=1).double()
    a = s / math.sqrt(s**2 + t**2)
    sigma = torch.full((n,), t, dtype=torch.float64)

    def rtil(endpoint, noise):
        at = endpoint + t * noise
        slope = (endpoint * at).sum() / at.square().sum()
        return (endpoint - slope * at).square().sum(1).mean().item() / t**2

    endpoint, noise = generator_augmented(1.0)(x, z, sigma, lambda x, level, rows: a * x, mask())
    cost = (endpoint - noise).square().sum(1).mean().item()
    assert cost / d == pytest.approx(1 + s**2 - 2 * s * t / math.sqrt(s**2 + t**2), rel=0.01)
    assert rtil(endpoint, noise) == pytest.approx(d * a**2 * s**2 / (a**2 * s**2 + t**2 * (1 + a) ** 2), rel=0.02)
    assert rtil(x, z) == pytest.approx(d * s**2 / (s**2 + t**2), rel=0.02)


def test_build_obeys_the_protocol():
    gc = GeneratorAugmented(mu=0.25, predictor="online")
    x, z, sigma = torch.zeros(4000, 1), torch.ones(4000, 1), torch.ones(4000)
    for mu_protocol, share in (("paper", 0.25), ("released", 0.75)):
        built = couplings.build(tiny_run(gc, protocol=Protocol(mu=mu_protocol)))
        new_x, _ = built.function(x, z, sigma, Predictor(), mask())
        assert (new_x != 0).float().mean().item() == pytest.approx(share, abs=0.03)
        assert built.predictor == "online" and not built.ahead
    predict = Predictor()
    couplings.build(tiny_run(gc, protocol=Protocol(predictor_rows="released"))).function(x, z, sigma, predict, mask())
    assert len(predict.calls[0][2]) == 4000
    assert couplings.build(tiny_run(BatchOT(scope="global"))).whole_batch


def test_the_two_costs_of_batch_ot():
    """Squared: straight 1 + 1, crossed 1.9^2 + 0.1^2. Truncated to integers: straight 1 + 1, crossed 1 + 0."""
    x, z = torch.tensor([[0.0], [0.9]]), torch.tensor([[1.0], [1.9]])
    for protocol, expected in (("paper", [1.0, 1.9]), ("released", [1.9, 1.0])):
        _, noise = couplings.build(tiny_run("ot", protocol=Protocol(ot_cost=protocol))).function(x, z)
        assert noise.flatten().tolist() == pytest.approx(expected)


TEN_LINES = '''
from dataclasses import dataclass

@dataclass
class Seen:
    calls: int = 0

def swap(x, z, sigma, predict, generator, every=2):
    """Endpoints for every n-th row."""
    x = x.clone()
    x[::every] = predict(x[::every], sigma[::every], range(0, len(x), every))
    return x, z

def half(x, z, sigma, predict):
    return x[: len(x) // 2], z

def nothing(x, z, sigma, predict):
    pass
'''


@pytest.fixture
def custom(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_TRUST", "*")
    path = tmp_path / "mine.py"
    path.write_text(TEN_LINES)
    return lambda name, **options: Custom(source=f"{path}:{name}", sha256=hashlib.sha256(path.read_bytes()).hexdigest(), options=options)


def test_a_users_coupling_in_ten_lines(custom):
    built = user_couplings.build(tiny_run(custom("swap", every=3)))
    x, z = torch.zeros(6, 2), torch.ones(6, 2)
    new_x, new_z = built.function(x, z, torch.ones(6), lambda x, sigma, rows: x + 5, mask())
    assert new_x[:, 0].tolist() == [5, 0, 0, 5, 0, 0] and torch.equal(new_z, z)
    assert built.predictor == "ema"


def test_a_relative_path_counts_from_the_project(custom, tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    settings = custom("swap").model_copy(update={"source": "mine.py:swap"})
    assert callable(user_couplings.load_custom(settings))


def test_what_is_wrong_with_a_users_coupling_is_reported(custom, tmp_path):
    edited = custom("swap")
    (tmp_path / "mine.py").write_text(TEN_LINES + "\n")
    with pytest.raises(HarnessError, match="edited after the run was planned"):
        user_couplings.load_custom(edited)
    with pytest.raises(HarnessError, match="no such coupling") as caught:
        user_couplings.load_custom(custom("swapp"))
    assert "swap" in caught.value.details["found"]
    x, z = torch.zeros(6, 2), torch.ones(6, 2)
    with pytest.raises(HarnessError, match="keep the shapes") as caught:
        user_couplings.load_custom(custom("half"))(x, z, torch.ones(6), None, None)
    assert caught.value.details["found"] == "((3, 2), (6, 2))"
    with pytest.raises(HarnessError, match="return data and noise"):
        user_couplings.load_custom(custom("nothing"))(x, z, torch.ones(6), None, None)
    gone = custom("swap")
    (tmp_path / "mine.py").unlink()
    with pytest.raises(HarnessError, match="file of a coupling is missing"):
        user_couplings.load_custom(gone)
