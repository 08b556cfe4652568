"""Evaluates a model while it trains: records, sample grid, and the actual pairs' transport cost. Leaves the training untouched.

The EMA network is measured, on addressed noise: what a resumed run measures again comes out the same, and is recorded once.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from harness.config.identity import short_hash
from harness.config.run import Run
from harness.core.consistency import per_row
from harness.core.randomness import generator
from harness.data.catalogue import main_metric
from harness.data.datasets import Dataset
from harness.metrics.reference_statistics import Reference
from harness.metrics.sample_metrics import Generate, MetricValue, measure_samples
from harness.metrics.sampling import noise, sampler
from harness.store.files import disk_errors, write_atomic
from harness.store.records import Record, valid
from harness.store.runs import RunFolder
from harness.training.batches import Processes, levels_of_step, one_hot
from harness.training.model import Model

ENDPOINTS = 10_000
"""Endpoints of one evaluation, at most."""


def record(run: Run, step: int, seconds: float, measured: MetricValue, final: bool = False) -> Record:
    """One measurement as it is stored. final: one of the resampled measurements at the end of the run."""
    return Record(
        run=run.id,
        step=step,
        images=step * run.train.batch,
        seconds=round(seconds, 3),
        metric=measured.metric,
        value=measured.value,
        sd=measured.sd,
        se=measured.se,
        n=measured.n,
        resamplings=measured.resamplings,
        final=final,
        protocol=short_hash(dict(measured.protocol)),
    )


class Evaluator:
    """Measures at evaluation steps and at the end, and appends to the run's records. `seconds` counts training alone, over all attempts.

    against: what the first process compares with; None on the others, which only help to make the samples. check: called before every
    write; raises when the folder is no longer ours.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        data: Dataset,
        against: Reference | None,
        processes: Processes,
        seconds: float = 0.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.check = check
        self.run, self.folder, self.data, self.against, self.processes = run, folder, data, against, processes
        self.trained, self.since = seconds, time.monotonic()
        self.main = main_metric(run.data.name)
        self.records: dict[tuple[int, str, bool], Record] = {}
        """All records of the run, those of earlier attempts too; a checkpoint keeps them, should the file be damaged."""
        self._take(map(Record.from_json, filter(valid, folder.records(on_damage=print))))

    def seconds(self) -> float:
        """Seconds of training so far, evaluations left out."""
        return self.trained + time.monotonic() - self.since

    def __call__(self, model: Model) -> None:
        """The point of the curve at this step: one resampling, and the grid of samples."""
        self._measure(model, 1, final=False)

    def final(self, model: Model) -> None:
        """The numbers of the tables: several resamplings of the last model."""
        self._measure(model, self.run.evaluation.resamplings, final=True)

    def pairs(self, step: int, x: Tensor, z: Tensor) -> None:
        """E|x' - z'|^2 over the pairs that this step trained on."""
        cost = (x - z).flatten(1).square().sum(1).double()
        found = MetricValue(
            "pair_cost",
            cost.mean().item(),
            None,
            (cost.std() / len(cost) ** 0.5).item() if len(cost) > 1 else None,
            len(cost),
            1,
            {"coupling": "actual pairs of one training step"},
        )
        if self.processes.rank == 0:
            self._append([record(self.run, step, self.seconds(), found)])

    def _measure(self, model: Model, resamplings: int, final: bool) -> None:
        run, started = self.run, time.monotonic()
        if run.objective.kind == "denoiser":
            return  # what it makes of pure noise in one step is the mean of the data, no sample
        device = next(model.ema.parameters()).device
        classes = self.data.classes if run.data.labels else 0
        generate = sampler(model.ema, self.data.shape, run.noise.sigma_max, device, classes=classes)
        if self.processes.count > 1:
            generate = _shared(generate, run.evaluation.samples, resamplings, self.processes)
        if self.processes.rank == 0:
            seconds = self.trained + started - self.since
            found = measure_samples(generate, self.against, n=run.evaluation.samples, seed=0, resamplings=resamplings)
            if not final:  # before the records, so that a step with records has its grid
                self.check()
                save_samples(self.folder.path / "samples", model.step, generate(0, range(run.evaluation.grid)), self.data)
                found.append(self._endpoints(model))
            self._append([record(run, model.step, seconds, one, final) for one in found])
        self.since += time.monotonic() - started

    def _endpoints(self, model: Model) -> MetricValue:
        """Figure 7: the main metric of the endpoints that the EMA network predicts from IC points, as GC's predictor does."""
        n = min(self.run.evaluation.samples, ENDPOINTS)
        measured = measure_samples(endpoints(self.run, self.data, model.ema), self.against, n=n, seed=0, resamplings=1)
        found = next(one for one in measured if one.metric == self.main)
        told = {**found.protocol, "of": "endpoints predicted from IC points, levels of the last step's law"}
        return replace(found, metric=f"endpoint_{self.main}", protocol=told)

    def restore(self, rows: list[dict[str, Any]]) -> None:
        """Adds the records of a checkpoint that the file has lost, given as JSON objects."""
        self._append([Record.from_json(row) for row in rows if valid(row)])

    def _append(self, records: list[Record]) -> None:
        """Stores the records that are not there yet: a value measured again after a crash is not recorded again."""
        new = [record for record in records if record.key not in self.records]
        self.check()
        self.folder.append_records(record.to_json() for record in new)
        self._take(new)

    def _take(self, records: Iterable[Record]) -> None:
        self.records |= {record.key: record for record in records}
        curve = [record for record in self.records.values() if record.metric == self.main]
        self.last: float | None = max(curve, key=lambda record: (record.step, record.final)).value if curve else None


