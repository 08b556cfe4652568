"""harness bench: the arithmetic of turns, ratios, shares and comparisons, on a fake clock; that each part measures what it says.

The values themselves depend on the machine and its load, and are not tested.
"""

from __future__ import annotations

import math
import random
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest
import torch
from bench_support import echo
from torch import nn
from train_support import data_of, difference, tiny_run, trained

from harness import cli
from harness.bench import commands as command_part
from harness.bench import files, frechet, rates, transport
from harness.bench.breakdown import STAGES, MarkedSteps, Timeline
from harness.bench.children import answer, child
from harness.bench.parts import PARTS, chosen_parts
from harness.bench.profiles import FP32, PROFILES, chosen_profiles, usable
from harness.bench.rows import Row, ratio, row
from harness.bench.setting import Setting
from harness.bench.shapes import SHAPES, chosen_shapes, drawn_images
from harness.bench.steps import of_shape
from harness.bench.trainers import COUPLINGS, HarnessSteps
from harness.bench.turns import LEAST, MOST, PATIENCE, take_turns
from harness.commands import benchmark
from harness.config.experiments import expand
from harness.config.parts import BatchOT
from harness.errors import HarnessError
from harness.metrics.quality import frechet as frechet_distance
from harness.stats.medians import median_interval
from harness.store.records import valid
from harness.training import batches

CPU = torch.device("cpu")


