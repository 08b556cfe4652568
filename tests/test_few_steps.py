"""Samples of several steps: their law on Gaussian data, their independence of chunks and processes, and how they are recorded."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_support import data_of, fresh, tiny_run

from harness.config import presets
from harness.config.overrides import override
from harness.config.parts import Data, Denoising, EasyConsistencyTuning, Evaluation, Independent, Network
from harness.config.run import Run
from harness.errors import HarnessError
from harness.metrics.reference_statistics import build_reference
from harness.metrics.sampling import BLOCK, Steps, noise, sample_classes, sampler
from harness.store.exit_codes import ExitCode
from harness.store.records import few_step_name, parted_name
from harness.store.runs import RunFolder
from harness.theory.gaussian import Gaussian
from harness.training import evaluation, job
from harness.training.batches import Processes
from harness.training.evaluation import Evaluator, generate_samples

TIMES = (5.0, 0.8, 0.3)
SIGMA_MAX = 80.0


def of_gaussian(truth: Gaussian, times: tuple[float, ...], renoising: str = "stochastic", n: int = 20_000) -> torch.Tensor:
    """Samples of the ideal consistency function of Gaussian data, (n, d)."""
    steps = Steps(SIGMA_MAX, times, truth.sigma_0, renoising)
    return sampler(lambda x, sigma, labels: truth.flow(x, sigma), (truth.d,), steps)(0, range(n))


@pytest.mark.parametrize("sigma_0", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_law_of_stochastic_steps_on_gaussian_data(count, sigma_0):
    """v_0 = (a(T) T)^2 and v_j = a(t_j)^2 (v_{j-1} + t_j^2 - sigma_0^2): more steps bring v to s^2 + sigma_0^2, the law at sigma_0."""
    truth, times = Gaussian(d=2, s=0.5, sigma_0=sigma_0), TIMES[: count - 1]
    variance = (truth.scale(SIGMA_MAX) * SIGMA_MAX) ** 2
    for t in times:
        variance = truth.scale(t) ** 2 * (variance + t**2 - sigma_0**2)
    assert variance == pytest.approx(truth.s**2 + sigma_0**2, rel=1e-4), "re-noising keeps the law of the data"
    x = of_gaussian(truth, times).double()
    values = x.numel()
    assert x.mean().abs() < 4 * math.sqrt(variance / values)
    assert x.square().mean().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / values))
    assert (x[:, 0] * x[:, 1]).mean().abs() < 4 * variance / math.sqrt(len(x)), "coordinates stay independent"


@pytest.mark.parametrize("sigma_0", [0.0, 0.25])
def test_the_noise_between_steps_is_that_of_cm_and_for_sigma_0_zero_that_of_ect(sigma_0):
    """A function that is 0 first and then the identity leaves the noise: sqrt(t^2 - sigma_0^2) z, ECT's t z for sigma_0 = 0."""

    def f(x, sigma, labels):
        return x if sigma[0] < SIGMA_MAX else torch.zeros_like(x)

    x = sampler(f, (2,), Steps(SIGMA_MAX, (0.5,), sigma_0))(0, range(300))
    z = noise((2,), 0, range(300), part=1)
    assert torch.allclose(x, 0.5 * z if sigma_0 == 0 else math.sqrt(0.1875) * z)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_deterministic_steps_on_gaussian_data_scale_the_first_noise(count):
    """x_0 = a(T) T z and x_j = a(t_j) (c_{j-1} + sqrt(t_j^2 - sigma_0^2)) z: for every row, not in law only. They are too wide."""
    truth, times = Gaussian(d=2, s=0.5, sigma_0=0.1), TIMES[: count - 1]
    scale = truth.scale(SIGMA_MAX) * SIGMA_MAX
    for t in times:
        scale = truth.scale(t) * (scale + math.sqrt(t**2 - truth.sigma_0**2))
    expected = scale * noise((2,), 0, range(600))
    assert torch.allclose(of_gaussian(truth, times, "deterministic", n=600), expected, rtol=1e-5)
    assert count == 1 or scale > 1.05 * math.hypot(truth.s, truth.sigma_0), "the noise is not independent of the sample"


def test_without_further_times_samples_are_those_of_one_step_bit_for_bit():
    f = fresh(tiny_run()).ema
    z = noise((2,), 3, range(40))
    with torch.no_grad():
        expected = f(SIGMA_MAX * z, z.new_full((40,), SIGMA_MAX), None)
    for renoising in ("stochastic", "deterministic"):
        assert torch.equal(sampler(f, (2,), Steps(SIGMA_MAX, (), 0.002, renoising))(3, range(40)), expected)


