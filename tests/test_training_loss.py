"""The training loss in the records: its value, resuming, several processes, its protocol, and its figures."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from report_support import make_run, records
from torch import Tensor
from train_support import copied, data_of, fresh, stop_after, tiny_run, trained

import harness
from harness.config.experiments import expand
from harness.config.parts import ConsistencyTraining, Denoising, EasyConsistencyTuning, Independent, Protocol, Variational
from harness.config.run import Run
from harness.config.selection import Selection
from harness.core.schedules import noise_levels
from harness.live.content import Pages
from harness.reporting import drawing, load
from harness.reporting.cells import all_cells, experiment_cells
from harness.reporting.figure_requests import ablations, figures_of, live, training
from harness.reporting.figures_loss import training_loss
from harness.reporting.tensorboard_events import write_events
from harness.reporting.values import CellValues
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder, Store
from harness.store.verified import compare
from harness.training import job, loop, mean_loss
from harness.training.batches import ALONE, Batches, Processes
from harness.training.evaluation import loss_protocol
from harness.training.loop import Hooks, train
from harness.training.mean_loss import MeanLoss
from harness.training.user_couplings import build

Reported = list[tuple[int, float, int]]
"""Step, mean loss, and number of steps of each evaluation."""


def reported(run: Run, start=None, **options) -> Reported:
    seen: Reported = []
    trained(run, Hooks(loss=lambda *values: seen.append(values)), start, **options)
    return seen


def every(run: Run, steps: int) -> Run:
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every": steps})})


def carry_out(root: Path, run: Run) -> RunFolder:
    folder = RunFolder.create(root, run.id, run.to_dict())
    assert job.run_job(folder.path, "cpu") == ExitCode.DONE
    return folder


def loss_rows(folder: RunFolder) -> list[dict]:
    return [row for row in folder.records() if row["metric"] == "loss"]


# --- the value


def test_it_is_the_mean_of_the_losses_of_all_steps_by_the_papers_formula():
    """Each step's loss is computed before the step, by (6) written out, from the weights at that moment."""
    run, model = tiny_run("ic", steps=24, dropout=0.0), fresh(tiny_run("ic", steps=24, dropout=0.0))
    batches, expected = Batches(run, data_of(run), ALONE, build(run)), []

    def next_loss() -> bool:
        if model.step < run.train.steps:
            n = min(10 * 2 ** (model.step // math.floor(24 / (math.log2(1280 / 10) + 1))), 1280) + 1
            levels, step = noise_levels(n, 0.002, 80.0, 7.0), batches(model.step)
            i = (levels[None] == step.low[:, None]).float().argmax(1)
            student, teacher = (
                model.online(step.x + levels[k].float()[:, None] * step.z, levels[k].float()).detach().double() for k in (i + 1, i)
            )
            c = 0.00054 * 2**0.5
            distance = ((student - teacher).square().sum(1) + c**2).sqrt() - c
            expected.append((distance / (levels[i + 1] - levels[i])).mean().item())
        return False

    next_loss()
    seen: Reported = []
    train(run, data_of(run), model, Hooks(stop=next_loss, loss=lambda *values: seen.append(values)))
    assert [(step, n) for step, _, n in seen] == [(10, 10), (20, 10), (24, 4)]
    means = [np.mean(expected[:10]), np.mean(expected[10:20]), np.mean(expected[20:])]
    assert [mean for _, mean, _ in seen] == pytest.approx(means, rel=1e-4)


CASES = {
    "gc": tiny_run("gc"),
    "ot": tiny_run("ot"),
    "learned": tiny_run(Variational(kl_weight=3.0)),
    "denoiser": tiny_run("ic", objective=Denoising()),
    "ect": tiny_run("ic", objective=EasyConsistencyTuning()),
    "short last batch": tiny_run("ic", batch=1500, protocol=Protocol(last_batch="released")),
}


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_every_objective_and_coupling_and_a_batch_in_parts(name, parts, monkeypatch):
    """The losses of the rows, and the divergence of a learned coupling, are collected where they are computed."""
    run = CASES[name]
    of_steps: list[list[Tensor]] = [[]]
    divergences: list[Tensor] = []
    losses, encoded = loop.losses, loop.encoded

    def kept_losses(*args, **options) -> Tensor:
        of_steps[-1].append(losses(*args, **options))
        return of_steps[-1][-1]

    def kept_divergence(*args):
        step, divergence = encoded(*args)
        if torch.is_grad_enabled() and divergence is not None:
            divergences.append(divergence)
        return step, divergence

    def next_step() -> bool:
        of_steps.append([])
        return False

    monkeypatch.setattr(loop, "losses", kept_losses)
    monkeypatch.setattr(loop, "encoded", kept_divergence)
    seen: Reported = []
    micro_batch = -(-run.train.batch // parts)
    trained(run, Hooks(stop=next_step, loss=lambda *values: seen.append(values)), micro_batch=micro_batch)
    rows = [torch.cat(step).detach().double() for step in of_steps[:-1]]
    assert max(len(step) for step in of_steps) == parts
    assert len(rows) == 24 and {len(losses) for losses in rows} == ({1500, 1096} if name == "short last batch" else {16})
    assert bool(divergences) == (name == "learned")
    if divergences:
        rows = [losses + divergence.detach() for losses, divergence in zip(rows, torch.cat(divergences).split(16), strict=True)]
    by_step = [losses.mean().item() for losses in rows]
    expected = [np.mean(by_step[:10]), np.mean(by_step[10:20]), np.mean(by_step[20:])]
    assert [mean for _, mean, _ in seen] == pytest.approx(expected, rel=1e-5)


def test_what_a_run_records(tmp_path):
    run = tiny_run("gc")
    rows = loss_rows(carry_out(tmp_path, run))
    assert [(row["step"], row["value"], row["n"]) for row in rows] == reported(run)
    assert all(row["se"] is None and row["sd"] is None and row["final"] is False and row["resamplings"] == 1 for row in rows)
    assert [row["images"] for row in rows] == [160, 320, 384] and len({row["protocol"] for row in rows}) == 1
    frame = harness.records(tmp_path, metric="loss")
    assert frame.value.tolist() == [row["value"] for row in rows] and set(frame.model) == {"gc-0.5"}


def test_a_mean_that_is_not_finite_is_not_recorded(tmp_path, monkeypatch):
    """Runs that set the gradients of such steps to 0 go on; a record must be a finite number."""
    take = MeanLoss.take
    monkeypatch.setattr(MeanLoss, "take", lambda self: (math.inf, take(self)[1]))
    folder = carry_out(tmp_path, tiny_run("ic"))
    assert loss_rows(folder) == [] and any(row["metric"] == "w2" for row in folder.records())


# --- resuming


@pytest.mark.parametrize("at", [(3,), (10,), (17,), (3, 9, 13, 22)])
def test_a_resumed_run_reports_the_same_values_bit_for_bit(at):
    run, seen = tiny_run("gc"), []
    model = fresh(run)
    for step in at:
        assert not train(run, data_of(run), model, Hooks(stop=stop_after(model, step), loss=lambda *values: seen.append(values)))
        model = copied(run, model)
    train(run, data_of(run), model, Hooks(loss=lambda *values: seen.append(values)))
    assert seen == reported(run)


def test_after_a_checkpoint_of_an_earlier_version_the_mean_covers_the_steps_since_and_says_how_many():
    run, model = tiny_run("ic"), fresh(tiny_run("ic"))
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 13)))
    old = {key: value for key, value in model.state().items() if key != "losses"}
    again = fresh(run)
    again.restore(old)
    single = {step: loss for step, loss, _ in reported(every(run, 1))}
    wanted = [np.mean([single[step] for step in steps]) for steps in (range(14, 21), range(21, 25))]
    first, second = reported(run, again)
    assert (first[0], first[2], second[0], second[2]) == (20, 7, 24, 4)
    assert [first[1], second[1]] == pytest.approx(wanted, rel=1e-12)


