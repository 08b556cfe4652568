"""The metrics of a finished run's samples, measured again: at its last step or that of a kept checkpoint, by any feature networks."""

from __future__ import annotations

from functools import partial

from harness.errors import HarnessError
from harness.metrics.own_features import build
from harness.metrics.reference_statistics import MetricOptions, build_reference, reference_of, training_set
from harness.metrics.sample_metrics import measure_samples
from harness.store.measurements import MeasurementRow
from harness.store.records import few_step_name
from harness.theory.estimate import Estimate
from harness.theory.studies.common import StudyContext, measured_row
from harness.training.evaluation import generate_samples
from harness.training.trained_runs import TrainedRun


def sample_metrics(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """All metrics of the run's evaluation, for each number of steps that it declares; x is the training step of the weights.

    The truth of the last step is what the run recorded at its end, from the same noise. Metrics by one of `context.features` carry its name
    (fid@dinov2). Raises HarnessError for a denoiser, and for feature networks where the data are points.
    """
    run, folder, data = trained.run, trained.folder, trained.data
    if run.objective.kind == "denoiser":
        raise HarnessError("a denoiser draws no samples", where=run.id, found="objective.kind = denoiser", expected="a consistency model")
    options = MetricOptions(run.protocol.sample_range, run.protocol.quantisation)
    cache, device = context.store.root / "cache", data.rows.device
    if context.features and not data.is_images:
        raise HarnessError("points have no features", where="--features", found=run.data.name, expected="a run on images")
    references = {"": reference_of(run.data.name, options, cache, device)}
    for network in context.features:
        references[f"@{network.name}"] = build_reference(training_set(run.data.name, device), build(network, device), options, cache)
    settings, step = run.evaluation, run.train.steps if trained.step is None else trained.step
    recorded = {record["metric"]: record["value"] for record in folder.records(on_damage=context.note) if record["final"]}
    new_row = partial(measured_row, data=run.data.name, coupling=run.coupling, run=run, x=float(step))
    rows = []
    for count in range(1, len(settings.times) + 2):
        context.note(f"{run.id}: samples of {count} step{'s' * (count > 1)} at training step {step:,}, {settings.resamplings} times")
        generate = generate_samples(run, data, trained.network, count)
        for suffix, reference in references.items():
            for value in measure_samples(generate, reference, n=settings.samples, seed=0, resamplings=settings.resamplings):
                name = few_step_name(value.metric, count)
                truth = recorded.get(name) if not suffix and step == run.train.steps and run.train.precision == "fp32" else None
                estimate = Estimate(value.value, float("nan") if value.se is None else value.se, value.n)
                protocol = {**value.protocol, "resamplings": value.resamplings}
                rows.append(new_row(name + suffix, estimate, truth=truth, protocol=protocol))
    return rows
