"""Speed: one buffer for all parameters, fixed numbers of rows, checkpoints in the background, no waiting for the device, and --fast."""

from __future__ import annotations

import copy
import threading
from functools import partial
from itertools import pairwise

import lion_pytorch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from train_support import copied, data_of, difference, fresh, stop_after, tiny_run, trained

from harness.cli import main
from harness.config.experiments import expand
from harness.config.parts import Data, Evaluation, GeneratorAugmented, Independent, Network, Training
from harness.config.run import Run, varied
from harness.config.selection import Selection
from harness.config.speed import FAST
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import HarnessError
from harness.store.exit_codes import ExitCode
from harness.store.runs import RunFolder
from harness.training import checkpoints, job, user_couplings
from harness.training.batches import ALONE, Batches, Processes
from harness.training.evaluation import endpoints
from harness.training.fixed_sizes import fixed_size, in_fixed_sizes
from harness.training.flat import FlatOptimizer, FlatParameters
from harness.training.loop import CHECK_EVERY, Hooks, couple, gradients, train
from harness.training.model import ForeachLion, create

FAST_CPU = {"precision": "bf16", "channels_last": True, "static_rows": True}
"""--fast without the compiler, which takes minutes on a CPU."""


def image_run(coupling=None, **settings) -> Run:
    """A U-Net on 8x8 digits whose layers, attention included, are those of the paper's networks."""
    return Run(
        scale="digits", data=Data(name="digits"), coupling=coupling or GeneratorAugmented(mu=0.5),
        network=Network(kind="ddpmpp", base_channels=8, channel_mult=(1, 2), num_blocks=(1, 1), dropout=(0.0, 0.0)),
        train=Training(**{"steps": 6, "batch": 8, "lr": 1e-3, "threads": 1, **settings}), evaluation=Evaluation(every=6, samples=8),
    )  # fmt: skip


# --- one buffer for all parameters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(5, 5), nn.Flatten(), nn.Linear(5 * 4, 7)).to(memory_format=torch.channels_last)


OPTIMIZERS = {
    "lion": (partial(ForeachLion, lr=1e-2, betas=(0.9, 0.99)), partial(lion_pytorch.Lion, lr=1e-2, betas=(0.9, 0.99))),
    "radam": (partial(torch.optim.RAdam, lr=1e-2, foreach=True),) * 2,
}


def steps(net: nn.Module, optimizer, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        optimizer.zero_grad(set_to_none=True)
        net(torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(number))).square().sum().backward()
        optimizer.step()


def test_parameters_become_views_with_their_values_shapes_and_strides():
    net, plain = network(), network()
    flat = FlatParameters(net.parameters())
    assert difference(net.state_dict(), plain.state_dict()) == []
    assert [p.stride() for p in net.parameters()] == [p.stride() for p in plain.parameters()]
    assert all(p.data_ptr() % 64 == flat.buffer.data_ptr() % 64 for p in net.parameters())
    flat.buffer.zero_()
    assert not any(p.any() for p in net.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_flat_optimizer_is_the_separate_one_bit_for_bit_also_in_its_state(name):
    """The oracle is torch's or lion-pytorch's own optimizer over the separate tensors."""
    ours, theirs = OPTIMIZERS[name]
    net, plain = network(), network()
    flat, separate = FlatOptimizer(FlatParameters(net.parameters()), ours), theirs(plain.parameters())
    assert flat.state_dict()["state"] == {}
    steps(net, flat, 12)
    steps(plain, separate, 12)
    assert difference(net.state_dict(), plain.state_dict()) == []
    mine, his = flat.state_dict(), separate.state_dict()
    assert difference(mine["state"], his["state"]) == [] and list(mine["state"]) == list(his["state"])
    assert mine["param_groups"][0]["params"] == his["param_groups"][0]["params"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_of_separate_tensors_goes_on_as_if_it_had_always_been_flat(name):
    ours, theirs = OPTIMIZERS[name]
    plain = network()
    separate = theirs(plain.parameters())
    steps(plain, separate, 5)
    net = copy.deepcopy(plain)
    flat = FlatOptimizer(FlatParameters(net.parameters()), ours)
    flat.load_state_dict(ours(copy.deepcopy(plain).parameters()).state_dict() | {"state": separate.state_dict()["state"]})
    steps(plain, separate, 7, 5)
    steps(net, flat, 7, 5)
    assert difference(net.state_dict(), plain.state_dict()) == []


def test_the_state_of_another_network_is_refused():
    flat = FlatOptimizer(FlatParameters(network().parameters()), OPTIMIZERS["lion"][0])
    with pytest.raises(ValueError, match="1 parameters, the network 6"):
        flat.load_state_dict(lion_pytorch.Lion([nn.Parameter(torch.zeros(1))]).state_dict())


def test_a_parameter_without_a_gradient_stays():
    net = network()
    flat = FlatOptimizer(FlatParameters(net.parameters()), OPTIMIZERS["lion"][0])
    steps(net, flat, 1)
    before = copy.deepcopy(net.state_dict())
    (first, *_) = net.parameters()
    first.grad = torch.ones_like(first)
    flat.load_state_dict(FlatOptimizer(FlatParameters(network().parameters()), OPTIMIZERS["lion"][0]).state_dict())
    flat.step()
    assert difference(net.state_dict(), before) == ["/0.weight"]


def test_a_saved_state_does_not_change_when_training_goes_on():
    run = tiny_run("gc", optimizer="lion")
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 5)))
    state = model.state()
    again = copy.deepcopy(state)
    train(run, data_of(run), model, Hooks())
    assert difference(state, again) == [] and difference(state, model.state())