@given(st.integers(0, 600), st.integers(1, 600), st.integers(1, 300), st.sampled_from(["stochastic", "deterministic"]))
def test_rows_do_not_depend_on_the_chunks(start, length, chunk, renoising):
    """The function treats each row for itself, to the last bit."""
    generate = sampler(lambda x, sigma, labels: x / (1 + sigma[:, None]), (2,), Steps(SIGMA_MAX, TIMES, 0.002, renoising))
    together = generate(1, range(start, start + length))
    parts = [generate(1, range(a, min(a + chunk, start + length))) for a in range(start, start + length, chunk)]
    assert torch.equal(together, torch.cat(parts))


def test_stochastic_steps_have_noise_of_their_own():
    """Each step's noise is a part that no other step and no endpoint of Figure 7 (part 15) has; 14 times are the most."""
    seen = []

    def f(x, sigma, labels):
        seen.append(x / sigma[:, None])
        return torch.zeros_like(x)

    times = tuple(float(t) for t in range(14, 0, -1))
    sampler(f, (2,), Steps(SIGMA_MAX, times))(2, range(BLOCK))
    drawn = torch.cat([*seen, noise((2,), 2, range(BLOCK), part=15), noise((2,), 3, range(BLOCK))])
    assert len(seen) == 15 and len(drawn.flatten().unique()) > 0.999 * drawn.numel()


# --- classes


def test_balanced_classes_come_in_turn_and_do_not_depend_on_chunks():
    labels = torch.tensor([0] * 90 + [2] * 10)
    classes = sample_classes("balanced", labels, 3, 0, range(10))
    assert classes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(sample_classes("balanced", labels, 3, 4, range(7, 10)), classes[7:])
    as_in_data = sample_classes("data", labels, 3, 0, range(1000)).bincount(minlength=3)
    assert as_in_data[1] == 0 and as_in_data[0] > 800


def test_every_step_sees_the_same_classes():
    seen = []

    def f(x, sigma, labels):
        seen.append(labels)
        return x

    sampler(f, (2,), Steps(SIGMA_MAX, TIMES), labels=torch.tensor([0, 1, 1]), classes=2, law="balanced")(0, range(5))
    assert len(seen) == 4 and all(torch.equal(labels, seen[0]) for labels in seen)
    assert seen[0].argmax(1).tolist() == [0, 1, 0, 1, 0]


# --- the config


def few_step_run(*times: float, labelled: bool = False, **changes) -> Run:
    evaluation = Evaluation(every=10, samples=32, resamplings=2, grid=4, times=times, **changes)
    return tiny_run(data=Data(name="eight-gaussians", labels=labelled), evaluation=evaluation)


def test_the_defaults_are_no_part_of_the_identity_and_other_values_are():
    run = presets.make("digits", "digits", Independent(), 0)
    same = ["evaluation.times=()", "evaluation.renoising=deterministic", "evaluation.labels=balanced"]
    assert [override(run, [pair]).id for pair in same] == [run.id] * 3, "with one step and no classes they change nothing"
    times = override(run, ["evaluation.times=0.821,"])
    conditional = override(run, ["data.labels=true"])
    others = [times, override(times, ["evaluation.renoising=deterministic"]), conditional, override(conditional, [same[2]])]
    assert len({run.id, *(other.id for other in others)}) == 5


def test_a_denoiser_with_times_is_the_same_run():
    run = tiny_run(objective=Denoising())
    assert override(run, ["evaluation.times=2,1"]).id == run.id


@pytest.mark.parametrize("times", ["90,", "80,", "0.002,", "1,2", "2,2", "0.5,nan", "1e9,", "2,1,0.0001"])
def test_times_that_do_not_descend_between_the_noise_levels_are_refused(times):
    with pytest.raises(HarnessError, match="times"):
        override(tiny_run(), [f"evaluation.times={times}"])
    with pytest.raises(HarnessError, match="14"):
        override(tiny_run(), [f"evaluation.times={','.join(str(t) for t in range(20, 5, -1))}"])


@pytest.mark.parametrize(("objective", "level"), [({}, 0.002), ({"objective": EasyConsistencyTuning()}, 0.0)])
def test_noise_is_added_as_the_models_own_identity_asks(objective, level):
    """ECT's function is the identity at 0, which makes the rule ECT's x + t z."""
    run = tiny_run(evaluation=Evaluation(every=10, samples=32, times=TIMES), **objective)
    network = fresh(run).ema
    steps = evaluation.steps_of(run, 3)
    assert steps == Steps(80.0, TIMES[:2], level) and steps.sigma_0 == network.sigma_0
    x = torch.randn(5, 2)
    assert torch.allclose(network(x, torch.full((5,), max(level, 1e-8))), x, atol=1e-6)


# --- the evaluation


