"""Evaluates a model while it trains: metrics of its samples, a grid of samples, the transport cost of the pairs it trains on, its loss.

The EMA network is measured on addressed noise, so evaluation does not disturb training, and a resumed run measures the same values again;
each is recorded once.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from harness.config.identity import LATER, short_hash
from harness.config.parts import ConsistencyTraining, Variational
from harness.config.run import Run
from harness.core.consistency import per_row
from harness.core.randomness import generator
from harness.data.catalogue import main_metric
from harness.data.datasets import Dataset
from harness.metrics.reference_statistics import Reference
from harness.metrics.sample_metrics import Generate, MetricValue, measure_samples
from harness.metrics.sampling import Steps, in_halves, noise, sampler
from harness.store import chain
from harness.store.files import disk_errors, write_atomic
from harness.store.records import Record, few_step_name, valid
from harness.store.runs import RunFolder
from harness.training.batches import Processes, Step, draw_levels, one_hot
from harness.training.fixed_sizes import in_fixed_sizes
from harness.training.model import Model, identity_level

ENDPOINTS = 10_000
"""The largest number of endpoints in one evaluation."""


def record_of(run: Run, step: int, seconds: float, measured: MetricValue, final: bool = False) -> Record:
    """One measurement as it is stored."""
    values = {name: getattr(measured, name) for name in ("metric", "value", "sd", "se", "n", "resamplings")}
    images, protocol = step * run.train.batch, short_hash(dict(measured.protocol))
    return Record(run=run.id, step=step, images=images, seconds=round(seconds, 3), final=final, protocol=protocol, **values)


class Evaluator:
    """Measures at evaluation steps and at the end, and appends to the run's records.

    reference: given to the first process, which measures and writes; None on the others, which only help to generate samples.
    seconds: training time of earlier attempts. saved: records of the checkpoint as JSON objects, of which the file may have lost some.
    check: called before every write; raises LeaseLost if another process owns the folder.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        data: Dataset,
        reference: Reference | None,
        processes: Processes,
        seconds: float,
        saved: list[dict[str, Any]],
        check: Callable[[], None],
    ) -> None:
        self.run, self.folder, self.data, self.reference, self.processes = run, folder, data, reference, processes
        self.check, self.trained, self.since = check, seconds, time.monotonic()
        self.main = main_metric(run.data.name)
        self.records: dict[tuple[int, str, bool], Record] = {}
        """All records of the run, of earlier attempts as well; checkpoints keep a copy in case the file is damaged."""
        rows = folder.records(on_damage=lambda _: None)
        self.faults: list[str] = []
        """What was wrong with the file of records, which is restored from the checkpoint."""
        if reference is not None:
            self.check()
            rows, self.faults = folder.restore_records(saved)
        self.last_check = chain.end(rows, folder.id)
        """The checksum that the next record continues."""
        self._take(map(Record.from_json, filter(valid, rows)))

    def seconds(self) -> float:
        """Seconds of training over all attempts, evaluations excluded."""
        return self.trained + time.monotonic() - self.since

    def pair_cost(self, number: int, step: Step) -> None:
        """Records E|x' - z'|^2 over the pairs of training step `number`."""
        cost = (step.x - step.z).flatten(1).square().sum(1).double()
        se = (cost.std() / len(cost) ** 0.5).item() if len(cost) > 1 else None
        protocol = {"coupling": "actual pairs of one training step"}
        mean = MetricValue("pair_cost", cost.mean().item(), sd=None, se=se, n=len(cost), resamplings=1, protocol=protocol)
        if self.processes.rank == 0:
            self._append([record_of(self.run, number, self.seconds(), mean)])

    def mean_loss(self, number: int, mean: float, steps: int) -> None:
        """Records the mean loss per row over the `steps` training steps up to `number`, as it was minimised; n is their number.

        Not recorded where a loss was not finite, which only runs that set such gradients to 0 survive. The loss of consistency training
        may jump where N doubles, and compares models of one grid and one law of noise levels alone. No standard error, since the weights
        change from step to step.
        """
        if self.processes.rank == 0 and math.isfinite(mean):
            protocol = loss_protocol(self.run)
            value = MetricValue("loss", mean, sd=None, se=None, n=steps, resamplings=1, protocol=protocol)
            self._append([record_of(self.run, number, self.seconds(), value)])

    def measure(self, model: Model, final: bool = False) -> None:
        """A point of the curve from one resampling, and a grid of samples; final: the numbers of the tables from several resamplings.

        Further steps (`run.evaluation.times`) are measured at the end only: those of a run with m times cost m (m + 3) / 2 times as many
        evaluations of the network as one step does.
        """
        run, started = self.run, time.monotonic()
        if run.objective.kind == "denoiser":
            return  # from pure noise it predicts the mean of the data, which is no sample
        resamplings = run.evaluation.resamplings if final else 1
        values: list[MetricValue] = []
        for count in range(1, len(run.evaluation.times) + 2) if final else (1,):  # every process generates in this order
            generate = generate_samples(run, self.data, model.ema, count)
            if self.processes.count > 1:
                generate = _shared(generate, run.evaluation.samples, resamplings, self.processes)
            if self.reference is None:
                continue
            measured = measure_samples(generate, self.reference, n=run.evaluation.samples, seed=0, resamplings=resamplings)
            values += [of_steps(run, value, count) for value in measured]
            if not final:  # before the records, so that a step with records has its grid
                self.check()
                save_samples(self.folder.path / "samples", model.step, generate(0, range(run.evaluation.grid)), self.data)
                values.append(self._endpoints(model, self.reference))
        if self.reference is not None:
            seconds = self.trained + started - self.since
            self._append([record_of(run, model.step, seconds, value, final) for value in values])
        self.since += time.monotonic() - started

    def _endpoints(self, model: Model, reference: Reference) -> MetricValue:
        """Figure 7: the main metric of the endpoints that the EMA network predicts from IC points, as GC's predictor does."""
        n = min(self.run.evaluation.samples, ENDPOINTS)
        values = measure_samples(endpoints(self.run, self.data, model.ema), reference, n=n, seed=0, resamplings=1)
        main = next(value for value in values if value.metric == self.main)
        protocol = {**main.protocol, "of": "endpoints predicted from IC points, levels of the last step's law"}
        return replace(main, metric=f"endpoint_{self.main}", protocol=protocol)

    def _append(self, records: list[Record]) -> None:
        """Stores the records that are not stored yet: a value measured again after a crash is not recorded again."""
        new = [replace(record, run=self.folder.id).to_json() for record in records if record.key not in self.records]
        rows = chain.linked(new, self.last_check)
        self.check()
        self.folder.append_records(rows)
        self.last_check = chain.end(rows, self.last_check)
        self._take(map(Record.from_json, rows))

    def _take(self, records: Iterable[Record]) -> None:
        self.records |= {record.key: record for record in records}
        curve = [record for record in self.records.values() if record.metric == self.main]
        self.last: float | None = max(curve, key=lambda record: (record.step, record.final)).value if curve else None