# --- fixed numbers of rows


@given(st.integers(1, 600).flatmap(lambda most: st.tuples(st.integers(1, most), st.just(most))))
def test_there_are_at_most_eight_sizes_and_none_is_too_small(sizes):
    rows, most = sizes
    size = fixed_size(rows, most)
    assert rows <= size <= most and size - rows <= most / 8
    assert len({fixed_size(n, most) for n in range(1, most + 1)}) <= 8


@pytest.mark.parametrize("labels", [False, True])
def test_added_rows_change_no_other_row_beyond_rounding(labels):
    run = image_run().model_copy(update={"data": Data(name="digits", labels=labels)})
    net = create(run).ema
    for p in net.parameters():  # weights as after training: initial ones map everything to nearly zero
        nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    called: list[int] = []
    net.register_forward_hook(lambda module, inputs, output: called.append(len(output)))
    draws = generator(0, "noise")
    for rows in (1, 7, 8, 11, 16, 37):
        x, sigma = torch.randn(rows, 1, 8, 8, generator=draws), torch.rand(rows, generator=draws) * 80 + 0.002
        of_rows = torch.eye(10)[torch.arange(rows) % 10] if labels else None
        with torch.no_grad():
            plain = net(x, sigma, of_rows)
            called.clear()
            padded = in_fixed_sizes(net, 16)(x, sigma, of_rows)
        assert padded.shape == plain.shape and torch.allclose(padded, plain, rtol=1e-5, atol=1e-5)
        assert set(called) <= {2, 4, 6, 8, 10, 12, 14, 16}


@pytest.mark.parametrize("predictor", ["ema", "online"])
def test_a_run_with_fixed_sizes_calls_its_predictor_with_them_and_trains_the_same(predictor):
    run = tiny_run(GeneratorAugmented(mu=0.4, predictor=predictor), dropout=0.0)
    fixed = varied(run, train={"static_rows": True})
    model = fresh(fixed)
    called: list[int] = []
    network = {"ema": model.ema, "online": model.online}[predictor]
    network.register_forward_hook(lambda module, inputs, output: None if module.training else called.append(len(output)))
    trained(fixed, start=model)
    assert called and set(called) <= set(range(2, 17, 2))
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(model.online.parameters(), trained(run).online.parameters(), strict=True))


def test_an_evaluation_uses_the_sizes_of_training():
    run = varied(image_run(), train={"static_rows": True}, evaluation={"samples": 30})
    called: list[int] = []
    net = create(run).ema
    net.register_forward_hook(lambda module, inputs, output: called.append(len(output)))
    together = endpoints(run, data_of(run), net)(0, range(30))
    plain = endpoints(varied(run, train={"static_rows": False}), data_of(run), net)(0, range(30))
    assert called == [8, 8, 8, 6, 30] and torch.allclose(together, plain, atol=1e-4)