def recorded(root, run: Run) -> list[dict]:
    folder = RunFolder.create(root, run.id, run.to_dict())
    assert job.run_job(folder.path, "cpu") == ExitCode.DONE
    return [{name: value for name, value in row.items() if name not in ("run", "seconds", "check")} for row in folder.records()]


def test_a_run_records_every_number_of_steps_at_its_end_and_the_same_values_of_one_step(tmp_path):
    plain = recorded(tmp_path, few_step_run())
    rows = recorded(tmp_path, few_step_run(0.8, 0.3))
    assert [row for row in rows if parted_name(row["metric"])[1] == 1] == plain, "one step: the same bit for bit"
    more = [row for row in rows if parted_name(row["metric"])[1] > 1]
    assert all(row["final"] and row["step"] == 24 and row["resamplings"] == 2 for row in more)
    final = [row["metric"] for row in plain if row["final"]]
    assert [row["metric"] for row in more] == [few_step_name(name, count) for count in (2, 3) for name in final]
    values = {row["metric"]: row for row in rows if row["final"]}
    one, two, three = (values[few_step_name("w2", count)] for count in (1, 2, 3))
    assert len({row["protocol"] for row in (one, two, three)}) == 3 and len({row["value"] for row in (one, two, three)}) == 3


def test_the_protocol_names_times_renoising_and_the_law_of_classes(tmp_path):
    def protocols(run: Run) -> list[str]:
        rows = [row for row in recorded(tmp_path / run.id, run) if row["final"] and parted_name(row["metric"])[0] == "w2"]
        return [row["protocol"] for row in rows]

    plain, other, again = (protocols(few_step_run(*times)) for times in ((0.8, 0.3), (0.8, 0.2), (0.9,)))
    deterministic = protocols(few_step_run(0.8, renoising="deterministic"))
    assert plain[:2] == other[:2] and plain[2] != other[2] and plain[1] not in (again[1], deterministic[1])
    balanced = protocols(few_step_run(0.8, labelled=True, labels="balanced"))
    assert not set(balanced) & {*plain, *deterministic}


@pytest.mark.parametrize("static", [False, True])
def test_the_last_value_and_the_curve_stay_those_of_one_step(tmp_path, static):
    """Rows are padded to fixed numbers for a compiled network; the samples are the same up to rounding."""
    run = few_step_run(0.8)
    run = run.model_copy(update={"train": run.train.model_copy(update={"static_rows": static})})
    rows = recorded(tmp_path, run)
    folder = RunFolder(tmp_path / "runs" / run.id)
    last = next(row["value"] for row in rows if row["final"] and row["metric"] == "w2")
    evaluator = evaluator_of(run, folder, Processes())
    assert evaluator.last == last
    network, data = fresh(run).ema, data_of(run)
    samples = generate_samples(run, data, network, 2)(0, range(70))
    plain = sampler(network, (2,), Steps(80.0, (0.8,), 0.002))(0, range(70))
    assert torch.allclose(samples, plain, rtol=1e-4, atol=1e-5) and (static or torch.equal(samples, plain))


def evaluator_of(run: Run, folder: RunFolder, processes: Processes) -> Evaluator:
    data = data_of(run)
    reference = build_reference(data) if processes.rank == 0 else None
    return Evaluator(run, folder, data, reference, processes, 0.0, [], lambda: None)


@pytest.mark.parametrize("labels", [False, True])
def test_two_processes_measure_what_one_measures(tmp_path, monkeypatch, labels):
    """Of 700 samples the second process generates the last 200; what it sends arrives in the order in which it was sent."""
    run = tiny_run(
        data=Data(name="eight-gaussians", labels=labels),
        network=Network(kind="mlp", width=8, depth=1, dropout=(0.0,)),
        evaluation=Evaluation(every=10, samples=700, resamplings=2, times=(0.8, 0.3), labels="balanced"),
    )
    sent: deque[object] = deque()

    def gather(own, parts=None):
        if parts is None:
            sent.append(own)
        else:
            parts[:] = [own, sent.popleft()]

    monkeypatch.setattr(evaluation.dist, "gather_object", gather)
    model = fresh(run)
    found = []
    for name, processes in (("one", [Processes()]), ("two", [Processes(1, 2), Processes(0, 2)])):
        folder = RunFolder.create(tmp_path / name, run.id, run.to_dict())
        for process in processes:
            evaluator_of(run, folder, process).measure(model, final=True)
        found.append([(row["metric"], row["value"], row["protocol"]) for row in folder.records()])
    assert found[0] == found[1] and not sent
    assert {parted_name(metric)[1] for metric, _, _ in found[0]} == {1, 2, 3}


def test_a_denoiser_is_not_sampled(tmp_path):
    assert not [row for row in recorded(tmp_path, tiny_run(objective=Denoising())) if row["final"]]
