"""Baselines of a table: what the metrics give for samples of known quality, under the protocol of the runs beside them.

Values of different n do not compare: every metric but a share depends on n. The rows, by their names on disk:

heldout: real held-out images, n of them drawn at random with each class in its share; where there are fewer, all, and their own n and
protocol say so (se by a jackknife over ten groups). For toys n fresh real points. It is no bound: a generator that has memorised
training images comes closer to the training set, and a Gaussian fit of few dimensions may.
heldout-at-n: only where fewer than n images are held out: the Frechet distance that n of them would have, an estimate:
heldout + B(n) - B(n_heldout), where B(m) is the mean Frechet distance between m images drawn with replacement from the training set and
the training set, the upward bias of m samples alone. The n_heldout images of that draw have the classes of the held-out images, whose split
may be stratified, so the value may fall a little below 0. se: of all three terms, so that its error is that of the few held-out images.
train-resampled: n images drawn with replacement from the training set: a generator that has memorised it.
gaussian-fit: n draws of the Gaussian with the data's mean and covariance.
noise: n draws of N(0, I), clipped to [-1, 1] and quantised like any sample (toy points as drawn).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from harness.config.baselines import BaselineJob
from harness.config.identity import short_hash
from harness.core.randomness import generator
from harness.data.catalogue import check_content, info
from harness.data.datasets import Dataset, load, row_count, sample_toy
from harness.locations import data_root
from harness.metrics.features import Features
from harness.metrics.quality import moments, root
from harness.metrics.reference_statistics import MetricOptions, Reference, ReferencePoints, ReferenceStatistics, reference_of
from harness.metrics.sample_metrics import Generate, MetricValue, image_values, measure_samples, protocol, summarise
from harness.store.machine import device_kind
from harness.store.provenance import provenance

FORMAT = 1
GROUPS = 10  # of the jackknife
LEAST_HELDOUT = 2 * GROUPS  # images, so that each group of the jackknife has some and the rest is a sample that can be measured
BLOCK = 500  # rows that are drawn together
FIT_DIM = 4096  # a Gaussian is fitted to images of at most this many values: the square root of its covariance is dense
FIT_ROWS = 10_000  # images it is fitted to, at most, so that no large set is held as float


def measure_baselines(job: BaselineJob, cache: Path, device: torch.device) -> dict[str, Any]:
    """The baselines of a data set under an evaluation protocol, as plain JSON.

    cache: a folder that keeps the reference statistics. Returns `rows`, one for each baseline and metric with the fields of a run's
    records, `protocols`, what their protocol hashes stand for, and `absent`, why a baseline has no row, by its name. Raises HarnessError
    when the training images or the feature extractor are missing; held-out images may be.
    """
    check_content(job.data, job.custom)
    reference = reference_of(job.data, MetricOptions(job.sample_range, job.quantisation), cache, device)
    heldout, absent = None, {}
    if isinstance(reference, ReferenceStatistics):
        heldout, why = heldout_images(job.data, job.samples, device)
        absent = {"heldout": why} if why else {}
    baselines = known_quality(reference, heldout, n=job.samples, seed=0, resamplings=job.resamplings)
    rows, protocols = [], {}
    for name, values in baselines.items():
        for value in values:
            key = short_hash(dict(value.protocol))
            protocols[key] = dict(value.protocol)
            rows.append({"row": name, **asdict(value), "protocol": key})
    return {
        "format": FORMAT,
        "scale": job.scale,
        "data": job.data,
        "protocols": protocols,
        "rows": rows,
        "absent": absent,
        **({"rehearsal": job.rehearsal} if job.rehearsal else {}),
        "provenance": provenance(device_kind(device.type)),
    }


def heldout_images(name: str, n: int, device: torch.device) -> tuple[Dataset | None, str]:
    """At most n held-out images of the data set, drawn at random, and an empty text; None and the reason where too few can be measured.

    Raises HarnessError when the data set is not prepared or damaged.
    """
    reason, fix = why_no_heldout(name)
    if reason:
        return None, f"held-out images: {reason}" + (f"; to measure them, {fix}" if fix else "")
    return load(name, "heldout", at_most=n, device=device), ""


def why_no_heldout(name: str) -> tuple[str, str]:
    """Why held-out images of this data set cannot be measured here, and what to do; two empty texts where they can.

    Raises HarnessError for an unknown data set and for one that is not prepared.
    """
    dataset, rows = info(name), row_count(name, "heldout")
    if rows >= LEAST_HELDOUT:
        return "", ""
    if not dataset.heldout:
        return "this data set has none", ""
    how = f" --heldout {LEAST_HELDOUT}" if dataset.custom else ", with the held-out images in the same place"
    again = f"remove {data_root() / name}, then {dataset.fix}{how}"
    return (f"{rows} are too few, at least {LEAST_HELDOUT} are needed" if rows else "not prepared"), again


def known_quality(
    reference: Reference, heldout: Dataset | None, *, n: int, seed: int, resamplings: int = 5
) -> dict[str, list[MetricValue]]:
    """The baselines by name (see the module). Those that need held-out data are left out when there is none."""
    generators: dict[str, Generate] = {"noise": partial(_noise, reference.data, seed)}
    if reference.data.dim <= FIT_DIM:
        generators["gaussian-fit"] = _gaussian_fit(reference.data, seed)
    if isinstance(reference, ReferencePoints):
        generators["heldout"] = partial(_in_blocks, lambda draw: sample_toy(reference.data.name, BLOCK, draw)[0], seed)
    rows = {name: measure_samples(generate, reference, n=n, seed=seed, resamplings=resamplings) for name, generate in generators.items()}
    if isinstance(reference, ReferenceStatistics):
        rows |= real_images(reference, heldout, n=n, seed=seed, resamplings=resamplings)
    return rows


def real_images(
    reference: ReferenceStatistics, heldout: Dataset | None, *, n: int, seed: int, resamplings: int
) -> dict[str, list[MetricValue]]:
    """The baselines of real images by name: train-resampled and, where there are held-out images, heldout and heldout-at-n. Only the
    held-out images pass through the extractor."""
    memorised = _resampled(reference, n, seed, resamplings)
    rows = {"train-resampled": summarise(memorised, reference, n)}
    if heldout is not None:
        rows["heldout"] = _heldout(reference, heldout, seed)
        if len(heldout) != n:
            as_many = _resampled(reference, len(heldout), seed + 1, resamplings, heldout)
            rows["heldout-at-n"] = [_at_n(rows["heldout"], n, memorised, as_many, reference)]
    return rows


def _at_n(
    heldout: list[MetricValue], n: int, memorised: list[dict[str, float]], as_many: list[dict[str, float]], reference: ReferenceStatistics
) -> MetricValue:
    """The baseline heldout-at-n from the metrics of the held-out images and of resampled training images, n of them and as many as those.

    Its standard error is None where one resampling tells nothing about the error of the bias.
    """
    fid = next(value for value in heldout if value.metric == "fid")
    bias = [[values["fid"] for values in resampled] for resampled in (memorised, as_many)]
    value = fid.value + fmean(bias[0]) - fmean(bias[1])
    se = None
    if fid.se is not None and len(memorised) > 1:
        se = (sum(stdev(values) ** 2 / len(values) for values in bias) + fid.se**2) ** 0.5
    return replace(fid, value=value, se=se, n=n, protocol=protocol("fid", reference, n))


def _heldout(reference: ReferenceStatistics, heldout: Dataset, seed: int) -> list[MetricValue]:
    """The metrics of all held-out images, with standard errors by a jackknife."""
    features = reference.extractor.extract(reference.options.real(heldout))
    values = image_values(features, reference, generator(seed, "measure"))
    se = _jackknife(features, reference, seed)
    return [replace(value, se=se[value.metric]) for value in summarise([values], reference, len(features))]


def _jackknife(features: Features, reference: ReferenceStatistics, seed: int) -> Mapping[str, float]:
    """Standard errors of all metrics of one sample, from leaving out each of ten random groups of it in turn. The bias of the parts is
    nearly the same each time and cancels. That of KID contains the noise of its random subsets, three times over: an upper value."""
    order = torch.randperm(len(features), generator=generator(seed, "measure", 1))
    values = []
    for group in order.tensor_split(GROUPS):
        keep = torch.ones(len(features), dtype=torch.bool)
        keep[group] = False
        rest = Features(features.features[keep.numpy()], features.probs[keep.numpy()])
        values.append(image_values(rest, reference, generator(seed, "measure")))
    return {metric: (GROUPS - 1) / GROUPS**0.5 * stdev(value[metric] for value in values) for metric in values[0]}


def _resampled(reference: ReferenceStatistics, n: int, seed: int, resamplings: int, like: Dataset | None = None) -> list[dict[str, float]]:
    """Metrics of n training images drawn with replacement; like: with the class counts of this set."""
    labels = reference.data.labels
    groups = [(torch.arange(len(reference.probs)), n)]
    if like is not None and labels is not None and like.labels is not None:
        counts = torch.bincount(like.labels.cpu(), minlength=int(labels.max()) + 1).tolist()
        members = [(labels.cpu() == label).nonzero().squeeze(1) for label in range(len(counts))]
        groups = [(rows, count) for rows, count in zip(members, counts, strict=True) if count and len(rows)]
    values = []
    for k in range(resamplings):
        draw = generator(seed, "measure", k)
        rows = torch.cat([rows[torch.randint(len(rows), (count,), generator=draw)] for rows, count in groups])
        features = Features(reference.features[rows.to(reference.features.device)].cpu().numpy(), reference.probs[rows.numpy()])
        values.append(image_values(features, reference, draw))
    return values


def _in_blocks(draw: Callable[[torch.Generator], torch.Tensor], seed: int, k: int, rows: range) -> torch.Tensor:
    """Rows of the k-th endless list of blocks draw(generator) of BLOCK rows: the same however many are generated at once."""
    starts = range(rows.start // BLOCK * BLOCK, rows.stop, BLOCK)
    blocks = torch.cat([draw(generator(seed, "eval", k, start)) for start in starts])
    return blocks[rows.start - starts.start : rows.stop - starts.start]


def _noise(data: Dataset, seed: int, k: int, rows: range) -> torch.Tensor:
    return _in_blocks(lambda draw: torch.randn(BLOCK, *data.shape, generator=draw), seed, k, rows).to(data.rows.device)


def _gaussian_fit(data: Dataset, seed: int) -> Generate:
    chosen = torch.randperm(len(data), generator=generator(seed, "measure"))[:FIT_ROWS]
    mu, cov = moments(data.batch(chosen).flatten(1))
    half = root(cov)
    return lambda k, rows: (mu + _noise(data, seed, k, rows).flatten(1).double() @ half).view(len(rows), *data.shape).float()
