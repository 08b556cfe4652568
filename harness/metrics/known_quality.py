"""What the metrics give for samples whose quality is known: the floor (real data) and the ceilings (a Gaussian fit, pure noise)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, stdev

import torch

from harness.core.randomness import generator
from harness.data.datasets import Dataset, sample_toy
from harness.metrics.features import Features
from harness.metrics.quality import moments, root
from harness.metrics.reference_statistics import PointReference, Reference
from harness.metrics.sample_metrics import Generate, Measurement, evaluate, image_values, protocol, summarise

GROUPS = 10  # of the jackknife
FIT_DIM = 4096  # values of an image up to which a Gaussian is fitted: the square root of its covariance is dense
FIT_ROWS = 10_000  # images it is fitted to, at most, so that no large set is ever held as float


def floor(
    reference: Reference | PointReference, heldout: Dataset | None, *, n: int, seed: int, resamplings: int = 5
) -> dict[str, list[Measurement]]:
    """Rows of known quality, by name:

    heldout: the real held-out images, all of them (n says how many; se by a jackknife over ten groups); for toys n fresh real points.
    heldout-at-n: their Frechet distance as n held-out images would give it: heldout + B(n) - B(n_heldout), where B(m) is the mean Frechet
    distance of m images drawn with replacement from the training set to the training set, the upward bias of m samples alone (the
    n_heldout with the classes of the held-out images, whose split may be stratified; so this may fall a little below 0).
    train-resampled: n images drawn with replacement from the training set: a generator that has learnt it by heart.
    gaussian-fit: n draws of the Gaussian with the data's mean and covariance. noise: n draws of N(0, I), clipped to [-1, 1] and
    quantised like any sample (toy points as drawn). What needs held-out data is left out when there is none.
    """
    device = reference.data.rows.device
    simple = {"noise": _noise(reference.data, seed, device)}
    if reference.data.dim <= FIT_DIM:
        simple["gaussian-fit"] = _gaussian_fit(reference.data, seed, device)
    if isinstance(reference, PointReference):
        simple["heldout"] = _fresh(reference.data.name, seed)
    rows = {name: evaluate(generate, reference, n=n, seed=seed, resamplings=resamplings) for name, generate in simple.items()}
    if isinstance(reference, Reference):
        learnt = _resampled(reference, n, seed, resamplings)
        rows["train-resampled"] = summarise(learnt, n, protocol(reference, n))
        if heldout is not None:
            rows["heldout"] = _heldout(reference, heldout, seed)
            fid = next(found for found in rows["heldout"] if found.metric == "fid")
            bias = [[value["fid"] for value in each] for each in (learnt, _resampled(reference, fid.n, seed + 1, resamplings, heldout))]
            se = sum(stdev(each) ** 2 / len(each) for each in bias if len(each) > 1) + fid.se**2
            value = fid.value + fmean(bias[0]) - fmean(bias[1])
            rows["heldout-at-n"] = [replace(fid, value=value, se=se**0.5, n=n, protocol=protocol(reference, n)("fid"))]
    return rows


def _heldout(reference: Reference, heldout: Dataset, seed: int) -> list[Measurement]:
    found = reference.extractor.extract(reference.settings.real(heldout))
    values = image_values(found, reference, generator(seed, "measure"))
    se = _jackknife(found, reference, seed)
    whole = summarise([values], len(found), protocol(reference, len(found)))
    return [replace(one, se=se[one.metric]) for one in whole]


def _jackknife(found: Features, reference: Reference, seed: int) -> Mapping[str, float]:
    """Standard errors of all metrics of one sample, from leaving out each of ten random groups of it in turn; their bias, nearly the
    same each time, cancels."""
    order = torch.randperm(len(found), generator=generator(seed, "measure", 1))
    left = []
    for group in order.tensor_split(GROUPS):
        keep = torch.ones(len(found), dtype=torch.bool)
        keep[group] = False
        part = Features(found.features[keep.numpy()], found.probs[keep.numpy()])
        left.append(image_values(part, reference, generator(seed, "measure")))
    return {metric: (GROUPS - 1) / GROUPS**0.5 * stdev(value[metric] for value in left) for metric in left[0]}


def _resampled(reference: Reference, n: int, seed: int, resamplings: int, like: Dataset | None = None) -> list[dict[str, float]]:
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
        found = Features(reference.features[rows.to(reference.features.device)].cpu().numpy(), reference.probs[rows.numpy()])
        values.append(image_values(found, reference, draw))
    return values


def _normal(data: Dataset, seed: int, k: int, rows: range, device: torch.device) -> torch.Tensor:
    return torch.randn(len(rows), *data.shape, generator=generator(seed, "eval", k, rows.start), device="cpu").to(device)


def _noise(data: Dataset, seed: int, device: torch.device) -> Generate:
    return lambda k, rows: _normal(data, seed, k, rows, device)


def _gaussian_fit(data: Dataset, seed: int, device: torch.device) -> Generate:
    chosen = torch.randperm(len(data), generator=generator(seed, "measure"))[:FIT_ROWS]
    mu, cov = moments(data.batch(chosen).flatten(1))
    half = root(cov)
    return lambda k, rows: (mu + _normal(data, seed, k, rows, device).flatten(1).double() @ half).view(len(rows), *data.shape).float()


def _fresh(name: str, seed: int) -> Generate:
    return lambda k, rows: sample_toy(name, len(rows), generator(seed, "eval", k, rows.start))[0]