class Clock:
    """A clock that moves when a call takes its time."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, seconds: float):
        def call() -> float:
            self.calls.append(name)
            self.now += seconds
            return seconds

        return call


# Turns and medians.


def test_calls_alternate_in_both_orders_until_the_time_is_over():
    clock = Clock()
    values = take_turns({"a": clock.taking("a", 1.0), "b": clock.taking("b", 2.0)}, seconds=30.0, clock=clock)
    assert clock.calls[:6] == ["a", "b", "a", "b", "b", "a"], "one call of each that does not count, then rounds in both orders"
    assert values == {"a": [1.0] * 10, "b": [2.0] * 10}, "rounds of three seconds within thirty"


@pytest.mark.parametrize(
    ("each", "seconds", "rounds"), [(1.0, 0.0, 1), (1.0, 4.0, LEAST), (5.0, 4.0, 3), (100.0, 4.0, 1), (0.001, 9.0, MOST)]
)
def test_the_number_of_rounds(each, seconds, rounds):
    clock = Clock()
    assert len(take_turns({"a": clock.taking("a", each)}, seconds, clock, warm=True)["a"]) == rounds
    assert rounds in (1, MOST) or (rounds - 1) * each < PATIENCE * seconds


@pytest.mark.parametrize("n", [6, 9, 20, 41])
def test_the_interval_covers_the_median_as_often_as_it_says(n):
    """Simulation: 4,000 samples of a skewed law with median 1."""
    draw = random.Random(n)
    hits = 0
    for _ in range(4000):
        middle = median_interval([2 ** draw.gauss(0, 2) for _ in range(n)])
        hits += middle.low <= 1 <= middle.high
    assert hits / 4000 > 0.94
    values = [draw.random() for _ in range(n)]
    middle = median_interval(values)
    assert middle.low <= middle.median == median(values) <= middle.high and middle.confidence == 0.95
    assert n < 9 or (middle.low, middle.high) != (min(values), max(values))


def test_few_values_say_what_their_extremes_cover():
    assert (median_interval([3.0]).low, median_interval([3.0]).confidence) == (None, 0.0)
    for n, covered in ((2, 0.5), (3, 0.75), (5, 1 - 2 / 32)):
        middle = median_interval([float(value) for value in range(n)])
        assert (middle.low, middle.high, middle.confidence) == (0, n - 1, covered)


def test_a_ratio_is_that_of_each_round():
    """Load that slows whole rounds, by up to a thousand times, leaves the ratios as they are."""
    load = [1.0, 7.0, 1000.0]
    assert ratio("p", "s", "n", [2 * slow for slow in load], load).values == (2.0, 2.0, 2.0)


# The breakdown.


def test_the_shares_of_the_stages_add_up(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("harness.bench.breakdown.now", lambda device: clock.now)
    timeline = Timeline(CPU)
    for stage, seconds in (("data", 1.0), ("teacher", 3.0), ("data", 1.0), ("EMA", 5.0)):
        clock.now += seconds
        timeline.mark(stage)
    assert {stage: share for stage, share in timeline.shares().items() if share} == {"data": 0.2, "teacher": 0.3, "EMA": 0.5}


@pytest.mark.parametrize("coupling", ["ic", "ot", "gc"])
def test_the_stages_of_the_real_loop(coupling):
    """Every stage that the coupling has takes time, the others none, and training is the same as without marks."""
    run = tiny_run(coupling, steps=40)
    trainer = HarnessSteps(run, data_of(run), CPU)
    with ExitStack() as stack:
        shares = MarkedSteps(trainer, stack)(5)
    assert math.isclose(sum(shares.values()), 1)
    present = {stage for stage, share in shares.items() if share > 0}
    waits = {"ot": {"assignment"}, "ic": {"data"}, "gc": {"data", "predictor", "other"}}[coupling]
    assert waits | {"student forward", "teacher", "backward", "optimizer", "EMA", "checks"} <= present <= set(STAGES)
    assert ("predictor" in present) == (coupling == "gc")
    assert trainer.model.step == 6 and difference(trainer.model.state(), trained(tiny_run(coupling, steps=40), stop_at(6)).state()) == []


def stop_at(step: int):
    """Hooks that stop the training after a step."""
    from harness.training.loop import Hooks

    count = iter(range(1, step + 1))
    return Hooks(stop=lambda: next(count) >= step)


# Trainers.


def test_without_the_thread_the_training_is_the_same(monkeypatch):
    run = tiny_run(BatchOT(scope="global", size=48), steps=7)
    states = [trained(run).state()]
    monkeypatch.setattr(batches, "ThreadPoolExecutor", lambda *_: pytest.fail("a thread was started"))
    states.append(trained(run, assign_ahead=False).state())
    assert difference(*states) == []


def test_a_call_trains_the_given_number_of_steps_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    run = tiny_run("gc", steps=100)
    steps = HarnessSteps(run, data_of(run), CPU)
    steps.per_call = 5
    assert steps() > 0 and steps() > 0
    assert steps.model.step == 12, "five steps that are timed, after one that is not"
    assert not list(tmp_path.iterdir())


# Rates.


def test_operations_of_a_known_network_as_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 5 * 5, 7))
    x = torch.randn(2, 3, 5, 5)
    convolution, linear = 2 * (2 * 5 * 5) * 8 * 3 * 9, 2 * 2 * 200 * 7
    with torch.no_grad():
        assert rates.flops(lambda: network(x)) == convolution + linear
    # the gradient of the weights of both layers, and of the input of the second one only
    assert rates.flops(lambda: network(x).sum().backward()) == 2 * convolution + 3 * linear


def test_operations_of_a_step():
    """An MLP without gradient at its input: teacher 1, student 1 and gradient 2 forwards, less the input layers' input gradients."""
    run = tiny_run("ic")
    n, w = run.train.batch, 16
    forward = 2 * n * (9 * w + 2 * w + 2 * (w * w + w * w) + w * 2)
    no_input_gradient = 2 * n * (9 * w + 2 * w)
    assert rates.flops_of_step(run, data_of(run)) == 4 * forward - no_input_gradient


# Transport and Frechet distances.


def test_both_assignments_and_both_distances_agree():
    x, z = transport.pairs(24)
    assert torch.equal(transport.by_scipy(x, z), transport.assignment(x, z))
    real, generated = frechet.moments_of(12, 0), frechet.moments_of(12, 1)
    by_root = frechet.by_square_root(*(tensor.numpy() for tensor in (*real, *generated)))
    assert math.isclose(by_root, frechet_distance(*real, *generated), rel_tol=1e-9)


# Generated runs.