# --- no waiting for numbers of the device


class Counting(TorchDispatchMode):
    """Counts the reads of a tensor's value, each of which waits until the device has computed it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("coupling", ["ic", "gc"])
@pytest.mark.parametrize("static_rows", [False, True])
def test_between_two_checks_no_value_is_read(coupling, static_rows):
    run = varied(tiny_run(coupling, steps=2 * CHECK_EVERY + 1, optimizer="lion"), train={"static_rows": static_rows})
    run = varied(run, evaluation={"every": 10**6}).model_copy(update={"checkpoint_every": 10**6})
    model, seen = fresh(run), []
    with Counting() as counting:
        trained(run, Hooks(stop=lambda: seen.append((model.step, counting.count))), model)
    reads = {step: after - before for (_, before), (step, after) in pairwise(seen)}
    assert reads == {step: 2 * (step - 1 in (1, CHECK_EVERY, 2 * CHECK_EVERY)) for step in reads}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("coupling", ["ic", "gc", "ot"])
def test_between_two_checks_the_host_does_not_wait_for_the_gpu(coupling):
    device = torch.device("cuda")
    run = varied(tiny_run(coupling, steps=CHECK_EVERY, optimizer="lion"), evaluation={"every": 10**6})
    run = run.model_copy(update={"checkpoint_every": 10**6})
    model = create(run, device)

    def stop() -> bool:
        torch.cuda.set_sync_debug_mode("error" if 2 <= model.step < CHECK_EVERY - 1 else "default")
        return False

    try:
        assert train(run, datasets.load(run.data.name, device=device), model, Hooks(stop=stop))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- checkpoints in the background


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_the_step_of_its_name(tmp_path, monkeypatch):
    run = tiny_run("gc", steps=24, optimizer="lion")
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())
    ahead, first, save, train_ = threading.Event(), [], checkpoints.save, job.train

    def slow_save(path, run_id, step, state, **options):
        if not first:
            first.append(step)
            assert ahead.wait(60), "training does not go on"
        return save(path, run_id, step, state, **options)

    def train_and_note(run, data, model, hooks, **options):
        def stop() -> bool:
            if first and model.step > first[0] + 3:
                ahead.set()
            return hooks.stop()

        return train_(run, data, model, Hooks(hooks.save, hooks.evaluate, hooks.progress, stop, hooks.pairs), **options)

    monkeypatch.setattr(checkpoints, "save", slow_save)
    monkeypatch.setattr(job, "train", train_and_note)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.DONE
    assert first == [7] and ahead.is_set()
    stored = {step: checkpoints.load(folder.path / "checkpoints", folder.id, step) for step in folder.stored_steps()}
    assert list(stored) == [21, 24]
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 21)))
    assert [path for path in difference(stored[21], model.state()) if path not in ("/records", "/seconds")] == []
    assert difference({**stored[24], "records": 0, "seconds": 0}, {**trained(run).state(), "records": 0, "seconds": 0}) == []


def test_the_error_of_a_checkpoint_ends_the_run_with_its_message(tmp_path, monkeypatch, capsys):
    run = tiny_run("ic", steps=24)
    folder = RunFolder.create(tmp_path, run.id, run.to_dict())

    def fail(*_, **__):
        raise HarnessError("cannot write: No space left on device", where="step-00000007.pt")

    monkeypatch.setattr(checkpoints, "save", fail)
    assert job.main([str(folder.path), "--device", "cpu"]) == ExitCode.BAD_INPUT
    assert "No space left" in capsys.readouterr().err and folder.error()["kind"] == "input"


def test_the_writer_reports_each_error_once_and_the_error_of_training_first():
    def fail():
        raise HarnessError("full")

    with checkpoints.Writer() as writer:
        writer.submit(fail)
        with pytest.raises(HarnessError):
            writer.wait()
        writer.wait()
        writer.submit(lambda: None)
    with pytest.raises(HarnessError), checkpoints.Writer() as writer:
        writer.submit(fail)
    with pytest.raises(KeyError), checkpoints.Writer() as writer:
        writer.submit(fail)
        raise KeyError


# --- the profile


def first_gradient(run: Run, processes: Processes = ALONE) -> torch.Tensor:
    """The gradient of the run's first step from weights as after some training."""
    model = create(run)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.online.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draws))
    model.ema.load_state_dict(model.online.state_dict())
    batches = Batches(run, data_of(run), processes, user_couplings.build(run))
    step = couple(batches, 0, batches(0), model.ema if run.coupling.kind == "gc" else None, len(batches(0).x))
    gradients(run, model.online, step, 0, processes.count / run.train.batch, processes.rank, len(step.x))
    return torch.cat([p.grad.flatten() for p in model.online.parameters()])


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_the_gradient_of_the_profile_is_that_of_fp32_to_3_percent():
    plain = first_gradient(image_run(batch=32))
    assert off(first_gradient(image_run(batch=32, channels_last=True, static_rows=True)), plain) < 1e-4
    assert 1e-4 < off(first_gradient(image_run(batch=32, **FAST_CPU)), plain) < 0.03


