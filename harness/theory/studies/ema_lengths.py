"""Averages of a finished run's weights of other lengths than its own, reconstructed from its kept checkpoints, and their held-out loss.

Karras et al. 2024 (arXiv 2312.02696), section 3.2. The run needs a power-function average (`ema.sigma_rel`), and checkpoints along its
course (`keep_steps`), of which the reconstruction is a linear combination. The length can then be chosen by the loss on held-out rows: the
training loss at the law of the last step, with the same average as student and teacher. None of the metrics that are reported of a run is
used.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from harness.core.power_ema import Profile, combined, gamma_of, mismatch, reconstruction_weights
from harness.core.randomness import generator
from harness.data import datasets
from harness.data.catalogue import info
from harness.errors import HarnessError
from harness.store.measurements import MeasurementRow
from harness.theory.estimate import mean
from harness.theory.studies.common import StudyContext, measured_row
from harness.training import trained_runs
from harness.training.batches import Step, draw_levels, one_hot
from harness.training.loop import losses
from harness.training.memory import parts
from harness.training.trained_runs import TrainedRun

LENGTHS = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
"""Values of sigma_rel that are tried, besides the run's own."""
MOST_ROWS = 4096
LARGEST_MISMATCH = 0.1
"""Lengths whose averaging profile is missed by more, relative to its norm, are not measured."""


def ema_lengths(trained: TrainedRun, context: StudyContext) -> list[MeasurementRow]:
    """ema-mismatch of every length, and ema-loss of those that the kept checkpoints give; x = sigma_rel.

    All lengths are measured with the same rows, noise and noise levels. Raises HarnessError for a run without a power-function average.
    """
    run, folder, own = trained.run, trained.folder, trained.run.ema.sigma_rel
    if own is None:
        what, expected = "this run has no power-function average of its weights", "a run with --set ema.sigma_rel=0.1"
        raise HarnessError(what, where=run.id, found="ema.sigma_rel = null", expected=expected)
    stored = [Profile(step, gamma_of(own)) for step in folder.stored_steps()]
    states = [trained_runs.weights(folder, int(profile.step)) for profile in stored]
    context.note(f"{run.id}: averages of other lengths from {len(stored)} checkpoints of sigma_rel = {own:g}; --set keep_steps keeps more")
    step, description = held_out_step(trained)
    new_row = partial(measured_row, data=run.data.name, coupling=run.coupling, run=run)
    protocol = {"rows": len(step.x), "of": description, "law": "of the last training step", "checkpoints": len(stored)}
    rows: list[MeasurementRow] = []
    values: dict[float, Tensor] = {}
    for length in sorted({own, *LENGTHS}):
        wanted = Profile(run.train.steps, gamma_of(length))
        weights = reconstruction_weights(stored, wanted)
        weights = weights / weights.sum()  # else all of the network's weights would be too small or too large, by up to the mismatch
        missed = mismatch(stored, weights, wanted)
        rows.append(new_row("ema-mismatch", missed, x=length, protocol={"checkpoints": len(stored)}))
        if missed > LARGEST_MISMATCH:
            context.note(f"sigma_rel = {length:g} is left out: these checkpoints miss its profile by {missed:.0%}")
            continue
        network = copy.deepcopy(trained.network)
        network.load_state_dict(combined(states, weights))
        values[length] = held_out_losses(trained, network, step)
        rows.append(new_row("ema-loss", mean(values[length]), x=length, protocol=protocol))
    lowest = min(values, key=lambda length: float(values[length].mean()))
    gain = mean(values[lowest] - values[own])
    difference = "" if lowest == own else f", {gain.value:+.3g} (se {gain.se:.2g}, the same rows) from that of the run's own {own:g}"
    context.note(f"{run.id}: the loss on {len(step.x):,} {description} is lowest at sigma_rel = {lowest:g}{difference}")
    return rows


def held_out_step(trained: TrainedRun) -> tuple[Step, str]:
    """Rows to measure the loss on, and which they are: held-out ones where the data set has some, else training rows."""
    run, device = trained.run, trained.data.rows.device
    if info(run.data.name).heldout:
        data, description = datasets.load(run.data.name, "heldout", at_most=MOST_ROWS, device=device), "held-out rows"
    else:
        data, description = trained.data, "training rows"
    rows = torch.arange(min(len(data), MOST_ROWS), device=device)
    x = data.batch(rows)
    z = torch.randn(x.shape, generator=generator(run.seed, "measure", 6)).to(x)
    levels = (level.to(device) for level in draw_levels(run, run.train.steps - 1, len(rows)))
    return Step(x, z, one_hot(data, rows) if run.data.labels else None, *levels), description


@torch.no_grad()
def held_out_losses(trained: TrainedRun, network: torch.nn.Module, step: Step) -> Tensor:
    """The run's loss of each row without dropout, with this network as student and teacher; (rows,) float64 on the CPU."""
    pieces = parts(step, trained.run.train.batch)
    return torch.cat([losses(trained.run, network, part, dropout=0).double().cpu() for part in pieces])
