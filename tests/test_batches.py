"""What a step trains on: order, noise, levels, the rows of several processes, and the assignment solved ahead."""

from __future__ import annotations

import math
import threading
from contextlib import closing
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_support import data_of, fresh, tiny_run, trained

from harness.config.parts import BatchOT, ConsistencyTraining, Data, Denoising, Evaluation, Protocol
from harness.core import couplings, optimal_transport, schedules
from harness.core.randomness import generator
from harness.training import user_couplings
from harness.training.batches import Batches, Processes, Step, batch_indices, draw_levels, step_rows
from harness.training.loop import Hooks, train

RELEASED = Protocol(last_batch="released")


def batches_of(run, processes=Processes(), assign_ahead=False) -> Batches:  # noqa: B008 - frozen
    return Batches(run, data_of(run), processes, user_couplings.build(run), assign_ahead=assign_ahead)


def tensors(step: Step) -> list[torch.Tensor]:
    values = [getattr(step, field.name) for field in fields(step)]
    return [value for value in values if value is not None]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
def test_every_row_comes_once_per_epoch(rows, batch, seed):
    steps = math.ceil(3 * rows / batch)
    walk = torch.cat([batch_indices(rows, batch, step, seed) for step in range(steps)])
    assert len(walk) == steps * batch
    epochs = [walk[start : start + rows] for start in range(0, 3 * rows, rows)]
    assert all(sorted(epoch.tolist()) == list(range(rows)) for epoch in epochs)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
