"""The metrics of a finished run's samples, measured again: at its last step or that of a kept checkpoint, by any feature networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from harness.config.baselines import BaselineJob
from harness.config.identity import short_hash
from harness.config.own_classes import Named
from harness.config.run import Run
from harness.core.randomness import generator
from harness.data.catalogue import TOYS, info
from harness.errors import HarnessError
from harness.metrics.baselines import heldout_images, real_images
from harness.metrics.features import Extractor
from harness.metrics.own_features import build, own_protocol
from harness.metrics.reference_statistics import MetricOptions, Reference, ReferenceStatistics, build_reference, reference_of, training_set
from harness.metrics.sample_metrics import MetricValue, measure_samples
from harness.store.feature_measurements import FeatureMeasurement, MeasuringNetwork
from harness.store.machine import device_kind
from harness.store.measurements import MeasurementRow
from harness.store.provenance import provenance
from harness.store.runs import RunFolder
from harness.theory.estimate import Estimate
from harness.theory.studies.common import StudyContext, measured_row
from harness.training.evaluation import generate_samples, of_steps, record_of
from harness.training.trained_runs import TrainedRun


class Networks:
    """The feature networks that a command line names. Each is built once, when it is first needed; `build` says what it raises.

    Of the statistics of real images, only the last ones are kept: those of 50,000 images may fill a gigabyte.
    """

    def __init__(self, choices: Sequence[Named], cache: Path, device: torch.device) -> None:
        self.choices, self.cache, self.device = tuple(choices), cache, device
        self._extractors: dict[Named, Extractor] = {}
        self._last: tuple[tuple[object, ...], ReferenceStatistics] | None = None

    def extractor(self, choice: Named) -> Extractor:
        if choice not in self._extractors:
            self._extractors[choice] = build(choice, self.device)
        return self._extractors[choice]

    def measuring(self, choice: Named) -> MeasuringNetwork:
        """Its name, and what a value measured with it depends on; of a class of one's own without running it."""
        return MeasuringNetwork(choice.name, own_protocol(choice) if choice.path else self.extractor(choice).protocol())

    def reference(self, choice: Named, data: str, options: MetricOptions) -> ReferenceStatistics:
        """The training images of a data set through a network."""
        key = (choice, data, options)
        if self._last is None or self._last[0] != key:
            self._last = None
            reference = build_reference(training_set(data, self.device), self.extractor(choice), options, self.cache)
            assert isinstance(reference, ReferenceStatistics), "images have statistics of features"
            self._last = key, reference
        return self._last[1]


def try_networks(choices: Sequence[Named], data: Sequence[str]) -> None:
    """Measures two random images of the shape of each data set by each network, on the CPU. Raises HarnessError as `build` does, and for
    a class of one's own that does not fit the interface."""
    for choice in choices:
        extractor = build(choice, "cpu")
        for shape in dict.fromkeys(info(name).shape for name in data):
            extractor.extract(torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=generator(0, "measure")))


def check_samples(run: Run, has_features: bool) -> None:
    """Raises HarnessError for a denoiser, and for feature networks where the data are points."""
    if run.objective.kind == "denoiser":
        raise HarnessError("a denoiser draws no samples", where=run.id, found="objective.kind = denoiser", expected="a consistency model")
    if has_features and run.data.name in TOYS:
        raise HarnessError("points have no features", where="--features", found=run.data.name, expected="a run on images")


