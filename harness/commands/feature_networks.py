"""`harness measure EXPERIMENT --what metrics --features ...`: the samples of all done runs of an experiment by further feature networks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.baselines import BaselineJob, Job, baseline_jobs
from harness.config.own_classes import FEATURE_NETWORKS, Named, named
from harness.config.parts import coupling_slug
from harness.config.run import Run
from harness.config.selection import Selection
from harness.console import Console
from harness.data.catalogue import TOYS
from harness.errors import HarnessError
from harness.store import feature_measurements
from harness.store.feature_measurements import FeatureMeasurement, MeasuringNetwork
from harness.store.measurements import MeasurementRow
from harness.store.records import parted_name
from harness.store.runs import Store
from harness.sweep.progress import time_left
from harness.sweep.table import emit

if TYPE_CHECKING:
    from harness.theory.studies.common import StudyContext
    from harness.theory.studies.sample_metrics import Networks

LEFT_OUT = 1
"""Exit code where runs are not done, as that of a sweep."""


def named_networks(texts: Sequence[str]) -> tuple[Named, ...]:
    """What the texts of --features name, each once. Raises HarnessError as `named` does, and for different networks of one name."""
    choices = tuple(dict.fromkeys(named(text, FEATURE_NETWORKS, "--features") for text in texts))
    names = [choice.name for choice in choices]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise HarnessError("two feature networks have one name", where="--features", found=twice, expected="names that differ")
    return choices


def measured_runs(chosen: Selection) -> list[Run]:
    """The runs of a selection that draw samples. Raises HarnessError if there are none, and for data that are points."""
    runs = [run for run in chosen.runs() if run.objective.kind != "denoiser"]
    if not runs:
        what, expected = "this experiment draws no samples", "consistency models"
        raise HarnessError(what, where=chosen.experiment, found="denoisers alone", expected=expected)
    if points := sorted({run.data.name for run in runs} & {*TOYS}):
        raise HarnessError("points have no features", where="--features", found=", ".join(points), expected="runs on images")
    return runs


@dataclass(frozen=True)
class Part:
    """What one network is still to measure: a run, or the real images that belong to a baselines job."""

    choice: Named
    job: Job

    @property
    def title(self) -> str:
        return f"{self.job.id if isinstance(self.job, Run) else f'{self.job.data}: real images'} by {self.choice.name}"


def measure_experiment(
    chosen: Selection, context: StudyContext, console: Console, output: Path | None = None, step: int | None = None
) -> int:
    """Measures every done run of a selection that `context.features` have not measured yet, and real images with as many samples.

    A run that was trained again is measured again, and so is every run where the code or weights of a network changed. Each measurement is
    stored as soon as it is made, so the same command continues. output: as for `harness.commands.measure.run_study`. step: of kept
    checkpoints, whose weights are measured instead of the last ones. Returns 1 if runs were left out since they are not done or have no
    such checkpoint, else 0. Raises HarnessError as `measured_runs` does, if no run is done, and for a network that cannot be used.
    """
    from harness.commands import measure
    from harness.reporting import printing
    from harness.theory.studies.sample_metrics import Networks

    runs = measured_runs(chosen)
    place = printing.output_folder(context.store.root, output, console)
    done = _measurable(runs, chosen, context.store, step, console)
    networks = Networks(context.features, place / "cache", context.device)
    jobs: list[Job] = [*done, *([] if step is not None else baselines_beside(done))]
    parts = [Part(choice, job) for choice in networks.choices for job in jobs]
    roots, store = (place, context.store.root), context.store
    missing = [part for part in parts if not _stored(part.job, networks.measuring(part.choice), roots, store, step)]
    missing.sort(key=lambda part: (networks.choices.index(part.choice), _data(part.job)))  # real images of one kind at a time
    names = ", ".join(f"{network.name} ({network.hash})" for network in map(networks.measuring, networks.choices))
    emit(console, f"{names}: {len(parts) - len(missing)} of {len(parts)} measurements are there, {len(missing)} to be made")
    with measure.shown_progress(console, context) as reporting:
        for made in _made(missing, networks, reporting, step):
            feature_measurements.write(place, made)
    if missing:
        measure.show(_rows(done, networks, roots, store, step), console, f"{chosen.experiment}, {chosen.scale} scale")
        emit(console, f"Written: {place / 'measured' / chosen.scale / feature_measurements.FOLDER}")
    if place != context.store.root:
        emit(console, f"a report shows the measurements in {context.store.root} alone")
    elif step is None:
        emit(console, f"In the table of the experiment: {chosen.command('harness report')}")
    return LEFT_OUT if len(done) < len(runs) else 0


def _measurable(runs: Sequence[Run], chosen: Selection, store: Store, step: int | None, console: Console) -> list[Run]:
    """The runs that can be measured; the others are named. Raises HarnessError if there are none."""
    states = {run.id: str(store.folder(run.id).state()) for run in runs if store.folder(run.id).result() is None}
    is_untrained = bool(states)
    if step is not None:
        for run in runs:
            stored = store.folder(run.id).stored_steps()
            if run.id not in states and step not in stored:
                states[run.id] = f"without a checkpoint of step {step} (there are those of {', '.join(map(str, stored)) or 'none'})"
    what = "done" if step is None else "done with this checkpoint"
    if len(states) == len(runs):
        found = "; ".join(f"{name} is {state}" for name, state in [*states.items()][:3]) + ("; ..." if len(states) > 3 else "")
        none = f"none of the {len(runs)} runs of {chosen.experiment} is {what}"
        raise HarnessError(none, where=store.runs, found=found, expected="done", nearest=chosen.command("harness sweep"))
    for name, state in states.items():
        emit(console, f"left out: {name} is {state}")
    if states:
        advice = f"; to train what is not done: {chosen.command('harness sweep')}" if is_untrained else ""
        emit(console, f"{len(states)} of {len(runs)} runs are left out{advice}")
    return [run for run in runs if run.id not in states]


def baselines_beside(runs: Sequence[Run]) -> list[BaselineJob]:
    """The jobs whose real images a table shows beside these runs: none of runs that draw each class equally often."""
    return baseline_jobs(run for run in runs if run.evaluation.labels == "data")


def _data(job: Job) -> str:
    return job.data.name if isinstance(job, Run) else job.data


def _stored(job: Job, network: MeasuringNetwork, roots: Sequence[Path], store: Store, step: int | None) -> FeatureMeasurement | None:
    """The stored measurement of a run as it is now, or of real images; None if there is none."""
    from harness.theory.studies.sample_metrics import seal_of

    seal = seal_of(store.folder(job.id)) if isinstance(job, Run) else None
    found = (feature_measurements.find(root, job.scale, network, job.id, step=step, seal=seal) for root in dict.fromkeys(roots))
    return next(filter(None, found), None)


def _made(parts: Sequence[Part], networks: Networks, context: StudyContext, step: int | None) -> Iterator[FeatureMeasurement]:
    """Measures the parts, one after the other, and says how long the rest will take at the rate so far."""
    from harness.theory.studies.sample_metrics import metrics_of, of_real_images, of_run, options_of
    from harness.training import trained_runs

    started = time.monotonic()
    for number, part in enumerate(parts, 1):
        passed, rest = time.monotonic() - started, len(parts) - number + 1
        context.progress(part.title + (f", {time_left(passed / (number - 1) * rest)}" if number > 1 else ""), number, len(parts))
        if isinstance(part.job, BaselineJob):
            yield of_real_images(part.job, networks, part.choice)
            continue
        trained = trained_runs.load(context.store.folder(part.job.id), context.device, step=step)
        reference = networks.reference(part.choice, part.job.data.name, options_of(part.job))
        yield of_run(trained, networks.measuring(part.choice), metrics_of(trained, reference, is_other=True))


def _rows(runs: Sequence[Run], networks: Networks, roots: Sequence[Path], store: Store, step: int | None) -> list[MeasurementRow]:
    """The Frechet distances of the runs, as `harness measure RUN` shows them."""
    rows = []
    for network in map(networks.measuring, networks.choices):
        for run in runs:
            stored = _stored(run, network, roots, store, step)
            records = [row for row in stored.rows if parted_name(row["metric"])[0] == "fid"] if stored else []
            rows += [
                MeasurementRow(
                    f"{row['metric']}@{network.name}",
                    run.data.name,
                    row["value"],
                    coupling=coupling_slug(run.coupling),
                    x=float(row["step"]),
                    se=row["se"],
                    n=row["n"],
                    protocol=row["protocol"],
                    run=run.id,
                    seed=run.seed,
                )
                for row in records
            ]
    return rows