def test_the_released_code_keeps_the_partial_batch(rows, batch, seed):
    per_epoch = math.ceil(rows / batch)
    parts = [batch_indices(rows, batch, step, seed, keep_partial=True) for step in range(2 * per_epoch)]
    assert [len(part) for part in parts[:per_epoch]] == [batch] * (per_epoch - 1) + [rows - batch * (per_epoch - 1)]
    for epoch in (parts[:per_epoch], parts[per_epoch:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(rows))
    run = tiny_run(batch=batch, protocol=RELEASED)
    assert [len(step_rows(run, rows, step)) for step in range(per_epoch)] == [len(part) for part in parts[:per_epoch]]
    assert len(step_rows(tiny_run(batch=batch), rows, per_epoch - 1)) == batch


def test_the_order_changes_with_epoch_and_seed_only():
    first = batch_indices(50, 50, 0, seed=0)
    assert torch.equal(first, batch_indices(50, 50, 0, seed=0))
    assert not torch.equal(first, batch_indices(50, 50, 1, seed=0))
    assert not torch.equal(first, batch_indices(50, 50, 0, seed=1))


def test_noise_is_distinct_over_steps_seeds_and_ranks():
    run = tiny_run(batch=8)
    draws = [batches_of(run, Processes(rank, 4))(step).z for step in range(5) for rank in range(4)]
    draws.append(batches_of(run.model_copy(update={"seed": 1}))(0).z)
    values = torch.cat([draw.flatten() for draw in draws])
    assert len(values.unique()) == len(values) == (5 * 8 + 8) * 2
    assert torch.equal(draws[0], batches_of(run, Processes(0, 4))(0).z)


@given(st.integers(1, 40), st.integers(1, 8))
def test_the_rows_of_several_processes_make_the_batch(rows, count):
    slices = [Processes(rank, count).rows(rows) for rank in range(count)]
    assert [i for rows_ in slices for i in range(rows)[rows_]] == list(range(rows))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("coupling", ["ic", "gc", BatchOT(scope="global")])
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_draw_the_batch_of_one(coupling, count):
    run = tiny_run(coupling, batch=17, data=Data(name="eight-gaussians", labels=True))
    for step in (0, 300):
        together = tensors(batches_of(run)(step))
        parts = [tensors(batches_of(run, Processes(rank, count))(step)) for rank in range(count)]
        assert len(together) == 6
        for tensor, pieces in zip(together, zip(*parts, strict=True), strict=True):
            assert torch.equal(tensor, torch.cat(pieces))


def test_a_step_is_drawn_from_its_addresses():
    run = tiny_run("ic", data=Data(name="eight-gaussians", labels=True))
    data = data_of(run)
    for number in (0, 300):
        step, rows = batches_of(run)(number), batch_indices(len(data), 16, number, run.seed)
        assert torch.equal(step.x, data.rows[rows]) and torch.equal(step.labels.argmax(1), data.labels[rows])
        assert torch.equal(step.z, torch.randn(16, 2, generator=generator(run.seed, "noise", number)))
        assert all(torch.equal(a, b) for a, b in zip((step.low, step.high, step.weight), draw_levels(run, number, 16), strict=True))


def test_batch_ot_of_a_process_stays_within_its_rows():
    run = tiny_run("ot", batch=20)
    plain = batches_of(tiny_run("ic", batch=20))(3)
    for rank in range(2):
        rows = Processes(rank, 2).rows(20)
        step = batches_of(run, Processes(rank, 2))(3)
        expected = plain.z[rows][optimal_transport.assignment(plain.x[rows], plain.z[rows])]
        assert torch.equal(step.x, plain.x[rows]) and torch.equal(step.z, expected)


def test_labels_belong_to_their_rows():
    run = tiny_run("ot", data=Data(name="eight-gaussians", labels=True))
    data = data_of(run)
    step, rows = batches_of(run)(0), batch_indices(len(data), 16, 0, run.seed)
    assert step.labels.shape == (16, 8) and step.labels.dtype == torch.float32 and (step.labels.sum(1) == 1).all()
    assert torch.equal(step.labels.argmax(1), data.labels[rows]) and torch.equal(step.x, data.rows[rows])


def test_the_thread_ahead_changes_no_pair_and_draws_nothing_beyond_the_end():
    run = tiny_run("ot", steps=6)
    plain = batches_of(run)
    drawn = []
    with closing(batches_of(run, assign_ahead=True)) as ahead:
        draw = ahead.draw_group
        ahead.draw_group = lambda step: drawn.append((step, threading.current_thread() is not threading.main_thread())) or draw(step)
        for step in range(6):
            assert all(torch.equal(a, b) for a, b in zip(tensors(plain(step)), tensors(ahead(step)), strict=True))
    assert drawn == [(step, True) for step in range(6)]


def test_a_failure_in_the_thread_surfaces_and_leaves_no_thread(monkeypatch):
    run = tiny_run("ot")
    calls = []

    def failing(x, z):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no optimal assignment")
        return x, z

    built = user_couplings.build(run)
    monkeypatch.setattr(couplings, "build", lambda run: replace(built, function=failing))
    model = fresh(run)
    with pytest.raises(RuntimeError, match="no optimal assignment"):
        train(run, data_of(run), model, Hooks())
    assert model.step == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pairs")]


def test_a_stop_leaves_no_thread():
    run = tiny_run("ot")
    trained(run, Hooks(stop=lambda: True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pairs")]


def test_levels_are_neighbours_of_the_grid_of_their_step():
    run = tiny_run(steps=100_000, objective=ConsistencyTraining())
    for step, points in ((0, 11), (87_499, 641), (99_999, 1281)):
        low, high, weight = draw_levels(run, step, 500)
        grid = schedules.noise_levels(points, 0.002, 80.0, 7.0)
        i = torch.searchsorted(grid, low)
        assert torch.equal(grid[i], low) and torch.equal(grid[i + 1], high)
        assert torch.equal(weight, 1 / (high - low))
    assert len(draw_levels(run, 99_999, 500)[0].unique()) > 100
    assert not torch.equal(draw_levels(run, 0, 500)[0], draw_levels(run, 1, 500)[0])


def test_a_denoiser_has_one_level_per_row():
    low, high, weight = draw_levels(tiny_run(objective=Denoising()), 0, 5000)
    assert torch.equal(low, high) and (weight == 1).all()
    assert low.log().mean().item() == pytest.approx(-1.2, abs=0.1) and low.log().std().item() == pytest.approx(1.2, abs=0.1)


def test_the_released_partial_batch_trains():
    run = tiny_run(steps=6, batch=1000, protocol=RELEASED, evaluation=Evaluation(every=1, samples=32))  # 4,096 rows
    sizes = []
    trained(run, Hooks(pairs=lambda number, step: sizes.append(len(step.x))))
    assert sizes == [1000, 1000, 1000, 1000, 96, 1000]
