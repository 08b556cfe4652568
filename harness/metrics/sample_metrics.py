"""From a generator of samples to its metrics: several resamplings of n samples, each measured from one pass of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch

from harness.core.optimal_transport import wasserstein2
from harness.core.randomness import generator
from harness.data.catalogue import info, too_few_samples
from harness.data.datasets import Dataset, sample_toy
from harness.errors import HarnessError
from harness.metrics.coverage import SURE, class_metrics, class_share, precision_recall, sure_share
from harness.metrics.features import Features
from harness.metrics.points import NEAR, mode_metrics
from harness.metrics.quality import frechet, inception_score, kid, moments
from harness.metrics.reference_statistics import Reference, ReferencePoints, ReferenceStatistics

Generate = Callable[[int, range], torch.Tensor]
"""(k, rows) -> samples `rows` of the k-th resampling, float (len(rows), ...); the same arguments must give the same samples."""

SPLIT_FROM = 10_000  # samples from which the Inception Score uses its usual ten splits; with fewer they would bias it


@dataclass(frozen=True)
class MetricValue:
    """A metric of n samples: mean over resamplings, sd between them, standard error of the mean (None where unknown).

    protocol: what else the value depends on, as plain JSON values; only values of equal protocols may share a column.
    """

    metric: str
    value: float
    sd: float | None
    se: float | None
    n: int
    resamplings: int
    protocol: Mapping[str, object]


def measure_samples(generate: Generate, reference: Reference, *, n: int, seed: int, resamplings: int = 5) -> list[MetricValue]:
    """The metrics of a generator against a reference.

    Images: fid (Frechet distance of the extractor's features), kid, is, precision, recall, class_tv (total variation between predicted
    classes), classes_missing, and for few classes class_share/i. Points: w2 (against n fresh real points), and for mixtures in_mode,
    mode_tv, modes_missing. Of data with a rare class also rare_share. seed decides the random choices of rows
    (see `image_values`) and the fresh points. Raises HarnessError for samples that are not finite or differ from the data in shape, and
    for fewer samples than a metric needs.
    """
    least = 2 if isinstance(reference, ReferencePoints) else reference.options.neighbours + 1
    if n < least:
        raise too_few_samples(n, least)

    def measure(k: int) -> dict[str, float]:
        draw = generator(seed, "measure", k)
        if isinstance(reference, ReferencePoints):
            return point_values(_samples(generate, reference.data, k, range(n)).cpu(), reference, draw)
        options = reference.options
        chunks = (range(start, min(start + options.batch, n)) for start in range(0, n, options.batch))
        images = (options.generated(_samples(generate, reference.data, k, rows)) for rows in chunks)
        return image_values(reference.extractor.extract(images), reference, draw)

    return summarise([measure(k) for k in range(resamplings)], reference, n)


def _samples(generate: Generate, data: Dataset, k: int, rows: range) -> torch.Tensor:
    x = generate(k, rows).detach()
    expected = (len(rows), *data.shape)
    if tuple(x.shape) != expected:
        raise HarnessError("samples of the wrong shape", where="generator", found=tuple(x.shape), expected=expected)
    return x


def image_values(sample: Features, reference: ReferenceStatistics, draw: torch.Generator) -> dict[str, float]:
    """All image metrics of the features of one sample, by name. None depends on the order of its rows, beyond the noise of random choices.

    draw decides the KID subsets, then the rows that precision and recall use where there are more than `near_rows`, then the parts of the
    Inception Score where there are several. A network that knows no classes, whose probs are (n, 1), gives no metric of classes.
    """
    options, n = reference.options, len(sample)
    features = torch.from_numpy(sample.features).to(reference.features.device)
    distance = kid(features, reference.features, options.kid_subsets, options.kid_size, generator=draw)
    near = features
    if n > options.near_rows:
        near = features[torch.randperm(n, generator=draw)[: options.near_rows].to(features.device)]
    real, rare = reference.features[reference.near_rows], reference.data.rare_class
    rare_share = 0.0 if rare is None else sure_share(reference.probs, rare)  # 0 also for a network that does not know the class
    precision, recall = precision_recall(real, near, options.neighbours, real_radii=reference.near_radii)
    knows_classes = sample.probs.shape[1] > 1
    return {
        "fid": frechet(reference.mu, reference.cov, *moments(features), root1=reference.root),
        "kid": distance,
        **({"is": inception_score(sample.probs, _splits(n), generator=draw)} if knows_classes else {}),
        "precision": precision,
        "recall": recall,
        **(class_metrics(sample.probs, class_share(reference.probs)) if knows_classes else {}),
        **({"rare_share": sure_share(sample.probs, rare) / rare_share} if rare is not None and rare_share else {}),
    }


def point_values(points: torch.Tensor, reference: ReferencePoints, draw: torch.Generator) -> dict[str, float]:
    """All metrics of one sample of points (n, d), by name; draw decides the fresh real points."""
    if not points.isfinite().all():
        raise HarnessError("the samples are not finite", where="generated points", expected="finite values")
    fresh, _ = sample_toy(reference.data.name, len(points), draw)
    return {"w2": wasserstein2(points, fresh)} | (mode_metrics(points, reference.modes) if reference.modes else {})


def _splits(n: int) -> int:
    return 10 if n >= SPLIT_FROM else 1


def protocol(metric: str, reference: Reference, n: int) -> dict[str, object]:
    """What a value of the metric depends on besides the n samples."""
    rare = info(reference.data.name).rare if metric == "rare_share" else None
    of_class = {"class": rare.label, "share": rare.share} if rare else {}
    if isinstance(reference, ReferencePoints):
        near = {"near": NEAR} if rare else {}
        return {"dataset": reference.data.name, "sha256": reference.data.sha256, "n": n, **of_class, **near}
    options = reference.options
    values: dict[str, object] = {"reference": reference.key, "sample_range": options.sample_range, "n": n, **of_class}
    if options.sample_range == "released":
        values["batch"] = options.batch
    match metric:
        case "rare_share":
            values["sure"] = SURE
        case "kid":
            values |= {"subsets": options.kid_subsets, "size": min(options.kid_size, n, len(reference.features))}
        case "is":
            values |= {"splits": _splits(n)}
            if _splits(n) > 1:
                values["rows"] = "shuffled"  # values without this entry are those of consecutive parts
        case "precision" | "recall":
            values |= {"neighbours": options.neighbours, "near_rows": min(options.near_rows, len(reference.near_rows))}
            if n > options.near_rows:
                values["rows"] = "random"  # values without this entry are those of the first rows
    return values


def summarise(values: Sequence[Mapping[str, float]], reference: Reference, n: int) -> list[MetricValue]:
    """One MetricValue per metric from the values of every resampling of n samples."""
    summary = []
    for metric in values[0]:
        samples = [value[metric] for value in values]
        sd = stdev(samples) if len(samples) > 1 else None
        se = sd / len(samples) ** 0.5 if sd is not None else None
        summary.append(MetricValue(metric, fmean(samples), sd, se, n, len(samples), protocol(metric, reference, n)))
    return summary