def loss_protocol(run: Run) -> dict[str, object]:
    """What the training loss of a run means, as plain JSON values: objective, noise levels, for iCT the steps over which N grows, for a
    learned coupling the weight of the divergence that is a part of the loss.

    Keys that the configuration got later are left out at the value that they had before, as in the identity of a run.
    """
    config = run.to_dict()
    parts: dict[str, object] = {
        part: {key: value for key, value in config[part].items() if (part, key) not in LATER or LATER[part, key] != value}
        for part in ("objective", "noise")
    }
    if isinstance(run.objective, ConsistencyTraining):
        parts["steps"] = run.train.steps
    if isinstance(run.coupling, Variational):
        parts["kl_weight"] = run.coupling.kl_weight
    return {"of": "training steps since the evaluation before, mean of the mean loss per row of each"} | parts


def steps_of(run: Run, count: int = 1) -> Steps:
    """How the model of a run draws samples with `count` steps, at most one more than its evaluation has times."""
    times = run.evaluation.times[: count - 1]
    return Steps(run.noise.sigma_max, times, identity_level(run), run.evaluation.renoising)


def generate_samples(run: Run, data: Dataset, network: torch.nn.Module, count: int = 1) -> Generate:
    """generate(k, rows) of `measure_samples`: what the network, f(x, sigma, one-hot classes or None), draws with `count` steps.

    data: the training data of the run, for the shape of a sample and, for a conditional model, the law of the classes.
    """
    labels, classes = (data.labels, data.classes) if run.data.labels else (None, 0)
    device = next(network.parameters()).device
    return sampler(_network(run, network), data.shape, steps_of(run, count), device, labels, classes, run.evaluation.labels)