def endpoints(run: Run, data: Dataset, network: torch.nn.Module) -> Generate:
    """generate(k, rows) of `measure_samples`: f(x* + s z, s), data in shuffled order, addressed noise, s from the law of the last step."""
    device = next(network.parameters()).device
    order = torch.randperm(len(data), generator=generator(0, "measure"))
    levels = levels_of_step(run, run.train.steps - 1, min(run.evaluation.samples, ENDPOINTS))[0]

    @torch.no_grad()
    def generate(k: int, rows: range) -> Tensor:
        asked = torch.arange(rows.start, rows.stop)
        chosen = order[asked % len(data)].to(device)
        x, s = data.batch(chosen), levels[asked].to(device, torch.float32)
        x_s = x + per_row(s, x) * noise(data.shape, k, rows, part=15).to(device)
        return network(x_s, s, one_hot(data, chosen) if run.data.labels else None)

    return generate


def _shared(generate, samples: int, resamplings: int, processes: Processes, chunk: int = 500):
    """generate(k, rows) whose chunks are made by all processes and gathered on the first; the others make theirs here and now."""
    starts = range(0, samples, chunk)

    def gathered(k: int) -> Tensor | None:
        mine = [generate(k, range(a, min(a + chunk, samples))) for a in starts[processes.rank :: processes.count]]
        parts: list[Any] | None = [None] * processes.count if processes.rank == 0 else None
        dist.gather_object([part.cpu() for part in mine], parts)
        if parts is None:
            return None
        return torch.cat([parts[i % processes.count][i // processes.count] for i in range(len(starts))])

    if processes.rank:
        for k in range(resamplings):
            gathered(k)
        return generate
    kept: dict[int, Tensor] = {}

    def look_up(k: int, rows: range) -> Tensor:
        if k not in kept:
            kept.clear()
            kept[k] = gathered(k)
        return kept[k][rows.start : rows.stop]

    return look_up


def save_samples(folder: Path, step: int, x: Tensor, data: Dataset) -> None:
    """A grid of samples: PNG for images (small ones enlarged), NPY for points."""
    buffer = io.BytesIO()
    if len(data.shape) == 1:
        np.save(buffer, x.float().cpu().numpy())
    elif len(x):
        from torchvision.transforms.functional import to_pil_image
        from torchvision.utils import make_grid

        grid = make_grid(((x.float().cpu().clamp(-1, 1) + 1) / 2), nrow=max(1, round(len(x) ** 0.5)), padding=1)
        scale = max(1, 32 // data.shape[-1])
        to_pil_image(grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)).save(buffer, "PNG")
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    write_atomic(folder / f"step-{step:08d}.{'npy' if len(data.shape) == 1 else 'png'}", buffer.getvalue(), durable=False)