def test_the_gradient_of_two_processes_is_that_of_one_to_1_percent_in_the_profile():
    run = image_run(Independent(), batch=32, **FAST_CPU)
    parts = [first_gradient(run, Processes(rank, 2)) for rank in range(2)]
    assert off(sum(parts) / 2, first_gradient(run)) < 0.01


def test_a_run_of_the_profile_resumes_bit_for_bit():
    run = image_run(**FAST_CPU)
    model = fresh(run)
    train(run, data_of(run), model, Hooks(stop=stop_after(model, 2)))
    assert difference(trained(run, start=copied(run, model)).state(), trained(run).state()) == []


def test_fast_stands_for_settings_of_the_identity_that_set_may_change():
    plain, fast = expand("table1", "digits", [0]), expand("table1", "digits", [0], [FAST])
    assert len({run.id for run in (*plain, *fast)}) == 6
    for run, quick in zip(sorted(plain, key=lambda run: run.slug), sorted(fast, key=lambda run: run.slug), strict=True):
        assert varied(quick, train=dict(run.train)) == run
    paper = expand("table1", "paper", [0], [FAST, "train.compile=false"])
    assert {(run.train.precision, run.train.channels_last, run.train.compile, run.train.static_rows) for run in paper} == {
        ("bf16", True, False, True)
    }
    assert [run.id for run in expand("table1", "toy", [0], [FAST])] == [run.id for run in expand("table1", "toy", [0])]


def test_runs_that_need_others_need_those_of_the_profile():
    runs = expand("figure4", "digits", [0], [FAST])
    assert {need for run in runs for need in run.needs} <= {run.id for run in runs} and any(run.needs for run in runs)


def test_fast_is_an_option_of_the_commands_and_explained(tmp_path, capsys):
    options = ["table1", "--scale", "fashion", "--seeds", "1", "--results", str(tmp_path)]
    ids = {run.id for run in expand("table1", "fashion", [0], [FAST])}
    assert main(["plan", *options, "--fast"]) == 0
    shown = capsys.readouterr().out
    assert Selection("table1", overrides=(FAST, "train.lr=1")).command("harness sweep") == "harness sweep table1 --fast --set train.lr=1"
    assert all(name in shown for name in ids) and not any(run.id in shown for run in expand("table1", "fashion", [0]))
    assert main(["config", "train.static_rows"]) == 0
    assert "--fast stands for" in capsys.readouterr().out
    assert main(["plan", *options, "--fast", "--fast"]) == 2 and "twice" in capsys.readouterr().err


def test_tf32_is_a_knob_of_the_ledger_outside_the_identity_at_its_default():
    run = tiny_run("ic")
    assert run.protocol.tf32 == "library"
    assert len({varied(run, protocol={"tf32": value}).id for value in ("library", "on", "off")}) == 3
    assert varied(run, protocol={"tf32": "library"}).id == run.id
