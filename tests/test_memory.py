"""Micro-batches: the same gradient as the complete batch up to rounding, chosen by hand or where the memory runs out."""

from __future__ import annotations

import pytest
import torch
from train_support import COUPLINGS, data_of, fresh, tiny_run, trained

from harness.cli import main
from harness.config.micro_batch import VARIABLE, choose_rows, chosen_rows
from harness.config.parts import Data
from harness.errors import HarnessError
from harness.metrics.sampling import in_halves
from harness.store.runs import RunFolder
from harness.training import loop
from harness.training.batches import ALONE, Batches
from harness.training.loop import couple, gradients
from harness.training.memory import MicroBatch, parts
from harness.training.user_couplings import build


def gradient_of(run, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of the run's first step."""
    model = fresh(run)
    batches = Batches(run, data_of(run), ALONE, build(run))
    step = couple(batches, 0, batches(0), model.ema if run.coupling.kind == "gc" else None, rows)
    loss = gradients(run, model.online, step, 0, 1 / 16, 0, rows)
    return loss, torch.cat([p.grad.flatten() for p in model.online.parameters()])


@pytest.mark.parametrize("rows", [15, 8, 5, 1])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("labels", [False, True])
def test_parts_add_up_to_the_gradient_of_the_batch(coupling, rows, labels):
    run = tiny_run(coupling, dropout=0.0, data=Data(name="eight-gaussians", labels=labels))
    loss, gradient = gradient_of(run, 16)
    loss_of_parts, sum_of_parts = gradient_of(run, rows)
    assert torch.allclose(sum_of_parts, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()) and torch.allclose(loss_of_parts, loss)


def test_the_parts_of_a_step_are_its_rows_in_order():
    run = tiny_run(data=Data(name="eight-gaussians", labels=True))
    step = Batches(run, data_of(run), ALONE, build(run))(0)
    assert next(iter(parts(step, 16))) is step
    pieces = list(parts(step, 7))
    assert [len(piece.x) for piece in pieces] == [7, 7, 2]
    for name in ("x", "z", "labels", "low", "high", "weight"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(step, name))


def test_training_in_parts_reaches_the_same_weights():
    run = tiny_run("gc", dropout=0.0)
    complete, in_parts = trained(run), trained(run, micro_batch=5)
    for p, q in zip(complete.online.parameters(), in_parts.online.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-4)


def limited(monkeypatch, most: int) -> list[int]:
    """Makes losses of more than `most` rows run out of memory; returns the list of all sizes that were tried."""
    tried: list[int] = []
    complete = loop.losses

    def losses(run, f, step, dropout):
        tried.append(len(step.x))
        if len(step.x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return complete(run, f, step, dropout)

    monkeypatch.setattr(loop, "losses", losses)
    return tried


def test_where_the_memory_runs_out_the_parts_are_halved_once_for_all_steps(monkeypatch, capsys):
    """A GPU is simulated that holds five rows."""
    run = tiny_run(dropout=0.0)
    complete = trained(run)
    tried = limited(monkeypatch, 5)
    in_parts = trained(run)
    assert tried[:3] == [16, 8, 4] and set(tried[3:]) == {4} and len(tried) == 2 + 24 * 4
    assert capsys.readouterr().out.count("out of memory") == 2
    for p, q in zip(complete.online.parameters(), in_parts.online.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-4)


def test_one_row_too_many_is_an_error_that_says_so(monkeypatch):
    limited(monkeypatch, 0)
    with pytest.raises(HarnessError) as error:
        trained(tiny_run())
    assert "2 GiB" in error.value.details["found"] and "1 row" in error.value.details["found"]


def test_several_processes_keep_their_number():
    def fail(rows):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(HarnessError) as error:
        MicroBatch(8, shrinks=False).attempt(fail)
    assert error.value.details["nearest"] == "--micro-batch 4"


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[-30:])
def test_what_a_failed_attempt_left_is_cleared(error):
    cleared = []

    def work(rows):
        if rows > 2:
            raise error
        return rows

    micro = MicroBatch(9, note=lambda text: None)
    assert micro.attempt(work, clear=lambda: cleared.append(1)) == 2 and len(cleared) == 3 and micro.rows == 2


@pytest.mark.parametrize("text, rows", [("", None), ("4", 4), ("0", "error"), ("-1", "error"), ("1e3", "error"), ("9" * 30, "error")])
def test_the_number_chosen_by_hand(monkeypatch, text, rows):
    monkeypatch.setenv(VARIABLE, text)
    if rows == "error":
        with pytest.raises(HarnessError) as error:
            chosen_rows()
        assert error.value.details["where"] == VARIABLE
    else:
        assert chosen_rows() == rows


def test_the_choice_of_a_command_reaches_the_run_and_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    run = tiny_run("gc", dropout=0.0)
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    assert main(["run", str(folder.path), "--device", "cpu", "--micro-batch", "5"]) == 0
    assert chosen_rows() == 5 and folder.attempts()[0]["micro_batch"] == 5
    other = RunFolder.create(tmp_path / "complete", run.id, run.to_dict())
    monkeypatch.setenv(VARIABLE, "")
    assert main(["run", str(other.path), "--device", "cpu"]) == 0
    values = [{(row["step"], row["metric"]): row["value"] for row in each.records()} for each in (folder, other)]
    assert values[0].keys() == values[1].keys()
    assert all(values[0][key] == pytest.approx(values[1][key], rel=1e-2, abs=1e-3) for key in values[0])


def test_a_choice_of_no_rows_is_refused(capsys):
    with pytest.raises(HarnessError):
        choose_rows(0)
    assert main(["run", "x", "--micro-batch", "0"]) == 2 and "--micro-batch" in capsys.readouterr().err


def test_other_errors_of_torch_are_not_taken_for_a_full_memory():
    tried = []

    def fail(rows):
        tried.append(rows)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        MicroBatch(8).attempt(fail)
    with pytest.raises(RuntimeError, match="illegal"):
        in_halves(lambda k, rows: fail(len(rows)), 0, range(8))
    assert tried == [8, 8]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[-30:])
def test_samples_are_the_same_in_halves(error):
    """The generator of a GPU that holds three samples."""
    sizes = []

    def generate(k, rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise error
        return torch.tensor([float(row) for row in rows])

    assert in_halves(generate, 0, range(5, 16)).tolist() == list(range(5, 16)) and max(sizes) == 11
    with pytest.raises(type(error)):
        in_halves(lambda k, rows: generate(k, range(9)), 0, range(2))