def test_generated_runs_are_read_as_finished_ones(tmp_path, capsys):
    runs = expand("table1", "toy", (0, 1))[:4]
    command_part.generate(tmp_path, runs)
    assert all(valid(record.to_json()) for record in command_part.records_of(runs[0]))
    assert cli.main(["status", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" done ") >= 4 and "damaged" not in printed


def test_a_size_that_would_take_too_long_is_foreseen():
    assert command_part.predicted({10: 2.0}, 100) == 20.0
    assert command_part.predicted({10: 2.0, 100: 11.0}, 1000) == 101.0
    assert command_part.predicted({10: 2.0, 100: 1.9}, 1000) == 1.9


# Children.


def test_a_child_answers_and_its_error_is_named(monkeypatch):
    monkeypatch.setattr("harness.bench.children.PRELOADED", [])
    with child(echo, 2) as connection:
        connection.send(3)
        assert answer(connection) == 5
        with pytest.raises(HarnessError) as error:
            answer(connection)
    assert "no 2" in error.value.details["found"]


# Choices.


def test_the_help_lists_what_there_is(capsys):
    assert tuple(PARTS) == benchmark.PARTS and set(benchmark.SHAPES.split(",")) <= set(SHAPES)
    assert all(name in benchmark.SHAPES_HELP for name in SHAPES) and all(p.name in benchmark.PROFILES_HELP for p in PROFILES)
    assert [part.name for part in chosen_parts("memory, steps")] == ["steps", "memory"], "in the usual order"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--only", "stepz"], "--only"),
        (["--only", ","], "--only"),
        (["--shapes", "cifar"], "--shapes"),
        (["--shapes", "digits:0"], "--shapes"),
        (["--shapes", "digits:many"], "--shapes"),
        (["--shapes", "digits,digits"], "--shapes"),
        (["--profiles", "fp16"], "--profiles"),
        (["--profiles", ""], "--profiles"),
        (["--seconds", "-1"], "--seconds"),
        (["--compare", "absent.json"], "absent.json"),
        (["--compare", "a", "b", "c"], "--compare"),
    ],
)
def test_bad_options_are_named(arguments, where, capsys):
    arguments = arguments if arguments != ["--profiles", ""] else ["--profiles", ","]
    assert cli.main(["bench", *arguments]) == 2
    assert where in capsys.readouterr().err


def test_a_batch_of_its_own():
    shape, other = chosen_shapes("cifar10:32, digits")
    assert (shape.run(COUPLINGS["GC"], CPU).train.batch, other.run(COUPLINGS["GC"], CPU).train.batch) == (32, 64)
    assert chosen_shapes("cifar10")[0].run(COUPLINGS["GC"], torch.device("cuda")).train.batch == 512


def test_drawn_images_are_smooth_and_always_the_same():
    images = drawn_images((3, 32, 32), 16)
    assert images.dtype == torch.uint8 and images.shape == (16, 3, 32, 32) and torch.equal(images, drawn_images((3, 32, 32), 16))
    pixels = images.double()
    assert (pixels[..., 1:] - pixels[..., :-1]).std() < 0.3 * pixels.std()


def test_profiles_that_cannot_be_measured_are_named():
    digits, points = (SHAPES[name].run(COUPLINGS["GC"], CPU) for name in ("digits", "toy"))
    kept, notes = usable(PROFILES, digits, CPU, compile_here=False)
    assert [profile.name for profile in kept] == ["fp32", "channels_last", "bf16 channels_last"]
    assert [note.partition(":")[0] for note in notes] == ["compiled", "fast"]
    assert usable(PROFILES, points, CPU, compile_here=False)[0][0] == FP32
    assert [profile.name for profile in chosen_profiles("fast")] == ["fp32", "fast"]
    assert FP32.applied(SHAPES["fashion"].run(COUPLINGS["IC"], CPU)).train.precision == "fp32"


# The command.