# --- several processes


class Group:
    """all_reduce of a few threads."""

    def __init__(self, count: int) -> None:
        self.barrier, self.given = threading.Barrier(count), {}

    def all_reduce(self, values: Tensor) -> None:
        self.given[threading.get_ident()] = values.clone()
        self.barrier.wait(30)
        total = torch.stack(list(self.given.values())).sum(0)
        self.barrier.wait(30)
        values.copy_(total)


def in_threads(group: Group, count: int, work) -> list:
    results = [None] * count

    def one(rank: int) -> None:
        results[rank] = work(rank)

    group.barrier, group.given = threading.Barrier(count), {}
    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("count", [2, 3])
def test_moments_at_which_processes_share_their_sums_and_resuming_change_no_digit(count, monkeypatch):
    draws = 10 ** torch.randn(count, 50, generator=torch.Generator().manual_seed(0)).mul(3)  # float32 over many orders of magnitude
    group = Group(count)
    monkeypatch.setattr(mean_loss, "dist", group)

    def sums(rank: int, saves: tuple[int, ...]) -> tuple[float, int]:
        losses = MeanLoss()
        losses.start(Processes(rank, count), torch.device("cpu"))
        for step, loss in enumerate(draws[rank], 1):
            losses.add(loss)
            if step in saves:  # saved, killed, and resumed by all processes from the file of the first
                losses.share()
                saved[rank] = losses.state()
                group.barrier.wait(30)
                losses = MeanLoss()
                losses.restore(saved[0])
                group.barrier.wait(30)
                losses.start(Processes(rank, count), torch.device("cpu"))
        return losses.take()

    saved: dict[int, dict] = {}
    plain, *others = [in_threads(group, count, lambda rank, saves=saves: sums(rank, saves)) for saves in ((), (20,), (1, 7, 33, 50))]
    assert plain[0] == (pytest.approx(draws.double().mean().item(), rel=1e-12), 50)
    assert len(set(plain)) == 1 and others == [plain, plain]

    alone = MeanLoss()  # the last save, 50 steps of all, on one process
    alone.restore(saved[0])
    alone.start(ALONE, torch.device("cpu"))
    assert alone.take() == (pytest.approx(plain[0][0], rel=1e-12), 50)


