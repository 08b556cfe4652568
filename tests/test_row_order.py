"""No metric depends on the order of its rows, nor on which come first: exactly, up to rounding, or within the noise of its draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.baselines import BaselineJob
from harness.config.identity import short_hash
from harness.core.optimal_transport import wasserstein2
from harness.core.randomness import generator
from harness.data.datasets import Dataset, drawn_rows, load, sample_toy
from harness.metrics import baselines, reference_statistics, sample_metrics
from harness.metrics.coverage import class_metrics, class_share, precision_recall
from harness.metrics.extractors import extractor
from harness.metrics.features import Features
from harness.metrics.points import mode_metrics, point_modes
from harness.metrics.quality import frechet, inception_score, kid, moments
from harness.metrics.reference_statistics import MetricOptions, ReferenceStatistics, build_reference, training_set
from harness.metrics.sample_metrics import image_values

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
Score = Callable[[torch.Tensor], object]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int, d: int = 6, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (n, d) around one centre for each class, sorted by class, and class probabilities (n, classes) that follow the class."""
    rng = np.random.default_rng(seed)
    label = np.sort(rng.integers(0, classes, n))
    points = 3 * np.random.default_rng(99).normal(size=(classes, d))[label] + rng.normal(size=(n, d))
    logits = rng.normal(size=(n, classes)) + 5 * np.eye(classes)[label]
    return torch.from_numpy(points).float(), torch.from_numpy(logits).softmax(1)


# --- the formulas ---

REAL, REAL_PROBS = clusters(150, seed=1)
TOY, TOY_LABELS = sample_toy("eight-gaussians", 400, draw())
EXACT: dict[str, Score] = {
    "precision and recall": lambda x: precision_recall(REAL, x),
    "classes": lambda x: class_metrics(x[:, :5].softmax(1), class_share(REAL_PROBS)),
    "modes": lambda x: mode_metrics(x[:, :2] / 4, point_modes(TOY, TOY_LABELS)),
}
ROUNDED: dict[str, Callable[[torch.Tensor], float]] = {
    "fid": lambda x: frechet(*moments(REAL), *moments(x)),
    "kid of all rows": lambda x: kid(REAL, x, subsets=3, size=len(x), generator=draw()) if len(x) == len(REAL) else 0.0,
    "is of one split": lambda x: inception_score(x[:, :5].softmax(1)),
    "w2": lambda x: wasserstein2(x[:, :2], TOY[:100]),
}


@given(st.integers(0, 1000), st.sampled_from([60, 150]))
@settings(max_examples=15, deadline=None)
def test_where_all_rows_are_used_the_order_changes_nothing(seed, n):
    """Counts are equal exactly; sums over rows but for their rounding."""
    x, _ = clusters(n, seed=seed)
    shuffled = x[torch.randperm(n, generator=draw(seed))]
    for name, score in EXACT.items():
        assert score(shuffled) == score(x), name
    for name, value in ROUNDED.items():
        assert value(shuffled) == pytest.approx(value(x), rel=1e-9, abs=1e-12), name


def test_inception_score_of_rows_sorted_by_class():
    """Consecutive tenths of these rows hold a tenth of the 100 classes each and would score below 11."""
    probs = torch.eye(100, dtype=torch.float64).repeat_interleave(100, 0) * 0.98 + 2e-4
    scores = [inception_score(rows, 10, generator=draw(k)) for k in range(4) for rows in (probs, probs[torch.randperm(10_000)])]
    consecutive = np.mean([inception_score(part) for part in probs.tensor_split(10)])
    assert consecutive < 11 < 75 < min(scores) and np.ptp(scores) < 0.02 * min(scores)
    assert inception_score(probs, 10, generator=draw(1)) == scores[2], "the generator alone decides"


# --- all metrics of one sample, where rows are chosen ---


class Columns:
    """An extractor for images (n, 1, 1, 11): features are the first six levels, class probabilities follow the other five."""

    device = CPU

    def protocol(self) -> dict[str, object]:
        return {"network": "columns"}

    def extract(self, images):
        images = images if isinstance(images, torch.Tensor) else torch.cat(list(images))
        rows = images.flatten(1).float() / 255
        return Features(rows[:, :6].numpy(), (10 * rows[:, 6:]).softmax(1).numpy())


def images(n: int, seed: int) -> Dataset:
    """Images sorted by class, which `Columns` measures."""
    points, probs = clusters(n, seed=seed)
    levels = torch.cat([(points / 24 + 0.5), probs.float()], 1).clamp(0, 1) * 255
    return Dataset("images", "train", f"clusters {n} {seed}", levels.round().to(torch.uint8).view(n, 1, 1, 11), probs.argmax(1))