def test_steps_are_measured_printed_and_written(tmp_path, capsys):
    """At the toy scale, one round: every call is measured, its ratios are those of the values in the file, nothing else is written."""
    path = tmp_path / "bench.json"
    arguments = ["--only", "steps", "--shapes", "toy:8", "--seconds", "0", "--device", "cpu", "--json", str(path)]
    assert cli.main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    rows = {row.name: row for row in files.read(path).rows}
    seconds = {name.removeprefix("step, "): row.values for name, row in rows.items() if row.unit == "s"}
    assert set(seconds) == {*(f"{kind} {name}" for kind in ("plain", "fp32") for name in COUPLINGS), "fp32 OT in line"}
    for name, above, below in (
        ("GC step, plain / fp32", "plain GC", "fp32 GC"),
        ("IC step, plain / fp32", "plain IC", "fp32 IC"),
        ("GC step / IC step, fp32", "fp32 GC", "fp32 IC"),
    ):
        assert rows[name].values == tuple(a / b for a, b in zip(seconds[above], seconds[below], strict=True)) and name in printed
    assert [item.name for item in tmp_path.iterdir()] == ["bench.json"]


def test_parts_of_a_step_agree_with_each_other(tmp_path):
    """The breakdown of every call adds up to one, and the rates are the operations over the time, in proportion to the machine's."""
    path = tmp_path / "bench.json"
    arguments = ["--only", "breakdown,rates", "--shapes", "digits:2", "--profiles", "channels_last", "--seconds", "0", "--device", "cpu"]
    assert cli.main(["bench", *arguments, "--json", str(path)]) == 0
    kept = files.read(path)
    shares: dict[str, float] = {}
    for item in kept.rows:
        if item.part == "breakdown":
            call = item.name.partition(": ")[0]
            shares[call] = shares.get(call, 0.0) + item.values[0]
    assert set(shares) == {"GC, plain", "IC, fp32", "OT, fp32", "GC, fp32", "GC, channels_last"}
    assert all(math.isclose(total, 1) for total in shares.values())
    found = {item.name: item.values for item in kept.rows if item.part == "rates"}
    for name in ("fp32", "channels_last"):
        for limit in ("matrix product", "convolution"):
            share = found[f"GC step, {name}"][0] / found[f"{limit}, fp32"][0]
            assert found[f"GC step, {name} / {limit}, fp32"] == (share,) and 0 < share < 1.5


def test_memory_is_that_of_a_process_of_its_own(tmp_path):
    """More than Python and PyTorch take alone, whatever this process has taken before."""
    path = tmp_path / "bench.json"
    block = b"x" * 2**29  # in this process only
    assert cli.main(["bench", "--only", "memory,processes", "--quick", "--shapes", "toy:8", "--device", "cpu", "--json", str(path)]) == 0
    kept = files.read(path)
    peaks = {item.name: item.values[0] for item in kept.rows if item.part == "memory"}
    assert set(peaks) == {"plain GC", "fp32 GC"} and len(block) == 2**29
    assert all(100 < peak < 1024 for peak in peaks.values()), "MiB"
    (together,) = [item for item in kept.rows if item.part == "processes"] or [None]
    assert together is None or 0 < together.values[0] < 8, "left out on a single core"


def test_a_part_that_fails_is_named_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    def failing(setting):
        yield row("memory", "", "before", "MiB", [1.0])
        raise HarnessError("a process of the benchmark has ended")

    monkeypatch.setattr("harness.bench.parts.PARTS", {**PARTS, "memory": type(PARTS["memory"])("memory", "Memory", failing)})
    path = tmp_path / "bench.json"
    assert cli.main(["bench", "--only", "memory", "--seconds", "0", "--device", "cpu", "--json", str(path)]) == 0
    kept = files.read(path)
    assert [row.name for row in kept.rows] == ["before"] and "has ended" in kept.notes[0] and "has ended" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_are_measured_on_a_gpu(tmp_path):
    device = torch.device("cuda")
    setting = Setting(device, 0.0, chosen_shapes("digits"), (), Path(tmp_path), chosen_profiles("bf16 channels_last"), compile_here=False)
    names = {item.name for item in of_shape(setting, SHAPES["digits"]) if isinstance(item, Row)}
    assert "GC step, plain / bf16 channels_last" in names