# --- protocol and verification


def test_couplings_share_a_protocol_and_other_losses_have_another():
    base = tiny_run("ic")
    assert loss_protocol(base) == loss_protocol(tiny_run("ot")) == loss_protocol(tiny_run("gc")) == loss_protocol(tiny_run("gc", batch=32))
    others = [
        tiny_run("ic", objective=ConsistencyTraining(n1=640)),
        tiny_run("ic", objective=ConsistencyTraining(distance="squared")),
        tiny_run("ic", objective=ConsistencyTraining(huber=0.03)),
        tiny_run("ic", objective=EasyConsistencyTuning()),
        tiny_run("ic", objective=EasyConsistencyTuning(weighting="edm")),
        tiny_run("ic", objective=Denoising()),
        tiny_run("ic", steps=48),
        tiny_run(Variational(kl_weight=3.0)),
        tiny_run(Variational(kl_weight=4.0)),
        tiny_run("ic", noise=base.noise.model_copy(update={"rho": 5.0})),
    ]
    protocols = [loss_protocol(run) for run in (base, *others)]
    assert all(a != b for i, a in enumerate(protocols) for b in protocols[:i])


def test_a_run_of_an_earlier_version_is_verified_without_the_loss():
    row = {"step": 10, "metric": "w2", "final": False, "value": 1.0}
    loss, cost = row | {"metric": "loss", "value": 2.0}, row | {"metric": "pair_cost"}
    assert compare([row], [row, loss]).equal and compare([row, loss], [row, loss]).records == 2
    assert not compare([row, loss], [row]).equal and not compare([row], [row, cost]).equal
    assert compare([row, loss], [row, loss, loss | {"step": 20}]).different == ("step 20 loss",)


# --- figures