def permuted(data: Dataset, seed: int) -> Dataset:
    order = torch.randperm(len(data), generator=draw(seed))
    return replace(data, rows=data.rows[order], labels=data.labels[order])


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    """More rows than precision, recall and a KID subset use."""
    return build_reference(images(1500, 0), Columns(), MetricOptions(near_rows=300, kid_subsets=20, kid_size=200))


def spread(values: list[dict[str, float]]) -> dict[str, float]:
    return {metric: float(np.std([value[metric] for value in values], ddof=1)) for metric in values[0]}


def assert_same(first: list[dict[str, float]], second: list[dict[str, float]]) -> None:
    """Means agree within five standard errors of the draws; metrics without any spread up to rounding."""
    noise = spread(first)
    for metric in first[0]:
        means = [np.mean([value[metric] for value in values]) for values in (first, second)]
        assert abs(means[0] - means[1]) <= 5 * noise[metric] * (2 / len(first)) ** 0.5 + 1e-9 * abs(means[0]) + 1e-12, metric


def test_every_image_metric_of_sorted_rows_is_that_of_shuffled_rows(reference, monkeypatch):
    monkeypatch.setattr(sample_metrics, "SPLIT_FROM", 1000)
    measured = Columns().extract(images(1200, 5).rows)
    orders = [torch.arange(1200), torch.randperm(1200, generator=draw(1)), torch.arange(1200).flip(0)]
    samples = [Features(measured.features[order], measured.probs[order]) for order in orders]
    in_order, *others = [[image_values(sample, reference, draw(k)) for k in range(12)] for sample in samples]
    noise = spread(in_order)
    assert all((noise[name] > 1e-6) is (name in ("kid", "is", "precision", "recall")) for name in noise), "where rows are chosen"
    for other in others:
        assert_same(in_order, other)


def test_a_reference_of_sorted_rows_is_that_of_shuffled_rows(reference):
    sample = Columns().extract(images(1200, 5).rows)
    shuffled = [build_reference(permuted(reference.data, k), Columns(), reference.options) for k in range(12)]
    values = [image_values(sample, other, draw(k)) for k, other in enumerate(shuffled)]
    noise = spread(values)
    for metric, value in image_values(sample, reference, draw(99)).items():
        assert abs(value - np.mean([other[metric] for other in values])) <= 5 * noise[metric] + 1e-9, metric


def test_baselines_of_sorted_held_out_images_are_those_of_shuffled_ones(reference, monkeypatch):
    monkeypatch.setattr(sample_metrics, "SPLIT_FROM", 600)
    heldout = images(700, 7)
    rows = [baselines.known_quality(reference, data, n=1200, seed=0, resamplings=3) for data in (heldout, permuted(heldout, 3))]
    for name in rows[0]:
        for value, other in zip(rows[0][name], rows[1][name], strict=True):
            if name != "heldout-at-n" and "heldout" not in name:
                assert value == other
            else:
                assert abs(value.value - other.value) <= 5 * value.se + 1e-9, (name, value.metric)


def test_protocols_say_where_rows_are_chosen(reference, monkeypatch):
    """Values of all rows keep the protocol that they always had."""
    few, many = (
        {metric: sample_metrics.protocol(metric, reference, n) for metric in ("fid", "is", "precision", "recall")} for n in (300, 10_000)
    )
    assert not any("rows" in protocol for protocol in few.values())
    assert {metric: protocol.get("rows") for metric, protocol in many.items()} == {
        "fid": None,
        "is": "shuffled",
        "precision": "random",
        "recall": "random",
    }


def test_published_digits_keep_their_protocols_and_numbers():
    """All rows of the digits are used, so nothing of this changes them: the published row of the 360 held-out images, measured again."""
    path = max((ROOT / "results" / "published" / "digits" / "baselines").glob("digits-baselines-*.json"))
    published = json.loads(path.read_text())
    reference = build_reference(training_set("digits"), extractor("digits"))
    for row in published["rows"]:
        assert short_hash(sample_metrics.protocol(row["metric"], reference, row["n"])) == row["protocol"], row
    measured = reference.extractor.extract(load("digits", "heldout").rows)
    values = image_values(measured, reference, generator(0, "measure"))
    for row in published["rows"]:
        if row["row"] == "heldout":
            one_image = 1.5 / 360 if row["metric"].startswith(("precision", "recall", "class")) else 0.0  # features differ by rounding
            assert values[row["metric"]] == pytest.approx(row["value"], rel=1e-4, abs=max(one_image, 1e-6)), row["metric"]