def sample_metrics(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """All metrics of the run's evaluation, for each number of steps that it declares; x is the training step of the weights.

    The truth of the last step is what the run recorded at its end, from the same noise. Metrics by one of `context.features` carry its name
    (fid@dinov2), and `context.keep` gets them too. Raises HarnessError as `check_samples` does.
    """
    run, folder = trained.run, trained.folder
    check_samples(run, bool(context.features))
    options, cache, device = options_of(run), context.store.root / "cache", trained.data.rows.device
    networks = Networks(context.features, cache, device)
    step = run.train.steps if trained.step is None else trained.step
    is_recorded = step == run.train.steps and run.train.precision == "fp32"
    recorded = {record["metric"]: record["value"] for record in folder.records(on_damage=context.note) if record["final"] and is_recorded}
    new_row = partial(measured_row, data=run.data.name, coupling=run.coupling, run=run, x=float(step))
    rows = []
    for choice in (None, *context.features):
        by = f" by {choice.name}" if choice else ""
        context.note(f"{run.id}: samples at training step {step:,}{by}, {run.evaluation.resamplings} times")
        reference = networks.reference(choice, run.data.name, options) if choice else reference_of(run.data.name, options, cache, device)
        values = metrics_of(trained, reference, is_other=choice is not None)
        if choice:
            context.keep(of_run(trained, networks.measuring(choice), values))
        for value in values:
            truth = None if choice else recorded.get(value.metric)
            estimate = Estimate(value.value, float("nan") if value.se is None else value.se, value.n)
            protocol = {**value.protocol, "resamplings": value.resamplings}
            rows.append(new_row(value.metric + (f"@{choice.name}" if choice else ""), estimate, truth=truth, protocol=protocol))
    return rows


def options_of(job: Run | BaselineJob) -> MetricOptions:
    """The options of the metrics of a run, or of the baselines beside it."""
    protocol = job.protocol if isinstance(job, Run) else job
    return MetricOptions(protocol.sample_range, protocol.quantisation)


def metrics_of(trained: TrainedRun, reference: Reference, *, is_other: bool) -> list[MetricValue]:
    """All metrics of a run's samples of every number of steps that it declares, named as its records are, measured in float32.

    is_other: whether the reference is that of another network than the data set's. The share of a rare class is then left out: the classes
    of another network need not be those of the data set.
    """
    run, settings = trained.run, trained.run.evaluation
    trained.network.bf16 = False
    values: list[MetricValue] = []
    for count in range(1, len(settings.times) + 2):
        generate = generate_samples(run, trained.data, trained.network, count)
        measured = measure_samples(generate, reference, n=settings.samples, seed=0, resamplings=settings.resamplings)
        values += [of_steps(run, value, count) for value in measured if not (is_other and value.metric == "rare_share")]
    return values


def of_run(trained: TrainedRun, network: MeasuringNetwork, values: Sequence[MetricValue]) -> FeatureMeasurement:
    """What a network measured of a run, to be stored."""
    run = trained.run
    step = run.train.steps if trained.step is None else trained.step
    protocols = {short_hash(dict(value.protocol)): dict(value.protocol) for value in values}
    records = (replace(record_of(run, step, 0.0, value, final=True), run=trained.folder.id, seconds=None) for value in values)
    return FeatureMeasurement(
        network,
        run.scale,
        run.data.name,
        trained.folder.id,
        tuple(record.to_json() for record in records),
        protocols,
        step=trained.step,
        seal=seal_of(trained.folder),
        provenance=_origin(trained.data.rows.device),
    )


def seal_of(folder: RunFolder) -> str:
    """What tells the results of a run from those of another training of it; "" for those of versions without checksums."""
    return str((folder.stored_result() or {}).get("check") or "")


def of_real_images(job: BaselineJob, networks: Networks, choice: Named) -> FeatureMeasurement:
    """What a network measures of real images, with the n of the runs that a baselines job belongs to (harness.metrics.baselines)."""
    reference = networks.reference(choice, job.data, options_of(job))
    heldout, _ = heldout_images(job.data, job.samples, networks.device)
    by_name: Mapping[str, list[MetricValue]] = real_images(reference, heldout, n=job.samples, seed=0, resamplings=job.resamplings)
    rows, protocols = [], {}
    for name, values in by_name.items():
        for value in values:
            key = short_hash(dict(value.protocol))
            protocols[key] = dict(value.protocol)
            rows.append({"row": name, **asdict(value), "protocol": key})
    network, origin = networks.measuring(choice), _origin(networks.device)
    return FeatureMeasurement(network, job.scale, job.data, job.id, tuple(rows), protocols, is_real=True, provenance=origin)


def _origin(device: torch.device) -> dict[str, object]:
    return provenance(device_kind(device.type))