def with_losses(run: Run, protocol: str = "f" * 12) -> list[dict]:
    """Invented records whose loss is 100 / sqrt(step) times a factor of the coupling and of the seed."""
    rows = records(run)
    curve = [row for row in rows if row["metric"] == "pair_cost"]
    factor = {"independent": 1.0, "batch-ot": 0.9, "gc": 0.7}.get(run.coupling.kind, 0.5) * (1 + 0.05 * run.seed)
    return rows + [row | {"metric": "loss", "value": factor * 100 / row["step"] ** 0.5, "protocol": protocol} for row in curve]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Table 1 at the toy scale, and a learned coupling, whose loss is another quantity."""
    root = tmp_path_factory.mktemp("results")
    for run in [*expand("table1", "toy", [0, 1, 2]), *expand("couplings", "toy", [0])]:
        if not Store(root).folder(run.id).path.exists():
            make_run(root, run, rows=with_losses(run, "e" * 12 if run.coupling.kind == "variational" else "f" * 12))
    return root


def test_the_figure_shows_the_means_over_seeds_of_what_was_recorded(results, tmp_path):
    loaded = load.read(results)
    values = CellValues(loaded)
    (figure,) = [one for one in figures_of(training(all_cells("toy", loaded), values)) if one.name == "loss-toy"]
    data = figure.data.set_index(["key", "seed", "step"]).value.sort_index(key=lambda level: level.astype(str))
    run = next(run for run in expand("table1", "toy", [1]) if isinstance(run.coupling, Independent))
    recorded = {row["step"]: row["value"] for row in with_losses(run) if row["metric"] == "loss"}
    assert data["ic", 1].to_dict() == pytest.approx(recorded)
    steps = sorted(recorded)
    assert data["gc-0.5", "mean"].to_dict() == pytest.approx({step: 0.7 * 1.05 * 100 / step**0.5 for step in steps})
    (axes,) = figure.canvas.axes
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "training loss per row" and axes.get_xlabel() == "training step"
    length = math.floor(run.train.steps / (math.log2(run.objective.n1 // run.objective.n0) + 1))
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == list(range(length, run.train.steps, length))[: round(math.log2(run.objective.n1 / run.objective.n0))]
    assert "comparable at the same N" in figure.caption and "left out" not in figure.caption
    drawing.save(figure, tmp_path)
    assert pd.read_csv(tmp_path / "loss-toy.csv").value.tolist() == pytest.approx(figure.data.value.tolist())


def test_another_loss_is_left_out_and_named(results):
    loaded = load.read(results)
    cells = experiment_cells(Selection("couplings", "toy"), loaded)
    (figure,) = [one for one in figures_of(ablations([cells], CellValues(loaded))) if one.name == "couplings-loss-toy"]
    learned = [cell.label for cell in cells.cells if cell.run.coupling.kind == "variational"]
    assert learned and not set(figure.data.model) & set(learned) and "iCT-IC" in set(figure.data.model)
    assert "left out, since they minimise another loss" in figure.caption and all(label in figure.caption for label in learned)


def test_records_without_a_loss_have_no_such_figure(tmp_path):
    for run in expand("table1", "toy", [0]):
        make_run(tmp_path, run)
    loaded = load.read(tmp_path)
    cells, values = all_cells("toy", loaded), CellValues(loaded)
    assert training_loss(cells.cells, values, "loss-toy", "training loss") is None
    assert not [request for request in live(cells, values, 9) if request.name.startswith("live-loss")]


def test_the_live_page_and_the_event_files_have_it(results, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    html = Pages(Store(results)).overview()
    assert "training loss per row during training" in html
    loaded = load.read(results)
    assert write_events(loaded, tmp_path, "toy") == len(loaded.runs)
    folder = next(tmp_path.glob("*/*-ic-s0-*"))
    events = EventAccumulator(str(folder))
    events.Reload()
    run = next(run for run in expand("table1", "toy", [0]) if isinstance(run.coupling, Independent))
    expected = [(row["step"], row["value"]) for row in with_losses(run) if row["metric"] == "loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(step, pytest.approx(value)) for step, value in expected]