# --- which rows of a data set are measured ---


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_drawn_rows_hold_each_class_in_its_share(counts, n, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n = min(n, len(labels))
    rows = drawn_rows(labels, len(labels), n)
    drawn = np.bincount(labels[rows], minlength=len(counts))
    assert len(set(rows)) == len(rows) == n and (np.diff(rows) > 0).all()
    assert np.abs(drawn - n * np.array(counts) / len(labels)).max() < 1


def test_drawn_rows_are_neither_the_first_of_the_set_nor_of_their_class():
    """A tree sorted by class, 50 images each: the first 2,000 are 40 of the 200 classes."""
    labels = np.repeat(np.arange(200), 50)
    rows = drawn_rows(labels, 10_000, 2000)
    assert np.bincount(labels[rows]).tolist() == [10] * 200
    place = rows % 50
    assert abs(place.mean() - 24.5) < 5 * 14.4 / 2000**0.5
    unlabelled = drawn_rows(None, 10_000, 2000)
    assert len(set(unlabelled)) == 2000 and abs(unlabelled.mean() - 5000) < 5 * 2887 / 2000**0.5
    classes = labels[drawn_rows(labels, 10_000, 100)]
    assert len(set(classes)) == 100 and classes.max() > 150, "fewer rows than classes: not the first classes"


def test_a_large_training_set_is_drawn_for_the_reference(monkeypatch):
    complete = training_set("digits")
    assert complete.sha256 == load("digits").sha256 and len(complete) == 1437
    monkeypatch.setattr(reference_statistics, "MAX_ROWS", 500)
    drawn = training_set("digits")
    share = torch.bincount(complete.labels) * 500 / 1437
    assert len(drawn) == 500 and (torch.bincount(drawn.labels) - share).abs().max() <= 1
    assert drawn.sha256 not in (complete.sha256, load("digits", limit=500).sha256)
    known = {row.numpy().tobytes(): number for number, row in enumerate(complete.rows)}
    numbers = [known[row.numpy().tobytes()] for row in drawn.rows]
    assert abs(np.mean(numbers) - 718) < 5 * 415 / 500**0.5, "not the first rows of each class"


def digits_job(samples: int) -> BaselineJob:
    return BaselineJob(scale="digits", data="digits", samples=samples, resamplings=2, sample_range="paper", quantisation="paper")


def test_held_out_images_are_compared_at_equal_n_where_there_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "MetricOptions", partial(MetricOptions, kid_subsets=3, kid_size=50))
    for samples, equal in ((200, True), (400, False)):
        rows = baselines.measure_baselines(digits_job(samples), tmp_path, CPU)["rows"]
        fid = {row["row"]: row for row in rows if row["metric"] == "fid"}
        assert fid["heldout"]["n"] == (samples if equal else 360) and fid["heldout"]["se"] > 0
        assert (fid["heldout"]["protocol"] == fid["noise"]["protocol"]) is equal
        assert ("heldout-at-n" in fid) is not equal
        assert {row["protocol"] for name, row in fid.items() if name != "heldout"} == {fid["noise"]["protocol"]}
    assert fid["heldout-at-n"]["n"] == 400 and fid["heldout-at-n"]["se"] >= fid["heldout"]["se"]


def test_fewer_samples_than_held_out_images_measure_a_balanced_draw():
    heldout, why = baselines.heldout_images("digits", 100, CPU)
    assert why == "" and (torch.bincount(heldout.labels) - torch.bincount(load("digits", "heldout").labels) / 3.6).abs().max() <= 1


def test_baselines_do_not_depend_on_the_size_of_batches(tmp_path):
    data, network = training_set("digits"), extractor("digits")
    rows = [
        baselines.known_quality(
            build_reference(data, network, MetricOptions(batch=batch, kid_subsets=3)), None, n=620, seed=0, resamplings=1
        )
        for batch in (500, 130)
    ]
    assert rows[0] == rows[1]


def test_one_resampling_leaves_the_error_at_n_unknown():
    reference = build_reference(images(300, 0), Columns())
    rows = baselines.known_quality(reference, images(100, 1), n=200, seed=0, resamplings=1)
    assert rows["heldout-at-n"][0].se is None and rows["heldout"][0].se > 0


def test_the_draws_of_a_metric_are_addressed(reference):
    """Equal seed, equal choice of rows, whatever was drawn before."""
    sample = Columns().extract(images(1200, 5).rows)
    first = image_values(sample, reference, generator(0, "measure", 1))
    torch.rand(7)
    assert image_values(sample, reference, generator(0, "measure", 1)) == first
    assert image_values(sample, reference, generator(0, "measure", 2)) != first
