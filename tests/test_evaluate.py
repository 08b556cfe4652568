"""From a generator to its metrics: quantisation, reference and its cache, resamplings, protocol, baselines."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.identity import canonical_json
from harness.core.optimal_transport import wasserstein2
from harness.core.randomness import generator
from harness.data.datasets import Dataset, load, sample_toy
from harness.errors import HarnessError
from harness.metrics import sample_metrics as evaluation
from harness.metrics.baselines import _resampled, known_quality
from harness.metrics.coverage import precision_recall
from harness.metrics.extractors import extractor
from harness.metrics.features import Features, quantise
from harness.metrics.reference_statistics import MetricOptions, ReferencePoints, build_reference, training_set
from harness.metrics.sample_metrics import measure_samples


class Pixels:
    """An extractor whose features are the pixels in [0, 1] and whose class is the brightest of four columns; counts its calls."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls = 0

    def protocol(self):
        return {"network": "pixels"}

    def extract(self, images):
        self.calls += 1
        images = images if isinstance(images, torch.Tensor) else torch.cat(list(images))
        x = images.float() / 255
        columns = x.mean((1, 2)).view(len(x), 4, -1).mean(2)
        return Features(x.flatten(1).numpy(), (20 * columns).softmax(1).numpy())


def gaussian_images(n, seed, mean=0.0):
    """Images (n, 1, 4, 4) of correlated Gaussian pixels in [-1, 1], float."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(16, 16)) / 4
    return torch.from_numpy(0.25 * rng.normal(size=(n, 16)) @ mix + mean).view(n, 1, 4, 4).float()


def dataset(n, seed=0, name="images"):
    return Dataset(name, "train", f"{name}-{n}-{seed}", rows=quantise(gaussian_images(n, seed)))


def from_seed(mean=0.0):
    """A generator of gaussian_images: the same samples for the same (k, rows)."""
    return lambda k, rows: gaussian_images(len(rows), (7, k, rows.start), mean)


def by_name(measurements):
    return {value.metric: value for value in measurements}


@given(st.integers(0, 255))
@settings(deadline=None, max_examples=256)
def test_real_levels_survive_clip_and_round(level):
    x = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
    assert quantise(x.float() / 127.5 - 1).item() == level


def test_truncation_moves_63_levels_by_one():
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    moved = levels.int() - quantise(levels.float() / 127.5 - 1, quantisation="released").int()
    assert moved.unique().tolist() == [0, 1] and moved.sum() == 63


def test_clip_and_min_max():
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 5.0]).view(6, 1, 1, 1)
    assert quantise(x).flatten().tolist() == [0, 0, 128, 191, 255, 255]
    assert quantise(x, "released").flatten().tolist() == [0, 64, 96, 112, 128, 255]
    assert quantise(x, "released", "released").flatten().tolist() == [0, 63, 95, 111, 127, 255]
    assert quantise(torch.full((2, 1, 1, 1), 0.3), "released").tolist() == [[[[0]]], [[[0]]]]


def test_metrics_are_those_of_the_samples():
    data, n = dataset(400), 300
    samples = {k: torch.cat([from_seed(0.2)(k, range(s, min(s + 128, n))) for s in range(0, n, 128)]) for k in range(3)}
    values = by_name(measure_samples(from_seed(0.2), build_reference(data, Pixels(), MetricOptions(batch=128)), n=n, seed=0, resamplings=3))
    real = data.rows.flatten(1).double().numpy() / 255
    each = []
    for k in range(3):
        fake = ((samples[k].clamp(-1, 1) + 1) * 127.5).round().flatten(1).double().numpy() / 255
        s1, s2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
        gap = ((real.mean(0) - fake.mean(0)) ** 2).sum()
        each.append(gap + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real))
        precision, recall = precision_recall(real, fake)
    fid = values["fid"]
    assert fid.value == pytest.approx(np.mean(each), rel=1e-4)
    assert fid.sd == pytest.approx(np.std(each, ddof=1), rel=1e-2) and fid.se == pytest.approx(fid.sd / math.sqrt(3))
    assert (fid.n, fid.resamplings) == (n, 3)
    assert abs(values["precision"].value - precision) < 0.1 and abs(values["recall"].value - recall) < 0.1
    assert 1 <= values["is"].value <= 4 and values["kid"].value > 5 * values["kid"].se
    assert sum(values[f"class_share/{i}"].value for i in range(4)) == pytest.approx(1)


def test_every_sample_is_generated_once():
    asked = []

    def generate(k, rows):
        asked.append((k, rows))
        return from_seed()(k, rows)

    ref = build_reference(dataset(50), Pixels(), MetricOptions(batch=30))
    measure_samples(generate, ref, n=75, seed=0, resamplings=2)
    assert asked == [(k, rows) for k in range(2) for rows in (range(0, 30), range(30, 60), range(60, 75))]


def test_values_are_a_function_of_samples_and_seed():
    ref = build_reference(dataset(120), Pixels(), MetricOptions(kid_size=20, kid_subsets=5))
    first = measure_samples(from_seed(), ref, n=60, seed=3, resamplings=2)
    torch.manual_seed(5)
    torch.rand(10)
    state = torch.get_rng_state()
    assert measure_samples(from_seed(), ref, n=60, seed=3, resamplings=2) == first
    assert torch.equal(torch.get_rng_state(), state)
    other = by_name(measure_samples(from_seed(), ref, n=60, seed=4, resamplings=2))
    assert other["kid"].value != by_name(first)["kid"].value and other["fid"] == by_name(first)["fid"]


def test_one_resampling_has_no_spread():
    fid = by_name(measure_samples(from_seed(), build_reference(dataset(60), Pixels()), n=40, seed=0, resamplings=1))["fid"]
    assert fid.sd is None and fid.se is None and fid.resamplings == 1


def test_protocol_holds_what_a_value_depends_on():
    def protocols(options=None, n=60, data=None, **more):
        ref = build_reference(data or dataset(60), Pixels(), options or MetricOptions())
        values = measure_samples(from_seed(), ref, n=n, **{"seed": 0, "resamplings": 1} | more)
        return {value.metric: canonical_json(value.protocol) for value in values}

    base = protocols()
    assert protocols(seed=1, resamplings=2) == base
    assert protocols(MetricOptions(batch=20)) == base
    assert len({base["fid"], base["kid"], base["is"], base["precision"]}) == 4
    for other in (
        protocols(MetricOptions(sample_range="released")),
        protocols(MetricOptions(quantisation="released")),
        protocols(n=61),
        protocols(data=dataset(60, seed=1)),
    ):
        assert all(other[metric] != base[metric] for metric in base)
    released = MetricOptions(sample_range="released", batch=20)
    assert protocols(released)["fid"] != protocols(dataclasses.replace(released, batch=30))["fid"]  # min and max are a batch's
    size = protocols(MetricOptions(kid_size=30))
    assert size["kid"] != base["kid"] and size["fid"] == base["fid"]


def test_released_quantisation_also_truncates_the_real_images():
    data = dataset(50)
    paper, released = (build_reference(data, Pixels(), MetricOptions(quantisation=way)) for way in ("paper", "released"))
    moved = (paper.features - released.features) * 255
    assert moved.round().unique().tolist() == [0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_refused(bad):
    for ref in (build_reference(dataset(30), Pixels()), build_reference(load("two-moons"))):
        with pytest.raises(HarnessError, match="not finite"):
            measure_samples(lambda k, rows, ref=ref: torch.full((len(rows), *ref.data.shape), bad), ref, n=20, seed=0)


def test_samples_of_another_shape_and_too_few_are_refused():
    ref = build_reference(dataset(30), Pixels())
    with pytest.raises(HarnessError, match="wrong shape"):
        measure_samples(lambda k, rows: torch.zeros(len(rows), 1, 4, 5), ref, n=20, seed=0)
    with pytest.raises(HarnessError, match="too few"):
        measure_samples(from_seed(), ref, n=3, seed=0)


def test_small_samples_get_one_inception_score_split():
    values = by_name(measure_samples(from_seed(), build_reference(dataset(60), Pixels()), n=50, seed=0, resamplings=1))
    assert values["is"].protocol["splits"] == 1 and evaluation._splits(10_000) == 10


def test_reference_is_computed_once_and_again_when_damaged(tmp_path):
    data, network, folder = dataset(40), Pixels(), tmp_path / "new"
    first = build_reference(data, network, cache=folder)
    (path,) = folder.iterdir()
    again = build_reference(data, network, cache=folder)
    assert network.calls == 1
    for name in ("features", "mu", "cov", "root", "near_rows", "near_radii"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert np.array_equal(first.probs, again.probs)
    intact = path.read_bytes()
    for damage in (intact[:-500], intact[:100], b"", intact[:2000] + b"\xff" * 64 + intact[2064:]):
        path.write_bytes(damage)
        calls = network.calls
        assert torch.equal(build_reference(data, network, cache=folder).features, first.features)
        assert network.calls == calls + 1 and path.read_bytes() == intact
    build_reference(dataset(40, seed=1), network, cache=folder)
    build_reference(data, network, MetricOptions(neighbours=2), cache=folder)
    assert len(list(folder.iterdir())) == 3


def test_many_processes_leave_one_complete_reference(tmp_path):
    data = dataset(300)
    with ThreadPoolExecutor(6) as pool:
        references = list(pool.map(lambda _: build_reference(data, Pixels(), cache=tmp_path), range(12)))
    assert all(torch.equal(reference.cov, references[0].cov) for reference in references)
    assert len(list(tmp_path.iterdir())) == 1


def test_images_need_an_extractor():
    with pytest.raises(ValueError, match="extractor"):
        build_reference(dataset(10))


def test_heldout_at_n_predicts_fresh_real_images():
    """300 held-out images predict what 3,000 fresh ones give, on data with any number of samples."""
    ref, heldout = build_reference(dataset(3000), Pixels(), MetricOptions(near_rows=100, kid_subsets=2)), dataset(300, seed=1)
    rows = {name: by_name(values)["fid"] for name, values in known_quality(ref, heldout, n=3000, seed=0, resamplings=3).items()}
    truth = by_name(measure_samples(from_seed(), ref, n=3000, seed=0, resamplings=4))["fid"]
    assert rows["heldout-at-n"].n == 3000 and rows["heldout"].n == 300
    assert rows["heldout"].value > 4 * truth.value  # the bias that is corrected
    assert abs(rows["heldout-at-n"].value - truth.value) < 4 * rows["heldout-at-n"].se + 4 * truth.se
    assert canonical_json(rows["heldout-at-n"].protocol) == canonical_json(truth.protocol)


def test_the_jackknife_gives_the_error_of_a_class_share():
    rows = known_quality(build_reference(dataset(400), Pixels()), dataset(400, seed=2), n=400, seed=0, resamplings=2)
    for value in rows["heldout"]:
        if value.metric.startswith("class_share"):
            assert value.se == pytest.approx(math.sqrt(value.value * (1 - value.value) / 400), rel=0.8)
    assert by_name(rows["train-resampled"])["precision"].value == 1


def test_the_bias_of_held_out_images_is_drawn_with_their_class_counts():
    ref, heldout = build_reference(training_set("digits"), extractor("digits")), load("digits", "heldout")
    (values,) = _resampled(ref, len(heldout), 0, 1, heldout)
    counts = torch.bincount(heldout.labels, minlength=10) / len(heldout)
    assert [values[f"class_share/{i}"] for i in range(10)] == pytest.approx(counts.tolist())


def test_baselines_of_the_digits_with_their_classifier(tmp_path):
    ref = build_reference(training_set("digits"), extractor("digits"), cache=tmp_path)
    rows = {name: by_name(values) for name, values in known_quality(ref, load("digits", "heldout"), n=1437, seed=0, resamplings=2).items()}
    fid = {name: values["fid"].value for name, values in rows.items()}
    assert fid["train-resampled"] < fid["heldout"] < fid["gaussian-fit"] < fid["noise"]
    assert fid["noise"] > 50 * fid["heldout"]
    assert rows["train-resampled"]["is"].value > 9.85 and rows["noise"]["is"].value < 1.05
    assert rows["heldout"]["kid"].value < 0.01 < rows["gaussian-fit"]["kid"].value
    assert rows["noise"]["precision"].value == 0 and rows["heldout"]["precision"].value > 0.85


def test_baselines_without_held_out_images():
    rows = known_quality(build_reference(dataset(60), Pixels()), None, n=60, seed=0, resamplings=2)
    assert sorted(rows) == ["gaussian-fit", "noise", "train-resampled"]


def test_gaussian_fit_has_the_moments_of_the_data():
    rows = known_quality(
        build_reference(dataset(2000), Pixels(), MetricOptions(near_rows=100, kid_subsets=2)), None, n=2000, seed=0, resamplings=2
    )
    assert by_name(rows["gaussian-fit"])["fid"].value < 0.02 * by_name(rows["noise"])["fid"].value


def test_points_dispatch_to_their_metrics():
    ref = build_reference(load("eight-gaussians"))
    assert isinstance(ref, ReferencePoints)
    samples = {}

    def generate(k, rows):
        samples[k], _ = sample_toy("eight-gaussians", len(rows), generator(123, "eval", k))
        return samples[k]

    values = by_name(measure_samples(generate, ref, n=200, seed=5, resamplings=2))
    truth = [wasserstein2(samples[k], sample_toy("eight-gaussians", 200, generator(5, "measure", k))[0]) for k in range(2)]
    assert values["w2"].value == pytest.approx(np.mean(truth))
    assert set(values) == {"w2", "in_mode", "mode_tv", "modes_missing"}
    assert values["in_mode"].value > 0.95 and values["modes_missing"].value == 0
    assert set(by_name(measure_samples(lambda k, rows: torch.zeros(len(rows), 2), build_reference(load("two-moons")), n=20, seed=0))) == {
        "w2"
    }


def test_baselines_of_points():
    rows = known_quality(build_reference(load("two-gaussians")), None, n=300, seed=0, resamplings=2)
    w2 = {name: by_name(values)["w2"].value for name, values in rows.items()}
    assert w2["heldout"] < w2["gaussian-fit"] < w2["noise"]


def test_training_set_is_at_most_fifty_thousand():
    assert len(training_set("digits")) == 1437