def of_steps(run: Run, measured: MetricValue, count: int) -> MetricValue:
    """A metric of samples of `count` steps, with their times in its name and protocol; classes drawn equally often are named as well."""
    protocol = dict(measured.protocol)
    if run.evaluation.labels != "data":
        protocol["labels"] = run.evaluation.labels
    if count > 1:
        protocol |= {"times": list(run.evaluation.times[: count - 1]), "renoising": run.evaluation.renoising}
    return replace(measured, metric=few_step_name(measured.metric, count), protocol=protocol)


def endpoints(run: Run, data: Dataset, network: torch.nn.Module) -> Generate:
    """generate(k, rows) of `measure_samples`: f(x* + s z, s), data in shuffled order, addressed noise, s from the law of the last step."""
    device, f = next(network.parameters()).device, _network(run, network)
    order = torch.randperm(len(data), generator=generator(0, "measure"))
    levels = draw_levels(run, run.train.steps - 1, min(run.evaluation.samples, ENDPOINTS))[0]

    @torch.no_grad()
    def generate(k: int, rows: range) -> Tensor:
        numbers = torch.arange(rows.start, rows.stop)
        chosen = order[numbers % len(data)].to(device)
        x, s = data.batch(chosen), levels[numbers].to(device, torch.float32)
        x_s = x + per_row(s, x) * noise(data.shape, k, rows, part=15).to(device)
        return f(x_s, s, one_hot(data, chosen) if run.data.labels else None)

    return lambda k, rows: in_halves(generate, k, rows)


def _network(run: Run, network: torch.nn.Module) -> Callable[..., Tensor]:
    """The network as it maps the rows of an evaluation: in batches of the sizes that training uses, so that none is compiled again."""
    return in_fixed_sizes(network, run.train.batch) if run.train.static_rows else network


def _shared(generate: Generate, samples: int, resamplings: int, processes: Processes, chunk: int = 500) -> Generate:
    """generate(k, rows) whose chunks all processes generate and the first one gathers; the other processes generate theirs in this call."""
    starts = range(0, samples, chunk)

    def own_chunks(k: int) -> list[Tensor]:
        return [generate(k, range(a, min(a + chunk, samples))).cpu() for a in starts[processes.rank :: processes.count]]

    if processes.rank:
        for k in range(resamplings):
            dist.gather_object(own_chunks(k))
        return generate
    gathered: dict[int, Tensor] = {}

    def look_up(k: int, rows: range) -> Tensor:
        if k not in gathered:
            parts: list[Any] = [None] * processes.count
            dist.gather_object(own_chunks(k), parts)
            gathered.clear()
            gathered[k] = torch.cat([parts[i % processes.count][i // processes.count] for i in range(len(starts))])
        return gathered[k][rows.start : rows.stop]

    return look_up


def save_samples(folder: Path, step: int, x: Tensor, data: Dataset) -> None:
    """A grid of samples: PNG for images (small ones enlarged), NPY for points."""
    buffer = io.BytesIO()
    if len(data.shape) == 1:
        np.save(buffer, x.float().cpu().numpy())
    elif len(x):
        from torchvision.utils import save_image

        scale = max(1, 32 // data.shape[-1])
        images = ((x.float().cpu().clamp(-1, 1) + 1) / 2).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        save_image(images, buffer, format="PNG", nrow=max(1, round(len(x) ** 0.5)), padding=scale)
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    write_atomic(folder / f"step-{step:08d}.{'npy' if len(data.shape) == 1 else 'png'}", buffer.getvalue(), durable=False)
