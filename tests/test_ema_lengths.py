"""Averages of other lengths from a run's checkpoints: against runs of these lengths, and their loss on held-out rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_support import tiny_run

from harness.cli import main
from harness.config.parts import Data, Ema, Evaluation, Network
from harness.config.run import Run
from harness.core.power_ema import LONGEST
from harness.data import datasets
from harness.errors import HarnessError
from harness.store.runs import RunFolder, Store
from harness.theory.studies import ema_lengths, single_run
from harness.theory.studies.common import StudyContext
from harness.training import trained_runs
from harness.training.job import run_job
from harness.training.loop import losses

STEPS = 120
KEPT = tuple(range(5, STEPS, 5))
WANTED = (0.08, 0.1, 0.25)


def power_run(sigma_rel: float | None, **changes) -> Run:
    """IC on the eight Gaussians; the average has no part in training, so all lengths average the same weights."""
    evaluation = Evaluation(every=STEPS, samples=16, resamplings=1, grid=0)
    options = {"steps": STEPS, "ema": Ema(rate=0.9, sigma_rel=sigma_rel), "evaluation": evaluation, "checkpoint_every": STEPS}
    return tiny_run(**options | changes).model_copy(update={"keep_steps": KEPT})


def finished(root: Path, run: Run) -> RunFolder:
    folder = RunFolder.create(root, run.id, run.to_dict())
    assert run_job(folder.path, "cpu") == 0
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lengths")
    for length in (0.15, *WANTED):
        finished(root, power_run(length))
    return root


def measured(root: Path, run: Run, notes: list[str] | None = None):
    context = StudyContext("toy", Store(root), note=notes.append if notes is not None else lambda _: None)
    return single_run.measure(trained_runs.load(Store(root).folder(run.id)), ["ema"], context)


def test_a_reconstruction_is_nearer_to_a_run_of_that_length_than_its_own_average(root, monkeypatch):
    """The weights of averages of other lengths, which the trainer computes step by step, from one run's checkpoints."""
    seen: dict[float, dict[str, torch.Tensor]] = {}
    real = ema_lengths.held_out_losses

    def look(trained, network, step):
        seen[len(seen)] = network.state_dict()
        return real(trained, network, step)

    monkeypatch.setattr(ema_lengths, "LENGTHS", WANTED)
    monkeypatch.setattr(ema_lengths, "held_out_losses", look)
    rows = measured(root, power_run(0.15))
    lengths = [row.x for row in rows if row.quantity == "ema-loss"]
    assert lengths == sorted((0.15, *WANTED))
    found = dict(zip(lengths, seen.values(), strict=True))

    def distance(a, b):
        return float(sum((a[name] - b[name]).square().sum() for name in a) ** 0.5)

    own = trained_runs.weights(Store(root).folder(power_run(0.15).id))
    assert distance(found[0.15], own) < 1e-5 * distance(own, {name: torch.zeros(()) for name in own})
    for length in WANTED:
        exact = trained_runs.weights(Store(root).folder(power_run(length).id))
        assert distance(found[length], exact) < 0.3 * distance(own, exact), length


def test_the_loss_is_that_of_the_trainer_on_held_out_rows(root):
    rows = {(row.quantity, row.x): row for row in measured(root, power_run(0.15))}
    trained = trained_runs.load(Store(root).folder(power_run(0.15).id))
    step, description = ema_lengths.held_out_step(trained)
    held_out = datasets.load("eight-gaussians", "heldout")
    assert description == "held-out rows" and torch.equal(step.x, held_out.batch(torch.arange(4096)))
    expected = losses(trained.run, trained.network, step, dropout=0).double()
    row = rows["ema-loss", 0.15]
    assert row.value == pytest.approx(float(expected.mean()), rel=1e-5)
    assert row.se == pytest.approx(float(expected.std() / 64), rel=1e-4) and row.n == 4096
    assert rows["ema-mismatch", 0.15].value < 1e-6
    again = {(row.quantity, row.x): row for row in measured(root, power_run(0.15))}
    assert {key: row.value for key, row in again.items()} == {key: row.value for key, row in rows.items()}


def test_lengths_that_the_checkpoints_do_not_give_are_left_out_and_said_so(root):
    notes: list[str] = []
    rows = measured(root, power_run(0.15), notes)
    losses_at = {row.x for row in rows if row.quantity == "ema-loss"}
    missed = {row.x: row.value for row in rows if row.quantity == "ema-mismatch"}
    assert losses_at == {x for x, value in missed.items() if value <= ema_lengths.LARGEST_MISMATCH} and 0.15 in losses_at
    assert set(missed) - losses_at and all(any(f"{x:g} is left out" in note for note in notes) for x in set(missed) - losses_at)
    lowest = min((row for row in rows if row.quantity == "ema-loss"), key=lambda row: row.value)
    assert f"lowest at sigma_rel = {lowest.x:g}" in notes[-1]


def test_a_conditional_edm2_is_measured_as_well(tmp_path):
    network = Network(
        kind="edm2", base_channels=8, channel_mult=(1,), num_blocks=(1,), dropout=(0.0,), channels_per_head=8
    )  # fmt: skip
    run = power_run(0.2, scale="digits", data=Data(name="digits", labels=True), network=network, steps=12)
    run = run.model_copy(update={"keep_steps": (3, 6, 9)})
    finished(tmp_path, run)
    rows = measured(tmp_path, run)
    own = next(row for row in rows if (row.quantity, row.x) == ("ema-loss", 0.2))
    assert own.n == 360 and own.value > 0
    with pytest.raises(HarnessError, match="labels"):
        single_run.measure(trained_runs.load(Store(tmp_path).folder(run.id)), ["ema", "transport"], StudyContext("digits", Store(tmp_path)))


def test_a_run_without_a_power_function_average_is_one_message(tmp_path, capsys):
    run = power_run(None, steps=10).model_copy(update={"keep_steps": ()})
    folder = finished(tmp_path, run)
    assert main(["measure", folder.id, "--what", "ema", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "no power-function average" in message and "--set ema.sigma_rel=0.1" in message and "Traceback" not in message


def test_the_command_writes_and_prints_the_choice(root, capsys):
    assert main(["measure", power_run(0.15).id, "--what", "ema", "--results", str(root)]) == 0
    text = capsys.readouterr().out
    assert "ema-loss" in text and "lowest at sigma_rel" in text
    assert (root / "measured" / "toy" / "runs" / f"{power_run(0.15).id}.csv").is_file()
    assert max(ema_lengths.LENGTHS) < LONGEST
